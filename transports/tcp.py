"""Blocks over TCP: a request line, an answer line, then the bytes, from file to socket and from socket to
buffer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, PeerId, is_loopback
from p2p.net.acceptor import Acceptor, listening
from p2p.net.dial import dial, prepare
from p2p.net.wire import Wire, WireTrace, broken
from p2p.peer.conversation import converse
from p2p.peer.transport import BlockSource, Control, DataConnectionClosed, DataConnectionRefused
from p2p.protocol.codec import by_op, encode_error
from p2p.protocol.peer_messages import PEER_OPS, VERSION, Hello, HelloAnswer, Read, ReadAnswer
from p2p.protocol.session import Answered, BadRequest
from p2p.storage.disk_io import DiskIO

CONNECTIONS: Final = 1024
"""Connections that one door holds open in all; over it, one that has said nothing yet gives way, or the
newcomer is told `busy`."""
CONNECTIONS_OF_ONE: Final = 128
"""The same from one host; loopback, where many peers share a host, may have them all."""
BACKLOG: Final = 512
SILENT_TIME: Final = 0.1
"""Seconds that a connection may say nothing before it gives way where there is no room for another: so many a
tenth of a second as there are places can be let in. With a whole second, a client beside a crowd of 10,000
that came in four was told `busy` one time in fourteen."""
TELL_EVERY: Final = 10.0
"""Seconds between two lines of log about the same trouble."""
SENDERS: Final = 80
"""Threads that send files, at most; each starts when needed. The source admits few at once, and who takes no
bytes holds one for long."""

log = logging.getLogger(__name__)


class TcpTransport:
    """The transport that every peer speaks. `trace` is told of each control line: direction, other side,
    line."""

    name = "tcp"

    def __init__(self, io: DiskIO, trace: WireTrace | None = None) -> None:
        self._io = io
        self._trace = trace

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
        return TcpListener(socks, source, control, self._io, self._trace)

    async def connect(self, address: Address, me: PeerId | None = None) -> TcpDataConnection:
        """Dial a peer and say who we are, without waiting for its answer."""
        sock = await dial(address)
        try:
            lane = TcpDataConnection(sock, self._io, self._trace)
        except OSError as error:
            raise broken(error, f"peer {address}") from error
        if me is not None:
            lane.introduce(me)
        return lane


class TcpListener:
    """An open door: accepts, and holds one task a connection."""

    def __init__(
        self,
        socks: Sequence[socket.socket],
        source: BlockSource,
        control: Control | None,
        io: DiskIO,
        trace: WireTrace | None,
    ) -> None:
        self.port: int = socks[0].getsockname()[1]
        """The port that is listened on."""
        self._source = source
        self._control = control
        self._io = io
        self._trace = trace
        self._senders = ThreadPoolExecutor(SENDERS, thread_name_prefix="send")
        self._open: dict[asyncio.Task[None], _Caller] = {}
        self._told_at = -TELL_EVERY
        self._acceptors = [Acceptor(sock, self._welcome, self._refused) for sock in socks]

    def _refused(self, error: OSError) -> None:
        # Out of descriptors or memory: what is open goes on, and a newcomer waits in the queue until some are
        # free again.
        self._give_way()
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY:
            self._told_at = now
            log.warning("cannot accept connections now: %s", error.strerror or error)

    def _welcome(self, sock: socket.socket, host: str) -> None:
        try:
            self._admit(sock, host)
        except OSError:  # it is gone already
            sock.close()

    def _admit(self, sock: socket.socket, host: str) -> None:
        prepare(sock)
        # Those who give way are counted until they have gone.
        of_one = sum(1 for other in self._open.values() if other.host == host)
        limit = CONNECTIONS if is_loopback(host) else CONNECTIONS_OF_ONE
        room = self._give_way(host) if of_one >= limit else len(self._open) < CONNECTIONS or self._give_way()
        if not room:
            with contextlib.suppress(OSError):
                sock.send(encode_error(Refused("busy", "too many connections")))
            sock.close()
            return
        wire = Wire(sock, by_op(PEER_OPS), self._io, senders=self._senders, trace=self._trace)
        task = converse(wire, self._source, self._control)
        self._open[task] = _Caller(host, wire, time.monotonic())
        task.add_done_callback(self._left)

    def _give_way(self, host: str = "") -> bool:
        """Hang up on the one, of a host if one is named, that has said nothing for longest, if that is long;
        says whether there was one."""
        until = time.monotonic() - SILENT_TIME
        for task, other in self._open.items():
            if other.since > until:
                return False
            if not other.wire.heard and not other.wire.closed and host in ("", other.host):
                other.wire.close()
                task.cancel()
                return True
        return False

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection ended by a fault of ours", exc_info=task.exception())

    async def close(self) -> None:
        """Close the door and all connections that came through it."""
        for acceptor in self._acceptors:
            acceptor.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._senders.shutdown(wait=False)


@dataclass(frozen=True, slots=True)
class _Caller:
    """A connection that came through the door: from where, and when."""

    host: str
    wire: Wire
    since: float


@dataclass(slots=True)
class _Waiting:
    """A block asked for: where it goes (None: nobody wants it any more) and who waits for it."""

    into: memoryview | None
    done: asyncio.Future[None]


class TcpDataConnection:
    """One connection on which blocks are asked for; answers come in the order of the questions."""

    def __init__(self, sock: socket.socket, io: DiskIO, trace: WireTrace | None) -> None:
        # A small read takes the answer's line and leaves nearly all of the block for `recv_into`.
        self._wire = Wire(sock, {}, io, trace=trace, read_size=1024)
        self._waiting: dict[int, _Waiting] = {}
        self._outbox: deque[bytes] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._reading_into: _Waiting | None = None
        self._fault: Unreachable | DataConnectionRefused | None = None
        self._reader = asyncio.create_task(self._read())

    def introduce(self, me: PeerId) -> None:
        """Say who asks, so that the other side can share its uploads fairly."""
        _, line = self._wire.session.ask(Hello(version=VERSION, peer=me))
        self._post(line)

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        """Fill `into` with the block. Raises `Refused`, `Unreachable` (`DataConnectionClosed` is one),
        `ProtocolError`."""
        if isinstance(self._fault, DataConnectionRefused):
            raise DataConnectionRefused(self._fault.code, str(self._fault))
        if self._fault is not None:
            raise DataConnectionClosed(str(self._fault))
        seq, line = self._wire.session.ask(
            Read(id=content, piece=span.piece, offset=span.offset, length=span.length)
        )
        waiting = self._waiting[seq] = _Waiting(into, asyncio.get_running_loop().create_future())
        self._post(line)
        try:
            await waiting.done
        except asyncio.CancelledError:
            waiting.into = None
            if self._reading_into is waiting:
                # Half of it may be in the caller's buffer, and more would follow: only hanging up makes the
                # buffer safe to reuse.
                await self.close()
            raise

    async def close(self) -> None:
        """Hang up; what is under way raises `DataConnectionClosed`."""
        self._fail(DataConnectionClosed(f"connection to {self._wire.remote} was closed"))
        if self._reader is not asyncio.current_task():
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def _post(self, line: bytes) -> None:
        self._outbox.append(line)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while self._outbox:
                lines = b"".join(self._outbox)
                self._outbox.clear()
                await self._wire.send([lines])
        except OSError as error:
            # It is hung up now, and what the other side said before that, above all that it is busy, says
            # more than that it did.
            await asyncio.wait([self._reader])
            self._fail(broken(error, self._wire.remote))
        finally:
            self._flushing = None

    async def _read(self) -> None:
        try:
            while True:
                await self._hear()
        except DataConnectionRefused as refused:
            self._fail(refused)
        except (OSError, ProtocolError, Unreachable) as error:
            self._fail(broken(error, self._wire.remote))
        finally:
            self._fail(Unreachable(f"connection to {self._wire.remote} was closed"))

    async def _hear(self) -> None:
        event = await self._wire.next_event()
        if isinstance(event, BadRequest):
            raise event.error
        if not isinstance(event, Answered) or event.seq is None:
            refused = (
                event.answer if isinstance(event, Answered) and isinstance(event.answer, Refused) else None
            )
            if refused is not None and refused.code in ("busy", "unavailable"):
                raise DataConnectionRefused(refused.code, str(refused))
            raise Unreachable(
                f"{self._wire.remote} ended the connection{': ' + str(refused) if refused else ''}"
            )
        waiting = self._waiting.pop(event.seq, None)
        if waiting is None:
            if isinstance(event.answer, (HelloAnswer, Refused)):
                return
            raise ProtocolError("bad_field", "seq: answers nothing that was asked", fatal=True)
        if isinstance(event.answer, Refused):
            if not waiting.done.done():
                waiting.done.set_exception(event.answer)
            return
        await self._receive(waiting, event)

    async def _receive(self, waiting: _Waiting, event: Answered) -> None:
        into = waiting.into
        if into is None:
            await self._wire.skip_body()
            return
        self._reading_into = waiting
        try:
            if not isinstance(event.answer, ReadAnswer) or event.body != len(into):
                raise ProtocolError(
                    "bad_body", f"body: {len(into)} bytes were asked for, {event.body} announced", fatal=True
                )
            await self._wire.read_body_into(into)
        except (OSError, ProtocolError) as error:
            if not waiting.done.done():
                waiting.done.set_exception(
                    error if isinstance(error, ProtocolError) else broken(error, self._wire.remote)
                )
            raise
        finally:
            self._reading_into = None
            if not waiting.done.done() and self._wire.closed:
                waiting.done.set_exception(
                    self._fault or DataConnectionClosed(f"connection to {self._wire.remote} was closed")
                )
        if not waiting.done.done():
            waiting.done.set_result(None)

    def _fail(self, error: Unreachable | DataConnectionRefused) -> None:
        if self._fault is not None:
            return
        self._fault = error
        self._wire.close()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.done.done():
                one.done.set_exception(error)
