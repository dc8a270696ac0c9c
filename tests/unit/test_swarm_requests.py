"""Open requests."""

from __future__ import annotations

from p2p.model import BlockSpan, PeerKey
from p2p.swarm.requests import BlockRequest, Requests

A, B = PeerKey("a"), PeerKey("b")
FIRST, SECOND = BlockSpan(0, 0, 16), BlockSpan(1, 0, 16)


def test_a_request_is_under_way_until_it_is_closed() -> None:
    requests = Requests()
    requests.open(A, FIRST, 1.0, 21.0)
    assert requests.of(A) == list(requests.entries()) == [BlockRequest(A, FIRST, 1.0, 21.0)]
    assert requests.close(A, FIRST) == BlockRequest(A, FIRST, 1.0, 21.0)
    assert (len(requests), requests.of(A), requests.asked(FIRST)) == (0, [], frozenset())


def test_to_close_what_is_not_open_gives_none_and_changes_nothing() -> None:
    requests = Requests()
    requests.open(A, FIRST, 1.0, 21.0)
    assert requests.close(A, SECOND) is None
    assert requests.close(B, FIRST) is None
    assert len(requests) == 1


def test_a_block_may_be_asked_of_two_peers_and_each_request_stands_alone() -> None:
    requests = Requests()
    requests.open(A, FIRST, 1.0, 21.0)
    requests.open(B, FIRST, 2.0, 22.0)
    assert requests.asked(FIRST) == {A, B}
    requests.close(A, FIRST)
    assert requests.asked(FIRST) == {B}
    assert (requests.count(A), requests.count(B), len(requests)) == (0, 1, 1)


def test_the_oldest_request_is_the_first_that_is_still_open() -> None:
    requests = Requests()
    assert requests.oldest() is None
    requests.open(A, FIRST, 1.0, 21.0)
    requests.open(A, SECOND, 2.0, 22.0)
    requests.open(B, FIRST, 3.0, 23.0)
    assert requests.oldest() == BlockRequest(A, FIRST, 1.0, 21.0)
    requests.close(A, FIRST)
    assert requests.oldest() == BlockRequest(A, SECOND, 2.0, 22.0)


def test_a_request_is_overdue_from_the_very_moment_of_its_end() -> None:
    requests = Requests()
    requests.open(A, FIRST, 1.0, 21.0)
    assert requests.overdue(20.999) == []
    assert requests.overdue(21.0) == list(requests.entries())
