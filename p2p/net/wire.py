"""One TCP connection and its conversation: the four steps that every peer connection goes through.

The socket is ours alone (no asyncio stream owns it), so that a block can be received straight into its buffer
and sent straight from its file. Lines are written by the loop. File spans, and the lines before them, are
written by a worker thread, since reading a file that is not in memory would stop the loop.

Reads and writes are tried before they are waited for: most of what is read is there already, and to set a
timer and watch a socket for nothing costs more than the rest of a small block.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address, FileSpan, PeerId, canonical_host
from p2p.net.dial import reason_of
from p2p.net.threads import in_thread
from p2p.protocol.peer_messages import Request
from p2p.protocol.session import Chunk, Event, Session
from p2p.storage.disk import no_room
from p2p.storage.disk_io import DiskIO, send_bytes

LINE_TIME: Final = 10.0
"""Seconds from the first byte of a line to its last, and from the connection to its first line (libtorrent
and websockets: 10 s)."""
STALL_TIME: Final = 20.0
"""Seconds without a byte, while bytes are due, after which a connection is given up."""
_READ: Final = 65_536
_SLICE: Final = 65_536
"""Bytes of which some must move within a `STALL_TIME`."""

WireTrace = Callable[[str, str, bytes], None]
"""Told of each control line: `sent` or `received`, the other side's address, the line."""


class Wire:
    """A connected, non-blocking socket and the `Session` on it. Safe for one reader and many writers in one
    loop."""

    def __init__(
        self,
        sock: socket.socket,
        ops: Mapping[str, type[Request]],
        io: DiskIO,
        *,
        senders: Executor | None = None,
        trace: WireTrace | None = None,
        read_size: int = _READ,
    ) -> None:
        """`ops` are the requests understood here; `senders` are the threads that send files, for a wire that
        does.

        Raises `OSError`, and closes `sock`, when the other side has hung up already.
        """
        try:
            remote = sock.getpeername()
        except OSError:
            sock.close()
            raise
        self.remote = Address(canonical_host(remote[0]), remote[1])
        other = str(self.remote)
        self.session = Session(
            ops, None if trace is None else lambda direction, line: trace(direction, other, line)
        )
        self.peer: PeerId | None = None
        """Who the other side says it is; None is nobody."""
        self.heard = False
        """Whether a whole line has come."""
        self._moved_at = float("-inf")
        self._sock = sock
        self._io = io
        self._senders = senders
        self._read_size = read_size
        self._writing = asyncio.Lock()
        self._line_due: float | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self._closed

    @property
    def moved_at(self) -> float:
        """When the last bytes came, in seconds of the loop's clock. Not kept where blocks are received: those
        have times of their own."""
        return self._moved_at

    async def next_event(self, idle: float | None = None) -> Event:
        """Wait for what happens next. Raises `TimeoutError` after `idle` seconds without one, or when a line
        takes too long to come."""
        loop = asyncio.get_running_loop()
        until = None if idle is None else loop.time() + idle
        while (event := self.session.next_event()) is None:
            if self.session.partial:
                self._line_due = self._line_due or loop.time() + LINE_TIME
                until = self._line_due if until is None else min(until, self._line_due)
            try:
                data = self._sock.recv(self._read_size)
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout_at(until):
                    data = await loop.sock_recv(self._sock, self._read_size)
            if idle is not None:
                self._moved_at = loop.time()
            self.session.receive_data(data)
        self._line_due = None
        self.heard = True
        return event

    async def read_body_into(self, view: memoryview) -> None:
        """Fill `view` with the body that follows. Raises `ConnectionError` when it ends early, `TimeoutError`
        when it stalls."""
        loop = asyncio.get_running_loop()
        held = self.session.take_body(len(view))
        view[: len(held)] = held
        got = len(held)
        while got < len(view):
            try:
                count = self._sock.recv_into(view[got:])
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(STALL_TIME):
                    count = await loop.sock_recv_into(self._sock, view[got:])
            if not count:
                raise ConnectionResetError("the other side hung up in the middle of a block")
            self.session.body_arrived(count)
            got += count

    async def read_body(self) -> bytes:
        """Read all of the body that follows; memory grows with what comes, never with what was announced."""
        loop = asyncio.get_running_loop()
        parts = [self.session.take_body()]
        while self.session.body_missing:
            async with asyncio.timeout(STALL_TIME):
                part = await loop.sock_recv(self._sock, min(self.session.body_missing, 262_144))
            if not part:
                raise ConnectionResetError("the other side hung up in the middle of a body")
            self._moved_at = loop.time()
            self.session.body_arrived(len(part))
            parts.append(part)
        return b"".join(parts)

    async def skip_body(self) -> None:
        """Read the body that follows, and forget it."""
        loop = asyncio.get_running_loop()
        self.session.take_body()
        while self.session.body_missing:
            async with asyncio.timeout(STALL_TIME):
                part = await loop.sock_recv(self._sock, min(self.session.body_missing, _READ))
            if not part:
                raise ConnectionResetError("the other side hung up in the middle of a body")
            self.session.body_arrived(len(part))

    async def send(self, chunks: Sequence[Chunk], pace: Callable[[int], None] | None = None) -> None:
        """Write chunks, whole and in order. Raises `OSError` (`TimeoutError` is one) when the other side is
        gone, `DiskError` for a file.

        What fails or is cancelled half way hangs up: the other side could not tell where the next line
        begins. Raises `Refused` before the first byte, so that it may be told, when this side has no thread
        or no descriptor for files now.
        """
        async with self._writing:
            if self._closed:
                raise ConnectionAbortedError("this connection was closed")
            try:
                lines = [chunk for chunk in chunks if not isinstance(chunk, FileSpan)]
                if len(lines) < len(chunks):
                    await self._send_in_thread(chunks, pace)
                    return
                for line in lines:
                    await self._send_bytes(line)
            except Refused:
                raise
            except BaseException:
                self.close()
                raise

    async def _send_in_thread(self, chunks: Sequence[Chunk], pace: Callable[[int], None] | None) -> None:
        if self._senders is None:
            raise ConnectionAbortedError("this connection sends no files")

        def work() -> None:
            for number, chunk in enumerate(chunks):
                try:
                    if isinstance(chunk, FileSpan):
                        self._io.send_span(self._sock, chunk, STALL_TIME, pace)
                    else:
                        send_bytes(self._sock, chunk, STALL_TIME)
                except OSError as error:
                    # Both begin with a descriptor of their own, and send nothing without one.
                    if number == 0 and no_room(error):
                        raise Refused(
                            "busy", "this side has too many open files now; ask again later"
                        ) from error
                    raise

        # A cancel closes the socket, which ends the send at once.
        await in_thread(self._senders, work, self.close)

    async def _send_bytes(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            part = rest[:_SLICE]
            try:
                sent = self._sock.send(part)
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(STALL_TIME):
                    await asyncio.get_running_loop().sock_sendall(self._sock, part)
                sent = len(part)
            rest = rest[sent:]

    def close(self) -> None:
        """Hang up; what is being read or written on it fails."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        # Whoever waits on the socket is woken by the shutdown in the next round, and stops watching its
        # number in the one after that. Only then may the number be free for another connection.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, loop.call_soon, self._sock.close)


def broken(error: BaseException, whom: object) -> Unreachable:
    """The error for a connection that failed while it was used."""
    if isinstance(error, Unreachable):
        return error
    why = str(error) if isinstance(error, ProtocolError) else reason_of(error)
    return Unreachable(f"connection to {whom} broke: {why}")


def let_go(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for this answer any more: an error that stands in its place already, or would later, is no
    error that nobody saw."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()
