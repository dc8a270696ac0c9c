"""What was asked of whom, since when and until when."""

from __future__ import annotations

from p2p.model import BlockSpan, PeerKey
from p2p.swarm.requests import Entry, Requests

A, B = PeerKey("a"), PeerKey("b")
FIRST, SECOND = BlockSpan(0, 0, 16), BlockSpan(1, 0, 16)


def test_a_request_is_under_way_until_it_is_closed() -> None:
    ledger = Requests()
    ledger.open(A, FIRST, 1.0, 21.0)
    assert ledger.of(A) == ledger.entries() == [Entry(A, FIRST, 1.0, 21.0)]
    assert ledger.close(A, FIRST) == Entry(A, FIRST, 1.0, 21.0)
    assert (len(ledger), ledger.of(A), ledger.asked(FIRST)) == (0, [], frozenset())


def test_to_close_what_is_not_open_gives_none_and_changes_nothing() -> None:
    ledger = Requests()
    ledger.open(A, FIRST, 1.0, 21.0)
    assert ledger.close(A, SECOND) is None
    assert ledger.close(B, FIRST) is None
    assert len(ledger) == 1


def test_a_block_may_be_asked_of_two_peers_and_each_request_stands_alone() -> None:
    ledger = Requests()
    ledger.open(A, FIRST, 1.0, 21.0)
    ledger.open(B, FIRST, 2.0, 22.0)
    assert ledger.asked(FIRST) == {A, B}
    ledger.close(A, FIRST)
    assert ledger.asked(FIRST) == {B}
    assert (ledger.count(A), ledger.count(B), len(ledger)) == (0, 1, 1)


def test_the_earliest_end_is_that_of_the_oldest_request() -> None:
    ledger = Requests()
    assert ledger.earliest() is None
    ledger.open(A, FIRST, 1.0, 21.0)
    ledger.open(A, SECOND, 2.0, 22.0)
    ledger.open(B, FIRST, 3.0, 23.0)
    assert ledger.earliest() == 21.0
    ledger.close(A, FIRST)
    assert ledger.earliest() == 22.0


def test_a_request_is_overdue_from_the_very_moment_of_its_end() -> None:
    ledger = Requests()
    ledger.open(A, FIRST, 1.0, 21.0)
    assert ledger.overdue(20.999) == []
    assert ledger.overdue(21.0) == ledger.entries()
