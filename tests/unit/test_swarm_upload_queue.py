"""Whom we serve."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

from p2p.errors import Refused
from p2p.swarm.upload_queue import QUICK, SEATS, TURN, WAITING_IN_ALL, WAITING_OF_ONE, UploadQueue


def test_only_as_many_as_there_are_slots_are_served_at_once() -> None:
    uploads = UploadQueue(slots=2)
    assert [uploads.ask("a", ticket) for ticket in range(4)] == [[0], [1], [], []]
    assert (uploads.serving, uploads.waiting) == (2, 2)
    assert uploads.done(0) == [2]
    assert uploads.done(2) == [3]
    assert uploads.done(1) == []
    assert uploads.done(3) == []
    assert (uploads.serving, uploads.waiting) == (0, 0)


def test_who_asks_for_much_delays_another_by_one_block() -> None:
    uploads = UploadQueue(slots=1)
    for number in range(10):
        uploads.ask("greedy", f"greedy {number}")
    uploads.ask("modest", "modest 0")
    assert uploads.done("greedy 0") == ["greedy 1"]
    assert uploads.done("greedy 1") == ["modest 0"]
    assert uploads.done("modest 0") == ["greedy 2"]


def test_peers_are_served_in_turn_each_in_the_order_it_asked() -> None:
    uploads = UploadQueue(slots=1)
    for number in range(3):
        for client in "abc":
            uploads.ask(client, (client, number))
    served: list[object] = [("a", 0)]
    while uploads.serving:
        served += uploads.done(served[-1])
    assert served == [(client, number) for number in range(3) for client in "abc"]


def test_a_ticket_that_waits_and_is_given_up_is_never_served() -> None:
    uploads = UploadQueue(slots=1)
    for ticket in ("first", "second", "third"):
        uploads.ask("a", ticket)
    uploads.ask("b", "fourth")
    assert uploads.done("second") == []
    assert uploads.done("fourth") == []
    assert uploads.waiting == 1
    assert uploads.done("first") == ["third"]


def test_an_unknown_ticket_changes_nothing() -> None:
    uploads = UploadQueue(slots=1)
    uploads.ask("a", 1)
    uploads.ask("a", 2)
    assert uploads.done("stranger") == []
    assert (uploads.serving, uploads.waiting) == (1, 1)


def test_who_has_too_many_waiting_is_refused_as_busy_and_others_are_not() -> None:
    uploads = UploadQueue(slots=1)
    for ticket in range(1 + WAITING_OF_ONE):
        uploads.ask("a", ticket)
    with pytest.raises(Refused) as refused:
        uploads.ask("a", "one more")
    assert refused.value.code == "busy"
    assert uploads.ask("b", "other") == []
    assert uploads.waiting == WAITING_OF_ONE + 1


def test_all_are_refused_as_busy_when_too_many_wait_in_all() -> None:
    uploads = UploadQueue(slots=1)
    for ticket in range(1 + WAITING_IN_ALL):
        uploads.ask(f"peer {ticket % 1000}", ticket)
    with pytest.raises(Refused):
        uploads.ask("a newcomer", "one more")
    assert uploads.waiting == WAITING_IN_ALL


def test_who_took_its_last_turn_quickly_gets_more_in_the_next_one_while_nobody_waits() -> None:
    uploads = UploadQueue(slots=1)
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
    uploads = UploadQueue()
    for number in range(2000):
        uploads.took(f"peer {number}", 0.0)
    quick = [number for number in range(2000) if uploads.turn(f"peer {number}")]
    assert quick == list(range(2000 - 256, 2000))


def test_a_host_that_says_a_hundred_ids_delays_another_by_few_blocks_and_each_of_its_ids_has_its_turn() -> (
    None
):
    uploads = UploadQueue(slots=1)
    for at in range(3):
        for number in range(100):
            uploads.ask(f"{number:032x}@10.0.0.66", ("crowd", number, at))
    for at in range(3):
        uploads.ask(f"{7:032x}@10.0.0.7", ("honest", 7, at))
    served: list[object] = [("crowd", 0, 0)]
    while uploads.serving:
        served += uploads.done(served[-1])
    assert len(served) == len(set(served)) == 303
    honest = [at for at, ticket in enumerate(served) if ticket[0] == "honest"]  # type: ignore[index]
    assert honest[-1] <= 3 * (SEATS + 1)
    rest = [ticket[1] for ticket in served if ticket[0] == "crowd"]  # type: ignore[index]
    assert rest[:100] == list(range(100)), "nobody of the crowd comes twice before all have come once"


def test_hosts_come_and_go_in_any_order_and_every_ticket_is_served_or_forgotten_once() -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    uploads, waiting, serving = UploadQueue(slots=3), set[int](), set[int]()

    def admit(tickets: list[Hashable]) -> None:
        assert waiting >= set(tickets)
        for ticket in tickets:
            assert isinstance(ticket, int)
            waiting.remove(ticket)
            serving.add(ticket)

    for ticket in range(3000):
        waiting.add(ticket)
        admit(uploads.ask(f"{rng.randrange(9)}@{rng.randrange(3)}", ticket))
        for _ in range(rng.randrange(3)):
            if serving or waiting:
                gone = rng.choice(sorted(serving | waiting))
                serving.discard(gone)
                waiting.discard(gone)
                admit(uploads.done(gone))
        assert (uploads.serving, uploads.waiting) == (len(serving), len(waiting))
        assert len(uploads._round) == sum(line.seats for line in uploads._lines.values())
    for ticket in sorted(waiting):
        uploads.done(ticket)
    for ticket in sorted(serving):
        uploads.done(ticket)
    assert not uploads._lines
    assert not uploads._round
