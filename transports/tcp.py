"""Blocks over TCP: a request line, an answer line, then the bytes, from file to socket and from socket to
buffer.

The listening port is shared: what is no request for a block goes to `Control`. A `TcpListener` admits and
serves connections; a `TcpDataConnection` asks for blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Final

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, PeerId
from p2p.net.acceptor import Acceptor, listening
from p2p.net.admission import Admission
from p2p.net.channel import RequestChannel
from p2p.net.dial import dial, prepare
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.sending import FileSender, SpanSender
from p2p.net.tasks import TaskSet
from p2p.net.wire import Wire, WireTrace, broken
from p2p.peer.conversation import converse
from p2p.peer.transport import BlockSource, Control, DataConnectionClosed, DataConnectionRefused
from p2p.protocol.codec import by_op, encode_error
from p2p.protocol.peer_messages import PEER_OPS, VERSION, Hello, Read

BACKLOG: Final = 512
LOG_PAUSE_S: Final = 10.0
"""Seconds between two log lines about the same trouble."""
HEADER_READ: Final = 1024
"""Bytes read at once while an answer is awaited. So small a read takes the answer's line and leaves nearly
all of the block to `recv_into`."""

log = logging.getLogger(__name__)


class TcpTransport:
    """The transport that every peer speaks. `trace` is called with each control line: direction, other side,
    line."""

    name = "tcp"

    def __init__(
        self,
        spans: SpanSender,
        trace: WireTrace | None = None,
        *,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        self._spans = spans
        self._trace = trace
        self._timeouts = timeouts
        self._limits = limits

    async def listen(
        self, source: BlockSource, address: Address, control: Control | None = None
    ) -> TcpListener:
        """Serve blocks, and control if given, at `address`. Raises `OSError` when it cannot be had.

        0.0.0.0 is every address of this machine, those of IPv6 too where there is any: a tracker may hand out
        whichever it saw.
        """
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, target = infos[0]
        socks = [listening(family, target, BACKLOG)]
        if address.host == "0.0.0.0":
            with contextlib.suppress(OSError):
                socks.append(listening(socket.AF_INET6, ("::", socks[0].getsockname()[1]), BACKLOG))
        return TcpListener(
            socks, source, control, self._spans, self._trace, timeouts=self._timeouts, limits=self._limits
        )

    async def connect(self, address: Address, me: PeerId | None = None) -> TcpDataConnection:
        """Dial a peer and say who we are, without waiting for its answer."""
        sock = await dial(address, timeouts=self._timeouts, limits=self._limits)
        try:
            return TcpDataConnection(sock, me, self._trace, timeouts=self._timeouts, limits=self._limits)
        except OSError as error:
            raise broken(error, f"peer {address}") from error


class TcpListener:
    """A listening port: admits connections, and serves each in a task of its own."""

    def __init__(
        self,
        socks: Sequence[socket.socket],
        source: BlockSource,
        control: Control | None,
        spans: SpanSender,
        trace: WireTrace | None,
        *,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        self.port: int = socks[0].getsockname()[1]
        """The port that is listened on."""
        self._source = source
        self._control = control
        self._trace = trace
        self._timeouts = timeouts
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._files = FileSender(spans, limits.data_threads)
        self._admission: Admission[socket.socket] = Admission(limits.connections)
        self._serving: dict[socket.socket, tuple[Wire, asyncio.Task[None]]] = {}
        self._tasks = TaskSet()
        self._logged_at = float("-inf")
        self._acceptors = [Acceptor(sock, self._on_accepted, self._on_accept_failed) for sock in socks]

    def __len__(self) -> int:
        """How many connections are served."""
        return len(self._serving)

    async def close(self) -> None:
        """Stop listening, and close all connections that came in."""
        for acceptor in self._acceptors:
            acceptor.close()
        await self._tasks.close()
        self._files.close()

    def _on_accepted(self, sock: socket.socket, host: str) -> None:
        try:
            prepare(sock)
        except OSError:  # the other side has hung up already
            sock.close()
            return
        verdict = self._admission.admit(sock, host, self._clock())
        self._hang_up(verdict.evicted)
        if verdict.admitted:
            try:
                self._serve(sock)
            except OSError:  # as above
                self._admission.on_closed(sock)
            return
        with contextlib.suppress(OSError):
            sock.send(encode_error(Refused("busy", "too many connections")))
        sock.close()

    def _serve(self, sock: socket.socket) -> None:
        wire = Wire(sock, by_op(PEER_OPS), timeouts=self._timeouts, files=self._files, trace=self._trace)
        task = converse(
            wire,
            self._source,
            self._control,
            self._timeouts,
            self._limits,
            on_active=lambda: self._admission.on_active(sock),
        )
        self._serving[sock] = wire, self._tasks.add(task)
        task.add_done_callback(lambda task: self._on_closed(sock, task))

    def _on_closed(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        del self._serving[sock]
        self._admission.on_closed(sock)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection ended by a fault of ours", exc_info=task.exception())

    def _hang_up(self, evicted: socket.socket | None) -> None:
        if evicted is not None:
            wire, task = self._serving[evicted]
            wire.close()
            task.cancel()

    def _on_accept_failed(self, error: OSError) -> None:
        """Out of descriptors or memory. What is open goes on, and a new connection waits in the backlog until
        some are free again."""
        now = self._clock()
        self._hang_up(self._admission.evict_idle(now))
        if now - self._logged_at >= LOG_PAUSE_S:
            self._logged_at = now
            log.warning("cannot accept connections now: %s", error.strerror or error)


class TcpDataConnection:
    """One connection on which blocks are asked for. Answers come in the order of the requests."""

    def __init__(
        self,
        sock: socket.socket,
        me: PeerId | None,
        trace: WireTrace | None = None,
        *,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        """`me` is said to the other side, so that it can share its uploads fairly. Raises `OSError`, and
        closes `sock`, when the other side has hung up already."""
        wire = Wire(sock, {}, timeouts=timeouts, trace=trace, read_size=HEADER_READ)
        self._channel = RequestChannel(
            wire, str(wire.remote), timeouts=timeouts, limits=limits, closed=DataConnectionClosed
        )
        self._reader = asyncio.create_task(self._read())
        if me is not None:
            _, line = wire.session.ask(Hello(version=VERSION, peer=me))
            self._channel.post(line)

    @property
    def ended(self) -> bool:
        """Whether it is over, for whatever reason."""
        return self._channel.fault is not None

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        """Fill `into` with the block. Raises `Refused`, `Unreachable` (`DataConnectionClosed` is one),
        `ProtocolError`."""
        fault = self._channel.fault
        if isinstance(fault, DataConnectionRefused):
            raise DataConnectionRefused(fault.code, str(fault))
        read = Read(id=content, piece=span.piece, offset=span.offset, length=span.length)
        try:
            await self._channel.fetch(read, into)
        except asyncio.CancelledError:
            if self.ended:
                await self.close()  # only then is the buffer written to no more
            raise

    async def close(self) -> None:
        """Hang up; what is under way raises `DataConnectionClosed`."""
        self._channel.close()
        if self._reader is not asyncio.current_task():
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        """Read answers until the connection ends, and tell all that wait why it did."""
        channel = self._channel
        try:
            await channel.read_answers()
            channel.end(Unreachable(f"{channel.name} ended the connection"))
        except Refused as refused:
            if refused.code in ("busy", "unavailable"):
                channel.end(DataConnectionRefused(refused.code, str(refused)))
            else:
                channel.end(Unreachable(f"{channel.name} ended the connection: {refused}"))
        except (OSError, ProtocolError) as error:
            channel.end(broken(error, channel.name))
        finally:
            channel.end(Unreachable(f"connection to {channel.name} was closed"))
