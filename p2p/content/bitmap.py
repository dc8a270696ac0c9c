"""Which pieces: a set of piece numbers kept in one integer, and its form on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from p2p.errors import ProtocolError

_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order: piece 0 is the lowest bit here and the highest bit of the first
byte on the wire."""


class Bitmap:
    """A set of piece numbers from 0 to `n - 1`. Not for use as a key, since it changes."""

    __slots__ = ("_bits", "n")

    def __init__(self, n: int, bits: int = 0) -> None:
        """`n` pieces in all; bit `i` of `bits` says that piece `i` is in. Raises `ValueError` for bits
        outside of `n`."""
        if n < 0 or bits < 0 or bits >> n:
            raise ValueError(f"bits outside of {n} pieces")
        self.n = n
        self._bits = bits

    @classmethod
    def all(cls, n: int) -> Bitmap:
        """The set of all `n` pieces."""
        return cls(n, (1 << n) - 1)

    @classmethod
    def of(cls, n: int, pieces: Iterable[int]) -> Bitmap:
        """The set of `pieces`. Raises `IndexError` if one is not below `n`."""
        found = cls(n)
        for piece in pieces:
            found.add(piece)
        return found

    @property
    def bits(self) -> int:
        """The set as an integer: bit `i` is piece `i`."""
        return self._bits

    @property
    def count(self) -> int:
        """How many pieces are in."""
        return self._bits.bit_count()

    @property
    def full(self) -> bool:
        """Whether all pieces are in; true for a content without pieces."""
        return self._bits == (1 << self.n) - 1

    def add(self, piece: int) -> None:
        """Put `piece` in; it may be in already. Raises `IndexError` if there is no such piece."""
        self._check(piece)
        self._bits |= 1 << piece

    def remove(self, piece: int) -> None:
        """Take `piece` out; it may be out already. Raises `IndexError` if there is no such piece."""
        self._check(piece)
        self._bits &= ~(1 << piece)

    def missing(self) -> Bitmap:
        """The pieces that are not in, as a new set."""
        return Bitmap(self.n, self._bits ^ ((1 << self.n) - 1))

    def copy(self) -> Bitmap:
        """A set of the same pieces that changes on its own."""
        return Bitmap(self.n, self._bits)

    def to_bytes(self) -> bytes:
        """The form on the wire, before base64: one bit a piece, piece 0 the highest bit of the first byte,
        spare bits zero."""
        return self._bits.to_bytes(_octets(self.n), "little").translate(_REVERSED)

    @classmethod
    def from_bytes(cls, data: bytes, n: int) -> Bitmap:
        """Read the form on the wire for a content of `n` pieces.

        Raises `ProtocolError("bad_field")` for another length, or spare bits that are not zero.
        """
        if len(data) != _octets(n):
            raise ProtocolError("bad_field", f"pieces: {n} pieces take {_octets(n)} bytes")
        bits = int.from_bytes(data.translate(_REVERSED), "little")
        if bits >> n:
            raise ProtocolError("bad_field", f"pieces: more than {n} pieces, or spare bits that are not zero")
        return cls(n, bits)

    def __contains__(self, piece: object) -> bool:
        return isinstance(piece, int) and 0 <= piece < self.n and bool(self._bits >> piece & 1)

    def __iter__(self) -> Iterator[int]:
        """Piece numbers from low to high, as they were in when the walk began.

        Byte by byte: clearing the lowest bit of a large integer again and again would take time that grows
        with the square.
        """
        for index, octet in enumerate(self._bits.to_bytes(_octets(self.n), "little")):
            while octet:
                low = octet & -octet
                yield index * 8 + low.bit_length() - 1
                octet ^= low

    def __len__(self) -> int:
        return self._bits.bit_count()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitmap) and (self.n, self._bits) == (other.n, other._bits)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.n, self._bits | self._same(other))

    def __and__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.n, self._bits & self._same(other))

    def __sub__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.n, self._bits & ~self._same(other))

    def __repr__(self) -> str:
        return f"Bitmap({self.count} of {self.n})"

    def _check(self, piece: int) -> None:
        if not 0 <= piece < self.n:
            raise IndexError(f"piece {piece} of {self.n}")

    def _same(self, other: Bitmap) -> int:
        if other.n != self.n:
            raise ValueError(f"a set of {other.n} pieces does not fit one of {self.n}")
        return other._bits


def _octets(n: int) -> int:
    return -(-n // 8)
