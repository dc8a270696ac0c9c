"""Tests of p2p/protocol/strict_json.py: whatever the bytes, a value or one `ProtocolError`."""

from __future__ import annotations

import pytest

from p2p.errors import ProtocolError
from p2p.protocol.strict_json import MAX_DIGITS, loads


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, -2.5, true, false, null]} ', {"a": [1, -2.5, True, False, None]}),
        (b'"\xc3\xb1"', "ñ"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\u0000"', "\x00"),
        (b"9223372036854775808", 2**63),
        (b"-1", -1),
    ],
)
def test_plain_json_is_read(data: bytes, value: object) -> None:
    assert loads(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":1}{}',
        b'\xef\xbb\xbf{"a":1}',
        b"\xff\xfe{\x00}\x00",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\n"',
        b"nul",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"a":NaN}',
        b"1e999",
        b"[-1e999]",
        b"01",
        b"0x10",
        b"\x00",
        b'"\\u12"',
        b'"open',
        b"]" * 100,
    ],
)
def test_what_is_no_json_we_accept_is_one_fatal_error(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        loads(data)
    assert caught.value.code == "bad_json"
    assert caught.value.fatal


@pytest.mark.parametrize(
    "data",
    [b'{"op":"a","op":"b"}', b'{"op":"a","op":"a"}', b'[{"x":{"y":1,"z":2,"y":3}}]', rb'{"a":1,"\u0061":2}'],
)
def test_case_5_a_key_that_comes_twice_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="twice"):
        loads(data)


@pytest.mark.parametrize("depth", [33, 5_000, 100_000, 500_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]"), (b"[", b"")]
)
def test_case_4_deep_nesting_is_refused_without_recursion(depth: int, opening: bytes, closing: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        loads(opening * depth + b"1" + closing * depth)
    assert caught.value.code == "bad_json"


def test_nesting_up_to_the_limit_is_read() -> None:
    assert loads(b"[" * 32 + b"]" * 32)
    assert loads(b"[[1]]", max_depth=2) == [[1]]
    with pytest.raises(ProtocolError, match="nested"):
        loads(b"[[[1]]]", max_depth=2)


def test_where_a_caller_allows_any_depth_the_parser_still_does_not_fall_over() -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        loads(b"[" * 500_000, max_depth=10**6)


def test_many_brackets_that_are_not_deep_are_read() -> None:
    assert loads(b"[" + b",".join([b"[]"] * 5000) + b"]") == [[]] * 5000


@pytest.mark.parametrize("text", [b"[" * 100, b'\\"' + b"{" * 100, b"\\\\", b'a\\\\\\"' + b"[" * 50])
def test_brackets_inside_strings_do_not_count(text: bytes) -> None:
    data = b'{"a":"' + text + b'","b":"' + b"[{" * 40 + b'"}'
    value = loads(data)
    assert isinstance(value, dict)
    assert value["b"] == "[{" * 40


@pytest.mark.parametrize(
    "data",
    [
        rb'"\ud800"',
        rb'"\uDFFF"',
        rb'{"\ud800":1}',
        rb'[{"a":["x\udc00"]}]',
        rb'"\ude00\ud83d"',
        rb'"\ud800\\udc00"',
    ],
)
def test_half_of_a_surrogate_pair_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="surrogate"):
        loads(data)


@pytest.mark.parametrize("data", [rb'{"a":1,"b":"\\ud800"}', rb'["\\\\ud800", null]'])
def test_an_escaped_backslash_before_it_is_no_surrogate(data: bytes) -> None:
    assert loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"1" * 5001,
        b"-" + b"9" * 100_000,
        b"[1" + b"0" * 5000 + b"]",
        b"0." + b"1" * 5000,
        b"1" * (MAX_DIGITS + 1),
    ],
)
def test_a_number_of_thousands_of_digits_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="number"):
        loads(data)


@pytest.mark.parametrize(
    "data",
    [b'"' + b"\\\\" * 500_000, b'"' + b"\\" * 999_999, b"[" * 40 + b'"' + b'\\"' * 500_000, b'"[' * 300_000],
)
def test_a_megabyte_of_escapes_takes_no_time_that_grows_with_its_square(data: bytes) -> None:
    """That would take minutes, so the end is the proof."""
    with pytest.raises(ProtocolError):
        loads(data)
