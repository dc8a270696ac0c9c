"""How many peers hold each piece."""

from __future__ import annotations

from random import Random

from p2p.swarm.availability import Availability


def test_pieces_come_rarest_first_one_level_at_a_time() -> None:
    held = Availability(4)
    held.add(0b0111)
    held.add(0b0011)
    held.add(0b0001)
    assert list(held.rarest_first(0b1111)) == [0b1000, 0b0100, 0b0010, 0b0001]


def test_only_wanted_pieces_are_ranked() -> None:
    held = Availability(4)
    held.add(0b0011)
    assert list(held.rarest_first(0b0110)) == [0b0100, 0b0010]
    assert list(held.rarest_first(0)) == []


def test_nobody_names_the_wanted_pieces_without_a_holder() -> None:
    held = Availability(3)
    held.add(0b001)
    assert held.nobody(0b011) == 0b010


def test_a_piece_that_loses_its_last_holder_is_held_by_nobody() -> None:
    held = Availability(2)
    held.add(0b11)
    held.remove(0b01)
    assert held.nobody(0b11) == 0b01


def test_to_remove_what_nobody_holds_changes_nothing() -> None:
    held = Availability(2)
    held.remove(0b11)
    held.add(0b10)
    assert list(held.rarest_first(0b11)) == [0b01, 0b10]


def test_pieces_beyond_the_content_are_not_counted() -> None:
    held = Availability(2)
    held.add(0b100)
    assert list(held.rarest_first(0b111)) == [0b011]


def test_the_levels_count_like_a_table_of_counters() -> None:
    seed = Random().randrange(2**32)
    rng, n = Random(seed), 70
    held, counters = Availability(n), [0] * n
    peers: list[int] = []
    for _ in range(200):
        if peers and rng.random() < 0.4:
            bits, step = peers.pop(rng.randrange(len(peers))), -1
            held.remove(bits)
        else:
            bits, step = rng.getrandbits(n), 1
            peers.append(bits)
            held.add(bits)
        counters = [count + (step if bits >> piece & 1 else 0) for piece, count in enumerate(counters)]
        expected = [
            sum(1 << piece for piece, count in enumerate(counters) if count == level)
            for level in sorted(set(counters))
        ]
        assert list(held.rarest_first((1 << n) - 1)) == expected, f"seed {seed}"
