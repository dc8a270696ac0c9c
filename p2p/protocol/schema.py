"""What a value on the wire may be. Each kind of field is a small class, which checks a value and describes
itself for the specification.

`check(value, where)` returns the value as the program keeps it, or raises `ProtocolError("bad_field")` whose
message begins with `where`, the name of the field. Python's `bool` is an `int`; on the wire it is not.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from p2p.errors import ProtocolError
from p2p.value import frozen


class Kind(Protocol):
    """The duties of a kind of field."""

    def check(self, value: object, where: str) -> Any:
        """Return `value` as the program keeps it, or raise `ProtocolError("bad_field")` naming `where`."""

    def plain(self, value: Any) -> object:
        """Return what `json` can write for a value that the program keeps."""

    @property
    def doc(self) -> str:
        """Type, unit and limit in a few words."""


def bad(where: str, why: str) -> ProtocolError:
    """The error for a field that is not as it must be."""
    return ProtocolError("bad_field", f"{where}: {why}")


class _AsItIs:
    def plain(self, value: Any) -> object:
        return value


@frozen
class Int(_AsItIs):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    unit: str = ""

    def check(self, value: object, where: str) -> int:
        if type(value) is not int:
            raise bad(where, "must be a whole number")
        if not self.low <= value <= self.high:
            raise bad(where, f"must be from {self.low} to {self.high}")
        return value

    @property
    def doc(self) -> str:
        return f"integer{', ' + self.unit if self.unit else ''}, {self.low} to {self.high}"


@frozen
class Bool(_AsItIs):
    """`true` or `false`."""

    def check(self, value: object, where: str) -> bool:
        if type(value) is not bool:
            raise bad(where, "must be true or false")
        return value

    @property
    def doc(self) -> str:
        return "boolean"


@frozen
class Text(_AsItIs):
    """A string of `low` to `high` bytes as UTF-8, without control characters (U+0000 to U+001F, U+007F to
    U+009F)."""

    high: int
    low: int = 0

    def check(self, value: object, where: str) -> str:
        if type(value) is not str:
            raise bad(where, "must be a string")
        size = len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        if not self.low <= size <= self.high:
            raise bad(where, f"must be {self.low} to {self.high} bytes long")
        if not value.isprintable() and any(
            c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in value
        ):
            raise bad(where, "must not hold control characters")
        return value

    @property
    def doc(self) -> str:
        return f"string, {self.low} to {self.high} bytes, no control characters"


_HEX: Final = frozenset("0123456789abcdef")


@frozen
class Hex(_AsItIs):
    """A string of exactly `digits` lower-case hex digits."""

    digits: int

    def check(self, value: object, where: str) -> str:
        if type(value) is not str or len(value) != self.digits or not _HEX.issuperset(value):
            raise bad(where, f"must be {self.digits} lower-case hex digits")
        return value

    @property
    def doc(self) -> str:
        return f"string, {self.digits} lower-case hex digits"


@frozen
class Base64:
    """Bytes, written as standard base64 with padding; at most `high` bytes once decoded."""

    high: int

    def check(self, value: object, where: str) -> bytes:
        if type(value) is not str or not value.isascii():
            raise bad(where, "must be base64")
        if len(value) > (self.high + 2) // 3 * 4:
            raise bad(where, f"must be at most {self.high} bytes of base64")
        try:
            found = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise bad(where, "must be base64") from None
        if len(found) > self.high:
            raise bad(where, f"must be at most {self.high} bytes of base64")
        return found

    def plain(self, value: Any) -> object:
        return base64.b64encode(value).decode("ascii")

    @property
    def doc(self) -> str:
        return f"string, base64 of at most {self.high} bytes"


@frozen
class Choice(_AsItIs):
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, value: object, where: str) -> str:
        if type(value) is not str or value not in self.words:
            raise bad(where, f"must be one of {', '.join(self.words)}")
        return value

    @property
    def doc(self) -> str:
        return "one of " + ", ".join(f'"{word}"' for word in self.words)


@frozen
class ListOf:
    """A list of at most `most` values of one kind; kept as a tuple."""

    kind: Kind
    most: int

    def check(self, value: object, where: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise bad(where, "must be a list")
        if len(value) > self.most:
            raise bad(where, f"must have at most {self.most} entries")
        check = self.kind.check
        return tuple([check(item, f"{where}[{i}]") for i, item in enumerate(value)])

    def plain(self, value: Any) -> object:
        return [self.kind.plain(item) for item in value]

    @property
    def doc(self) -> str:
        return f"list of at most {self.most}: {self.kind.doc}"


@frozen
class MapOf:
    """An object of at most `most` keys, all words of letters and digits, and values of one kind."""

    kind: Kind
    most: int

    def check(self, value: object, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise bad(where, "must be an object")
        if len(value) > self.most:
            raise bad(where, f"must have at most {self.most} keys")
        for key in value:
            if not (key.isascii() and key.isalnum() and len(key) <= 16):
                raise bad(where, "keys must be words of 1 to 16 ASCII letters and digits")
        return {key: self.kind.check(item, f"{where}.{key}") for key, item in value.items()}

    def plain(self, value: Any) -> object:
        return {key: self.kind.plain(item) for key, item in value.items()}

    @property
    def doc(self) -> str:
        return f"object of at most {self.most} words to: {self.kind.doc}"


@frozen
class Record:
    """A nested object, kept as the dataclass that states its fields."""

    cls: type

    def check(self, value: object, where: str) -> Any:
        if type(value) is not dict:
            raise bad(where, "must be an object")
        return plan_of(self.cls).build(value, where + ".")

    def plain(self, value: Any) -> object:
        return plan_of(self.cls).plain(value)

    @property
    def doc(self) -> str:
        return self.cls.__name__


def wire(kind: Kind, default: Any = dataclasses.MISSING, *, about: str) -> Any:
    """Declare a dataclass field that crosses the wire: its kind, its default when it may be absent, and one
    sentence about it."""
    return dataclasses.field(default=default, metadata={"kind": kind, "about": about}, kw_only=True)


@frozen
class Row:
    """One field of a message as its plan knows it."""

    name: str
    kind: Kind
    default: Any
    about: str

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


class Plan:
    """How one dataclass is read from a JSON object and written to one; made once for each class."""

    def __init__(self, cls: type) -> None:
        self._cls: Callable[..., Any] = cls
        self.rows: Sequence[Row] = tuple(
            Row(f.name, f.metadata["kind"], f.default, f.metadata["about"])
            for f in dataclasses.fields(cls)
            if "kind" in f.metadata
        )

    def build(self, data: dict[str, object], where: str = "") -> Any:
        """Make the dataclass from a JSON object; unknown keys are ignored. Raises
        `ProtocolError("bad_field")`."""
        values = {}
        for row in self.rows:
            if row.name in data:
                values[row.name] = row.kind.check(data[row.name], where + row.name)
            elif row.required:
                raise bad(where + row.name, "is missing")
        return self._cls(**values)

    def plain(self, value: Any) -> dict[str, object]:
        """Return what `json` can write; a field that has its default is left out."""
        out: dict[str, object] = {}
        for row in self.rows:
            item = getattr(value, row.name)
            if row.required or item != row.default:
                out[row.name] = row.kind.plain(item)
        return out


class _Plans(dict[type, Plan]):
    def __missing__(self, cls: type) -> Plan:
        plan = self[cls] = Plan(cls)
        return plan


plan_of: Final[Callable[[type], Plan]] = _Plans().__getitem__
"""The plan of a class; the same object each time (a pure function's memory, not state)."""
