"""Tests of p2p/protocol/codec.py and of every message class: line to message and back, and every field of
every message wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2p.errors import WIRE_CODES, DiskError, EnjambreError, ProtocolError, Refused
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
    encoded_size,
)
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.peer_messages import (
    PEER_OPS,
    Answer,
    Have,
    HelloAnswer,
    Ping,
    PingAnswer,
    Read,
    ReadAnswer,
    Request,
)
from p2p.protocol.schema import ListOf, MapOf, plan_of
from p2p.protocol.tracker_messages import TRACKER_OPS, Announce, Place, Share, Withdraw
from tests.kit.protocol_samples import (
    ASKED,
    REQUESTS,
    answer_of,
    line,
    right,
    right_object,
    wrong,
    wrong_objects,
)

OPS = by_op(REQUESTS)
FIELDS = [(cls, row.name) for cls in REQUESTS for row in plan_of(cls).rows]
ANSWER_FIELDS = [(cls, row.name) for cls in ASKED for row in plan_of(answer_of(cls)).rows]


def op_of(value: object) -> str | None:
    return value.OP if isinstance(value, type) and issubclass(value, Request) else None


def decoded(**data: object) -> DecodedLine:
    return decode_line(line(data))


def full(cls: type) -> dict[str, Any]:
    """The dataclass's arguments with every field given, lists and maps filled as far as they go."""
    values = {}
    for row in plan_of(cls).rows:
        plain = right(row.kind)
        if isinstance(row.kind, ListOf):
            plain = [right(row.kind.kind)] * row.kind.most
        if isinstance(row.kind, MapOf):
            plain = {f"{i:016}": right(row.kind.kind) for i in range(row.kind.most)}
        values[row.name] = row.kind.check(plain, row.name)
    return values


def bare(cls: type) -> dict[str, Any]:
    """The dataclass's arguments with the required fields only."""
    return {row.name: row.kind.check(right(row.kind), row.name) for row in plan_of(cls).rows if row.required}


# -- every message, every field


@pytest.mark.parametrize("values", [full, bare])
@pytest.mark.parametrize("cls", REQUESTS, ids=op_of)
def test_every_request_comes_back_as_it_was(cls: type[Request], values: Any) -> None:
    request = cls(**values(cls))
    text = encode_request(request, 7)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    found = decode_line(text[:-1])
    assert (found.is_request, found.seq, found.body) == (True, 7, 0)
    assert decode_request(found, OPS) == request
    assert decode_request(decode_line(text[:-1] + b"\r"), OPS) == request


@pytest.mark.parametrize("values", [full, bare])
@pytest.mark.parametrize("cls", ASKED, ids=op_of)
def test_every_answer_comes_back_as_it_was(cls: type[Request], values: Any) -> None:
    answer = answer_of(cls)(**values(answer_of(cls)))
    found = decode_line(encode_answer(answer, 7, cls.BODY)[:-1])
    assert (found.is_request, found.seq, found.body) == (False, 7, cls.BODY)
    assert decode_answer(found, cls) == answer


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=op_of)
def test_case_6_every_field_of_every_request_is_checked_and_named(cls: type[Request], field: str) -> None:
    cases = [
        (path, data)
        for path, data in wrong_objects(cls)
        if path == field or path.startswith((field + ".", field + "["))
    ]
    assert len(cases) >= 8
    for path, data in cases:
        with pytest.raises(ProtocolError) as caught:
            decode_request(decode_line(line({"op": cls.OP, **data, "seq": 9})), OPS)
        assert (caught.value.code, caught.value.fatal, caught.value.seq) == ("bad_field", False, 9)
        assert str(caught.value).startswith(f"{path}: "), (path, data)


@pytest.mark.parametrize(("cls", "field"), ANSWER_FIELDS, ids=op_of)
def test_cases_6_38_every_field_of_every_answer_is_checked_and_named(cls: type[Request], field: str) -> None:
    for path, data in wrong_objects(answer_of(cls)):
        if path.partition(".")[0].partition("[")[0] != field:
            continue
        with pytest.raises(ProtocolError) as caught:
            decode_answer(decode_line(line({"ok": True, **data})), cls)
        assert (caught.value.code, caught.value.fatal) == ("bad_field", True)
        assert str(caught.value).startswith(f"answer to {cls.OP}: {path}: "), (path, data)


@pytest.mark.parametrize("cls", REQUESTS, ids=op_of)
def test_unknown_keys_of_a_request_are_ignored_at_every_level(cls: type[Request]) -> None:
    plain = right_object(cls)
    extra = json.loads(
        json.dumps({"op": cls.OP, **plain, "x-unknown": None}), object_hook=lambda data: data | _unknown(data)
    )
    assert decode_request(decode_line(line(extra)), OPS) == decode_request(decoded(op=cls.OP, **plain), OPS)


def _unknown(data: dict[str, object]) -> dict[str, object]:
    """A key that nobody knows, except in an object of words and ports, where every key means something."""
    return {} if set(data) == {"tcp"} else {"x-new": {"a": [1.5, None]}}


@pytest.mark.parametrize("cls", REQUESTS, ids=op_of)
def test_the_largest_request_of_each_op_fits_a_line(cls: type[Request]) -> None:
    values = full(cls)
    if "pieces" in values:
        values["pieces"] = bytes(32_768)
    assert len(encode_request(cls(**values), 2**53 - 1)) <= MAX_LINE


def test_an_announce_of_names_that_must_all_be_escaped_fits_a_line() -> None:
    share = Share(id="a" * 64, name='"' * 255, size=2**42, have=2**42)  # type: ignore[arg-type]
    values = full(Announce) | {"contents": (share,) * 64, "name": "\\" * 64, "advertise": '"' * 255}
    assert len(encode_request(Announce(**values), 2**53 - 1)) <= MAX_LINE


def test_every_op_is_known_by_its_own_name_and_no_two_share_one() -> None:
    assert len(OPS) == len(REQUESTS)
    for ops, names in (
        (PEER_OPS, "hello ping manifest have read replicate"),
        (TRACKER_OPS, "hello ping login logout announce withdraw lookup search list peers place stats"),
    ):
        assert " ".join(by_op(ops)) == names


# -- the line


NO_OBJECT = [
    b"",
    b"   ",
    b"\r",
    b"null",
    b"[]",
    b"1",
    b'"x"',
    b"true",
    b"{",
    b"}",
    b"{}}",
    b'{"op":"ping"',
    b"\xff",
    b"[{}]",
]


@pytest.mark.parametrize("text", NO_OBJECT)
def test_case_3_a_line_that_is_no_json_object_ends_the_connection(text: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_line(text)
    assert (caught.value.code, caught.value.fatal) == ("bad_json", True)


@pytest.mark.parametrize("seq", [None, True, 1.0, "7", -1, 2**53, 2**63, [], {}])
def test_a_wrong_seq_is_named_and_not_echoed(seq: object) -> None:
    with pytest.raises(ProtocolError, match=r"^seq: ") as caught:
        decoded(op="ping", seq=seq)
    assert (caught.value.code, caught.value.fatal, caught.value.seq) == ("bad_field", False, None)


def test_a_wrong_seq_ends_the_connection_where_a_body_or_an_answer_is_at_stake() -> None:
    """Going on would read the body's bytes as lines, or answer an answer for ever."""
    for data in (
        {"op": "ping", "body": 5},
        {"op": "ping", "body": None},
        {"ok": True},
        {"ok": False, "error": "busy"},
        {},
    ):
        with pytest.raises(ProtocolError) as caught:
            decoded(**data, seq=-1)
        assert (caught.value.code, caught.value.fatal) == ("bad_field", True), data


@pytest.mark.parametrize("body", [None, True, False, 1.0, "7", -1, -(2**63), [], {}])
def test_a_wrong_body_ends_the_connection(body: object) -> None:
    with pytest.raises(ProtocolError, match=r"^body: ") as caught:
        decoded(op="ping", body=body, seq=7)
    assert (caught.value.code, caught.value.fatal, caught.value.seq) == ("bad_body", True, 7)


def test_seq_may_be_left_out_or_be_anything_from_0_to_2_to_the_53_less_1() -> None:
    assert decoded(op="ping").seq is None
    assert decoded(op="ping", seq=0).seq == 0
    assert decoded(op="ping", seq=2**53 - 1).seq == 2**53 - 1


# -- requests


def test_case_7_an_unknown_op_is_unsupported_and_the_connection_goes_on() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_request(decoded(op="steal", seq=3), by_op(PEER_OPS))
    assert (caught.value.code, caught.value.fatal, caught.value.seq) == ("unsupported", False, 3)
    assert "steal" not in str(caught.value)
    assert "replicate" in str(caught.value)


@pytest.mark.parametrize("op", [None, 1, True, [], {}, ["ping"]])
def test_an_op_that_is_no_string_is_a_bad_field(op: object) -> None:
    with pytest.raises(ProtocolError, match=r"^op: ") as caught:
        decode_request(decoded(op=op, seq=3), OPS)
    assert (caught.value.code, caught.value.fatal, caught.value.seq) == ("bad_field", False, 3)


@pytest.mark.parametrize("op", ["ping", "steal", 5])
def test_a_body_on_a_request_ends_the_connection_whatever_the_op(op: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_request(decoded(op=op, body=1, seq=3), OPS)
    assert (caught.value.code, caught.value.fatal, caught.value.seq) == ("bad_body", True, 3)


def test_a_body_of_nothing_is_no_body() -> None:
    assert decode_request(decoded(op="ping", body=0), OPS) == Ping()


# -- answers


@pytest.mark.parametrize("ok", [None, 1, 0, "true", [], {}])
def test_an_answer_that_is_neither_yes_nor_no_ends_the_connection(ok: object) -> None:
    with pytest.raises(ProtocolError, match="answer to ping: ok: ") as caught:
        decode_answer(decoded(ok=ok), Ping)
    assert caught.value.fatal
    with pytest.raises(ProtocolError, match="answer to ping: ok: "):
        decode_answer(decoded(other=1), Ping)


@pytest.mark.parametrize("cls", ASKED, ids=op_of)
def test_case_31_a_body_larger_than_its_op_allows_ends_the_connection(cls: type[Request]) -> None:
    """The size of a body is checked before a byte of it is read."""
    plain = right_object(answer_of(cls))
    assert isinstance(decode_answer(decoded(ok=True, body=cls.BODY, **plain), cls), Answer)
    for size in (cls.BODY + 1, 2**63, 10**300):
        with pytest.raises(ProtocolError) as caught:
            decode_answer(decoded(ok=True, body=size, **plain), cls)
        assert (caught.value.code, caught.value.fatal) == ("bad_body", True)


def test_what_has_no_answer_cannot_be_answered_yes() -> None:
    with pytest.raises(ProtocolError, match="have has no answer"):
        decode_answer(decoded(ok=True), Have)


@pytest.mark.parametrize("code", WIRE_CODES)
def test_a_refusal_keeps_its_code_and_its_words(code: str) -> None:
    found = decode_answer(decoded(ok=False, error=code, message="because"), Ping)
    assert isinstance(found, Refused)
    assert (found.code, str(found)) == (code, "because")


def test_a_refusal_without_words_gets_the_meaning_of_its_code() -> None:
    assert str(decode_refusal(decoded(ok=False, error="busy"))) == WIRE_CODES["busy"]


def test_a_code_that_we_do_not_know_means_internal() -> None:
    found = decode_refusal(decoded(ok=False, error="teapot", message="short and stout"))
    assert (found.code, str(found)) == ("internal", "short and stout")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"error": None},
        {"error": 5},
        {"error": ["busy"]},
        {"error": "busy", "message": None},
        {"error": "busy", "message": "a\x1b[2J"},
        {"error": "busy", "message": "x" * 1025},
        {"error": "busy", "body": 3},
    ],
)
def test_a_refusal_that_is_wrong_itself_ends_the_connection(data: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="answer to ping: ") as caught:
        decode_answer(decoded(ok=False, **data), Ping)
    assert caught.value.fatal


# -- errors going out

NASTY = [
    "x" * 100_000,
    "漢" * 600,
    "🐝" * 600,
    '"' * 600,
    "\\" * 600,
    '"🐝' * 600,
    "".join(map(chr, range(0x300))),
    "a\ud800b\udfff",
    "\x1b]52;c;AAAA\x07\r\n\x9b2J",
    "\u202egnp.exe\u200b\u2028",
    "",
]


@pytest.mark.parametrize("text", NASTY, ids=[f"text {i}" for i in range(len(NASTY))])
@pytest.mark.parametrize("seq", [None, 2**53 - 1])
@pytest.mark.parametrize("code", ["not_allowed", "line_too_long"])
def test_cases_8_42_an_error_line_is_short_and_clean_and_our_side_reads_it(
    code: str, seq: int | None, text: str
) -> None:
    """And the common rule of all cases."""
    for error in (Refused(code, text), ProtocolError(code, text)):
        sent = encode_error(error, seq)
        assert len(sent) < 1024
        assert sent.endswith(b"\n")
        assert not [c for c in sent[:-1].decode() if c < " " or "\x7f" <= c <= "\x9f"]
        data = json.loads(sent)
        assert not [
            c for c in data["message"] if c < " " or "\x7f" <= c <= "\x9f" or c in "\u202e\u200b\u2028"
        ]
        found = decode_answer(decode_line(sent[:-1]), Ping)
        assert isinstance(found, Refused)
        assert found.code == code


def test_a_short_error_is_told_word_for_word() -> None:
    assert encode_error(Refused("not_found", "no such content: „Café“"), 7) == (
        '{"ok":false,"error":"not_found","message":"no such content: „Café“","seq":7}\n'.encode()
    )


OURS = [
    ValueError("/home/alice/secret"),
    OSError(2, "no", "/etc/shadow"),
    DiskError("/srv/x is full"),
    EnjambreError("x"),
]


@pytest.mark.parametrize("error", OURS)
def test_only_the_askers_own_faults_are_explained(error: Exception) -> None:
    found = json.loads(encode_error(error))
    assert found == {"ok": False, "error": "internal", "message": WIRE_CODES["internal"]}


# -- small things


def test_a_line_is_compact_and_leaves_out_defaults_and_keeps_names_readable() -> None:
    assert encode_request(Ping()) == b'{"op":"ping"}\n'
    assert encode_answer(PingAnswer(), 3) == b'{"ok":true,"seq":3}\n'
    assert encode_answer(ReadAnswer(), 3, 65_536) == b'{"ok":true,"body":65536,"seq":3}\n'
    hello = HelloAnswer(version=1, role="peer", name="Ñandú")
    assert encode_answer(hello) == '{"ok":true,"version":1,"role":"peer","name":"Ñandú"}\n'.encode()


def test_the_encoded_size_is_what_a_part_takes_on_the_wire() -> None:
    share = Share(id="a" * 64, name="Ñandú.img", size=7, have=7)  # type: ignore[arg-type]
    assert encoded_size(share) == len(f'{{"id":"{"a" * 64}","name":"Ñandú.img","size":7,"have":7}}'.encode())  # type: ignore[arg-type]


def test_case_24_a_read_of_a_block_beyond_all_limits_never_becomes_a_request() -> None:
    """As far as numbers alone can say it."""
    good = {"op": "read", "id": "a" * 64, "piece": 0, "offset": 0, "length": 1}
    assert isinstance(decode_request(decoded(**good), OPS), Read)
    for field, values in (
        ("piece", (-1, 262_144, 2**63)),
        ("offset", (-1, 16 * 2**20, 2**63)),
        ("length", (0, -65_536, 2**20 + 1)),
    ):
        for value in values:
            with pytest.raises(ProtocolError, match=f"^{field}: must be from"):
                decode_request(decoded(**{**good, field: value}), OPS)


def test_lists_hold_exactly_their_limit() -> None:
    for cls, field, most in (
        (Withdraw, "ids", 256),
        (Place, "exclude", 100),
        (Announce, "contents", 64),
        (Have, "add", 1024),
    ):
        kind = next(row.kind for row in plan_of(cls).rows if row.name == field)
        assert isinstance(kind, ListOf)
        item = right(kind.kind)
        assert len(kind.check([item] * most, field)) == most
        with pytest.raises(ProtocolError, match=f"^{field}: must have at most {most} entries"):
            kind.check([item] * (most + 1), field)


def test_the_wrong_values_of_these_tests_reach_every_kind_that_messages_use() -> None:
    used = {
        type(row.kind)
        for cls in REQUESTS
        for part in (cls, cls.ANSWER)
        if part is not None
        for row in plan_of(part).rows
    }
    assert len(used) >= 8
    assert all(list(wrong(row.kind)) for cls in REQUESTS for row in plan_of(cls).rows)
