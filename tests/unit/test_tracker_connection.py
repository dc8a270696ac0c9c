"""One connection of the tracker on a transport without a socket, with a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from p2p.net.admission import Admission, AdmissionLimits
from p2p.protocol.codec import by_op
from p2p.protocol.tracker_messages import TRACKER_OPS
from p2p.tracker.committer import Committer
from p2p.tracker.connection import Connection, Shared
from p2p.tracker.fault_log import FaultLog
from p2p.tracker.limits import TrackerLimits, TrackerTimeouts
from p2p.tracker.service import TrackerService
from p2p.tracker.store.memory import MemoryStore
from tests.kit.virtual_time import in_virtual_time

TTL = 30
TIMEOUTS = TrackerTimeouts()
PING = b'{"op":"ping"}\n'


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, connection: Connection, host: str) -> None:
        super().__init__({"peername": (host, 40_000), "sockname": ("10.0.0.1", 6969)})
        self.written = b""
        self.reading = True
        self.over = False
        self.aborted = False
        self._connection = connection

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.over

    def close(self) -> None:
        if not self.over:
            self.over = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


class Client:
    """The other side of one connection."""

    def __init__(self, shared: Shared, host: str) -> None:
        self.connection = Connection(shared)
        self.wire = Wire(self.connection, host)
        self.connection.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def answers(self) -> list[dict[str, Any]]:
        """What came since the last look."""
        lines, self.wire.written = self.wire.written.splitlines(), b""
        return [json.loads(line) for line in lines]

    def ping(self) -> bool:
        self.send(PING)
        return [answer["ok"] for answer in self.answers()] == [True]


class World:
    """A tracker without sockets."""

    def __init__(self, limits: TrackerLimits | None = None, *, one_buffer: bool = True) -> None:
        limits = limits or TrackerLimits()
        self.now = 1000.0
        self.step = 0.0
        """By how much each look at the clock moves it."""
        store = MemoryStore()
        self.service = TrackerService(
            store.directory, random.Random(1), lambda: "5f" * 16, ttl=TTL, started=self.now
        )
        self.shared = Shared(
            self.service,
            Committer(store, TIMEOUTS.commit_retry_s),
            by_op(TRACKER_OPS),
            limits,
            TIMEOUTS,
            self.clock,
            FaultLog(limits.log_lines),
            Admission(limits.admission),
            buffer=bytearray(65_536) if one_buffer else None,
        )

    def clock(self) -> float:
        self.now += self.step
        return self.now

    def connect(self, host: str = "10.0.0.7") -> Client:
        return Client(self.shared, host)

    def pass_time(self, seconds: float) -> None:
        """Let time go by, and look at all deadlines as a server does."""
        self.now += seconds
        for connection in list(self.shared.open):
            connection.on_tick(self.now)


def run(test: Callable[[], None]) -> None:
    """Run a test inside a loop, as its callbacks ask for one."""

    async def work() -> None:
        test()
        await asyncio.sleep(0)

    in_virtual_time(work)


def limited(total: int = 99, per_host: int = 99) -> TrackerLimits:
    return TrackerLimits(admission=AdmissionLimits(total, per_host, idle_s=4.0))


# -- deadlines


def test_cases_12_13_a_line_that_is_not_whole_in_time_ends_the_connection() -> None:
    def test() -> None:
        world = World()
        silent, slow, healthy, late = (world.connect() for _ in range(4))
        assert healthy.ping()
        assert late.ping()
        late.send(b'{"op":"pi')
        slow.send(b"{")
        world.pass_time(TIMEOUTS.message_s)
        assert not any(client.wire.over for client in (silent, slow, healthy, late))
        slow.send(b'"')  # single bytes move no deadline
        late.send(b"n")
        world.pass_time(0.1)
        assert [client.wire.over for client in (silent, slow, healthy, late)] == [True, True, False, True]

    run(test)


def test_the_deadline_of_a_line_begins_anew_with_each_line() -> None:
    def test() -> None:
        world = World()
        client = world.connect()
        for _ in range(3):
            client.send(b'{"op":')
            world.pass_time(TIMEOUTS.message_s)
            client.send(b'"ping"}\n{"op":')
            world.pass_time(TIMEOUTS.message_s)
            client.send(b'"ping"}\n')
            assert [answer["ok"] for answer in client.answers()] == [True, True]
        assert not client.wire.over

    run(test)


def test_an_idle_connection_is_closed_unless_it_has_a_session() -> None:
    def test() -> None:
        world = World()
        without, with_session = world.connect(), world.connect()
        assert without.ping()
        with_session.send(b'{"op":"login","user":"alice"}\n')
        world.pass_time(TIMEOUTS.idle_ttls * TTL)
        assert without.ping()
        world.pass_time(TIMEOUTS.idle_ttls * TTL + 1)
        assert without.wire.over
        assert not with_session.wire.over

    run(test)


def test_a_client_that_does_not_read_is_not_read_from_and_then_aborted() -> None:
    def test() -> None:
        world = World()
        client = world.connect()
        assert client.ping()
        client.connection.pause_writing()
        client.send(PING * 1000)
        assert not client.answers()
        assert not client.wire.reading
        world.pass_time(TIMEOUTS.write_s)
        assert not client.wire.over
        world.pass_time(0.1)
        assert client.wire.aborted

    run(test)


def test_a_client_that_reads_late_gets_all_answers_in_order() -> None:
    def test() -> None:
        world = World()
        client = world.connect()
        client.connection.pause_writing()
        client.send(b"".join(b'{"op":"ping","seq":%d}\n' % number for number in range(1000)))
        world.pass_time(TIMEOUTS.write_s)
        client.connection.resume_writing()
        assert [answer["seq"] for answer in client.answers()] == list(range(1000))
        assert client.wire.reading

    run(test)


# -- admission


def test_a_connection_too_many_is_told_busy_and_closed_soon() -> None:
    async def work() -> None:
        world = World(limited(total=1))
        first, second = world.connect(), world.connect()
        assert first.ping()
        assert [answer["error"] for answer in second.answers()] == ["busy"]
        second.send(PING)
        assert not second.answers()
        assert not second.wire.over, "the line would be overtaken by a reset"
        await asyncio.sleep(TIMEOUTS.linger_s)
        assert second.wire.over
        await asyncio.sleep(0)
        assert world.service.connections == 1
        first.wire.close()
        await asyncio.sleep(0)
        assert world.service.connections == 0
        assert world.connect().ping()

    in_virtual_time(work)


@pytest.mark.parametrize("limits", [limited(total=3), limited(per_host=3)])
def test_case_12_an_idle_connection_is_evicted_for_a_new_one_an_active_one_is_not(
    limits: TrackerLimits,
) -> None:
    def test() -> None:
        world = World(limits)
        active, silent, slow = (world.connect() for _ in range(3))
        assert active.ping()
        slow.send(b'{"op"')
        assert world.connect().answers()[0]["error"] == "busy"
        world.pass_time(4.0)
        assert all(world.connect().ping() for _ in range(2))
        assert silent.wire.aborted
        assert slow.wire.aborted
        world.pass_time(4.0)
        assert world.connect().answers()[0]["error"] == "busy"
        assert active.ping()

    run(test)


def test_one_host_cannot_take_all_connections_and_loopback_may() -> None:
    def test() -> None:
        world = World(limited(per_host=1))
        assert all(world.connect("127.0.0.1").ping() for _ in range(3))
        assert world.connect().ping()
        assert world.connect().answers()[0]["error"] == "busy"
        assert world.connect("10.0.0.8").ping()

    run(test)


def test_case_60_idle_connections_are_evicted_when_descriptors_run_out() -> None:
    def test() -> None:
        world = World()
        active, idle = world.connect(), world.connect()
        assert active.ping()
        world.pass_time(1.0)
        assert world.shared.evict_idle()
        assert not world.shared.evict_idle()
        assert idle.wire.aborted
        assert not active.wire.over

    run(test)


# -- turns


def test_one_busy_connection_does_not_hold_up_another() -> None:
    async def work() -> None:
        world = World()
        busy, other = world.connect(), world.connect()
        world.step = world.shared.limits.turn_s / 10
        busy.send(PING * 100)
        first = len(busy.answers())
        assert 0 < first < 20
        assert not busy.wire.reading
        other.send(PING)
        assert other.answers()
        while not busy.wire.reading:
            await asyncio.sleep(0)
            assert len(busy.answers()) < 20

    in_virtual_time(work)


def test_case_14_many_busy_connections_share_one_turn() -> None:
    async def work() -> None:
        world = World()
        turn = world.shared.turn_s()
        busy = [world.connect() for _ in range(40)]
        world.step = turn / 10
        for client in busy:
            client.send(PING * 100)
        assert world.shared.waiting_turns == 40
        assert world.shared.turn_s() == world.shared.limits.least_turn_s
        began, world.step = world.now, world.shared.limits.least_turn_s
        await asyncio.sleep(0)
        assert world.now - began <= 40 * 3 * world.shared.limits.least_turn_s, "each has had a short turn"
        world.step = 0.0
        while world.shared.waiting_turns:  # noqa: ASYNC110 (a few turns)
            await asyncio.sleep(0)
        assert world.shared.turn_s() == turn

    in_virtual_time(work)


# -- bytes


def test_a_loop_that_reads_ahead_has_a_buffer_for_each_connection() -> None:
    def test() -> None:
        world = World(one_buffer=False)
        one, other = world.connect(), world.connect()
        assert one.connection.get_buffer(-1) is not other.connection.get_buffer(-1)
        assert one.ping()
        assert other.ping()

    run(test)


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b" \tSSH-2.0", b"[", b"\x00"])
def test_case_8_another_protocol_is_refused_by_its_first_byte(opening: bytes) -> None:
    def test() -> None:
        client = World().connect()
        client.send(opening)
        assert [answer["error"] for answer in client.answers()] == ["bad_json"]

    run(test)


def test_blanks_before_the_first_line_are_no_other_protocol() -> None:
    def test() -> None:
        client = World().connect()
        client.send(b" \t")
        client.send(b" ")
        assert client.ping()

    run(test)
