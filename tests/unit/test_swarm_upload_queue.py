"""The upload queue: slots, fairness by host, slow and stalled receivers. The clock is a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random, randrange

import pytest

from p2p.errors import Refused
from p2p.model import KIB, PeerId, client_id
from p2p.swarm.events import Abort, Grant, Refuse, Ticket, UploadEffect
from p2p.swarm.upload_queue import UploadLimits, UploadQueue, min_rate

LIMITS = UploadLimits()
SLOTS = LIMITS.slots
STEP_S = 0.05
BLOCK = 64 * KIB

Rate = Callable[[str], float]
"""Bytes a second that a client takes by all its uploads together."""


def nothing(_client: str) -> float:
    return 0.0


def peer(number: int, host: str) -> str:
    return client_id(PeerId(f"{number:032x}"), host)


class Scene:
    """An upload queue, and what became of each request. Granted uploads begin at once."""

    def __init__(self, limits: UploadLimits = LIMITS, rate_limit: int = 0) -> None:
        self.queue = UploadQueue(limits, rate_limit)
        self.now = 1000.0
        self.opening = False
        """Whether files of granted uploads are being opened, so that nothing can be sent yet."""
        self.clients: dict[Ticket, str] = {}
        self.turns: dict[Ticket, int] = {}
        """Granted uploads in order, and the bytes that their turn may have."""
        self.running: dict[Ticket, None] = {}
        """Granted uploads that have not ended."""
        self.refused: dict[Ticket, str] = {}
        self.aborted: list[Ticket] = []

    def ask(self, client: str, ticket: Ticket = None) -> Ticket:
        """Request a block; returns its ticket. Raises `Refused`."""
        ticket = len(self.clients) if ticket is None else ticket
        effects = self.queue.ask(client, ticket, self.now)
        self.clients[ticket] = client
        self.carry_out(effects)
        return ticket

    def ask_each(self, clients: Iterable[str]) -> list[Ticket]:
        return [self.ask(client) for client in clients]

    def end(self, ticket: Ticket, sent: int = 0) -> None:
        """End an upload after `sent` bytes, or a request that waits."""
        if sent:
            self.queue.on_sent(ticket, sent)
        self.running.pop(ticket, None)
        self.carry_out(self.queue.on_ended(ticket, self.now))

    def end_all(self) -> None:
        """End every upload, and those that are granted meanwhile."""
        while self.running:
            self.end(next(iter(self.running)))

    def pass_time(self, seconds: float, rate: Rate = nothing) -> None:
        """Let clients take bytes for so long."""
        for _ in range(round(seconds / STEP_S)):
            for client in self.queue.active():
                self.queue.on_taken(client, round(rate(client) * STEP_S), self.now)
            self.now += STEP_S
            wakeup = self.queue.next_wakeup()
            if wakeup is not None and wakeup <= self.now:
                self.carry_out(self.queue.tick(self.now))

    def carry_out(self, effects: list[UploadEffect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket, turn):
                    self.turns[ticket] = turn
                    self.running[ticket] = None
                    if not self.opening:
                        self.queue.on_begun(ticket, self.now)
                case Refuse(ticket, code, _):
                    self.refused[ticket] = code
                case Abort(ticket):
                    self.aborted.append(ticket)

    @property
    def granted(self) -> list[Ticket]:
        return list(self.turns)

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.queue.serving, self.queue.waiting, self.queue.demoted


def refused_code(scene: Scene, client: str) -> str:
    """The code with which a client is refused now."""
    with pytest.raises(Refused) as refused:
        scene.ask(client)
    return refused.value.code


# -- slots and fairness


def test_only_as_many_blocks_are_sent_at_once_as_there_are_slots() -> None:
    scene = Scene(UploadLimits(slots=2))
    for ticket in range(4):
        scene.ask("a", ticket)
    assert (scene.granted, scene.counts) == ([0, 1], (2, 2, 0))
    scene.end(0)
    assert scene.granted == [0, 1, 2]
    scene.end_all()
    assert (scene.granted, scene.counts) == ([0, 1, 2, 3], (0, 0, 0))


def test_a_client_with_many_requests_delays_another_by_one_block() -> None:
    scene = Scene(UploadLimits(slots=1))
    for number in range(10):
        scene.ask("greedy", ("greedy", number))
    scene.ask("modest", ("modest", 0))
    for number in range(2):
        scene.end(("greedy", number))
    assert scene.granted == [("greedy", 0), ("greedy", 1), ("modest", 0)]


def test_clients_are_served_in_turn_and_each_in_the_order_of_its_requests() -> None:
    scene = Scene(UploadLimits(slots=1))
    for number in range(3):
        for client in "abc":
            scene.ask(client, (client, number))
    scene.end_all()
    assert scene.granted == [(client, number) for number in range(3) for client in "abc"]


def test_a_request_that_is_given_up_while_it_waits_is_never_granted() -> None:
    scene = Scene(UploadLimits(slots=1))
    for ticket in ("first", "second", "third"):
        scene.ask("a", ticket)
    scene.ask("b", "fourth")
    scene.end("second")
    scene.end("fourth")
    assert scene.counts == (1, 1, 0)
    scene.end_all()
    assert scene.granted == ["first", "third"]


def test_an_unknown_ticket_changes_nothing() -> None:
    scene = Scene(UploadLimits(slots=1))
    scene.ask_each("aa")
    scene.queue.on_begun("unknown", scene.now)
    scene.queue.on_sent("unknown", 10)
    scene.end("unknown")
    assert (scene.granted, scene.counts) == ([0], (1, 1, 0))


def test_a_client_with_too_many_waiting_is_refused_and_others_are_not() -> None:
    scene = Scene(UploadLimits(slots=1))
    scene.ask_each(["a"] * (1 + LIMITS.waiting_per_client))
    assert refused_code(scene, "a") == "busy"
    scene.ask("b")
    assert scene.queue.waiting == LIMITS.waiting_per_client + 1


def test_every_client_is_refused_when_too_many_requests_wait_in_all() -> None:
    scene = Scene(UploadLimits(slots=1, waiting=20))
    scene.ask_each(f"client {number}" for number in range(21))
    assert refused_code(scene, "another") == "busy"
    assert scene.queue.waiting == 20


def test_a_quick_client_gets_more_in_its_next_turn_while_nobody_waits() -> None:
    scene = Scene(UploadLimits(slots=1))

    def turn(client: str, seconds: float = 0.0, waiting: int = 0) -> int:
        """The bytes that the next turn of a client may have; it then takes so long."""
        blocker = scene.ask("blocker")
        ticket = scene.ask(client)
        others = scene.ask_each(["other"] * waiting)
        scene.end(blocker)
        scene.now += seconds
        for other in [*others, ticket]:
            scene.end(other)
        return scene.turns[ticket]

    assert turn("a") == 0, "nothing is known of it"
    assert turn("a") == LIMITS.turn
    assert turn("b") == 0
    assert turn("a", waiting=1) == 0
    assert turn("a", seconds=2 * LIMITS.quick) == LIMITS.turn
    assert turn("a") == 0, "its last turn took long"


def test_a_turn_that_broke_off_late_is_not_followed_by_a_long_one() -> None:
    scene = Scene()
    scene.end(scene.ask("a"))
    stalled = scene.ask("a")
    assert scene.turns[stalled] == LIMITS.turn
    scene.now += 1
    scene.end(stalled)
    assert scene.turns[scene.ask("a")] == 0


def test_only_so_many_quick_clients_are_remembered() -> None:
    scene = Scene(UploadLimits(slots=5, remembered=3))
    for client in "abcde":
        scene.end(scene.ask(client))
    quick = {client: bool(scene.turns[scene.ask(client)]) for client in "edcba"}
    assert quick == {"e": True, "d": True, "c": True, "b": False, "a": False}


def test_a_host_with_a_hundred_ids_delays_another_host_by_few_blocks() -> None:
    scene = Scene(UploadLimits(slots=1))
    crowd = [peer(number, "10.0.0.66") for number in range(100)]
    honest = peer(7, "10.0.0.7")
    scene.ask_each(crowd * 3)
    scene.ask_each([honest] * 3)
    scene.end_all()
    served = [scene.clients[ticket] for ticket in scene.granted]
    assert sorted(served) == sorted([*crowd, honest] * 3)
    last = max(at for at, client in enumerate(served) if client == honest)
    assert last <= 3 * (LIMITS.turns_per_host + 1)
    assert [client for client in served if client != honest][:100] == crowd, "each id once, then again"


def test_every_request_in_a_random_run_is_granted_once_or_given_up() -> None:
    seed = randrange(1 << 30)
    print(f"seed {seed}")
    rng = Random(seed)
    scene, ended = Scene(UploadLimits(slots=3)), set[Ticket]()
    for ticket in range(1000):
        scene.ask(f"{rng.randrange(9)}@{rng.randrange(3)}", ticket)
        for _ in range(rng.randrange(3)):
            alive = [ticket for ticket in scene.clients if ticket not in ended]
            if alive:
                ended.add(gone := rng.choice(alive))
                scene.end(gone)
        waiting = len(scene.clients) - len(ended) - len(scene.running)
        assert scene.counts == (len(scene.running), waiting, 0)
        assert len(scene.running) == 3 or not waiting
    scene.end_all()
    assert scene.counts == (0, 0, 0)
    assert scene.queue.active() == ()
    assert len(scene.granted) == len(set(scene.granted))


def test_the_queue_wants_to_be_woken_only_while_requests_wait() -> None:
    scene = Scene(UploadLimits(slots=1))
    scene.ask("a", "served")
    assert scene.queue.next_wakeup() is None
    scene.ask("b", "waits")
    assert scene.queue.next_wakeup() == scene.now + LIMITS.look
    assert scene.queue.tick(scene.now + LIMITS.look / 2) == [], "too early"
    scene.end("waits")
    assert scene.queue.next_wakeup() is None
    scene.now += 10
    assert scene.queue.tick(scene.now) == []
    scene.ask("b", "waits again")
    assert scene.queue.next_wakeup() == scene.now + LIMITS.look


def test_the_queue_is_crowded_when_as_many_wait_as_are_served() -> None:
    scene = Scene(UploadLimits(slots=2))
    found = []
    for client in "abcde":
        scene.ask(client)
        found.append(scene.queue.crowded)
    assert found == [False, False, False, True, True]


# -- stalled receivers


def test_case_25_receivers_that_take_nothing_lose_their_slots_to_others() -> None:
    scene = Scene()
    stalled = scene.ask_each(["stalled"] * (SLOTS + 10))
    honest = scene.ask("honest")
    scene.pass_time(LIMITS.silence)
    assert honest not in scene.granted
    scene.pass_time(2 * LIMITS.look)
    assert honest in scene.granted
    scene.end(honest)
    for _ in range(20):
        again = scene.ask("honest")
        assert again in scene.granted
        scene.end(again)
    assert list(scene.running) == stalled[:SLOTS], "a stalled client gets no further block"
    assert set(scene.refused.values()) == {"busy"}
    assert set(scene.refused) == set(stalled[SLOTS:]), "nor when it had waited"
    assert refused_code(scene, "stalled") == "busy"
    scene.end_all()
    assert scene.ask("stalled") in scene.granted
    assert scene.counts == (1, 0, 0)


def test_stalled_receivers_keep_their_slots_while_nobody_waits() -> None:
    scene = Scene()
    scene.ask_each(["stalled"] * SLOTS)
    scene.pass_time(600)
    assert scene.counts == (SLOTS, 0, 0)


def test_requests_that_come_and_go_do_not_hide_that_nothing_is_taken() -> None:
    scene = Scene()
    scene.ask_each(f"stalled {number}" for number in range(SLOTS))
    honest = scene.ask("honest")
    for number in range(30):
        scene.ask("passing", ("passing", number))
        scene.pass_time(STEP_S)
        scene.end(("passing", number))
    assert honest in scene.granted


def test_a_demoted_upload_that_ends_does_not_hide_that_nothing_is_taken() -> None:
    scene = Scene(UploadLimits(slots=1))
    scene.ask_each("abcd")
    scene.pass_time(4)
    assert list(scene.running) == [0, 1, 2, 3]
    honest = scene.ask("honest")
    for demoted in range(3):
        scene.pass_time(LIMITS.silence / 2)
        scene.end(demoted)
    assert honest in scene.granted


def test_of_too_many_stalled_uploads_the_oldest_are_aborted() -> None:
    scene = Scene(UploadLimits(demoted=2 * SLOTS))
    stalled = scene.ask_each(f"stalled {number}" for number in range(5 * SLOTS))
    honest = scene.ask("honest")
    scene.pass_time(10)
    assert honest in scene.granted
    assert scene.aborted == stalled[: 3 * SLOTS]
    assert scene.queue.demoted == 2 * SLOTS
    assert list(scene.running) == [*stalled, honest], "an aborted upload may still take a while to end"
    scene.end_all()
    assert scene.counts == (0, 0, 0)
    assert scene.queue.active() == ()


def test_a_client_whose_upload_is_aborted_is_served_again_when_it_has_ended() -> None:
    scene = Scene(UploadLimits(slots=1, demoted=1))
    for client in ("a", "b", "honest"):
        scene.ask(client, client)
    scene.pass_time(4)
    assert scene.aborted == ["a"]
    assert refused_code(scene, "a") == "busy"
    scene.end("a")
    scene.end("honest")
    assert scene.ask("a") in scene.granted


def test_a_host_with_several_stalled_uploads_gets_nothing_more_by_any_id() -> None:
    scene = Scene()
    stalled = scene.ask_each(peer(number, "10.0.0.66") for number in range(30))
    honest = peer(100, "10.0.0.7")
    served = 0
    for _ in range(20):
        ticket = scene.ask(honest)
        scene.pass_time(2 if not served else 0)
        served += ticket in scene.granted
        scene.end(ticket)
    assert served == 20
    assert list(scene.running) == stalled[: LIMITS.stalled_per_host]
    assert refused_code(scene, peer(99, "10.0.0.66")) == "busy"
    scene.end_all()
    assert scene.ask(peer(99, "10.0.0.66")) in scene.granted


def test_peers_on_loopback_are_refused_one_by_one_and_not_as_a_host() -> None:
    scene = Scene()
    scene.ask_each(peer(number, "127.0.0.1") for number in range(3 * SLOTS))
    scene.ask(peer(100, "127.0.0.1"))
    scene.pass_time(2)
    assert scene.queue.demoted >= LIMITS.stalled_per_host
    assert refused_code(scene, peer(0, "127.0.0.1")) == "busy"
    scene.ask(peer(101, "127.0.0.1"))


def test_a_host_is_served_again_when_its_demoted_uploads_go_faster() -> None:
    scene = Scene()
    scene.ask_each(peer(number, "10.0.0.66") for number in range(SLOTS))
    waiting = scene.ask_each(peer(number, "10.0.0.7") for number in range(2 * SLOTS))
    scene.pass_time(2)
    assert refused_code(scene, peer(99, "10.0.0.66")) == "busy"
    scene.pass_time(6, lambda _: 10 * LIMITS.min_rate)
    assert set(waiting) & set(scene.granted)
    scene.ask(peer(99, "10.0.0.66"))


def test_a_receiver_that_takes_some_bytes_keeps_its_slot_for_a_while() -> None:
    scene = Scene()
    scene.ask_each(f"slow {number}" for number in range(SLOTS))
    waiting = scene.ask("waiting")
    scene.pass_time(2 * LIMITS.silence, lambda _: 100)
    assert waiting not in scene.granted
    scene.pass_time(LIMITS.silence + 2 * LIMITS.look)
    assert waiting in scene.granted, "now nothing is taken at all"


def test_case_25_a_trickle_by_many_ids_does_not_keep_an_honest_client_waiting() -> None:
    scene = Scene()
    slow = scene.ask_each(peer(number, "10.0.0.66") for number in range(2 * SLOTS))
    honest = scene.ask(peer(100, "10.0.0.7"))
    scene.pass_time(LIMITS.window + 2 * LIMITS.look, lambda client: 50)
    assert honest in scene.granted
    assert set(scene.refused) <= set(slow)
    scene.end_all()
    assert scene.counts == (0, 0, 0)


def test_files_that_are_slow_to_open_keep_no_slot_and_their_client_is_not_blamed() -> None:
    scene = Scene()
    scene.opening = True
    slow = [peer(number, "10.0.0.7") for number in range(SLOTS)]
    tickets = scene.ask_each(slow)
    scene.opening = False
    honest = scene.ask(peer(100, "10.0.0.8"))
    scene.pass_time(LIMITS.silence - STEP_S)
    assert honest not in scene.granted
    scene.pass_time(2 * LIMITS.look)
    assert honest in scene.granted
    assert scene.queue.demoted == SLOTS
    again = scene.ask_each(slow)
    assert not scene.refused
    for ticket in tickets:
        scene.queue.on_begun(ticket, scene.now)
    scene.pass_time(LIMITS.silence / 2)
    assert not scene.refused, "its time begins with the first byte"
    scene.pass_time(2 * LIMITS.window)
    assert refused_code(scene, slow[0]) == "busy", "now it is the client that takes nothing"
    scene.end_all()
    assert scene.counts == (0, 0, 0)
    assert set(again) <= {*scene.granted, *scene.refused}


def test_uploads_that_never_open_their_files_leave_the_slots_up_to_the_limit() -> None:
    limits = UploadLimits(demoted=2 * SLOTS)
    scene = Scene(limits)
    scene.opening = True
    scene.ask_each(peer(number, "10.0.0.7") for number in range(6 * SLOTS))
    scene.pass_time(60)
    assert scene.counts == (SLOTS, 3 * SLOTS, 2 * SLOTS)
    assert scene.aborted == []
    scene.end_all()
    assert scene.counts == (0, 0, 0)


def test_bytes_are_counted_for_clients_only_while_they_are_sent_something() -> None:
    scene = Scene()
    ticket = scene.ask("a")
    assert scene.queue.active() == ("a",)
    scene.end(ticket)
    assert scene.queue.active() == ()
    scene.queue.on_taken("a", 1000, scene.now)
    assert scene.queue.active() == ()


# -- slow receivers


def test_a_slow_receiver_leaves_its_slot_to_a_client_that_was_far_faster() -> None:
    """Receivers on a weak radio link beside one on a cable: each of their blocks takes a slot for half a
    minute."""
    scene = Scene()
    cable = peer(1, "10.0.0.7")
    scene.ask(cable, "before")
    scene.pass_time(1, lambda _: 10 * KIB * KIB)
    scene.end("before", sent=10 * KIB * KIB)
    slow = scene.ask_each(peer(number, f"10.0.0.{8 + number // 6}") for number in range(12))
    fast = scene.ask(cable)
    scene.pass_time(LIMITS.window + LIMITS.look, lambda _: 2 * LIMITS.min_rate)
    assert fast not in scene.granted, "the slow ones that waited before it have their turn"
    scene.pass_time(12 * LIMITS.window, lambda _: 2 * LIMITS.min_rate)
    assert fast in scene.granted
    assert not scene.refused
    assert refused_code(scene, scene.clients[slow[0]]) == "busy"
    scene.ask(peer(100, "10.0.0.8"), "neighbour")
    assert "neighbour" not in scene.refused, "a slow client speaks against no other of its host"


def test_of_slow_uploads_only_one_at_a_time_is_demoted() -> None:
    scene = Scene()
    scene.ask("fast", "before")
    scene.pass_time(1, lambda _: 10 * KIB * KIB)
    scene.end("before", sent=10 * KIB * KIB)
    scene.ask_each(f"slow {number}" for number in range(SLOTS))
    scene.ask("fast")
    scene.ask("fast")
    demoted = 0
    for _ in range(round(5 * LIMITS.window / LIMITS.look)):
        scene.pass_time(LIMITS.look, lambda _: 2 * LIMITS.min_rate)
        assert scene.queue.demoted <= demoted + 1
        demoted = scene.queue.demoted
    assert demoted > 1


def test_a_slow_upload_is_not_aborted_for_stalled_ones() -> None:
    scene = Scene(UploadLimits(slots=1, demoted=1))
    scene.ask("fast", "before")
    scene.pass_time(1, lambda _: 10 * KIB * KIB)
    scene.end("before", sent=10 * KIB * KIB)
    scene.ask("slow", "slow")
    scene.ask("fast", "stalled by now")
    scene.ask("waiting", "waiting")
    scene.pass_time(7, lambda client: 2 * LIMITS.min_rate if client == "slow" else 0)
    assert scene.aborted == ["stalled by now"]


def test_where_all_are_slow_few_more_than_the_slots_are_sent_to_at_once() -> None:
    """It may be our own uplink that is thin, and each further stream makes it thinner for all."""
    scene = Scene()
    scene.ask_each(f"p@10.0.1.{number}" for number in range(100))
    uplink = 31 * KIB
    scene.pass_time(20, lambda _: uplink / len(scene.running))
    assert SLOTS <= len(scene.running) <= 3 * SLOTS


# -- rates


@pytest.mark.parametrize(
    ("stalled", "rate_limit", "rate"),
    [
        (0, 0, 16 * KIB),
        (1, 0, 4 * KIB),
        (3, 0, KIB),
        (15, 0, 64),
        (1000, 0, 64),
        (0, 10**9, 16 * KIB),
        (0, 8000, 1000),
        (1, 8000, 250),
    ],
)
def test_the_minimum_rate_falls_with_stalled_uploads_and_with_a_rate_limit(
    stalled: int, rate_limit: int, rate: float
) -> None:
    assert min_rate(stalled, LIMITS, rate_limit) == rate


def test_a_rate_limit_lengthens_the_time_over_which_rates_are_measured() -> None:
    rate_limit = 64 * KIB
    longer = SLOTS * LIMITS.paced / rate_limit
    scene = Scene(rate_limit=rate_limit)
    scene.ask_each(f"client {number}" for number in range(SLOTS))
    waiting = scene.ask("waiting")
    scene.pass_time(longer - 2 * LIMITS.look)
    assert waiting not in scene.granted, "a sender that is paced may be silent for longer than a second"
    scene.pass_time(4 * LIMITS.look)
    assert waiting in scene.granted
