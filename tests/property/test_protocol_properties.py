"""Properties of p2p/protocol: whatever bytes come, however cut, they make a message or one `ProtocolError`,
and memory is bounded."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import WIRE_CODES, ProtocolError, Refused
from p2p.protocol.codec import (
    DecodedLine,
    by_op,
    decode_answer,
    decode_line,
    decode_refusal,
    decode_request,
    encode_answer,
    encode_error,
    encode_request,
)
from p2p.protocol.framing import MAX_LINE, LineBuffer
from p2p.protocol.peer_messages import PEER_OPS, Answer, Ping, Read, ReadAnswer, Request
from p2p.protocol.schema import Base64, Bool, Choice, Hex, Int, Kind, ListOf, MapOf, Record, Text, plan_of
from p2p.protocol.session import Session
from tests.kit.conversations import run
from tests.kit.effort import examples
from tests.kit.protocol_samples import ASKED, REQUESTS, answer_of, line, right_object

OPS = by_op(REQUESTS)
ID = "ab" * 32
WORDS = st.text("abcXYZ0189", min_size=1, max_size=16)
LETTERS = st.characters(blacklist_categories=("Cs", "Cc"))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fits(kind: Text) -> Any:
    """Whether a text is as long as `kind` allows, in bytes."""
    return lambda text: kind.low <= len(text.encode()) <= kind.high


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Values of one kind, as the program keeps them."""
    match kind:
        case Int():
            return st.integers(kind.low, kind.high) | st.sampled_from((kind.low, kind.high))
        case Bool():
            return st.booleans()
        case Text():
            return st.text(LETTERS, min_size=kind.low, max_size=min(kind.high, 30)).filter(
                fits(kind)
            ) | st.just("x" * kind.high)
        case Hex():
            return st.text("0123456789abcdef", min_size=kind.digits, max_size=kind.digits)
        case Base64():
            return st.binary(max_size=min(kind.high, 100)) | st.integers(0, kind.high).map(bytes)
        case Choice():
            return st.sampled_from(kind.words)
        case ListOf():
            return st.lists(values(kind.kind), max_size=4).map(tuple)
        case MapOf():
            return st.dictionaries(WORDS, values(kind.kind), max_size=kind.most)
        case Record():
            return messages(kind.cls)
    raise AssertionError(f"no strategy for {kind}")


def messages(cls: type) -> st.SearchStrategy[Any]:
    """Messages of one class, with and without the fields that may be absent."""
    required = {row.name: values(row.kind) for row in plan_of(cls).rows if row.required}
    optional = {row.name: values(row.kind) for row in plan_of(cls).rows if not row.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda found: cls(**found))


SEQS = st.none() | st.integers(0, 2**53 - 1)


# -- any bytes decode or raise ProtocolError


def decode_as_everything(data: bytes) -> list[object]:
    """All that a line can be; lets through whatever is not a `ProtocolError`."""
    found: list[object] = []
    try:
        heard = decode_line(data)
    except ProtocolError as error:
        return [WIRE_CODES[error.code]]
    attempts: list[Any] = [lambda: decode_request(heard, OPS), lambda: decode_refusal(heard)]
    attempts += [lambda cls=cls: decode_answer(heard, cls) for cls in REQUESTS]
    for attempt in attempts:
        try:
            found.append(attempt())
        except ProtocolError as error:
            found.append(WIRE_CODES[error.code])
    return found


@examples()
@given(st.binary(max_size=200))
def test_case_10_any_bytes_decode_or_raise_a_protocol_error(data: bytes) -> None:
    decode_as_everything(data)
    decode_as_everything(b'{"op":"ping"' + data + b"}")


@examples()
@given(JSON)
def test_any_json_decodes_or_raises_a_protocol_error(data: object) -> None:
    decode_as_everything(line(data))


@examples(200)
@given(st.data())
def test_case_6_a_message_with_any_fields_replaced_decodes_or_is_refused(
    data: st.DataObject,
) -> None:
    cls = data.draw(st.sampled_from(REQUESTS))
    part = data.draw(st.sampled_from([part for part in (cls, cls.ANSWER) if part is not None]))
    head: dict[str, object] = {"op": cls.OP} if part is cls else {"ok": data.draw(st.booleans())}
    plain = {**head, **right_object(part), "seq": 1}
    plain.update(
        data.draw(
            st.dictionaries(st.sampled_from([*plain, "body", "error", "message", "x"]), JSON, max_size=3)
        )
    )
    decode_as_everything(line(plain))


@examples()
@given(st.data())
def test_a_good_line_with_some_bytes_changed_decodes_or_raises_a_protocol_error(data: st.DataObject) -> None:
    good = bytearray(line({"op": "announce", **right_object(OPS["announce"])}))
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        good[at] = byte
    decode_as_everything(bytes(good))


# -- decode undoes encode


@pytest.mark.parametrize("cls", REQUESTS, ids=lambda cls: cls.OP)
def test_a_request_that_is_written_is_read_as_it_was(cls: type[Request]) -> None:
    @examples(25)
    @given(messages(cls), SEQS)
    def check(request: Request, seq: int | None) -> None:
        (found,) = run(Session(OPS), [encode_request(request, seq)])
        assert found == ("asked", request, seq)

    check()


@pytest.mark.parametrize("cls", ASKED, ids=lambda cls: cls.OP)
def test_an_answer_that_is_written_is_read_as_it_was(cls: type[Request]) -> None:
    @examples(25)
    @given(messages(answer_of(cls)), SEQS, st.integers(0, cls.BODY))
    def check(answer: Answer, seq: int | None, body: int) -> None:
        text = encode_answer(answer, seq, body)
        assert text.count(b"\n") == 1
        heard = decode_line(text[:-1])
        assert (heard.seq, heard.body) == (seq, body)
        assert decode_answer(heard, cls) == answer

    check()


@examples()
@given(st.sampled_from(sorted(WIRE_CODES)), st.text(), SEQS)
def test_an_error_that_is_written_is_read_with_its_code_and_stays_small_and_clean(
    code: str, text: str, seq: int | None
) -> None:
    for error in (Refused(code, text * 50), ProtocolError(code, text)):
        sent = encode_error(error, seq)
        assert len(sent) < 1024
        assert json.loads(sent)["message"].isprintable()
        heard = decode_line(sent[:-1])
        assert heard.seq == seq
        assert decode_refusal(heard).code == code


@examples()
@given(st.binary(max_size=100))
def test_base64_is_what_the_standard_says(data: bytes) -> None:
    kind = Base64(100)
    assert kind.plain(data) == base64.b64encode(data).decode()
    assert kind.check(kind.plain(data), "pieces") == data


# -- any cut of the stream


def asking() -> Session:
    """A peer that has asked for seven blocks and one sign of life."""
    session = Session(by_op(PEER_OPS))
    for seq in range(1, 8):
        assert session.ask(Read(id=ID, piece=seq, offset=0, length=100))[0] == seq  # type: ignore[arg-type]
    session.ask(Ping())
    return session


GOOD_LINES = st.sampled_from(
    [
        b'{"op":"ping"}\n',
        b'{"op":"ping","seq":5}\r\n',
        b'{"op":"hello","version":1,"seq":1}\n',
        b'{"op":"unknown"}\n',
        b'{"op":"read","id":7}\n',
        b'{"op":"ping","seq":-1}\n',
        b'{"ok":true,"seq":8}\n',
        b'{"ok":false,"error":"busy"}\n',
        b'{"op":"have","id":"%b","add":[1,2]}\n' % ID.encode(),
    ]
)
BODIES = st.tuples(st.integers(1, 7), st.binary(max_size=60) | st.just(b'{"op":"ping"}\n')).map(
    lambda drawn: encode_answer(ReadAnswer(), drawn[0], len(drawn[1])) + drawn[1]
)
STREAMS = st.lists(GOOD_LINES | BODIES | st.binary(max_size=20), max_size=12).map(b"".join)


@examples(300)
@given(STREAMS, st.data(), st.booleans())
def test_any_cut_of_a_stream_gives_the_same_events(stream: bytes, data: st.DataObject, ends: bool) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=10)))
    parts = [
        part for start, stop in itertools.pairwise([0, *cuts, len(stream)]) if (part := stream[start:stop])
    ]
    end = [b""] if ends else []
    whole = run(asking(), [stream, *end] if stream else end)
    assert run(asking(), [*parts, *end]) == whole
    assert run(asking(), [*(bytes([byte]) for byte in stream), *end]) == whole
    if ends:
        assert whole[-1][0] in ("ended", "bad")


LONG_LINES = st.tuples(st.integers(1, 2 * MAX_LINE), st.sampled_from([b"", b"\n", b"}\n"]))


@examples(60)
@given(st.lists(LONG_LINES, min_size=1, max_size=6), st.integers(1000, MAX_LINE))
def test_case_1_long_lines_are_told_alike_however_they_are_cut_and_memory_is_bounded(
    lengths: list[tuple[int, bytes]], step: int
) -> None:
    stream = b"".join(b'{"op":"ping","x":"' + b"x" * length + b'"' + end for length, end in lengths)
    whole = run(Session(OPS), [stream])
    assert run(Session(OPS), [stream[at : at + step] for at in range(0, len(stream), step)]) == whole


@examples()
@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 40))
def test_a_line_buffer_gives_what_splitting_at_newlines_gives(parts: list[bytes], limit: int) -> None:
    lines = b"".join(parts).split(b"\n")
    buffer, found, fault = LineBuffer(limit), list[bytes](), ""
    for part in parts:
        buffer.feed(part)
        try:
            found += iter(buffer.next_line, None)
        except ProtocolError as error:
            fault = error.code
            break
    assert found == lines[: len(found)]
    too_long = next((n for n, text in enumerate(lines) if len(text) >= limit), None)
    assert fault == ("" if too_long is None else "line_too_long")
    assert len(found) == (len(lines) - 1 if too_long is None else too_long)


@examples()
@given(st.binary(max_size=300), st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=20))
def test_lines_and_bodies_taken_in_any_order_lose_and_double_nothing(
    data: bytes, takes: list[tuple[bool, int]]
) -> None:
    buffer = LineBuffer()
    out = b""
    for at, (as_line, count) in enumerate(takes):
        buffer.feed(data[at * 15 : at * 15 + 15])
        text = buffer.next_line() if as_line else None
        out += text + b"\n" if text is not None else buffer.take(count)
        assert len(out) + len(buffer) == len(data[: at * 15 + 15])
    assert (out + buffer.take(1000)) == data[: len(takes) * 15]


def test_a_heard_line_is_a_request_exactly_when_it_has_an_op() -> None:
    assert DecodedLine({"op": None, "ok": True}, None, 0).is_request
    assert not DecodedLine({"ok": True}, None, 0).is_request
