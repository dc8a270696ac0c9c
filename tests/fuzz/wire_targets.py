"""Fuzz targets of the wire: strict JSON, lines, requests, answers, and a conversation cut at any place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from p2p.errors import WIRE_CODES, ProtocolError, Refused
from p2p.protocol.codec import (
    by_op,
    decode_answer,
    decode_line,
    decode_request,
    encode_answer,
    encode_request,
)
from p2p.protocol.framing import LineBuffer
from p2p.protocol.peer_messages import (
    MAX_MANIFEST,
    PEER_OPS,
    Answer,
    AskManifest,
    Ping,
    Read,
    ReadAnswer,
    Replicate,
    Request,
)
from p2p.protocol.session import Session
from p2p.protocol.strict_json import loads
from p2p.protocol.tracker_messages import TRACKER_OPS, Announce, Login, Lookup, Peers, Place, Search, Stats
from tests.fuzz.target import Target, check_refused
from tests.kit.conversations import run
from tests.kit.protocol_samples import ASKED, REQUESTS, answer_of, line, right_object

_ALL: Final = by_op(REQUESTS)
_ID: Final = "ab" * 32
_DEPTH: Final = 32


# -- strict JSON


def strict_json(data: bytes) -> None:
    """A value or a fatal `bad_json`. The value equals that of the standard library, is not deep, and can be
    written again."""
    try:
        value = loads(data)
    except ProtocolError as error:
        check_refused(error, "bad_json", fatal=True)
        return
    assert json.loads(data) == value
    assert _depth(value) <= _DEPTH
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    assert loads(written) == value


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _json_seeds() -> Iterator[bytes]:
    yield b'{"a":[1,-2.5e3,"\\u00e9\\ud83d\\ude00",true,false,null,{}]}'
    yield b"[" * 32 + b"]" * 32
    yield b'["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "\\"[{"]'
    yield b'{"a":1,"a":2}'
    yield b"1" * 400
    yield b'["\\ud800"]'


# -- lines


def lines(data: bytes) -> None:
    """`feed`, `next_line` and `take`, in the order that the first half of the input gives, behave as on a
    plain string of bytes."""
    if len(data) < 2:
        return
    limit, steps = 1 + data[0] % 48, data[1 : 1 + len(data) // 2]
    stream = data[1 + len(steps) :]
    buffer, model = LineBuffer(limit), b""
    for step in steps:
        count = step >> 2
        match step & 3:
            case 0 | 1:
                part, stream = stream[:count], stream[count:]
                if part:
                    buffer.feed(part)
                model += part
            case 2:
                assert buffer.take(count) == model[:count]
                model = model[count:]
            case _:
                head, newline, rest = model.partition(b"\n")
                try:
                    found = buffer.next_line()
                except ProtocolError as error:
                    check_refused(error, "line_too_long", fatal=True)
                    assert len(head) >= limit
                    return
                assert len(head) < limit
                assert found == (head if newline else None)
                model = rest if newline else model
        assert len(buffer) == len(model)


def _lines_seeds() -> Iterator[bytes]:
    yield bytes([20, 40, 3, 40, 3, 3, 10, 3]) + b'{"op":"ping"}\n{}\nbody\n'
    yield bytes([3, 255, 3, 3, 3]) + b"\n\n123\n1234"


# -- one line


def request(data: bytes) -> None:
    """A request is decoded, encoded no longer than before, and decoded again as the same; or one of four
    errors is raised."""
    try:
        received = decode_line(data)
        found = decode_request(received, _ALL)
    except ProtocolError as error:
        framing = error.code in ("bad_json", "bad_body")
        check_refused(
            error, "bad_json", "bad_field", "bad_body", "unsupported", fatal=True if framing else None
        )
        return
    written = encode_request(found, received.seq)
    assert written.count(b"\n") == 1
    assert len(written) <= len(data) + 1
    again = decode_line(written[:-1])
    assert again.seq == received.seq
    assert decode_request(again, _ALL) == found
    assert encode_request(found, received.seq) == written


def _request_seeds() -> Iterator[bytes]:
    for cls in REQUESTS:
        yield line({"op": cls.OP, **right_object(cls), "seq": 7})[:4096]
    yield line({"op": "have", "id": _ID, "all": True})
    yield line({"op": "have", "id": _ID, "pieces": "8A==", "add": [1], "suggest": [0]})
    yield line({"op": "search", "text": "linux iso", "offset": 0, "limit": 5})


def answer(data: bytes) -> None:
    """An answer to the request that the first byte names is decoded, encoded and decoded as the same. Its
    body stays within its limit."""
    asked = ASKED[data[0] % len(ASKED)] if data else Ping
    try:
        received = decode_line(data[1:])
    except ProtocolError as error:
        check_refused(error, "bad_json", "bad_field", "bad_body")
        return
    try:
        found = decode_answer(received, asked)
    except ProtocolError as error:
        check_refused(error, "bad_field", "bad_body", fatal=True)
        return
    if isinstance(found, Refused):
        assert found.code in WIRE_CODES
        assert not received.body
        return
    assert received.body <= asked.BODY <= MAX_MANIFEST
    written = encode_answer(found, received.seq, received.body)
    again = decode_line(written[:-1])
    assert (again.seq, again.body) == (received.seq, received.body)
    assert decode_answer(again, asked) == found


def _answer_seeds() -> Iterator[bytes]:
    for number, cls in enumerate(ASKED):
        yield bytes([number]) + line({"ok": True, **right_object(answer_of(cls)), "seq": 7})[:4096]
    yield b"\0" + line({"ok": False, "error": "busy", "message": "later", "seq": 1})
    yield bytes([ASKED.index(Read)]) + line({"ok": True, "body": 65_536})


# -- a conversation

_SIDES: Final[tuple[dict[str, type[Request]], ...]] = (by_op(PEER_OPS), by_op(TRACKER_OPS), {})
_PENDING: Final[tuple[Request, ...]] = (
    *(Read(id=_ID, piece=piece, offset=0, length=100) for piece in range(4)),  # type: ignore[arg-type]
    Ping(),
    AskManifest(id=_ID),  # type: ignore[arg-type]
    Replicate(id=_ID, name="x", size=1),  # type: ignore[arg-type]
    Login(user="u"),
    Lookup(id=_ID),  # type: ignore[arg-type]
    Search(text=""),
    Peers(),
    Place(id=_ID, size=1),  # type: ignore[arg-type]
    Stats(),
    Announce(peer="ab" * 16, name="n", listen={}),  # type: ignore[arg-type]
)


def session(data: bytes) -> None:
    """Any stream becomes the same events however it is cut, and raises nothing. The last event of a stream
    that ends is its end.

    The first byte chooses the session and whether the stream ends, the second how it is cut.
    """
    if len(data) < 2:
        return
    side, step, stream = data[0], 1 + data[1], data[2:]
    end = [b""] if side & 4 else []
    whole = run(_session(side), [*([stream] if stream else []), *end])
    assert (
        run(_session(side), [*(stream[at : at + step] for at in range(0, len(stream), step)), *end]) == whole
    )
    if end:
        assert whole[-1][0] == "ended" or (whole[-1][0] == "bad" and whole[-1][3])
    for event in whole:
        if event[0] == "bad":
            assert event[1] in WIRE_CODES


def _session(side: int) -> Session:
    made = Session(_SIDES[side % 4 % 3])
    for one in _PENDING:
        made.ask(one)
    return made


def _session_seeds() -> Iterator[bytes]:
    for side in range(8):
        yield (
            bytes([side, 5])
            + b'{"op":"hello","version":1}\n{"op":"ping","seq":3}\r\n'
            + b'{"op":"what"}\n{"ok":true,"seq":5}\n{"op":"pi'
        )
        yield (
            bytes([side, 0])
            + encode_answer(ReadAnswer(), 1, 20)
            + b'{"op":"ping"}\n123456'
            + b'{"op":"ping"}\n'
        )
        yield (
            bytes([side, 64])
            + b'{"ok":false,"error":"busy"}\n{"ok":false,"error":"x","seq":2}\n{"op":"ping","body":3}\nabc'
        )
    for seq, one in enumerate(_PENDING, start=1):
        answers: type[Answer] = answer_of(type(one))
        yield bytes([4, 255]) + line({"ok": True, **right_object(answers), "seq": seq}) + b"\n"


TARGETS: Final = (
    Target("strict_json", strict_json, _json_seeds),
    Target("lines", lines, _lines_seeds, length=300),
    Target("request", request, _request_seeds),
    Target("answer", answer, _answer_seeds),
    Target("session", session, _session_seeds, length=2048, factor=256),
)
