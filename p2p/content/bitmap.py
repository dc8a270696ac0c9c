"""A set of piece numbers, kept in one integer, and its form on the wire.

In the integer bit `i` is piece `i`. On the wire piece 0 is the highest bit of the first byte, as in
BitTorrent: pieces 0 and 9 of 10 are the bytes `80 40`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from p2p.errors import ProtocolError

_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in reverse order, for `bytes.translate`."""


class Bitmap:
    """A set of piece numbers from 0 to `n - 1`. It is mutable, and so not hashable."""

    __slots__ = ("_bits", "n")

    def __init__(self, n: int, bits: int = 0) -> None:
        """A set of the pieces whose bits are set in `bits`. Raises `ValueError` for bits outside of `n`."""
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
        """The set as an integer."""
        return self._bits

    @property
    def count(self) -> int:
        """The number of pieces in the set."""
        return self._bits.bit_count()

    @property
    def full(self) -> bool:
        """Whether all pieces are in the set; true for a content without pieces."""
        return self._bits == (1 << self.n) - 1

    def add(self, piece: int) -> None:
        """Add `piece`, unless it is in the set. Raises `IndexError` if there is no such piece."""
        self._check(piece)
        self._bits |= 1 << piece

    def remove(self, piece: int) -> None:
        """Remove `piece`, if it is in the set. Raises `IndexError` if there is no such piece."""
        self._check(piece)
        self._bits &= ~(1 << piece)

    def missing(self) -> Bitmap:
        """The pieces that are not in the set, as a new set."""
        return Bitmap(self.n, self._bits ^ ((1 << self.n) - 1))

    def copy(self) -> Bitmap:
        """An independent copy."""
        return Bitmap(self.n, self._bits)

    def to_bytes(self) -> bytes:
        """The form on the wire, before base64; spare bits are zero."""
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
        """The piece numbers in ascending order, as of the begin of the iteration.

        Byte by byte: to clear the lowest bit of a large integer again and again would take quadratic time.
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
        return Bitmap(self.n, self._bits | self._bits_of(other))

    def __and__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.n, self._bits & self._bits_of(other))

    def __sub__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.n, self._bits & ~self._bits_of(other))

    def __repr__(self) -> str:
        return f"Bitmap({self.count} of {self.n})"

    def _check(self, piece: int) -> None:
        if not 0 <= piece < self.n:
            raise IndexError(f"piece {piece} of {self.n}")

    def _bits_of(self, other: Bitmap) -> int:
        if other.n != self.n:
            raise ValueError(f"a set of {other.n} pieces does not fit one of {self.n}")
        return other._bits


def _octets(n: int) -> int:
    return -(-n // 8)
