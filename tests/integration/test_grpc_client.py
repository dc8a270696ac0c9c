"""The asking side of gRPC against servers that lie, stall, break off, or are something else; hostile cases
36, 72 and 73."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from p2p.errors import EnjambreError, ProtocolError, Refused, Unreachable
from p2p.model import MAX_BLOCK, Address, BlockSpan
from p2p.net.limits import TIMEOUTS, Timeouts
from p2p.peer.transport import DataConnection, DataConnectionClosed
from p2p.storage.disk_io import disk_io
from protos.transfer_pb2 import Chunk, ReadRequest
from tests.kit.leaks import KEPT_BY_GRPC, contained
from tests.kit.shelf import CONTENT
from tests.kit.waiting import until
from transports.grpc import GrpcTransport, client
from transports.grpc.framing import CODE_KEY, MIN_CHUNK, SERVICE
from transports.grpc.limits import GRPC_LIMITS, GRPC_TIMEOUTS, GrpcTimeouts

KEPT = KEPT_BY_GRPC

Answer = Callable[[Any, Any], AsyncIterator[bytes]]
"""What a server does with a request: yields messages as bytes, or ends the call by its context."""


def message(size: int, byte: bytes = b"x") -> bytes:
    """A chunk with so much data."""
    return Chunk(data=byte * size).SerializeToString()


def against(
    answer: Answer,
    play: Callable[[DataConnection], Awaitable[None]],
    options: tuple[tuple[str, int], ...] = (),
    timeouts: Timeouts = TIMEOUTS,
    call_timeouts: GrpcTimeouts = GRPC_TIMEOUTS,
) -> None:
    """Let our side ask a server that answers so."""
    transport = GrpcTransport(disk_io(), timeouts=timeouts, call_timeouts=call_timeouts)

    async def work() -> None:
        async def read(request: Any, context: Any) -> AsyncIterator[bytes]:
            async for one in answer(request, context):
                yield one

        server: Any = aio.server(options=[("grpc.so_reuseport", 0), *options])
        method = grpc.unary_stream_rpc_method_handler(read, request_deserializer=ReadRequest.FromString)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Read": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            connection = await transport.connect(Address("127.0.0.1", port))
            try:
                await play(connection)
            finally:
                await connection.close()
        finally:
            await server.stop(None)

    contained(work, kept=KEPT)


async def fetched(connection: DataConnection, length: int = 1000, piece: int = 0) -> bytes:
    """Fetch a block into a buffer of its own."""
    buffer = bytearray(length)
    await connection.fetch(CONTENT, BlockSpan(piece, 0, length), memoryview(buffer))
    return bytes(buffer)


def sends(*messages: bytes) -> Answer:
    """A server that sends these and ends well."""

    async def answer(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        for one in messages:
            yield one

    return answer


def fails_with(answer: Answer, error: type[EnjambreError], words: str = "") -> None:
    """A fetch from a server that answers so fails, leaves nothing behind the block's buffer, and the
    connection is of no use any more."""

    async def play(connection: DataConnection) -> None:
        around = bytearray(b"\xee" * 1200)
        with pytest.raises(error, match=words or None):
            await connection.fetch(CONTENT, BlockSpan(0, 0, 1000), memoryview(around)[100:1100])
        assert around[:100] + around[1100:] == b"\xee" * 200
        with pytest.raises(DataConnectionClosed):
            await fetched(connection)

    against(answer, play)


# -- what comes is not what was asked for


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [message(999)],
        [message(1001)],
        [message(1000), message(1)],
        [message(1000), b"\x0a"],
    ],
    ids=["nothing", "short", "long", "a chunk more", "broken behind the end"],
)
def test_another_length_than_was_asked_for_breaks_the_connection(messages: list[bytes]) -> None:
    fails_with(
        sends(*messages),
        ProtocolError,
        "1000 bytes were asked for|no message of transfer.proto|only 999 bytes",
    )


@pytest.mark.parametrize("size", [0, 1, MIN_CHUNK - 1])
def test_chunks_too_small_to_be_part_of_a_block_break_the_connection(size: int) -> None:
    sent = 0

    async def crumbs(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield message(size)

    async def play(connection: DataConnection) -> None:
        with pytest.raises(ProtocolError, match="a chunk"):
            await fetched(connection, MAX_BLOCK)
        with pytest.raises(DataConnectionClosed):
            await fetched(connection)

    against(crumbs, play)
    assert sent < 10_000


@pytest.mark.parametrize(
    "junk",
    [b"\xff" * 1003, b"\x0a\xe8\x07", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"{}", b"\x0a\x05abc"],
)
def test_case_36_a_message_that_is_no_chunk_breaks_the_lane(junk: bytes) -> None:
    fails_with(sends(junk), ProtocolError)


def test_case_72_a_message_over_the_bound_is_an_error_of_ours_and_is_not_taken_in() -> None:
    fails_with(sends(message(5 * MAX_BLOCK)), ProtocolError, "larger than")


def test_chunks_in_other_forms_of_protobuf_are_understood() -> None:
    unknown = b"\x92\x03\x03abc"  # field 50, of a later version

    async def play(connection: DataConnection) -> None:
        assert await fetched(connection, 3000) == b"x" * 1100 + b"y" * 1800 + b"z" * 100

    against(sends(message(1100) + unknown, unknown + message(1800, b"y"), message(100, b"z")), play)


@pytest.mark.parametrize("size", [1000, 100 * MAX_BLOCK])
def test_case_36_what_is_sent_compressed_is_not_unpacked(size: int) -> None:
    """gRPC 1.60 compares a message with its bound before it unpacks it only."""

    async def bomb(request: Any, context: Any) -> AsyncIterator[bytes]:
        context.set_compression(grpc.Compression.Gzip)
        yield message(size)

    before = memory_from_now_on()
    fails_with(bomb, EnjambreError)
    if size > MAX_BLOCK:
        # The server is in this process too: it holds the message three times, as data, as a chunk, and in
        # gRPC's memory.
        assert most_memory() - before < 4.5 * size / 1024


def most_memory() -> int:
    """The most KiB that this process has held, on Linux since `memory_from_now_on`."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    return int(line.split()[1])


def memory_from_now_on() -> int:
    """Forget the most that this process held before, in tests that held more: it would hide what comes.
    Returns the KiB that it holds."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return most_memory()


# -- how it ends


def ends(status: grpc.StatusCode, details: str = "why", trailer: str | None = None) -> Answer:
    """A server that ends each call with a status."""

    async def answer(_request: Any, context: Any) -> AsyncIterator[bytes]:
        trailers = ((CODE_KEY, trailer),) if trailer is not None else ()
        await context.abort(status, details, trailers)
        yield b""

    return answer


@pytest.mark.parametrize(
    ("status", "trailer", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unavailable", "unavailable"),
        (grpc.StatusCode.INTERNAL, "internal", "internal"),
        (grpc.StatusCode.NOT_FOUND, None, "not_found"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", "busy"),
        (grpc.StatusCode.ABORTED, "of a later version", "internal"),
    ],
)
def test_a_refusal_is_told_by_its_code_and_the_lane_goes_on(
    status: grpc.StatusCode, trailer: str | None, code: str
) -> None:
    async def play(connection: DataConnection) -> None:
        for _ in range(3):
            with pytest.raises(Refused, match="why") as refused:
                await fetched(connection)
            assert refused.value.code == code

    against(ends(status, "why", trailer), play)


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
def test_a_status_that_grpc_gives_by_itself_is_no_refusal(status: grpc.StatusCode) -> None:
    fails_with(ends(status), Unreachable, status.name.lower())


def test_what_a_server_says_is_shortened_and_loses_its_control_characters() -> None:
    async def play(connection: DataConnection) -> None:
        with pytest.raises(Refused) as refused:
            await fetched(connection)
        assert len(str(refused.value)) <= client.MAX_DETAILS
        assert str(refused.value).isprintable()

    against(ends(grpc.StatusCode.NOT_FOUND, "\x1b[2J\n" + "a" * 2000), play)


def test_a_refusal_in_the_middle_is_of_that_block_and_the_others_are_asked_for_again() -> None:
    async def answer(request: Any, context: Any) -> AsyncIterator[bytes]:
        for block in request.blocks:
            if block.piece == 3:
                await context.abort(grpc.StatusCode.NOT_FOUND, "not here", ((CODE_KEY, "not_found"),))
            yield message(block.length, bytes([block.piece]))

    async def play(connection: DataConnection) -> None:
        found = await asyncio.gather(
            *(fetched(connection, 100, piece) for piece in range(8)), return_exceptions=True
        )
        for piece, came in enumerate(found):
            if piece == 3:
                assert isinstance(came, Refused)
            else:
                assert came == bytes([piece]) * 100

    against(answer, play)


# -- it takes too long


def silent(*first: bytes) -> tuple[Answer, list[str]]:
    """A server that sends these and then nothing; and what became of its calls."""
    ended: list[str] = []

    async def answer(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        try:
            for one in first:
                yield one
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    return answer, ended


@pytest.mark.parametrize(
    "first", [[], [message(2000)], [message(3000)]], ids=["at once", "half way", "before the end"]
)
def test_case_73_a_server_that_falls_silent_is_given_up_and_told_so(first: list[bytes]) -> None:
    answer, ended = silent(*first)

    async def play(connection: DataConnection) -> None:
        with pytest.raises(Unreachable):
            await fetched(connection, 3000)
        await until(lambda: ended)

    quick = GrpcTimeouts(turn_s=0.3, block_s=0.3)
    against(answer, play, timeouts=Timeouts(stall_s=0.3), call_timeouts=quick)


def test_case_73_every_call_has_a_deadline() -> None:
    left: list[float] = []

    async def answer(request: Any, context: Any) -> AsyncIterator[bytes]:
        left.append(context.time_remaining())
        for block in request.blocks:
            yield message(block.length)

    async def play(connection: DataConnection) -> None:
        await asyncio.gather(*(fetched(connection) for _ in range(20)))

    against(answer, play)
    assert left
    limit = GRPC_TIMEOUTS.turn_s + GRPC_LIMITS.blocks * GRPC_TIMEOUTS.block_s
    assert all(0 < one <= 1.05 * limit for one in left), left  # on the wire a time is rounded


def test_closing_the_connection_ends_the_call_at_the_server_too() -> None:
    answer, ended = silent(message(2000))
    begun: list[str] = []

    async def noted(request: Any, context: Any) -> AsyncIterator[bytes]:
        begun.append("begun")
        async for one in answer(request, context):
            yield one

    async def play(connection: DataConnection) -> None:
        task = asyncio.create_task(fetched(connection, 3000))
        await until(lambda: begun)
        assert not ended
        await connection.close()
        with pytest.raises(DataConnectionClosed):
            await task
        await until(lambda: ended)

    against(noted, play)


# -- there is something else


@pytest.mark.parametrize(
    "greeting",
    [b"", b'{"ok":false,"error":"bad_json"}\n', b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"],
)
def test_a_port_that_does_not_speak_grpc_is_unreachable_soon(greeting: bytes) -> None:
    open_now: set[asyncio.StreamWriter] = set()

    async def work() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_now.add(writer)
            writer.write(greeting)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            open_now.discard(writer)

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(Unreachable, match=str(address)):
            await GrpcTransport(disk_io(), timeouts=Timeouts(dial_s=0.5)).connect(address)
        await until(lambda: not open_now, what="gRPC hangs up")
        server.close()
        await server.wait_closed()

    contained(work, kept=KEPT)


def test_a_server_without_our_service_is_unreachable_and_not_busy() -> None:
    async def work() -> None:
        server: Any = aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        connection = await GrpcTransport(disk_io()).connect(Address("127.0.0.1", port))
        with pytest.raises(Unreachable):
            await fetched(connection)
        await connection.close()
        await server.stop(None)

    contained(work, kept=KEPT)


def test_case_74_the_client_pings_no_oftener_than_any_server_allows() -> None:
    # A server's default is five minutes between pings while it sends nothing, and two strikes (gRPC proposal
    # A8).
    assert dict(client.OPTIONS)["grpc.keepalive_time_ms"] >= 300_000
    assert "grpc.keepalive_permit_without_calls" not in dict(client.OPTIONS)
