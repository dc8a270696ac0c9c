"""What every transport must do, whatever it is made of. A new transport adds one line to `KINDS`."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from p2p.errors import EnjambreError, ProtocolError, Refused, Unreachable
from p2p.model import MAX_BLOCK, Address, BlockSpan, ContentId, FileSpan
from p2p.peer.transport import BlockSource, DataConnection, DataConnectionClosed, Listener, Transport
from p2p.storage.buffers import BufferPool
from p2p.storage.disk_io import disk_io
from tests.kit.leaks import KEPT_BY_GRPC, contained
from tests.kit.shelf import CONTENT, PIECE, SIZE, Shelf
from tests.kit.waiting import HANG_S, NEVER, NEVER_S, hang_guard, until
from transports.grpc import GrpcTransport
from transports.grpc.limits import GrpcTimeouts
from transports.memory import MemoryListener, MemoryTransport
from transports.tcp import TcpTransport

OTHER: Final = ContentId("cd" * 32)
LOOPBACK: Final = Address("127.0.0.1", 0)
KEPT: Final = KEPT_BY_GRPC


@dataclass(frozen=True)
class Kind:
    """One transport: `pair` makes two of it that can reach each other, the second for whoever connects."""

    name: str
    pair: Callable[[], tuple[Transport, Transport]]
    kept: tuple[str, ...] = ()
    """Descriptors that a library may keep for later."""

    def __str__(self) -> str:
        return self.name


def _memory() -> tuple[Transport, Transport]:
    network: dict[int, MemoryListener] = {}
    return MemoryTransport(disk_io(), network=network), MemoryTransport(disk_io(), network=network)


def _tcp(*, portable: bool = False) -> Transport:
    return TcpTransport(disk_io(portable=portable), timeouts=NEVER)


def _grpc() -> Transport:
    calls = GrpcTimeouts(turn_s=NEVER_S, block_s=NEVER_S, request_s=NEVER_S)
    return GrpcTransport(disk_io(), timeouts=NEVER, call_timeouts=calls)


KINDS: Final = (
    Kind("memory", _memory),
    Kind("tcp", lambda: (_tcp(), _tcp())),
    Kind("grpc", lambda: (_grpc(), _grpc()), KEPT),
    Kind("tcp-portable", lambda: (_tcp(portable=True), _tcp(portable=True))),
)


@dataclass
class Stage:
    """A listening side with its shelf, and a way to reach it."""

    shelf: Shelf
    listener: Listener
    near: Transport
    far: Transport

    @property
    def address(self) -> Address:
        return Address(LOOPBACK.host, self.listener.port)

    async def connect(self) -> DataConnection:
        """Another connection to the shelf."""
        return await self.far.connect(self.address)


Play = Callable[[Stage], Awaitable[None]]


@pytest.fixture(params=KINDS, ids=str)
def act(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Play], None]:
    """Runs a play on a stage of each kind, in a loop of its own, and sees that nothing is left behind."""
    kind: Kind = request.param

    def run(play: Play) -> None:
        async def scene() -> None:
            near, far = kind.pair()
            shelf = Shelf(tmp_path / "shelf", random.Random(7).randbytes(SIZE))
            source: BlockSource = shelf
            listener = await near.listen(source, LOOPBACK)
            try:
                await play(Stage(shelf, listener, near, far))
            finally:
                await listener.close()
                os.close(shelf.fd)
            assert shelf.entered == shelf.left, "a block of the source was never given back"

        contained(scene, kept=kind.kept)

    return run


async def fetched(connection: DataConnection, span: BlockSpan) -> bytes:
    """Fetch a block into a buffer of its own."""
    buffer = bytearray(span.length)
    await connection.fetch(CONTENT, span, memoryview(buffer))
    return bytes(buffer)


async def lively(connection: DataConnection, stage: Stage) -> DataConnection:
    """This connection if it still works, else a new one: after a cancel either is allowed."""
    try:
        await fetched(connection, BlockSpan(0, 0, 1))
    except DataConnectionClosed:
        await connection.close()
        connection = await stage.connect()
        await fetched(connection, BlockSpan(0, 0, 1))
    return connection


# -- the same bytes


@pytest.mark.parametrize(
    "span",
    [
        BlockSpan(0, 0, 1),
        BlockSpan(0, 0, MAX_BLOCK),
        BlockSpan(0, MAX_BLOCK, MAX_BLOCK),
        BlockSpan(1, 3, 70_000),
        BlockSpan(2, 0, 12_345),
        BlockSpan(2, 12_344, 1),
    ],
    ids=str,
)
def test_a_block_arrives_byte_for_byte(act: Callable[[Play], None], span: BlockSpan) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        assert await fetched(connection, span) == stage.shelf.bytes_of(span)
        await connection.close()

    act(play)


def test_only_the_buffer_given_is_filled(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        span = BlockSpan(0, 5, 1000)
        around = bytearray(b"\xee" * 1200)
        await connection.fetch(CONTENT, span, memoryview(around)[100:1100])
        assert around == b"\xee" * 100 + stage.shelf.bytes_of(span) + b"\xee" * 100
        await connection.close()

    act(play)


def test_many_fetches_on_one_connection_each_get_their_own_bytes(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        spans = [BlockSpan(n % 2, n * 10_007, 10_007) for n in range(100)]
        found = await asyncio.gather(*(fetched(connection, span) for span in spans))
        assert found == [stage.shelf.bytes_of(span) for span in spans]
        await connection.close()

    act(play)


def test_many_connections_at_once_do_not_disturb_each_other(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connections = [await stage.connect() for _ in range(12)]
        spans = [BlockSpan(0, n * 50_000, 300_000) for n in range(12)]
        found = await asyncio.gather(
            *(fetched(connection, span) for connection, span in zip(connections, spans, strict=True))
        )
        assert found == [stage.shelf.bytes_of(span) for span in spans]
        await asyncio.gather(*(connection.close() for connection in connections))

    act(play)


def test_a_block_in_several_parts_arrives_as_one(act: Callable[[Play], None]) -> None:
    def cut(span: FileSpan) -> list[FileSpan]:
        third = span.length // 3
        parts = (0, 1), (1, third), (1 + third, third), (1 + 2 * third, span.length - 1 - 2 * third)
        return [FileSpan(span.fd, span.offset + start, length) for start, length in parts]

    async def play(stage: Stage) -> None:
        stage.shelf.cut = cut
        connection = await stage.connect()
        span = BlockSpan(0, 17, 500_000)
        assert await fetched(connection, span) == stage.shelf.bytes_of(span)
        await connection.close()

    act(play)


def test_fetches_are_served_in_the_order_asked(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        ended: list[int] = []

        async def one(number: int) -> None:
            await fetched(connection, BlockSpan(0, number, 200_000 if number < 3 else 10))
            ended.append(number)

        await asyncio.gather(*(one(number) for number in range(8)))
        assert ended == sorted(ended)
        await connection.close()

    act(play)


# -- the same refusals


@pytest.mark.parametrize(
    "code", ["not_found", "bad_range", "busy", "quota", "unavailable", "disk", "not_allowed"]
)
def test_case_77_a_refusal_of_the_source_arrives_with_its_code(
    act: Callable[[Play], None], code: str
) -> None:
    async def play(stage: Stage) -> None:
        stage.shelf.refuse[1] = code
        connection = await stage.connect()
        buffer = bytearray(b"\xee" * 100)
        with pytest.raises(Refused) as refused:
            await connection.fetch(CONTENT, BlockSpan(1, 0, 100), memoryview(buffer))
        assert refused.value.code == code
        assert buffer == b"\xee" * 100
        await connection.close()

    act(play)


def test_an_id_that_is_not_shared_is_not_found(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        with pytest.raises(Refused) as refused:
            await connection.fetch(OTHER, BlockSpan(0, 0, 10), memoryview(bytearray(10)))
        assert refused.value.code == "not_found"
        await connection.close()

    act(play)


@pytest.mark.parametrize(
    "span", [BlockSpan(3, 0, 10), BlockSpan(2, 12_340, 10), BlockSpan(0, PIECE - 5, 10)], ids=str
)
def test_a_block_outside_its_piece_is_a_bad_range(act: Callable[[Play], None], span: BlockSpan) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        with pytest.raises(Refused) as refused:
            await fetched(connection, span)
        assert refused.value.code == "bad_range"
        await connection.close()

    act(play)


def test_a_refused_fetch_does_not_disturb_those_before_and_behind_it(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        stage.shelf.refuse[1] = "busy"
        connection = await stage.connect()
        spans = [BlockSpan(1 if n % 4 == 1 else 0, n * 1000, 1000) for n in range(20)]
        found = await asyncio.gather(*(fetched(connection, span) for span in spans), return_exceptions=True)
        for span, came in zip(spans, found, strict=True):
            if span.piece == 1:
                assert isinstance(came, Refused)
            else:
                assert came == stage.shelf.bytes_of(span)
        await connection.close()

    act(play)


# -- short, long, stalled


@pytest.mark.parametrize("surplus", [-1, 1, -999, 4096])
def test_an_answer_of_another_length_is_an_error_and_never_a_block(
    act: Callable[[Play], None], surplus: int
) -> None:
    async def play(stage: Stage) -> None:
        stage.shelf.cut = lambda span: [FileSpan(span.fd, span.offset, span.length + surplus)]
        connection = await stage.connect()
        with pytest.raises((ProtocolError, Unreachable)):
            await fetched(connection, BlockSpan(0, 0, 1000))
        await connection.close()

    act(play)


def test_a_file_that_became_shorter_fails_the_fetch_and_not_the_next(
    act: Callable[[Play], None],
) -> None:
    async def play(stage: Stage) -> None:
        os.ftruncate(stage.shelf.fd, PIECE + 5000)
        connection = await stage.connect()
        with pytest.raises(Unreachable):
            await fetched(connection, BlockSpan(1, 0, 10_000))
        await connection.close()
        connection = await stage.connect()
        assert await fetched(connection, BlockSpan(1, 0, 5000)) == stage.shelf.bytes_of(BlockSpan(1, 0, 5000))
        await connection.close()

    act(play)


def test_a_connection_that_waits_for_a_slot_does_not_delay_another(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        waits, goes = await stage.connect(), await stage.connect()
        stage.shelf.gate.clear()
        waiting = asyncio.create_task(fetched(waits, BlockSpan(0, 0, 100)))
        await until(lambda: stage.shelf.entered)
        stage.shelf.refuse[1] = "busy"
        with pytest.raises(Refused):
            await fetched(goes, BlockSpan(1, 0, 100))
        assert not waiting.done()
        stage.shelf.gate.set()
        assert await waiting == stage.shelf.bytes_of(BlockSpan(0, 0, 100))
        await asyncio.gather(waits.close(), goes.close())

    act(play)


# -- cancelled


def test_a_fetch_cancelled_while_it_waits_leaves_its_buffer_untouched(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.gate.clear()
        buffer = bytearray(b"\xee" * 1000)
        task = asyncio.create_task(connection.fetch(CONTENT, BlockSpan(0, 0, 1000), memoryview(buffer)))
        await until(lambda: stage.shelf.entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.shelf.gate.set()
        connection = await lively(connection, stage)
        assert buffer == b"\xee" * 1000
        await connection.close()

    act(play)


def test_a_fetch_cancelled_half_way_never_writes_into_its_buffer_again(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.crawl()
        buffer = bytearray(MAX_BLOCK)
        task = asyncio.create_task(connection.fetch(CONTENT, BlockSpan(0, 0, MAX_BLOCK), memoryview(buffer)))
        await until(lambda: any(buffer[:8192]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = bytes(buffer)
        buffer[:] = b"\xee" * MAX_BLOCK
        assert len(kept) > kept.count(0) > 0, "this was not half way"
        stage.shelf.delay = 0
        connection = await lively(connection, stage)
        assert buffer == b"\xee" * MAX_BLOCK
        await connection.close()

    act(play)


@pytest.mark.parametrize("which", [0, 3, 9])
def test_the_other_fetches_go_on_or_fail_when_one_is_cancelled(
    act: Callable[[Play], None], which: int
) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.gate.clear()
        spans = [BlockSpan(0, n * 100_000, 100_000) for n in range(10)]
        tasks = [asyncio.create_task(fetched(connection, span)) for span in spans]
        await until(lambda: stage.shelf.entered)
        tasks[which].cancel()
        stage.shelf.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[which], asyncio.CancelledError)
        for number, came in enumerate(found):
            if number != which:
                assert came == stage.shelf.bytes_of(spans[number]) or isinstance(came, Unreachable)
        await (await lively(connection, stage)).close()

    act(play)


def test_a_cancel_half_way_blames_nobody_for_the_blocks_behind_it(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.crawl()
        buffer = bytearray(MAX_BLOCK)
        first = asyncio.create_task(connection.fetch(CONTENT, BlockSpan(0, 0, MAX_BLOCK), memoryview(buffer)))
        behind = asyncio.create_task(fetched(connection, BlockSpan(1, 0, 8192)))
        await until(lambda: any(buffer[:8192]))
        stage.shelf.delay = 0
        first.cancel()
        (came,) = await asyncio.gather(behind, return_exceptions=True)
        assert came == stage.shelf.bytes_of(BlockSpan(1, 0, 8192)) or isinstance(came, DataConnectionClosed)
        await asyncio.gather(first, return_exceptions=True)
        await connection.close()

    act(play)


def test_fifty_fetches_cancelled_at_once_all_end(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        tasks = [asyncio.create_task(fetched(connection, BlockSpan(0, n, 50_000))) for n in range(50)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        ended, hanging = await asyncio.wait(tasks, timeout=HANG_S)
        assert not hanging
        await (await lively(connection, stage)).close()
        assert len(ended) == 50

    act(play)


def test_a_fetch_cancelled_before_it_began_is_never_asked_or_is_forgotten(
    act: Callable[[Play], None],
) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        buffer = bytearray(b"\xee" * 100)
        task = asyncio.create_task(connection.fetch(CONTENT, BlockSpan(0, 0, 100), memoryview(buffer)))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await lively(connection, stage)
        assert buffer == b"\xee" * 100
        await connection.close()

    act(play)


def test_the_buffer_of_a_cancelled_fetch_can_be_given_back_at_once(act: Callable[[Play], None]) -> None:
    async def borrow(connection: DataConnection, pool: BufferPool) -> None:
        with pool.borrow() or pytest.fail(
            "no buffer is free"
        ) as lease:  # raises when a view of it is still in use
            await connection.fetch(CONTENT, BlockSpan(0, 0, MAX_BLOCK), lease.window(MAX_BLOCK))

    async def play(stage: Stage) -> None:
        pool = BufferPool(MAX_BLOCK, 1)
        for _ in range(5):
            connection = await stage.connect()
            stage.shelf.crawl()
            task = asyncio.create_task(borrow(connection, pool))
            await until(lambda: pool.lent)
            await asyncio.sleep(0.03 * random.random())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.free == 1
            await connection.close()

    act(play)


# -- closed


def test_closing_a_connection_ends_all_it_had_under_way(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.gate.clear()
        tasks = [asyncio.create_task(fetched(connection, BlockSpan(0, n, 100))) for n in range(5)]
        await until(lambda: stage.shelf.entered)
        await connection.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(came, DataConnectionClosed) for came in found), found
        stage.shelf.gate.set()

    act(play)


def test_closing_half_way_ends_the_block_and_frees_its_buffer(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.crawl()
        buffer = bytearray(MAX_BLOCK)
        task = asyncio.create_task(connection.fetch(CONTENT, BlockSpan(0, 0, MAX_BLOCK), memoryview(buffer)))
        await until(lambda: any(buffer[:8192]))
        await connection.close()
        with pytest.raises(DataConnectionClosed):
            await task
        del task
        stage.shelf.delay = 0

    act(play)


def test_a_connection_may_be_closed_again_and_before_it_was_used(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        await asyncio.gather(connection.close(), connection.close())
        await connection.close()
        with pytest.raises(DataConnectionClosed):
            await fetched(connection, BlockSpan(0, 0, 1))

    act(play)


def test_a_connection_may_be_closed_from_within_a_fetch(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()

        async def one(number: int) -> None:
            await fetched(connection, BlockSpan(0, number, 100))
            await connection.close()

        found = await asyncio.gather(*(one(number) for number in range(5)), return_exceptions=True)
        assert found[0] is None
        assert all(came is None or isinstance(came, Unreachable) for came in found)

    act(play)


def test_a_fetch_on_a_connection_that_was_closed_is_told_so(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        await fetched(connection, BlockSpan(0, 0, 1))
        await connection.close()
        for _ in range(3):
            with pytest.raises(DataConnectionClosed):
                await fetched(connection, BlockSpan(0, 0, 1))

    act(play)


def test_closing_the_listener_ends_its_connections_and_their_fetches(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connections = [await stage.connect() for _ in range(3)]
        stage.shelf.gate.clear()
        tasks = [asyncio.create_task(fetched(connection, BlockSpan(0, 0, 100))) for connection in connections]
        await until(lambda: stage.shelf.entered == 3)
        async with hang_guard():
            await stage.listener.close()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(came, Unreachable) for came in found), found
        for connection in connections:
            with pytest.raises(Unreachable):
                await fetched(connection, BlockSpan(0, 0, 1))
            await connection.close()

    act(play)


def test_a_peer_that_goes_in_the_middle_of_a_block_is_unreachable(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        connection = await stage.connect()
        stage.shelf.crawl()
        buffer = bytearray(MAX_BLOCK)
        task = asyncio.create_task(connection.fetch(CONTENT, BlockSpan(0, 0, MAX_BLOCK), memoryview(buffer)))
        await until(lambda: any(buffer[:8192]))
        async with hang_guard():
            await stage.listener.close()
            with pytest.raises(Unreachable):
                await task
        await connection.close()

    act(play)


def test_a_listener_may_be_closed_again_and_its_port_is_free_then(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        port = stage.listener.port
        await asyncio.gather(stage.listener.close(), stage.listener.close())
        again = await stage.near.listen(stage.shelf, Address(LOOPBACK.host, port))
        try:
            assert again.port == port
            connection = await stage.far.connect(Address(LOOPBACK.host, port))
            assert await fetched(connection, BlockSpan(0, 0, 10)) == stage.shelf.data[:10]
            await connection.close()
        finally:
            await again.close()

    act(play)


def test_a_port_that_is_taken_is_an_os_error(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        with pytest.raises(OSError):
            await stage.near.listen(stage.shelf, stage.address)

    act(play)


def test_nobody_at_an_address_is_unreachable_with_the_address_in_the_message(
    act: Callable[[Play], None],
) -> None:
    async def play(stage: Stage) -> None:
        await stage.listener.close()
        with pytest.raises(Unreachable) as error:
            await stage.connect()
        assert str(stage.address) in str(error.value)

    act(play)


def test_a_hundred_connections_opened_and_closed_leave_nothing(act: Callable[[Play], None]) -> None:
    async def play(stage: Stage) -> None:
        for number in range(100):
            connection = await stage.connect()
            if number % 3:
                await fetched(connection, BlockSpan(0, number, 100))
            await connection.close()

    act(play)


def test_whatever_is_cancelled_refused_and_closed_no_fetch_ends_with_wrong_bytes(
    act: Callable[[Play], None],
) -> None:
    seed = random.randrange(2**32)
    print(f"chance seed {seed}")

    async def play(stage: Stage) -> None:
        rng = random.Random(seed)
        stage.shelf.refuse[1] = "busy"
        stage.shelf.cut = lambda span: [
            FileSpan(span.fd, span.offset, 1),
            FileSpan(span.fd, span.offset + 1, span.length - 1),
        ]
        connection = await stage.connect()
        running: list[tuple[BlockSpan, bytearray, asyncio.Task[None]]] = []
        ended: list[tuple[bytearray, bytes]] = []
        outcomes = {"came": 0, "refused": 0, "closed": 0, "cancelled": 0}
        for _ in range(300):
            choice = rng.random()
            if choice < 0.6 or not running:
                span = BlockSpan(rng.choice((0, 0, 0, 1)), rng.randrange(1000), rng.randrange(2, 60_000))
                buffer = bytearray(span.length)
                running.append(
                    (span, buffer, asyncio.create_task(connection.fetch(CONTENT, span, memoryview(buffer))))
                )
            elif choice < 0.75:
                rng.choice(running)[2].cancel()
            elif choice < 0.78:
                await connection.close()
                connection = await stage.connect()
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            if rng.random() < 0.1:
                await asyncio.wait([task for _, _, task in running], timeout=0.05)
            for one in [one for one in running if one[2].done()]:
                running.remove(one)
                outcomes[_outcome(stage.shelf, one)] += 1
                ended.append((one[1], bytes(one[1])))
            connection = (
                connection if not ended or rng.random() < 0.9 else await _fresh_if_closed(connection, stage)
            )
        await connection.close()
        await asyncio.wait(
            [task for _, _, task in running] or [asyncio.create_task(asyncio.sleep(0))], timeout=HANG_S
        )
        for one in running:
            assert one[2].done(), "a fetch hangs"
            _outcome(stage.shelf, one)
        assert all(buffer == kept for buffer, kept in ended), (
            "a buffer was written to after its fetch had ended"
        )
        assert outcomes["came"] > 20, outcomes

    act(play)


def _outcome(shelf: Shelf, one: tuple[BlockSpan, bytearray, asyncio.Task[None]]) -> str:
    span, buffer, task = one
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        assert buffer == shelf.bytes_of(span)
        return "came"
    assert isinstance(error, EnjambreError), repr(error)
    return "refused" if isinstance(error, Refused) else "closed"


async def _fresh_if_closed(connection: DataConnection, stage: Stage) -> DataConnection:
    """A new connection if this one has ended; asks for nothing but a byte."""
    try:
        async with asyncio.timeout(0.5):
            await fetched(connection, BlockSpan(0, 0, 1))
    except (Unreachable, TimeoutError):
        await connection.close()
        return await stage.connect()
    return connection
