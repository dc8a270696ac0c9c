"""The serving side of gRPC against callers that are wrong, many, slow or gone; hostile cases 72 to 77 and the
services beside ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from h2.events import StreamEnded, StreamReset, TrailersReceived

from p2p.model import MAX_BLOCK, Address, BlockSpan, PeerId
from p2p.net.admission import AdmissionLimits
from p2p.net.limits import TIMEOUTS, Timeouts
from p2p.storage.disk_io import disk_io
from protos import transfer_pb2_grpc
from protos.transfer_pb2 import Block, ReadRequest
from tests.kit.leaks import KEPT_BY_GRPC, contained, open_descriptors
from tests.kit.raw_http2 import RawCaller
from tests.kit.shelf import CONTENT, PIECE, SIZE, Shelf
from tests.kit.waiting import HANG_S, NEVER, NEVER_S, hang_guard, until
from transports.grpc import GrpcTransport
from transports.grpc import server as server_module
from transports.grpc.framing import CODE_KEY, READ, STATUS_OF_CODE
from transports.grpc.limits import GRPC_LIMITS, GRPC_TIMEOUTS, GrpcLimits, GrpcTimeouts
from transports.grpc.server import GrpcServer

TransferStub: Any = transfer_pb2_grpc.TransferStub
KEPT = KEPT_BY_GRPC
"""What gRPC's core keeps for later."""


@dataclass
class Scene:
    """A server with its shelf, and a channel of plain grpcio to it."""

    shelf: Shelf
    server: GrpcServer
    channel: Any
    stub: Any
    health: Any
    reflection: Any

    def read(self, *blocks: BlockSpan, **fields: Any) -> Any:
        """A call of `Read` that nobody has read from yet."""
        return self.stub.Read(request(*blocks, **fields))

    def threaded(self) -> Any:
        """A connection of grpcio's threads, for hundreds of calls. The asyncio client of some versions hangs
        when its last channel is closed while hundreds of its events wait
        (github.com/grpc/grpc/pull/40989)."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"127.0.0.1:{self.server.port}", options=options)

    async def another(self) -> Any:
        """One more connection."""
        return aio.insecure_channel(
            f"127.0.0.1:{self.server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )


def request(*blocks: BlockSpan, **fields: Any) -> ReadRequest:
    """What asks for these blocks of the shelf."""
    asked = [Block(piece=one.piece, offset=one.offset, length=one.length) for one in blocks]
    return ReadRequest(**{"id": CONTENT, "blocks": asked, **fields})


async def bytes_of(call: Any) -> bytes:
    """All that a call brings."""
    return b"".join([chunk.data async for chunk in call])


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str | None]:
    """How a call ends that must not end well: its status, its details, and our code if it has one."""
    with pytest.raises(aio.AioRpcError) as error:
        await bytes_of(call)
    metadata: Any = error.value.trailing_metadata()
    code = next((value for key, value in metadata if key == CODE_KEY), None)
    return error.value.code(), str(error.value.details()), str(code) if code is not None else None


class Act(Protocol):
    """Runs a scene."""

    def __call__(self, play: Callable[[Scene], Awaitable[None]], **bounds: Any) -> None:
        """`bounds` go to the transport."""


@pytest.fixture
def act(tmp_path: Path) -> Act:
    """Runs a scene in a loop of its own, and sees that every block taken was given back and nothing is
    left."""

    def run(play: Callable[[Scene], Awaitable[None]], **bounds: Any) -> None:
        async def work() -> None:
            shelf = Shelf(tmp_path / "shelf", random.Random(7).randbytes(SIZE))
            listener = await GrpcTransport(disk_io(), **bounds).listen(shelf, Address("127.0.0.1", 0))
            channel: Any = aio.insecure_channel(f"127.0.0.1:{listener.port}")
            beside = health_pb2_grpc.HealthStub(channel), reflection_pb2_grpc.ServerReflectionStub(channel)
            try:
                await play(Scene(shelf, listener, channel, TransferStub(channel), *beside))
            finally:
                await channel.close()
                await listener.close()
                os.close(shelf.fd)
            assert shelf.entered == shelf.left

        contained(work, kept=KEPT)

    return run


# -- what is asked


def test_blocks_of_one_call_come_in_the_order_asked_and_no_chunk_is_over_1_mib(act: Act) -> None:
    async def play(scene: Scene) -> None:
        spans = [
            BlockSpan(1, 0, MAX_BLOCK),
            BlockSpan(0, 7, 100),
            BlockSpan(2, 0, 12_345),
            BlockSpan(0, MAX_BLOCK, MAX_BLOCK),
        ]
        chunks = [chunk.data async for chunk in scene.read(*spans)]
        assert b"".join(chunks) == b"".join(map(scene.shelf.bytes_of, spans))
        assert max(map(len, chunks)) <= MAX_BLOCK

    act(play)


def test_who_asks_is_known_by_id_and_host_and_a_nobody_by_its_host(act: Act) -> None:
    async def play(scene: Scene) -> None:
        await bytes_of(scene.read(BlockSpan(0, 0, 1), peer="5f" * 16))
        await bytes_of(scene.read(BlockSpan(0, 0, 1)))
        connection = await GrpcTransport(disk_io()).connect(
            Address("127.0.0.1", scene.server.port), PeerId("6a" * 16)
        )
        await connection.fetch(CONTENT, BlockSpan(0, 0, 1), memoryview(bytearray(1)))
        await connection.close()
        assert scene.shelf.client == [f"{'5f' * 16}@127.0.0.1", "127.0.0.1", f"{'6a' * 16}@127.0.0.1"]

    act(play)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"blocks": []}, "blocks"),
        ({"blocks": [Block(length=1)] * 17}, "blocks"),
        ({"id": ""}, "id"),
        ({"id": "AB" * 32}, "id"),
        ({"id": "ab"}, "id"),
        ({"peer": "me"}, "peer"),
        ({"blocks": [Block(length=0)]}, "length"),
        ({"blocks": [Block(length=MAX_BLOCK + 1)]}, "length"),
        ({"blocks": [Block(length=1, offset=2**31)]}, "offset"),
        ({"blocks": [Block(length=1, piece=2**32 - 1)]}, "piece"),
        ({"blocks": [Block(length=1), Block()]}, "length"),
    ],
)
def test_a_wrong_request_is_an_invalid_argument_that_names_the_field(
    act: Act, wrong: dict[str, Any], field: str
) -> None:
    async def play(scene: Scene) -> None:
        status, details, code = await refused(
            scene.stub.Read(ReadRequest(**{"id": CONTENT, "blocks": [Block(length=1)], **wrong}))
        )
        assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_field")
        assert details.startswith(f"{field}:")
        assert scene.shelf.entered == 0

    act(play)


def test_case_72_a_request_over_its_bound_is_refused_before_it_is_read(act: Act) -> None:
    async def play(scene: Scene) -> None:
        status, _, code = await refused(scene.read(BlockSpan(0, 0, 1), id="a" * 5000))
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
        assert await bytes_of(scene.read(BlockSpan(0, 0, 9))) == scene.shelf.data[:9]

    act(play)


@pytest.mark.parametrize("code", sorted(STATUS_OF_CODE))
def test_each_refusal_has_its_status_and_its_own_name_in_the_trailer(act: Act, code: str) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.refuse[1] = code
        assert (await refused(scene.read(BlockSpan(1, 0, 1)))) == (STATUS_OF_CODE[code], "no", code)

    act(play)


def test_a_refusal_comes_after_the_blocks_before_it_were_sent_whole(act: Act) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.refuse[1] = "not_found"
        call = scene.read(
            BlockSpan(0, 0, 100), BlockSpan(0, 100, 100), BlockSpan(1, 0, 100), BlockSpan(0, 0, 100)
        )
        assert b"".join([(await call.read()).data for _ in range(2)]) == scene.shelf.data[:200]
        with pytest.raises(aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.NOT_FOUND

    act(play)


def test_a_fault_of_the_source_ends_the_call_and_tells_nothing_of_itself(
    act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    # Kept as text: a record of logging would hold the traceback, through it the call, and so its connection,
    # until the test is over.
    monkeypatch.setattr(server_module.log, "exception", lambda *_: logged.append(traceback.format_exc()))

    async def play(scene: Scene) -> None:
        def fail(_: object) -> Any:
            raise RuntimeError("the secret of this side")

        scene.shelf.cut = fail
        status, details, code = await refused(scene.read(BlockSpan(0, 0, 1)))
        assert (status, code) == (grpc.StatusCode.UNKNOWN, None)
        assert "secret" not in details
        assert ["secret" in text for text in logged] == [True]

    act(play)


# -- many, slow, gone


def test_case_75_a_health_call_is_answered_at_once_while_hundreds_of_streams_wait(act: Act) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.gate.clear()
        channels = [scene.threaded() for _ in range(4)]
        calls = [
            TransferStub(channel).Read(request(BlockSpan(0, n, 9)))
            for channel in channels
            for n in range(100)
        ]
        await until(lambda: scene.shelf.entered == 400)
        # Until the gate is opened none of them ends: a call that waited for one would not be answered at all.
        answer = await scene.health.Check(
            health_pb2.HealthCheckRequest(service="enjambre.transfer.v1.Transfer"), timeout=HANG_S
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        scene.shelf.gate.set()
        came = await asyncio.to_thread(lambda: [b"".join(chunk.data for chunk in call) for call in calls])
        assert came == [scene.shelf.data[n : n + 9] for n in range(100)] * 4
        for channel in channels:
            channel.close()

    act(play)


def test_case_75_slow_streams_that_hold_all_threads_that_send_do_not_hold_up_health(
    act: Act,
) -> None:
    async def play(scene: Scene) -> None:
        # Nobody reads these: each soon stands in the middle of its block, with a thread of ours.
        calls = [scene.read(BlockSpan(0, 0, MAX_BLOCK), BlockSpan(1, 0, MAX_BLOCK)) for _ in range(100)]
        await until(lambda: scene.shelf.entered >= 80)
        answer = await scene.health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()
        await until(lambda: scene.shelf.left == scene.shelf.entered)

    act(play, timeouts=NEVER, call_limits=GrpcLimits(send_threads=80))


@pytest.mark.parametrize("method", [READ, "/grpc.health.v1.Health/Check"])
def test_case_75_calls_whose_request_never_comes_hold_up_nobody_and_are_cancelled(
    act: Act, method: str
) -> None:
    async def play(scene: Scene) -> None:
        async with AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(RawCaller(scene.server.port)) for _ in range(3)]
            for caller in callers:
                for _ in range(100):
                    caller.call(method)
            answer = await scene.health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert (
                await bytes_of(scene.stub.Read(request(BlockSpan(0, 0, 9)), timeout=HANG_S))
                == scene.shelf.data[:9]
            )
            ended = (StreamReset, TrailersReceived, StreamEnded)
            await until(
                lambda: all(
                    sum(isinstance(event, ended) for event in caller.seen) >= 80 for caller in callers
                )
            )

    act(play, call_timeouts=GrpcTimeouts(request_s=NEVER_S))


def test_a_call_without_a_request_is_an_invalid_argument(act: Act) -> None:
    async def play(scene: Scene) -> None:
        read = scene.channel.stream_stream(READ)
        call = read(iter(()))
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    act(play)


def test_watchers_that_take_no_bytes_hold_up_neither_health_nor_blocks_nor_the_end(act: Act) -> None:
    async def play(scene: Scene) -> None:
        async with RawCaller(scene.server.port, window=0) as caller:
            for _ in range(40):
                caller.call("/grpc.health.v1.Health/Watch", b"")
            for _ in range(30):
                answer = await scene.health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert await bytes_of(scene.read(BlockSpan(0, 0, 9))) == scene.shelf.data[:9]
            await scene.server.close()

    act(play, timeouts=NEVER)


def test_calls_over_the_bound_are_told_that_it_is_busy_and_one_that_ends_makes_room(
    act: Act,
) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.gate.clear()
        calls = [scene.read(BlockSpan(0, n, 9)) for n in range(3)]
        await until(lambda: scene.shelf.entered == 3)
        status, _, code = await refused(scene.read(BlockSpan(0, 0, 9)))
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        calls[0].cancel()
        await until(lambda: scene.shelf.left == 1)
        scene.shelf.gate.set()
        assert await bytes_of(scene.read(BlockSpan(0, 0, 9))) == scene.shelf.data[:9]
        await asyncio.gather(*map(bytes_of, calls[1:]))

    act(play, call_limits=GrpcLimits(reads=AdmissionLimits(total=3)))


def test_another_host_may_not_have_all_the_calls(tmp_path: Path) -> None:
    async def work() -> None:
        shelf = Shelf(tmp_path / "shelf", random.Random(7).randbytes(SIZE))
        limits = GrpcLimits(reads=AdmissionLimits(total=100, per_host=2))
        server = GrpcServer(
            shelf,
            Address("127.0.0.1", 0),
            disk_io(),
            TIMEOUTS.stall_s,
            GRPC_TIMEOUTS,
            limits,
            host_of=lambda _: "10.0.0.7",
        )
        channel: Any = aio.insecure_channel(f"127.0.0.1:{server.port}")
        stub = TransferStub(channel)
        shelf.gate.clear()
        calls = [stub.Read(request(BlockSpan(0, n, 9))) for n in range(2)]
        await until(lambda: shelf.entered == 2)
        assert (await refused(stub.Read(request(BlockSpan(0, 0, 9)))))[2] == "busy"
        shelf.gate.set()
        await asyncio.gather(*map(bytes_of, calls))
        await channel.close()
        await server.close()
        os.close(shelf.fd)

    contained(work, kept=KEPT)


def test_case_76_thousands_of_calls_cancelled_at_once_leave_nothing_behind(
    act: Act,
) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.crawl()
        channel = scene.threaded()
        for _ in range(30):
            calls = [TransferStub(channel).Read(request(BlockSpan(0, n, MAX_BLOCK))) for n in range(100)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
        channel.close()
        scene.shelf.delay = 0
        await until(lambda: scene.shelf.left == scene.shelf.entered and not len(scene.server))
        assert scene.shelf.entered
        # Processor time of this process alone, so that other work on the machine does not count.
        used = resource.getrusage(resource.RUSAGE_SELF)
        began, before = time.monotonic(), used.ru_utime + used.ru_stime
        await until(lambda: time.monotonic() - began > 1)
        used = resource.getrusage(resource.RUSAGE_SELF)
        assert used.ru_utime + used.ru_stime - before < 0.5
        assert await served_soon(scene) == scene.shelf.data[:9]

    act(play, timeouts=NEVER)


async def served_soon(scene: Scene) -> bytes:
    """Read a few bytes; while gRPC's library still counts calls that were cancelled, it refuses new ones,
    before our code sees them."""
    async with hang_guard():
        while True:
            try:
                return await bytes_of(scene.read(BlockSpan(0, 0, 9)))
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.02)


def test_a_receiver_that_takes_nothing_is_given_up(act: Act) -> None:
    async def play(scene: Scene) -> None:
        call = scene.read(*(BlockSpan(n % 2, 0, MAX_BLOCK) for n in range(16)))
        await until(lambda: scene.shelf.entered)
        await until(lambda: scene.shelf.left == scene.shelf.entered and not len(scene.server))
        with pytest.raises(aio.AioRpcError) as error:
            await bytes_of(call)
        assert error.value.code() is grpc.StatusCode.CANCELLED

    act(play, timeouts=Timeouts(stall_s=0.3))


def test_a_receiver_does_not_stall_while_this_side_keeps_its_own_rate(act: Act) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.delay = 0.1  # 0.2 s for each chunk of 16 KiB
        assert await bytes_of(scene.read(BlockSpan(0, 0, 40_000))) == scene.shelf.data[:40_000]

    act(play, timeouts=Timeouts(stall_s=0.1))


def test_a_call_whose_time_is_over_while_it_waits_is_forgotten(act: Act) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.gate.clear()
        status, _, _ = await refused(scene.stub.Read(request(BlockSpan(0, 0, 9)), timeout=0.2))
        assert status is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: scene.shelf.left == 1)
        scene.shelf.gate.set()

    act(play)


def test_a_connection_that_goes_takes_its_calls_with_it(act: Act) -> None:
    async def play(scene: Scene) -> None:
        scene.shelf.gate.clear()
        channel = await scene.another()
        calls = [TransferStub(channel).Read(request(BlockSpan(0, n, 9))) for n in range(20)]
        await until(lambda: scene.shelf.entered == 20)
        await channel.close()
        await until(lambda: scene.shelf.left == 20)
        scene.shelf.gate.set()
        assert all(call.done() for call in calls)

    act(play)


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"op":"hello","version":1,"seq":1}\n',
        b"\x16\x03\x01\x02",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nJUNK" * 9,
    ],
)
def test_what_is_not_grpc_disturbs_nobody(act: Act, junk: bytes) -> None:
    async def play(scene: Scene) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.server.port)
        writer.write(junk)
        assert await bytes_of(scene.read(BlockSpan(0, 0, 9))) == scene.shelf.data[:9]
        writer.close()
        await writer.wait_closed()
        assert scene.shelf.entered == 1
        del reader

    act(play)


# -- the services beside ours


@pytest.mark.parametrize("service", ["", "enjambre.transfer.v1.Transfer"])
def test_the_health_service_says_serving_and_a_watcher_sees_the_server_close(act: Act, service: str) -> None:
    async def play(scene: Scene) -> None:
        asked = health_pb2.HealthCheckRequest(service=service)
        assert (await scene.health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
        watch = scene.health.Watch(asked)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(aio.AioRpcError):
            await scene.health.Check(health_pb2.HealthCheckRequest(service="another"))
        watch.cancel()

    act(play)


def test_reflection_describes_our_service(act: Act) -> None:
    async def play(scene: Scene) -> None:
        call = scene.reflection.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert {"enjambre.transfer.v1.Transfer", "grpc.health.v1.Health"} <= listed
        await call.write(
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="enjambre.transfer.v1.Transfer")
        )
        assert len((await call.read()).file_descriptor_response.file_descriptor_proto) == 1
        await call.done_writing()

    act(play)


def test_streams_of_other_services_are_bounded_and_hold_up_neither_health_nor_ours(act: Act) -> None:
    async def play(scene: Scene) -> None:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        open_calls = []
        for _ in range(GRPC_LIMITS.reflection_streams):
            call = scene.reflection.ServerReflectionInfo()
            await call.write(asked)
            await call.read()
            open_calls.append(call)
        for _ in range(30):
            assert await scene.reflection.ServerReflectionInfo().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (
            await scene.health.Check(health_pb2.HealthCheckRequest(), timeout=1)
        ).status == health_pb2.HealthCheckResponse.SERVING
        assert await bytes_of(scene.read(BlockSpan(0, 0, 9))) == scene.shelf.data[:9]
        for call in open_calls:
            await call.done_writing()
            assert await call.read() is vars(aio)["EOF"]
        again = scene.reflection.ServerReflectionInfo()
        await again.write(asked)
        await again.read()
        await again.done_writing()

    act(play)


# -- our own asking side against it


def test_blocks_that_wait_together_are_asked_for_in_few_calls(act: Act) -> None:
    async def play(scene: Scene) -> None:
        calls: list[int] = []
        admit = scene.server._admit

        def counted(call: Any) -> None:
            calls.append(len(call.asked()[2]))
            admit(call)

        scene.server._admit = counted  # type: ignore[method-assign]
        connection = await GrpcTransport(disk_io()).connect(Address("127.0.0.1", scene.server.port))
        buffers = [bytearray(100) for _ in range(32)]
        await asyncio.gather(
            *(
                connection.fetch(CONTENT, BlockSpan(n % 2, n, 100), memoryview(b))
                for n, b in enumerate(buffers)
            )
        )
        assert [bytes(b) for b in buffers] == [
            scene.shelf.bytes_of(BlockSpan(n % 2, n, 100)) for n in range(32)
        ]
        assert sum(calls) == 32
        assert len(calls) <= 8
        await connection.close()

    act(play)


def test_a_proxy_for_the_web_is_not_asked(act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def play(scene: Scene) -> None:
        connection = await GrpcTransport(disk_io()).connect(Address("127.0.0.1", scene.server.port))
        buffer = bytearray(1)
        await connection.fetch(CONTENT, BlockSpan(0, 0, 1), memoryview(buffer))
        assert buffer == scene.shelf.data[:1]
        await connection.close()

    act(play)


def test_a_watcher_that_comes_when_no_thread_is_to_be_had_is_told_unavailable(act: Act) -> None:
    async def play(scene: Scene) -> None:
        scene.server._senders.shutdown()
        call = scene.health.Watch(health_pb2.HealthCheckRequest())
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    act(play)


def test_a_file_that_became_shorter_is_no_refusal(act: Act) -> None:
    async def play(scene: Scene) -> None:
        os.ftruncate(scene.shelf.fd, PIECE)
        status, details, code = await refused(scene.read(BlockSpan(1, 0, 10)))
        assert (status, code) == (grpc.StatusCode.UNKNOWN, None)
        assert "shorter" in details

    act(play)


@pytest.mark.skipif(
    tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 65), reason="an older gRPC has no such bound"
)
def test_case_60_connections_over_the_bound_are_hung_up_on_and_those_inside_go_on(
    tmp_path: Path,
) -> None:
    limits = GrpcLimits(connections=8)
    before = len(open_descriptors())

    async def work() -> None:
        shelf = Shelf(tmp_path / "shelf", random.Random(7).randbytes(SIZE))
        listener = await GrpcTransport(disk_io(), call_limits=limits).listen(shelf, Address("127.0.0.1", 0))
        inside = await GrpcTransport(disk_io()).connect(
            Address("127.0.0.1", listener.port), PeerId("6a" * 16)
        )
        block = memoryview(bytearray(1000))
        await inside.fetch(CONTENT, BlockSpan(0, 0, 1000), block)
        crowd = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(100)]
        for _, writer in crowd:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        ends = [asyncio.create_task(_ended(reader)) for reader, _ in crowd]
        await until(lambda: sum(end.done() for end in ends) >= 92)
        assert len(open_descriptors()) - before - len(crowd) < 60, (
            "what was hung up on is closed on this side"
        )
        await inside.fetch(CONTENT, BlockSpan(0, 0, 1000), block)
        assert bytes(block) == shelf.bytes_of(BlockSpan(0, 0, 1000))
        for _, writer in crowd:
            writer.transport.abort()
        await asyncio.gather(*ends)
        await inside.close()
        await listener.close()
        os.close(shelf.fd)

    contained(work, kept=KEPT)


async def _ended(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has hung up."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1000):
            pass
