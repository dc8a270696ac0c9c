"""Which piece next: rank the pieces, break ties by chance."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from p2p.swarm.availability import Availability


def any_bit(bits: int, n: int, rng: Random) -> int:
    """Return the number of some set bit of `bits`, which has one below `n`: the first at or after a random
    place, else the lowest."""
    start = rng.randrange(n)
    above = bits >> start
    if above:
        return start + (above & -above).bit_length() - 1
    return (bits & -bits).bit_length() - 1


def pick(wanted: int, availability: Availability, n: int, rng: Random) -> int | None:
    """Return the rarest of the `wanted` pieces, chance deciding between equals; None when none is wanted."""
    for level in availability.rarest_first(wanted):
        return any_bit(level, n, rng)
    return None


def numbers(bits: int) -> tuple[int, ...]:
    """The piece numbers of an integer bitmap, from low to high."""
    found = []
    for index, octet in enumerate(bits.to_bytes((bits.bit_length() + 7) // 8, "little")):
        while octet:
            low = octet & -octet
            found.append(index * 8 + low.bit_length() - 1)
            octet ^= low
    return tuple(found)


def as_bits(pieces: Iterable[int]) -> int:
    """The integer bitmap of some piece numbers."""
    bits = 0
    for piece in pieces:
        bits |= 1 << piece
    return bits
