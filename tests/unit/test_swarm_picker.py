"""Which piece next."""

from __future__ import annotations

from random import Random

from p2p.swarm.availability import Availability
from p2p.swarm.picker import any_bit, numbers, pick


def test_the_rarest_wanted_piece_is_picked() -> None:
    held = Availability(3)
    held.add(0b111)
    held.add(0b101)
    assert {pick(0b111, held, 3, Random(seed)) for seed in range(20)} == {1}


def test_chance_decides_between_equals_and_the_seed_decides_chance() -> None:
    held = Availability(8)
    picks = [pick(0xFF, held, 8, Random(seed)) for seed in range(100)]
    assert set(picks) == set(range(8))
    assert picks == [pick(0xFF, held, 8, Random(seed)) for seed in range(100)]


def test_nothing_is_picked_where_nothing_is_wanted() -> None:
    assert pick(0, Availability(3), 3, Random(1)) is None


def test_any_bit_finds_a_bit_below_the_place_where_it_starts() -> None:
    assert {any_bit(0b10, 64, Random(seed)) for seed in range(50)} == {1}


def test_numbers_lists_bits_from_low_to_high() -> None:
    assert numbers(0) == ()
    assert numbers(1 << 300 | 0b1000_0000_0101) == (0, 2, 11, 300)
