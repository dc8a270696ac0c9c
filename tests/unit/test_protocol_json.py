"""Tests of p2p/protocol/strict_json.py as the wire needs it: strict, bounded, and quick whatever comes."""

from __future__ import annotations

import time

import pytest

from p2p.errors import ProtocolError
from p2p.protocol.strict_json import MAX_DIGITS, loads

HOSTILE_SIZE = 65_000


def refusal(data: bytes, max_depth: int = 32) -> str:
    """The sentence with which `data` is refused."""
    with pytest.raises(ProtocolError) as caught:
        loads(data, max_depth=max_depth)
    assert (caught.value.code, caught.value.fatal) == ("bad_json", True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b' {"a" : [1, -2.5e3, true, false, null, "x"]} \r', {"a": [1, -2500.0, True, False, None, "x"]}),
        ('{"ñ":"漢🐝"}'.encode(), {"ñ": "漢🐝"}),
        (b'"\\ud83d\\udc1d \\u00f1"', "🐝 ñ"),
        (b'{"a":{"a":1},"b":{"a":1}}', {"a": {"a": 1}, "b": {"a": 1}}),
        (b'["\\\\ud800"]', ["\\ud800"]),
        (b'{"\\ud83d\\udc1d":["\\ud83d\\udc1d",{"a":1}]}', {"🐝": ["🐝", {"a": 1}]}),
        (b"9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
    ],
)
def test_what_json_is_comes_out_as_plain_values(data: bytes, value: object) -> None:
    assert loads(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"{'a':1}",
        b'{"a":1,}',
        b"[1,]",
        b"[1]x",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x10",
        b"1_000",
        b'"\n"',
        b'"\x1f"',
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\xc0\xaf"',
        "﻿1".encode(),
        "１".encode(),
        b'"\\x41"',
        b'"\\u12"',
        b'"\\u 123"',
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    refusal(data)


@pytest.mark.parametrize("data", [b"NaN", b"Infinity", b"-Infinity", b"[1e999]", b"[-1e999]", b'{"a":NaN}'])
def test_numbers_that_are_none_are_refused(data: bytes) -> None:
    refusal(data)


@pytest.mark.parametrize(
    "data", [b'{"a":1,"a":1}', b'{"a":{"b":1,"c":2,"b":3}}', b'{"a":1,"\\u0061":2}', b'[{"":1,"":2}]']
)
def test_case_5_a_key_that_comes_twice_is_refused(data: bytes) -> None:
    assert "a key comes twice" in refusal(data)


@pytest.mark.parametrize(
    "data", [b'"\\ud800"', b'["\\udfff"]', b'{"\\uD800":1}', b'{"a":[{"b":"x\\udc1d"}]}', b'"\\ud83d\\ud83d"']
)
def test_half_of_a_surrogate_pair_is_refused(data: bytes) -> None:
    assert "surrogate" in refusal(data)


@pytest.mark.parametrize(
    "digits", [b"9" * (MAX_DIGITS + 1), b"-" + b"9" * MAX_DIGITS, b"0." + b"1" * MAX_DIGITS, b"9" * 60_000]
)
def test_a_number_of_endless_digits_is_refused(digits: bytes) -> None:
    assert "a number has more than" in refusal(digits)


@pytest.mark.parametrize("depth", [5_000, 100_000, 500_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'], ids=["lists", "objects", "both"])
def test_case_4_endless_nesting_is_refused_and_never_recurses(opening: bytes, depth: int) -> None:
    assert "nested more than 32 deep" in refusal(opening * depth)


@pytest.mark.parametrize("most", [1, 4, 32])
def test_nesting_is_allowed_to_its_limit_and_no_deeper(most: int) -> None:
    loads(b"[" * most + b"]" * most, max_depth=most)
    loads(b'{"a":' * most + b"1" + b"}" * most, max_depth=most)
    loads(b"[" + b"[]," * 100 + b"[]]", max_depth=max(most, 2))
    assert f"more than {most} deep" in refusal(b"[" * (most + 1) + b"]" * (most + 1), most)


def test_brackets_in_strings_do_not_nest_and_quotes_in_strings_do_not_hide_brackets() -> None:
    assert loads(b'["' + b"[" * 100 + b'"]') == ["[" * 100]
    assert loads(b'["\\"' + b"[" * 100 + b'"]') == ['"' + "[" * 100]
    assert "deep" in refusal(b'["\\\\"' + b",[" * 100)
    assert "deep" in refusal(b'["a"' + b',["]"' * 40)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"[" * 33 + b'"' + b'\\"' * (HOSTILE_SIZE // 2), id="a string of quotes that never ends"
        ),
        pytest.param(
            b"[" * 33 + b'"' + b'\\"' * (HOSTILE_SIZE // 2) + b"\\", id="and a backslash at its end"
        ),
        pytest.param(b"[" * 33 + b'"' * HOSTILE_SIZE, id="empty strings"),
        pytest.param(b"[" * 33 + b'"' + b"\\" * HOSTILE_SIZE, id="backslashes"),
        pytest.param(b'"' + b"[" * HOSTILE_SIZE, id="brackets in a string that never ends"),
        pytest.param(b'{"":' * (HOSTILE_SIZE // 4), id="objects"),
        pytest.param(b"[" + b"1," * (HOSTILE_SIZE // 2), id="numbers"),
        pytest.param(b'["' + b"\\ud83d\\udc1d" * (HOSTILE_SIZE // 12) + b'x"', id="escapes"),
    ],
)
def test_cases_4_10_no_line_takes_long_to_refuse(data: bytes) -> None:
    """One line must not hold up the other connections. It takes about a millisecond of processor time."""
    began = time.thread_time()
    refusal(data)
    assert time.thread_time() - began < 0.25


def test_cases_42_64_a_refusal_never_repeats_what_came() -> None:
    for data in (
        b'{"evil\x1b":1}',
        b'{"evil":1,"evil":1}',
        b"evil",
        b'"\\evil"',
        b'{"a":evil}',
        b'"evil\\ud800"',
    ):
        assert "evil" not in refusal(data)
