"""Tests of p2p/peer/candidates.py: which of the peers that the tracker names are dialled, and when again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from p2p.model import PeerKey
from p2p.peer.candidates import Candidates, FinderTimeouts
from p2p.swarm.topology import CONNECTIONS, HUNGRY_DIALS

TIMES = FinderTimeouts()


def key(number: int, host: str | None = None) -> PeerKey:
    return PeerKey(f"{number:032x}@{host or f'10.0.0.{number}'}:6970")


def keys(count: int) -> list[PeerKey]:
    return [key(number) for number in range(count)]


def named(*peers: PeerKey) -> dict[PeerKey, str]:
    """These peers with their hosts, as a lookup names them."""
    return {peer: peer.partition("@")[2].partition(":")[0] for peer in peers}


def candidates(*unwanted: PeerKey) -> Candidates:
    return Candidates(lambda peer: peer not in unwanted, TIMES)


def reach(some: Candidates, peers: list[PeerKey]) -> None:
    """Let these dials succeed."""
    for peer in peers:
        some.on_connected(peer)
        some.on_dialled(peer)


def fail(some: Candidates, peer: PeerKey, now: float) -> None:
    some.on_failed(peer, f"{peer} cannot be reached", now)
    some.on_dialled(peer)


def test_named_peers_are_dialled_once_and_connected_ones_are_not() -> None:
    some = candidates()
    some.on_listed(named(*keys(5)), [key(3)], 5)
    first = some.to_dial([key(3)], 1, 0.0, eager=True)
    assert first == [key(0), key(1), key(2), key(4)]
    assert some.to_dial([key(3)], 1, 1.0, eager=True) == [], "they are being dialled"
    reach(some, first)
    assert some.to_dial(keys(5), 5, 2.0, eager=True) == []


def test_unwanted_peers_are_neither_dialled_nor_counted() -> None:
    some = candidates(key(1))
    assert some.on_listed(named(*keys(3)), [], 3) == 2
    assert some.to_dial([], 0, 0.0, eager=True) == [key(0), key(2)]


@pytest.mark.parametrize(
    ("members", "eager", "count"),
    [
        (0, False, CONNECTIONS),
        (30, True, CONNECTIONS - 30),
        (CONNECTIONS, False, 0),
        (CONNECTIONS, True, HUNGRY_DIALS),
    ],
)
def test_as_many_are_dialled_as_the_topology_asks_for(members: int, eager: bool, count: int) -> None:
    some = candidates()
    some.on_listed(named(*keys(100)), [], 100)
    assert len(some.to_dial([], members, 0.0, eager=eager)) == count


def test_dials_under_way_count_as_members() -> None:
    some = candidates()
    some.on_listed(named(*keys(100)), [], 100)
    under_way = some.to_dial([], 0, 0.0, eager=False)
    some.on_dialled(under_way[0])
    assert len(some.to_dial([], 0, 1.0, eager=False)) == 1


def test_case_55_a_peer_that_is_away_is_dialled_later_and_later_up_to_ten_seconds() -> None:
    """After ten minutes without a network a download goes on within seconds."""
    some = candidates()
    times: list[float] = []
    for now in range(600):
        some.on_listed(named(key(1)), [], 1)
        for peer in some.to_dial([], 0, float(now), eager=True):
            times.append(now)
            fail(some, peer, float(now))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:3] == [TIMES.redial_first, 2 * TIMES.redial_first, 4 * TIMES.redial_first]
    assert set(gaps[3:]) == {TIMES.redial_longest}
    assert some.reasons() == [f"{key(1)} cannot be reached"]


def test_a_peer_that_was_reached_has_no_reason_against_it() -> None:
    some = candidates()
    some.on_listed(named(key(1)), [], 1)
    some.to_dial([], 0, 0.0, eager=True)
    fail(some, key(1), 0.0)
    some.to_dial([], 0, 5.0, eager=True)
    reach(some, [key(1)])
    assert some.reasons() == []


def test_a_peer_with_a_new_address_is_dialled_there_at_once() -> None:
    some = candidates()
    some.on_listed(named(key(1)), [], 1)
    some.to_dial([], 0, 0.0, eager=True)
    fail(some, key(1), 0.0)
    some.on_listed(named(key(1, "10.0.0.99")), [], 1)
    assert some.to_dial([], 0, 0.0, eager=True) == [key(1, "10.0.0.99")]
    assert some.reasons() == [], "the former address is of no interest"


def test_one_host_with_many_peers_does_not_keep_the_others_from_being_dialled() -> None:
    """One machine may announce hundreds of peers that do not exist: a neighbour of hostile case 15."""
    some = candidates()
    made_up = [key(number, "10.0.0.66") for number in range(49)]
    some.on_listed(named(*made_up, key(1)), [], 300)
    first = some.to_dial([], CONNECTIONS - 2, 0.0, eager=True)
    assert set(first) == {made_up[0], key(1)}
    assert some.to_dial([], CONNECTIONS - 4, 0.0, eager=True) == made_up[1:3], (
        "of one host, as they were named"
    )


def test_there_are_more_peers_while_lookups_name_untried_ones_of_a_larger_swarm() -> None:
    some = candidates()
    some.on_listed(named(*keys(2)), [key(0)], 3)
    assert some.more
    some.to_dial([key(0)], 1, 0.0, eager=True)
    some.on_listed(named(*keys(2)), [key(0)], 3)
    assert not some.more, "nobody new is named"
    some.on_listed(named(key(2)), [], 3)
    some.to_dial([], 1, 0.0, eager=True)
    assert not some.more, "all three were tried"
