"""`@frozen` does what a frozen dataclass of the standard library does, as far as this project uses it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from p2p.value import frozen


@frozen
class Point:
    """A value with a default, and what is no field."""

    KIND: ClassVar[str] = "point"

    x: int
    y: int = 0

    @property
    def both(self) -> tuple[int, int]:
        return self.x, self.y


@frozen
class Pixel(Point):
    """A value that inherits fields."""

    colour: str | None = None


@frozen
class Mark:
    """A value without any field."""


@frozen
class Shouted:
    """A value that shows itself."""

    text: str

    def __repr__(self) -> str:
        return self.text.upper()


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """What it is measured by."""

    x: int
    y: int = 0


def test_values_are_equal_when_their_fields_are_and_they_are_of_one_class() -> None:
    assert Point(1, 2) == Point(1, y=2)
    assert Point(1, 2) != Point(1, 3)
    assert Pixel(1, 2) != Point(1, 2)
    assert Mark() == Mark()


def test_equal_values_have_one_hash_that_of_the_standard_dataclass() -> None:
    assert len({Point(1, 2), Point(1, 2), Pixel(1, 2), Mark(), Mark()}) == 3
    assert hash(Point(1, 2)) == hash(Standard(1, 2))


def test_a_value_shows_its_fields_by_name() -> None:
    assert repr(Pixel(1, 2, "red")) == "Pixel(x=1, y=2, colour='red')"
    assert repr(Shouted("hello")) == "HELLO"


def test_a_value_is_a_dataclass_with_slots_that_can_be_replaced_and_matched() -> None:
    assert [field.name for field in dataclasses.fields(Pixel)] == ["x", "y", "colour"]
    assert dataclasses.replace(Pixel(1, 2), y=5) == Pixel(1, 5)
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == Point(3, 4).both
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]


def test_a_value_without_what_it_must_have_is_refused() -> None:
    with pytest.raises(TypeError, match="'x'"):
        Point()  # type: ignore[call-arg]


def test_to_assign_to_a_field_is_an_error_for_the_type_checker() -> None:
    """Which the ignore below proves: mypy tells of one that it does not need. The interpreter lets it pass,
    as the module says."""
    point = Point(1)
    point.x = 2  # type: ignore[misc]
    assert point == Point(2)
