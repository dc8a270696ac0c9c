"""Whom we serve."""

from __future__ import annotations

import pytest

from p2p.errors import Refused
from p2p.swarm.uploads import QUICK, TURN, WAITING_IN_ALL, WAITING_OF_ONE, Uploads


def test_only_as_many_as_there_are_slots_are_served_at_once() -> None:
    uploads = Uploads(slots=2)
    assert [uploads.ask("a", ticket) for ticket in range(4)] == [[0], [1], [], []]
    assert (uploads.serving, uploads.waiting) == (2, 2)
    assert uploads.done(0) == [2]
    assert uploads.done(2) == [3]
    assert uploads.done(1) == []
    assert uploads.done(3) == []
    assert (uploads.serving, uploads.waiting) == (0, 0)


def test_who_asks_for_much_delays_another_by_one_block() -> None:
    uploads = Uploads(slots=1)
    for number in range(10):
        uploads.ask("greedy", f"greedy {number}")
    uploads.ask("modest", "modest 0")
    assert uploads.done("greedy 0") == ["greedy 1"]
    assert uploads.done("greedy 1") == ["modest 0"]
    assert uploads.done("modest 0") == ["greedy 2"]


def test_peers_are_served_in_turn_each_in_the_order_it_asked() -> None:
    uploads = Uploads(slots=1)
    for number in range(3):
        for who in "abc":
            uploads.ask(who, (who, number))
    served: list[object] = [("a", 0)]
    while uploads.serving:
        served += uploads.done(served[-1])
    assert served == [(who, number) for number in range(3) for who in "abc"]


def test_a_ticket_that_waits_and_is_given_up_is_never_served() -> None:
    uploads = Uploads(slots=1)
    for ticket in ("first", "second", "third"):
        uploads.ask("a", ticket)
    uploads.ask("b", "fourth")
    assert uploads.done("second") == []
    assert uploads.done("fourth") == []
    assert uploads.waiting == 1
    assert uploads.done("first") == ["third"]


def test_an_unknown_ticket_changes_nothing() -> None:
    uploads = Uploads(slots=1)
    uploads.ask("a", 1)
    uploads.ask("a", 2)
    assert uploads.done("stranger") == []
    assert (uploads.serving, uploads.waiting) == (1, 1)


def test_who_has_too_many_waiting_is_refused_as_busy_and_others_are_not() -> None:
    uploads = Uploads(slots=1)
    for ticket in range(1 + WAITING_OF_ONE):
        uploads.ask("a", ticket)
    with pytest.raises(Refused) as refused:
        uploads.ask("a", "one more")
    assert refused.value.code == "busy"
    assert uploads.ask("b", "other") == []
    assert uploads.waiting == WAITING_OF_ONE + 1


def test_all_are_refused_as_busy_when_too_many_wait_in_all() -> None:
    uploads = Uploads(slots=1)
    for ticket in range(1 + WAITING_IN_ALL):
        uploads.ask(f"peer {ticket % 1000}", ticket)
    with pytest.raises(Refused):
        uploads.ask("a newcomer", "one more")
    assert uploads.waiting == WAITING_IN_ALL


def test_who_took_its_last_turn_quickly_gets_more_in_the_next_one_while_nobody_waits() -> None:
    uploads = Uploads(slots=1)
    assert uploads.turn("a") == 0, "nothing is known of it"
    uploads.took("a", QUICK)
    assert (uploads.turn("a"), uploads.turn("b")) == (TURN, 0)
    uploads.ask("a", 1)
    uploads.ask("b", 2)
    assert uploads.turn("a") == 0, "b waits"
    uploads.done(2)
    assert uploads.turn("a") == TURN
    uploads.took("a", 2 * QUICK)
    assert uploads.turn("a") == 0


def test_only_so_many_are_remembered_as_quick() -> None:
    uploads = Uploads()
    for number in range(2000):
        uploads.took(f"peer {number}", 0.0)
    quick = [number for number in range(2000) if uploads.turn(f"peer {number}")]
    assert quick == list(range(2000 - 256, 2000))
