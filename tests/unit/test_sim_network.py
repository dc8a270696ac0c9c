"""The network of a simulated swarm: rates of links, turns among receivers, and senders that wait."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from p2p.sim.clock import Clock
from p2p.sim.network import COMING, HEADERS, Access, Transfer

CHUNK, DELAY = 128 << 10, 0.001


@dataclass(slots=True, eq=False)
class Parcel(Transfer):
    """A transfer that knows its receiver."""

    to: Host | None = None


@dataclass(slots=True, eq=False)
class Host:
    """A peer that is nothing but a link."""

    clock: Clock
    up: float
    down: float
    access: Access[Parcel] = field(init=False)
    arrived: list[tuple[float, Parcel]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.access = Access(
            self.clock,
            self.up,
            self.down,
            chunk=CHUNK,
            delay=DELAY,
            receiver=receiver_of,
            moved=lambda parcel, size: None,
        )

    def send(self, to: Host, size: int) -> Parcel:
        parcel = Parcel(size, to=to)
        self.access.begin(parcel)
        return parcel

    def on_arrived(self, parcel: Parcel) -> None:
        self.arrived.append((self.clock.now, parcel))


def receiver_of(parcel: Parcel) -> Host:
    if parcel.to is None:
        raise ValueError("a parcel without a receiver")
    return parcel.to


def run(clock: Clock, until: float = 1e9) -> None:
    while clock.due <= until and clock.step():
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_transfer_takes_its_time_on_the_narrower_link(clock: Clock) -> None:
    sender, receiver = Host(clock, 1e6, 1e6), Host(clock, 1e6, 1e5)
    sender.send(receiver, 100 * CHUNK)
    run(clock)
    [(when, _)] = receiver.arrived
    assert when == pytest.approx(100 * CHUNK * HEADERS / 1e5, rel=0.02)


def test_senders_wait_for_a_downlink_that_is_behind(clock: Clock) -> None:
    senders = [Host(clock, 1e10, 1e10) for _ in range(8)]
    receiver = Host(clock, 1e6, 1e6)
    parcels = [sender.send(receiver, 100 * CHUNK) for sender in senders]
    run(clock, until=1.0)
    came = 1.0 * 1e6
    on_the_way = sum(sender.access.sent for sender in senders) - came
    assert on_the_way <= COMING + (len(senders) + 1) * CHUNK
    assert all(parcel.left for parcel in parcels)


def test_what_is_stopped_in_time_takes_no_time_of_the_downlink(clock: Clock) -> None:
    quick, slow = Host(clock, 1e10, 1e10), Host(clock, 1e10, 1e10)
    receiver = Host(clock, 1e6, 1e6)
    stopped, kept = quick.send(receiver, 100 * CHUNK), slow.send(receiver, 10 * CHUNK)
    run(clock, until=0.01)
    quick.access.stop(stopped)
    run(clock)
    [(when, parcel)] = receiver.arrived
    assert parcel is kept
    assert when < (10 * CHUNK + COMING + 2 * CHUNK) * HEADERS / 1e6 + 0.1


def test_a_receiver_that_is_behind_holds_up_no_other(clock: Clock) -> None:
    sender = Host(clock, 1e6, 1e6)
    behind, ready = Host(clock, 1e6, 1e5), Host(clock, 1e6, 1e6)
    sender.send(behind, 50 * CHUNK)
    run(clock, until=2.0)
    began = clock.now
    sender.send(ready, 100 * CHUNK)
    run(clock)
    [(when, _)] = ready.arrived
    assert when - began == pytest.approx(100 * CHUNK * HEADERS / 1e6, rel=0.2)
    assert len(behind.arrived) == 1
