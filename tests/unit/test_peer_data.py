"""The pool of data connections: which transport is taken, when a connection is opened again, and when a
transport counts as failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from p2p.errors import Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, PeerId, PeerKey
from p2p.net.limits import Limits, Timeouts
from p2p.peer.data import DataPool
from p2p.peer.transport import DataConnectionClosed, DataConnectionRefused
from tests.kit.virtual_time import in_virtual_time

CONTENT = ContentId("ab" * 32)
SPAN = BlockSpan(0, 0, 4)
TIMES = Timeouts(silent_s=10.0)
LIMITS = Limits(closed_in_a_row=3)


class FakeData:
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
        self.opened: list[FakeData] = []
        self.away = False
        self.takes = 0.0
        """Seconds that it takes to open a connection."""
        self.closes = 0.0
        """And to close one."""
        self.holds = False
        self.faults: list[Exception] = []
        self.slams = False
        """Whether connections close as soon as they are open."""

    async def listen(self, *args: object) -> Any:
        raise NotImplementedError

    async def connect(self, address: Address, me: PeerId | None = None) -> FakeData:
        await asyncio.sleep(self.takes)
        if self.away:
            raise Unreachable(f"peer {address} cannot be reached")
        data = FakeData(self)
        data.closed = self.slams
        self.opened.append(data)
        return data


@dataclass
class FakeConnection:
    listen: dict[str, int]
    key: PeerKey = PeerKey("5f" * 16)
    name: str = "lab-07"
    closed: bool = False

    def address(self, transport: str) -> Address:
        return Address("10.0.0.7", self.listen[transport])


def scene() -> tuple[DataPool, FakeTransport, FakeTransport, Any]:
    grpc, tcp = FakeTransport("grpc"), FakeTransport("tcp")
    return (
        DataPool([grpc, tcp], lambda: PeerId("00" * 16), TIMES, LIMITS),
        grpc,
        tcp,
        FakeConnection({"grpc": 7000, "tcp": 6970}),
    )


async def fetch(pool: DataPool, connection: Any) -> str:
    buffer = bytearray(4)
    name = await pool.fetch(connection, CONTENT, SPAN, memoryview(buffer))
    assert buffer.strip() == name.encode()
    return name


def test_the_preferred_transport_is_taken_where_the_other_side_offers_it() -> None:
    async def work() -> None:
        pool, _, _, connection = scene()
        assert await fetch(pool, connection) == "grpc"
        plain: Any = FakeConnection({"tcp": 6970}, PeerKey("60" * 16))
        assert await fetch(pool, plain) == "tcp"
        await pool.close_all()

    in_virtual_time(work)


def test_a_transport_that_cannot_be_reached_is_replaced_by_the_next() -> None:
    async def work() -> None:
        pool, grpc, tcp, connection = scene()
        grpc.away = True
        assert await fetch(pool, connection) == "tcp"
        grpc.away = False
        assert await fetch(pool, connection) == "tcp", "not tried again while the peer is linked"
        await pool.close(connection.key)
        pool.forget(connection.key)
        assert await fetch(pool, connection) == "grpc"
        await pool.close_all()
        assert all(data.closed for data in (*grpc.opened, *tcp.opened))

    in_virtual_time(work)


def test_a_transport_that_breaks_while_it_is_used_is_replaced_by_the_next() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.faults.append(Unreachable("broke"))
        with pytest.raises(Unreachable):
            await fetch(pool, connection)
        assert await fetch(pool, connection) == "tcp"
        await pool.close_all()

    in_virtual_time(work)


def test_when_no_transport_works_the_last_reason_is_told_and_all_are_tried_again() -> None:
    async def work() -> None:
        pool, grpc, tcp, connection = scene()
        grpc.away = tcp.away = True
        with pytest.raises(Unreachable, match=r"10\.0\.0\.7:6970"):
            await fetch(pool, connection)
        grpc.away = False
        assert await fetch(pool, connection) == "grpc"
        with pytest.raises(Unreachable, match="offers no transport"):
            await fetch(pool, FakeConnection({}, PeerKey("61" * 16)))
        await pool.close_all()

    in_virtual_time(work)


@pytest.mark.parametrize(("waited", "after"), [(TIMES.silent_s + 1, "tcp"), (1.0, "grpc")])
def test_a_transport_that_was_silent_until_its_fetch_was_cancelled_is_replaced(
    waited: float, after: str
) -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.holds = True
        fetching = [asyncio.create_task(fetch(pool, connection)) for _ in range(2)]
        await asyncio.sleep(waited)
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        assert all(task.cancelled() for task in fetching)
        grpc.holds = False
        assert await fetch(pool, connection) == after
        await pool.close_all()
        assert all(data.closed for data in grpc.opened)

    in_virtual_time(work)


def test_a_transport_that_brought_something_a_moment_ago_is_not_silent() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.holds = True
        long = asyncio.create_task(fetch(pool, connection))
        await asyncio.sleep(TIMES.silent_s)
        grpc.holds = False
        assert await fetch(pool, connection) == "grpc"
        await asyncio.sleep(1)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        assert await fetch(pool, connection) == "grpc"
        await pool.close_all()

    in_virtual_time(work)


def test_fetches_at_once_share_one_data_connection() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.takes = 1.0
        assert await asyncio.gather(*(fetch(pool, connection) for _ in range(10))) == ["grpc"] * 10
        assert len(grpc.opened) == 1
        await pool.close_all()

    in_virtual_time(work)


def test_a_refusal_leaves_the_data_connection_open() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.faults.append(Refused("busy", "later"))
        with pytest.raises(Refused):
            await fetch(pool, connection)
        assert await fetch(pool, connection) == "grpc"
        assert len(grpc.opened) == 1
        await pool.close_all()

    in_virtual_time(work)


def test_a_connection_closed_on_this_side_is_opened_again_without_a_fault() -> None:
    """As after another fetch was called off half way, or after ninety idle seconds."""

    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.holds = True
        waiting = [asyncio.create_task(fetch(pool, connection)) for _ in range(5)]
        await asyncio.sleep(0.1)
        grpc.holds = False
        await grpc.opened[0].close()
        assert await asyncio.gather(*waiting) == ["grpc"] * 5
        assert len(grpc.opened) == 2
        await pool.close_all()

    in_virtual_time(work)


def test_a_peer_that_closes_each_connection_at_once_is_dialled_a_few_times_only() -> None:
    async def work() -> None:
        pool, _, tcp, _ = scene()
        connection: Any = FakeConnection({"tcp": 6970})
        tcp.slams = True
        found = await asyncio.gather(*(fetch(pool, connection) for _ in range(8)), return_exceptions=True)
        assert all(isinstance(one, Unreachable) for one in found)
        assert len(tcp.opened) <= LIMITS.closed_in_a_row, "and those that wait together try together"
        tcp.slams = False
        assert await fetch(pool, connection) == "tcp"
        await pool.close_all()

    in_virtual_time(work)


def test_a_transport_whose_connections_close_at_once_is_replaced_by_the_next() -> None:
    async def work() -> None:
        pool, grpc, tcp, connection = scene()
        grpc.slams = True
        with pytest.raises(Unreachable):
            await fetch(pool, connection)
        assert await fetch(pool, connection) == "tcp"
        assert len(grpc.opened) == LIMITS.closed_in_a_row
        assert len(tcp.opened) == 1
        await pool.close_all()

    in_virtual_time(work)


def test_a_listener_that_is_busy_has_not_failed_and_is_dialled_again() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.faults.append(DataConnectionRefused("busy", "too many connections"))
        with pytest.raises(Refused) as refused:
            await fetch(pool, connection)
        assert refused.value.code == "busy"
        assert grpc.opened[0].closed
        assert await fetch(pool, connection) == "grpc", "nothing speaks against the transport"
        assert len(grpc.opened) == 2
        await pool.close_all()

    in_virtual_time(work)


def test_without_a_control_connection_no_data_connection_is_opened() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        assert await fetch(pool, connection) == "grpc"
        await grpc.opened[0].close()
        connection.closed = True
        with pytest.raises(DataConnectionClosed):
            await fetch(pool, connection)
        assert len(grpc.opened) == 1

    in_virtual_time(work)


def test_nothing_of_a_peer_stays_when_its_control_connection_is_gone() -> None:
    """Or peers that come and go, each under a new id, would use up all descriptors."""

    async def work() -> None:
        pool, grpc, tcp, _ = scene()
        grpc.faults += [Unreachable("broke")] * 4
        for number in range(8):
            connection: Any = FakeConnection({"grpc": 7000, "tcp": 6970}, PeerKey(f"{number:032x}"))
            await asyncio.gather(fetch(pool, connection), return_exceptions=True)
            connection.closed = True
            pool.forget(connection.key)
            await asyncio.sleep(0.1)
            assert not pool.knows(connection.key)
        assert len(pool) == 0
        assert len(grpc.opened) == 8
        assert all(data.closed for data in (*grpc.opened, *tcp.opened))

    in_virtual_time(work)


@pytest.mark.parametrize("takes", [0.0, 5.0], ids=["open", "being opened"])
def test_a_fetch_under_way_when_the_control_connection_goes_fails_at_once(takes: float) -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.holds, grpc.takes = True, takes
        fetching = asyncio.create_task(fetch(pool, connection))
        await asyncio.sleep(1)
        connection.closed = True
        pool.forget(connection.key)
        async with asyncio.timeout(0.5):
            with pytest.raises(Unreachable):
                await fetching
        await asyncio.sleep(0.1)
        assert not pool.knows(connection.key)
        assert len(pool) == 0
        assert all(data.closed for data in grpc.opened)

    in_virtual_time(work)


def test_a_fetch_cancelled_while_its_connection_closes_leaves_it_to_be_closed() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.holds, grpc.closes = True, 5.0
        fetching = asyncio.create_task(fetch(pool, connection))
        await asyncio.sleep(0.1)
        grpc.opened[0].stuck.set()  # the data is over, and takes a while to close
        await asyncio.sleep(0.1)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        assert not grpc.opened[0].closed
        await pool.close_all()
        assert grpc.opened[0].closed

    in_virtual_time(work)


def test_a_connection_closed_while_it_is_opened_fails_the_fetches_that_wait_for_it() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.takes = 5.0
        waiting = asyncio.create_task(fetch(pool, connection))
        await asyncio.sleep(0.1)
        await pool.close(connection.key)
        with pytest.raises(Unreachable):
            await waiting

    in_virtual_time(work)


def test_a_fetch_cancelled_while_a_connection_is_opened_leaves_it_to_the_others() -> None:
    async def work() -> None:
        pool, grpc, _, connection = scene()
        grpc.takes = 5.0
        one, two = (asyncio.create_task(fetch(pool, connection)) for _ in range(2))
        await asyncio.sleep(0.1)
        one.cancel()
        assert await two == "grpc"
        assert one.cancelled()
        await pool.close_all()
        await pool.close(connection.key)

    in_virtual_time(work)


def test_a_connection_that_breaks_does_not_close_the_one_that_was_opened_since() -> None:
    async def work() -> None:
        pool, _, tcp, _ = scene()
        connection: Any = FakeConnection({"tcp": 6970})
        tcp.holds = True
        first = asyncio.create_task(fetch(pool, connection))
        await asyncio.sleep(0.1)
        old = tcp.opened[0]
        await pool.close(connection.key)
        tcp.holds = False
        await first
        assert await fetch(pool, connection) == "tcp"
        assert old.closed
        assert not tcp.opened[-1].closed
        await pool.close_all()

    in_virtual_time(work)
