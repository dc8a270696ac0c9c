"""How many peers hold each piece.

Pieces are kept in levels: level `c` is an integer whose bit `i` says that exactly `c` peers hold piece `i`.
To count a whole bitmap is then a carry from level to level, and "the rarest piece that this peer has and I
want" is one `and` a level, at 262,144 pieces as at ten.
"""

from __future__ import annotations

from collections.abc import Iterator


class Availability:
    """Counts of holders for `n` pieces."""

    __slots__ = ("_levels",)

    def __init__(self, n: int) -> None:
        self._levels = [(1 << n) - 1]

    def add(self, bits: int) -> None:
        """One more peer holds these pieces."""
        level = len(self._levels) - 1
        while bits and level >= 0:
            moved = self._levels[level] & bits
            if moved:
                if level + 1 == len(self._levels):
                    self._levels.append(0)
                self._levels[level] ^= moved
                self._levels[level + 1] |= moved
                bits ^= moved
            level -= 1

    def remove(self, bits: int) -> None:
        """One peer fewer holds these pieces. Pieces that nobody holds stay at nobody."""
        for level in range(1, len(self._levels)):
            moved = self._levels[level] & bits
            if moved:
                self._levels[level] ^= moved
                self._levels[level - 1] |= moved
                bits ^= moved
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()

    def rarest_first(self, wanted: int) -> Iterator[int]:
        """Yield the wanted pieces as one integer a level, fewest holders first; empty levels are left out."""
        for level in self._levels:
            found = level & wanted
            if found:
                yield found

    def nobody(self, wanted: int) -> int:
        """The wanted pieces that no peer holds."""
        return self._levels[0] & wanted
