"""Tests of p2p/protocol/schema.py: what each kind of field accepts, refuses and says of itself."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import pytest

from p2p.errors import ProtocolError
from p2p.protocol.schema import (
    Base64,
    Bool,
    Choice,
    Hex,
    Int,
    Kind,
    ListOf,
    MapOf,
    Record,
    Text,
    plan_of,
    wire,
)
from tests.kit.protocol_samples import wrong


@dataclass(frozen=True, slots=True)
class Pair:
    """A nested object of these tests."""

    left: int = wire(Int(0, 9), about="one")
    right: str = wire(Text(4), "-", about="other")


KINDS: list[Kind] = [
    Int(0, 9, "bytes"),
    Int(1, 2**53 - 1),
    Bool(),
    Text(8),
    Text(8, 1),
    Hex(8),
    Base64(4),
    Base64(5),
    Base64(6),
    Choice(("tracker", "peer")),
    ListOf(Int(0, 9), 3),
    MapOf(Int(0, 9), 3),
    Record(Pair),
    ListOf(Record(Pair), 2),
    MapOf(ListOf(Bool(), 2), 2),
]

RIGHT: list[tuple[Kind, object, Any]] = [
    (Int(0, 9), 0, 0),
    (Int(0, 9), 9, 9),
    (Int(0, 2**53 - 1), 2**53 - 1, 2**53 - 1),
    (Bool(), True, True),
    (Bool(), False, False),
    (Text(8), "", ""),
    (Text(8, 1), "x", "x"),
    (Text(8), "éééé", "éééé"),
    (Text(8), "a\u00a0b", "a\u00a0b"),
    (Text(8), "🐝🐝", "🐝🐝"),
    (Hex(8), "0123cdef", "0123cdef"),
    (Base64(4), "", b""),
    (Base64(4), "AQIDBA==", b"\1\2\3\4"),
    (Base64(6), "AQIDBAUG", b"\1\2\3\4\5\6"),
    (Choice(("tracker", "peer")), "peer", "peer"),
    (ListOf(Int(0, 9), 3), [], ()),
    (ListOf(Int(0, 9), 3), [1, 2, 3], (1, 2, 3)),
    (MapOf(Int(0, 9), 3), {}, {}),
    (MapOf(Int(0, 9), 3), {"tcp": 1, "A" * 16: 2, "7": 3}, {"tcp": 1, "A" * 16: 2, "7": 3}),
    (Record(Pair), {"left": 1}, Pair(left=1)),
    (Record(Pair), {"left": 1, "right": "r", "unknown": None}, Pair(left=1, right="r")),
    (ListOf(Record(Pair), 2), [{"left": 1}, {"left": 2}], (Pair(left=1), Pair(left=2))),
]


@pytest.mark.parametrize(("kind", "value", "kept"), RIGHT)
def test_a_right_value_is_kept_and_written_back_as_it_was(kind: Kind, value: object, kept: object) -> None:
    found = kind.check(value, "field")
    assert found == kept
    assert type(found) is type(kept)
    assert kind.check(kind.plain(found), "field") == kept


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.doc)
def test_case_6_a_wrong_value_is_refused_by_a_sentence_that_begins_with_the_field(kind: Kind) -> None:
    cases = list(wrong(kind))
    assert len(cases) >= 8
    for path, value in cases:
        with pytest.raises(ProtocolError) as caught:
            kind.check(value, "field")
        assert caught.value.code == "bad_field"
        assert not caught.value.fatal
        assert str(caught.value).startswith(f"field{path}: "), (path, value)


@pytest.mark.parametrize("high", range(1, 10))
def test_base64_holds_exactly_its_limit_and_not_a_byte_more(high: int) -> None:
    kind = Base64(high)
    assert kind.check(base64.b64encode(b"x" * high).decode(), "pieces") == b"x" * high
    for more in (1, 2, 3):
        with pytest.raises(ProtocolError, match=f"at most {high} bytes"):
            kind.check(base64.b64encode(b"x" * (high + more)).decode(), "pieces")


def test_half_of_a_surrogate_pair_is_refused_in_text() -> None:
    with pytest.raises(ProtocolError, match="control characters"):
        Text(8).check("a\ud800", "name")


def test_case_42_a_sentence_about_a_wrong_key_or_value_never_repeats_it() -> None:
    """What came from outside reaches neither log nor terminal through our own message."""
    evil = "\x1b]52;c;evil\x07"
    for kind, value in (
        (MapOf(Int(0, 9), 3), {evil: 1}),
        (Text(8), evil),
        (Choice(("a",)), evil),
        (Hex(8), evil),
        (Base64(8), evil),
    ):
        with pytest.raises(ProtocolError) as caught:
            kind.check(value, "field")
        assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "doc"),
    [
        (Int(0, 9, "bytes"), "integer, bytes, 0 to 9"),
        (Int(0, 9), "integer, 0 to 9"),
        (Bool(), "boolean"),
        (Text(8, 1), "string, 1 to 8 bytes, no control characters"),
        (Hex(8), "string, 8 lower-case hex digits"),
        (Base64(6), "string, base64 of at most 6 bytes"),
        (Choice(("a", "b")), 'one of "a", "b"'),
        (ListOf(Bool(), 3), "list of at most 3: boolean"),
        (MapOf(Bool(), 3), "object of at most 3 words to: boolean"),
        (Record(Pair), "Pair"),
    ],
)
def test_a_kind_says_its_type_its_unit_and_its_limit(kind: Kind, doc: str) -> None:
    assert kind.doc == doc


def test_a_plan_is_made_once_and_knows_each_field_in_order() -> None:
    plan = plan_of(Pair)
    assert plan is plan_of(Pair)
    assert [(row.name, row.required, row.about) for row in plan.rows] == [
        ("left", True, "one"),
        ("right", False, "other"),
    ]


def test_a_plan_leaves_out_what_has_its_default_and_fills_it_in_again() -> None:
    plan = plan_of(Pair)
    assert plan.plain(Pair(left=1)) == {"left": 1}
    assert plan.plain(Pair(left=0, right="r")) == {"left": 0, "right": "r"}
    assert plan.build({"left": 1}) == Pair(left=1, right="-")


def test_a_plan_names_a_missing_field_with_its_place() -> None:
    with pytest.raises(ProtocolError, match=r"^left: is missing$"):
        plan_of(Pair).build({"right": "r"})
    with pytest.raises(ProtocolError, match=r"^pairs\[1\]\.left: is missing$"):
        ListOf(Record(Pair), 2).check([{"left": 1}, {}], "pairs")
