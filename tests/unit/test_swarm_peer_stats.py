"""What a download knows of one peer, and the numbers it decides with."""

from __future__ import annotations

import pytest

from p2p.model import KIB, MIB, PeerKey
from p2p.swarm.peer_stats import PeerStats, Policy

BLOCK = 64 * KIB


def peer(**known: float) -> PeerStats:
    source = PeerStats(PeerKey("a"))
    for name, value in known.items():
        setattr(source, name, value)
    return source


def test_a_new_peers_window_is_two_among_few_peers_and_one_among_many() -> None:
    assert peer().window(Policy(), BLOCK) == 2
    assert peer().window(Policy(), BLOCK, few_peers=False) == 1


def test_a_fast_peer_is_asked_for_more_ahead_but_never_for_more_than_the_most() -> None:
    assert peer(rate=100 * BLOCK).window(Policy(), BLOCK) == 7
    assert peer(rate=1e12).window(Policy(), BLOCK) == Policy().max_window


def test_a_peer_that_failed_is_asked_for_one_block_until_it_brings_one() -> None:
    source = peer(rate=1e12, failures=1)
    assert source.window(Policy(), BLOCK) == 1
    source.on_arrived(BLOCK, 0.0, 1.0)
    assert source.window(Policy(), BLOCK) > 1


def test_the_rate_of_blocks_that_overlap_counts_from_the_block_before() -> None:
    source = peer()
    source.on_arrived(1000, asked=0.0, now=1.0)
    assert source.rate == pytest.approx(1000)
    source.on_arrived(1000, asked=0.0, now=2.0)
    assert source.rate == pytest.approx(1000)
    source.on_arrived(1000, asked=5.0, now=5.5)
    assert source.rate == pytest.approx(1200)


def test_blocks_that_arrive_in_one_moment_do_not_divide_by_zero() -> None:
    source = peer()
    source.on_arrived(1000, asked=1.0, now=1.0)
    assert source.rate > 0


def test_silence_counts_from_the_last_suggestion_or_the_last_block() -> None:
    source = peer(suggested_at=5.0, last_arrival=3.0)
    assert source.silent_at(Policy(suggestion_timeout=0.5)) == 5.5
    source.last_arrival = 6.0
    assert source.silent_at(Policy(suggestion_timeout=0.5)) == 6.5


def test_memory_bounds_what_is_under_way_but_one_block_always_fits() -> None:
    assert Policy(buffer_bytes=24 * MIB).max_requests(MIB) == 24
    assert Policy(buffer_bytes=24 * MIB).max_requests(BLOCK) == 256
    assert Policy(buffer_bytes=1).max_requests(MIB) == 1
