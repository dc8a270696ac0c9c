"""Serves blocks over gRPC: one server in threads, whose calls of `Read` are admitted in the event loop and
sent by threads of ours.

Threads, not `grpc.aio`: files are read in threads anyway, and a stream costs no more so
(`docs/transports.md`). A call takes four steps. A handler thread of gRPC passes it to the event loop and
returns, so a call that waits holds no thread. The event loop admits it and waits for an upload slot. A thread
of ours reads the files and sends them in chunks. The event loop ends the call, or asks for its next block.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_reflection.v1alpha import reflection

from p2p.errors import ProtocolError, Refused
from p2p.model import Address, BlockSpan, ContentId, FileSpan, PeerId, client_id
from p2p.net.admission import Admission
from p2p.net.threads import in_thread
from p2p.peer.transport import BlockSource
from p2p.protocol.peer_messages import VERSION, Hello, Read
from p2p.protocol.schema import bad, plan_of
from p2p.storage.disk_io import DiskIO
from protos.transfer_pb2 import ReadRequest
from transports.grpc.framing import (
    CODE_KEY,
    MAX_BLOCKS,
    MAX_CHUNK,
    MAX_REQUEST,
    NO_COMPRESSION,
    SERVICE,
    STATUS_OF_CODE,
    ChunkSize,
    chunk,
)
from transports.grpc.health import NAME as HEALTH
from transports.grpc.health import Health
from transports.grpc.interceptor import CallInterceptor, host_of
from transports.grpc.limits import GrpcLimits, GrpcTimeouts

OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.so_reuseport", 0),  # two peers on one port would each get half of the calls
    ("grpc.max_receive_message_length", MAX_REQUEST),
    ("grpc.max_send_message_length", MAX_CHUNK + 1024),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_concurrent_streams", 128),
    NO_COMPRESSION,
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 90_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

log = logging.getLogger(__name__)


class GrpcServer:
    """One gRPC server on one port. Made and closed in the event loop that the source lives in."""

    def __init__(
        self,
        source: BlockSource,
        address: Address,
        io: DiskIO,
        stall_s: float,
        timeouts: GrpcTimeouts,
        limits: GrpcLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        host_of: Callable[[str], str] = host_of,
    ) -> None:
        """`stall_s` is how long a receiver may take no byte. `clock` is read in threads too. `host_of` tells
        the host of what gRPC calls a peer. Raises `OSError` when the address cannot be had."""
        self._source = source
        self._io = io
        self._stall_s = stall_s
        self._timeouts = timeouts
        self._limits = limits
        self._clock = clock
        self._host_of = host_of
        self._loop = asyncio.get_running_loop()
        self._serving: set[asyncio.Task[None]] = set()
        self._admission: Admission[_Call] = Admission(limits.reads)
        self._sizes: OrderedDict[str, ChunkSize] = OrderedDict()
        self._buffers: list[bytearray] = []
        self._handlers = ThreadPoolExecutor(limits.handler_threads, thread_name_prefix="grpc")
        self._senders = ThreadPoolExecutor(limits.send_threads, thread_name_prefix="send")
        self._closed: asyncio.Task[None] | None = None
        self._interceptor = CallInterceptor(timeouts, limits, clock)
        self._server = grpc.server(
            self._handlers,
            options=(*OPTIONS, ("grpc.max_allowed_incoming_connections", limits.connections)),
            interceptors=[self._interceptor],
            maximum_concurrent_rpcs=limits.incoming_calls,
        )
        self._offer()
        try:
            self.port: int = self._bind(address)
            """The port that is listened on."""
        except OSError:
            self._server.stop(None)
            self._handlers.shutdown()
            raise
        self._server.start()
        self._checking = self._loop.call_later(timeouts.crowd_s, self._check_requests)

    def __len__(self) -> int:
        """How many calls of `Read` are served."""
        return len(self._serving)

    def _offer(self) -> None:
        # A partial, because it can be marked: with this mark gRPC lets the handler return before the call is
        # over, and gives it what sends.
        read: Any = functools.partial(self._read)
        read.experimental_non_blocking = True
        method = grpc.unary_stream_rpc_method_handler(read, request_deserializer=ReadRequest.FromString)
        ours = grpc.method_handlers_generic_handler(SERVICE, {"Read": method})
        self._server.add_generic_rpc_handlers((ours, Health((SERVICE,), self._senders).handler()))
        reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), self._server)

    def _bind(self, address: Address) -> int:
        host = f"[{address.host}]" if ":" in address.host else address.host
        with contextlib.suppress(RuntimeError):
            port: int = self._server.add_insecure_port(f"{host}:{address.port}")
            if port:
                return port
        raise OSError(errno.EADDRINUSE, "the address is in use, or not one of this machine")

    def _check_requests(self) -> None:
        self._interceptor.cancel_late()
        self._checking = self._loop.call_later(self._timeouts.crowd_s, self._check_requests)

    # -- in a handler thread of gRPC

    def _read(self, request: Any, context: Any, send: Callable[[bytes | None], None]) -> None:
        call = _Call(request, context, send, self._host_of(context.peer()))
        try:
            self._loop.call_soon_threadsafe(self._admit, call)
        except RuntimeError:  # the loop has ended
            call.end("the peer is stopping")

    # -- in the event loop

    def _admit(self, call: _Call) -> None:
        if self._closed is not None:
            call.end("the peer is stopping")
        elif not self._admission.admit(call, call.host, self._clock()).admitted:
            call.refuse(Refused("busy", "too many blocks are asked for at once"))
        else:
            self._admission.on_active(call)  # its request is here, so there is nothing to wait for
            task = self._loop.create_task(self._serve(call))
            self._serving.add(task)
            task.add_done_callback(lambda task: self._on_served(task, call))
            if not call.context.add_callback(lambda: self._on_ended(task, call)):
                task.cancel()

    def _on_ended(self, task: asyncio.Task[None], call: _Call) -> None:
        """A call has ended, for whatever reason; called in a thread of gRPC. What is being sent ends by
        itself, at the next chunk."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: None if call.sending else task.cancel())

    def _on_served(self, task: asyncio.Task[None], call: _Call) -> None:
        self._serving.discard(task)
        self._admission.on_closed(call)

    async def _serve(self, call: _Call) -> None:
        try:
            client, content, blocks = call.asked()
            for block in blocks:
                async with self._source.blocks(client, content, [block]) as (files,):
                    await self._hand_over(call, client, block, files)
                if not call.context.is_active():
                    return
            call.send(None)
        except (Refused, ProtocolError) as refused:
            call.refuse(refused)
        except asyncio.CancelledError:
            call.end("given up")
            raise
        except OSError as error:
            call.end(str(error.strerror or error))
        except Exception as error:
            log.exception("a call ended by a fault of ours")
            call.end(type(error).__name__)

    async def _hand_over(self, call: _Call, client: str, block: BlockSpan, files: list[FileSpan]) -> None:
        """Let a thread send a block. Cancel the call when its receiver stalls."""
        if sum(file.length for file in files) != block.length:
            raise OSError(errno.EIO, "a block is not as long as it was asked for")
        call.sending, call.moved_at = True, self._clock()
        watch = self._loop.call_later(self._stall_s, self._check_stalled, call)
        try:
            # The files are in use until the thread is done with them.
            await in_thread(
                self._senders, functools.partial(self._send, call, client, files), call.context.cancel
            )
        finally:
            watch.cancel()
            call.sending = False

    def _check_stalled(self, call: _Call) -> None:
        """Cancel a call whose receiver has stalled; look again when it could have."""
        still_s = max(0.0, self._clock() - call.moved_at)
        if still_s >= self._stall_s:
            call.context.cancel()
        elif call.sending and call.context.is_active():
            self._loop.call_later(self._stall_s - still_s, self._check_stalled, call)

    # -- in a thread that sends

    def _send(self, call: _Call, client: str, files: list[FileSpan]) -> None:
        size = self._size_of(call.connection)
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(MAX_CHUNK)
        try:
            for part in _parts(self._io, files, memoryview(buffer), size):
                began = call.moved_at = self._clock()
                call.send(chunk((part,), len(part)))
                if not call.context.is_active():
                    return
                call.moved_at = math.inf  # while this side keeps its own rate, the receiver cannot stall
                self._source.throttle(len(part), client)
                call.moved_at = self._clock()
                size.took(call.moved_at - began)
        finally:
            self._buffers.append(buffer)

    def _size_of(self, connection: str) -> ChunkSize:
        """What is known of a connection. Two threads at once at worst begin anew with one of them."""
        size = self._sizes.pop(connection, None) or ChunkSize()
        self._sizes[connection] = size
        if len(self._sizes) > self._limits.chunk_sizes:
            with contextlib.suppress(KeyError):
                self._sizes.popitem(last=False)
        return size

    # -- leaving

    async def close(self) -> None:
        """Stop listening, and close all connections that came in."""
        if self._closed is None:
            self._closed = self._loop.create_task(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        self._checking.cancel()
        stopped = self._server.stop(0)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._loop.run_in_executor(None, stopped.wait, self._timeouts.stop_s)
        self._senders.shutdown(wait=False)
        self._handlers.shutdown(wait=False)


class _Call:
    """One call of `Read`: what it asks for, and how it is answered. It ends once."""

    def __init__(self, request: Any, context: Any, send: Callable[[bytes | None], None], host: str) -> None:
        self._request = request
        self.context = context
        self.send = send
        self.connection: str = context.peer()
        self.host = host
        self.sending = False
        """Whether a thread is sending a block now."""
        self.moved_at = 0.0
        """When the receiver last took a chunk, or was given one."""

    def asked(self) -> tuple[str, ContentId, list[BlockSpan]]:
        """The client, the content and the blocks. Raises `ProtocolError("bad_field")`."""
        request = self._request
        if not 0 < len(request.blocks) <= MAX_BLOCKS:
            raise bad("blocks", f"must be 1 to {MAX_BLOCKS}")
        me: PeerId | None = None
        if request.peer:
            me = plan_of(Hello).build({"version": VERSION, "peer": request.peer}).peer
        blocks = []
        for block in request.blocks:
            read: Read = plan_of(Read).build(
                {"id": request.id, "piece": block.piece, "offset": block.offset, "length": block.length}
            )
            blocks.append(BlockSpan(read.piece, read.offset, read.length))
        return client_id(me, self.host), read.id, blocks

    def refuse(self, refused: Refused | ProtocolError) -> None:
        """End it with one of our codes."""
        self.context.set_trailing_metadata(((CODE_KEY, refused.code),))
        self._end(STATUS_OF_CODE.get(refused.code, grpc.StatusCode.INTERNAL), str(refused))

    def end(self, why: str) -> None:
        """Break it off: the client learns that it failed, and that nobody refused."""
        self._end(grpc.StatusCode.UNKNOWN, why)

    def _end(self, status: Any, details: str) -> None:
        self.context.set_code(status)
        self.context.set_details("".join(c if c.isprintable() else "?" for c in details[:256]))
        self.send(None)


def _parts(io: DiskIO, files: list[FileSpan], buffer: memoryview, size: ChunkSize) -> Iterator[memoryview]:
    """The bytes of files in parts as large as `size` says when each is begun; a part is to be used before the
    next is asked for.

    Raises `OSError` when a file cannot be read or became shorter.
    """
    want, filled = size.bytes, 0
    for file in files:
        at = 0
        while at < file.length:
            count = io.pread_into(
                file.fd, buffer[filled : min(want, filled + file.length - at)], file.offset + at
            )
            if not count:
                raise OSError(errno.EIO, "a shared file became shorter")
            at += count
            filled += count
            if filled == want:
                yield buffer[:filled]
                want, filled = size.bytes, 0
    if filled:
        yield buffer[:filled]
