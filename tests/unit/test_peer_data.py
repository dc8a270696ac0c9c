"""Which transport a lane takes, when it is opened again, and whose fault a closed one is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from p2p.errors import Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, PeerId, PeerKey
from p2p.peer.data import ENDS, SILENT_TIME, DataPool
from p2p.peer.transport import DataConnectionClosed, DataConnectionRefused
from tests.kit.virtual_time import in_virtual_time

CONTENT = ContentId("ab" * 32)
SPAN = BlockSpan(0, 0, 4)


class FakeLane:
    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self.closed = False
        self.stuck = asyncio.Event()

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        if self.closed:
            raise DataConnectionClosed("closed")
        if self.transport.faults:
            raise self.transport.faults.pop(0)
        if self.transport.holds:
            await self.stuck.wait()
            raise DataConnectionClosed("closed")
        into[:] = self.transport.name.encode().ljust(4)[:4]

    async def close(self) -> None:
        if self.transport.closes:
            await asyncio.sleep(self.transport.closes)
        self.closed = True
        self.stuck.set()


class FakeTransport:
    def __init__(self, name: str) -> None:
        self.name = name
        self.opened: list[FakeLane] = []
        self.away = False
        self.takes = 0.0
        """Seconds that it takes to open a lane."""
        self.closes = 0.0
        """And to close one."""
        self.holds = False
        self.faults: list[Exception] = []
        self.slams = False
        """Whether lanes end as soon as they are open, as where the other side hangs up behind its own
        door."""

    async def listen(self, *args: object) -> Any:
        raise NotImplementedError

    async def connect(self, address: Address, me: PeerId | None = None) -> FakeLane:
        await asyncio.sleep(self.takes)
        if self.away:
            raise Unreachable(f"peer {address} cannot be reached")
        lane = FakeLane(self)
        lane.closed = self.slams
        self.opened.append(lane)
        return lane


@dataclass
class FakeWire:
    closed: bool = False


@dataclass
class FakeLink:
    listen: dict[str, int]
    key: PeerKey = PeerKey("5f" * 16)
    name: str = "lab-07"
    wire: FakeWire = field(default_factory=FakeWire)

    def address(self, transport: str) -> Address:
        return Address("10.0.0.7", self.listen[transport])


def scene() -> tuple[DataPool, FakeTransport, FakeTransport, Any]:
    grpc, tcp = FakeTransport("grpc"), FakeTransport("tcp")
    return DataPool([grpc, tcp], PeerId("00" * 16)), grpc, tcp, FakeLink({"grpc": 7000, "tcp": 6970})


async def fetch(lanes: DataPool, link: Any) -> str:
    buffer = bytearray(4)
    name = await lanes.fetch(link, CONTENT, SPAN, memoryview(buffer))
    assert buffer.strip() == name.encode()
    return name


def test_the_preferred_transport_is_taken_where_the_other_side_offers_it() -> None:
    async def work() -> None:
        lanes, _, _, link = scene()
        assert await fetch(lanes, link) == "grpc"
        plain: Any = FakeLink({"tcp": 6970}, PeerKey("60" * 16))
        assert await fetch(lanes, plain) == "tcp"
        await lanes.close_all()

    in_virtual_time(work)


def test_a_transport_that_cannot_be_reached_is_replaced_by_the_next() -> None:
    async def work() -> None:
        lanes, grpc, tcp, link = scene()
        grpc.away = True
        assert await fetch(lanes, link) == "tcp"
        grpc.away = False
        assert await fetch(lanes, link) == "tcp", "not tried again while the peer is linked"
        await lanes.close(link.key)
        lanes.forget(link.key)
        assert await fetch(lanes, link) == "grpc"
        await lanes.close_all()
        assert all(lane.closed for lane in (*grpc.opened, *tcp.opened))

    in_virtual_time(work)


def test_a_transport_that_breaks_while_it_is_used_is_replaced_by_the_next() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.faults.append(Unreachable("broke"))
        with pytest.raises(Unreachable):
            await fetch(lanes, link)
        assert await fetch(lanes, link) == "tcp"
        await lanes.close_all()

    in_virtual_time(work)


def test_when_no_transport_works_the_last_reason_is_told_and_all_are_tried_again() -> None:
    async def work() -> None:
        lanes, grpc, tcp, link = scene()
        grpc.away = tcp.away = True
        with pytest.raises(Unreachable, match=r"10\.0\.0\.7:6970"):
            await fetch(lanes, link)
        grpc.away = False
        assert await fetch(lanes, link) == "grpc"
        with pytest.raises(Unreachable, match="offers no transport"):
            await fetch(lanes, FakeLink({}, PeerKey("61" * 16)))
        await lanes.close_all()

    in_virtual_time(work)


@pytest.mark.parametrize(("waited", "after"), [(SILENT_TIME + 1, "tcp"), (1.0, "grpc")])
def test_a_transport_that_was_silent_until_its_fetch_was_called_off_is_replaced_by_the_next(
    waited: float, after: str
) -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.holds = True
        fetching = [asyncio.create_task(fetch(lanes, link)) for _ in range(2)]
        await asyncio.sleep(waited)
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        assert all(task.cancelled() for task in fetching)
        grpc.holds = False
        assert await fetch(lanes, link) == after
        await lanes.close_all()
        assert all(lane.closed for lane in grpc.opened)

    in_virtual_time(work)


def test_a_transport_that_brought_something_a_moment_ago_is_not_silent() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.holds = True
        long = asyncio.create_task(fetch(lanes, link))
        await asyncio.sleep(SILENT_TIME)
        grpc.holds = False
        assert await fetch(lanes, link) == "grpc"
        await asyncio.sleep(1)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        assert await fetch(lanes, link) == "grpc"
        await lanes.close_all()

    in_virtual_time(work)


def test_fetches_at_once_share_one_lane() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.takes = 1.0
        assert await asyncio.gather(*(fetch(lanes, link) for _ in range(10))) == ["grpc"] * 10
        assert len(grpc.opened) == 1
        await lanes.close_all()

    in_virtual_time(work)


def test_a_refusal_leaves_the_lane_open() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.faults.append(Refused("busy", "later"))
        with pytest.raises(Refused):
            await fetch(lanes, link)
        assert await fetch(lanes, link) == "grpc"
        assert len(grpc.opened) == 1
        await lanes.close_all()

    in_virtual_time(work)


def test_a_lane_that_was_closed_on_this_side_is_opened_again_without_a_fault() -> None:
    """As after another fetch was called off half way, or after ninety idle seconds."""

    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.holds = True
        waiting = [asyncio.create_task(fetch(lanes, link)) for _ in range(5)]
        await asyncio.sleep(0.1)
        grpc.holds = False
        await grpc.opened[0].close()
        assert await asyncio.gather(*waiting) == ["grpc"] * 5
        assert len(grpc.opened) == 2
        await lanes.close_all()

    in_virtual_time(work)


def test_a_peer_whose_lanes_end_as_soon_as_they_are_open_is_dialled_a_few_times_and_not_without_end() -> None:
    async def work() -> None:
        lanes, _, tcp, _ = scene()
        link: Any = FakeLink({"tcp": 6970})
        tcp.slams = True
        found = await asyncio.gather(*(fetch(lanes, link) for _ in range(8)), return_exceptions=True)
        assert all(isinstance(one, Unreachable) for one in found)
        assert len(tcp.opened) <= ENDS, "and those that wait together try together"
        tcp.slams = False
        assert await fetch(lanes, link) == "tcp"
        await lanes.close_all()

    in_virtual_time(work)


def test_a_transport_whose_lanes_end_as_soon_as_they_are_open_is_replaced_by_the_next() -> None:
    async def work() -> None:
        lanes, grpc, tcp, link = scene()
        grpc.slams = True
        with pytest.raises(Unreachable):
            await fetch(lanes, link)
        assert await fetch(lanes, link) == "tcp"
        assert len(grpc.opened) == ENDS
        assert len(tcp.opened) == 1
        await lanes.close_all()

    in_virtual_time(work)


def test_a_door_that_refuses_a_lane_is_busy_and_not_broken_and_the_next_fetch_knocks_again() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.faults.append(DataConnectionRefused("busy", "too many connections"))
        with pytest.raises(Refused) as refused:
            await fetch(lanes, link)
        assert refused.value.code == "busy"
        assert grpc.opened[0].closed
        assert await fetch(lanes, link) == "grpc", "nothing speaks against the transport"
        assert len(grpc.opened) == 2
        await lanes.close_all()

    in_virtual_time(work)


def test_a_lane_to_a_peer_whose_link_is_gone_is_not_opened_again() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        assert await fetch(lanes, link) == "grpc"
        await grpc.opened[0].close()
        link.wire.closed = True
        with pytest.raises(DataConnectionClosed):
            await fetch(lanes, link)
        assert len(grpc.opened) == 1

    in_virtual_time(work)


def test_a_lane_is_closed_when_the_link_to_its_peer_is_gone_and_nothing_of_that_peer_stays() -> None:
    """Or peers that come and go, each under a new id, would use up all descriptors."""

    async def work() -> None:
        lanes, grpc, tcp, _ = scene()
        grpc.faults += [Unreachable("broke")] * 4
        for number in range(8):
            link: Any = FakeLink({"grpc": 7000, "tcp": 6970}, PeerKey(f"{number:032x}"))
            await asyncio.gather(fetch(lanes, link), return_exceptions=True)
            link.wire.closed = True
            lanes.forget(link.key)
            await asyncio.sleep(0.1)
        assert lanes._lanes == {}
        assert lanes._failed == {}
        assert lanes._moved_at == {}
        assert lanes._ending == {}
        assert len(grpc.opened) == 8
        assert all(lane.closed for lane in (*grpc.opened, *tcp.opened))

    in_virtual_time(work)


@pytest.mark.parametrize("takes", [0.0, 5.0], ids=["open", "being opened"])
def test_a_fetch_that_is_under_way_when_the_link_goes_fails_at_once_and_leaves_nothing(takes: float) -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.holds, grpc.takes = True, takes
        fetching = asyncio.create_task(fetch(lanes, link))
        await asyncio.sleep(1)
        link.wire.closed = True
        lanes.forget(link.key)
        async with asyncio.timeout(0.5):
            with pytest.raises(Unreachable):
                await fetching
        await asyncio.sleep(0.1)
        assert (lanes._lanes, lanes._failed, lanes._moved_at, lanes._ending) == ({}, {}, {}, {})
        assert all(lane.closed for lane in grpc.opened)

    in_virtual_time(work)


def test_a_fetch_that_is_called_off_while_its_lane_is_closed_leaves_that_to_be_closed_all_the_same() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.holds, grpc.closes = True, 5.0
        fetching = asyncio.create_task(fetch(lanes, link))
        await asyncio.sleep(0.1)
        grpc.opened[0].stuck.set()  # the lane is over, and takes a while to close
        await asyncio.sleep(0.1)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        assert not grpc.opened[0].closed
        await lanes.close_all()
        assert grpc.opened[0].closed

    in_virtual_time(work)


def test_a_lane_closed_while_it_is_opened_fails_those_who_wait_for_it() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.takes = 5.0
        waiting = asyncio.create_task(fetch(lanes, link))
        await asyncio.sleep(0.1)
        await lanes.close(link.key)
        with pytest.raises(Unreachable):
            await waiting

    in_virtual_time(work)


def test_who_is_called_off_while_a_lane_is_opened_does_not_take_it_from_the_others() -> None:
    async def work() -> None:
        lanes, grpc, _, link = scene()
        grpc.takes = 5.0
        one, two = (asyncio.create_task(fetch(lanes, link)) for _ in range(2))
        await asyncio.sleep(0.1)
        one.cancel()
        assert await two == "grpc"
        assert one.cancelled()
        await lanes.close_all()
        await lanes.close(link.key)

    in_virtual_time(work)


def test_a_lane_that_breaks_does_not_close_the_one_that_was_opened_since() -> None:
    async def work() -> None:
        lanes, _, tcp, _ = scene()
        link: Any = FakeLink({"tcp": 6970})
        tcp.holds = True
        first = asyncio.create_task(fetch(lanes, link))
        await asyncio.sleep(0.1)
        old = tcp.opened[0]
        await lanes.close(link.key)
        tcp.holds = False
        await first
        assert await fetch(lanes, link) == "tcp"
        assert old.closed
        assert not tcp.opened[-1].closed
        await lanes.close_all()

    in_virtual_time(work)
