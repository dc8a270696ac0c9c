"""`@frozen`: a frozen dataclass that is made five times faster, since every command makes more than a hundred
of them before it begins.

The standard `@dataclass(frozen=True, slots=True)` compiles six functions for each class, 0.3 ms together: for
120 classes that was a fifth of the time from a command's start to its first byte. Here only `__init__` is
compiled; comparing, hashing and showing are written once, below. That no field is assigned to later is for
the type checker to see, not for the interpreter: values are made faster so, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class a dataclass with slots, compared, hashed and shown by its fields; `dataclasses.fields` and
    `replace` work on it."""
    made: Any = dataclasses.dataclass(slots=True, eq=False, repr=False)(cls)
    names = [field.name for field in dataclasses.fields(made)]
    own = vars(cls)
    if "__eq__" not in own:
        made.__eq__, made.__hash__ = _compare_by(_reader(names))
    if "__repr__" not in own:
        made.__repr__ = _show(names)
    return made  # type: ignore[no-any-return]


def _reader(names: list[str]) -> Callable[[Any], object]:
    """What reads all fields at once."""
    return attrgetter(*names) if names else lambda _: ()


def _compare_by(read: Callable[[Any], object]) -> tuple[Callable[[Any, object], bool], Callable[[Any], int]]:
    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        return read(self) == read(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(read(self))

    return __eq__, __hash__


def _show(names: list[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__
