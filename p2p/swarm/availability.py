"""How many peers hold each piece.

Pieces are kept in levels: level `c` is an integer whose bit `i` says that exactly `c` peers have piece `i`.
To count a bitmap is a carry from level to level. "The rarest piece that this peer has and we want" is one
`and` a level, with 262,144 pieces as with ten.
"""

from __future__ import annotations

from collections.abc import Iterator


class Availability:
    """For each of `n` pieces, how many peers have it."""

    __slots__ = ("_levels",)

    def __init__(self, n: int) -> None:
        self._levels = [(1 << n) - 1]

    def add(self, bits: int) -> None:
        """One more peer has these pieces."""
        carry = 0
        for level, pieces in enumerate(self._levels):
            moved = pieces & bits
            if moved or carry:
                self._levels[level] = pieces ^ moved | carry
                bits ^= moved
                carry = moved
            if not bits and not carry:
                return
        if carry:
            self._levels.append(carry)

    def remove(self, bits: int) -> None:
        """One peer fewer has these pieces. Pieces that nobody has stay at nobody."""
        for level in range(1, len(self._levels)):
            moved = self._levels[level] & bits
            if moved:
                self._levels[level] ^= moved
                self._levels[level - 1] |= moved
                bits ^= moved
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()

    def rarest_first(self, wanted: int) -> Iterator[int]:
        """Yield the wanted pieces as one integer a level, the rarest first; empty levels are left out."""
        for level in self._levels:
            found = level & wanted
            if found:
                yield found

    def nobody(self, wanted: int) -> int:
        """The wanted pieces that no peer has."""
        return self._levels[0] & wanted
