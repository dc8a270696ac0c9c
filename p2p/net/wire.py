"""One TCP connection and the `Session` on it: receives events, writes chunks, and gives up what stalls.

The socket belongs to this object alone (no asyncio stream owns it), so that a block can be received straight
into its buffer and sent straight from its file. The loop writes lines. A worker thread writes file spans, and
the lines before them, since reading a file that is not in memory would stop the loop.

Reads and writes are tried before they are waited for. Most of what is read is there already, and to set a
timer and watch a socket for nothing costs more than the rest of a small block.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address, FileSpan, PeerId, canonical_host
from p2p.net.dial import reason_of
from p2p.net.limits import TIMEOUTS, Timeouts
from p2p.net.readiness import Readiness
from p2p.net.sending import FileSender, OnSent
from p2p.protocol.peer_messages import Request
from p2p.protocol.session import Chunk, Event, Session

_READ: Final = 65_536
_BODY_READ: Final = 262_144
_SLICE: Final = 65_536
"""Bytes of which some must move within a stall timeout."""

WireTrace = Callable[[str, str, bytes], None]
"""Called with each control line: `sent` or `received`, the other side's address, the line."""


class Wire:
    """A connected, non-blocking socket and the `Session` on it. Safe for one reader and many writers in one
    loop. It is open until `close` is called, which a failed write does too."""

    def __init__(
        self,
        sock: socket.socket,
        ops: Mapping[str, type[Request]],
        *,
        timeouts: Timeouts = TIMEOUTS,
        files: FileSender | None = None,
        trace: WireTrace | None = None,
        read_size: int = _READ,
    ) -> None:
        """`ops` are the requests understood here. `files` are the threads that send files, on a connection
        that does. `read_size` is the number of bytes read at once while lines are awaited.

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
        self._sock = sock
        self._timeouts = timeouts
        self._files = files
        self._read_size = read_size
        self._writing = asyncio.Lock()
        self._readiness: Readiness | None = Readiness(sock)
        """None for a loop that watches no sockets."""
        self._drained = False
        """Whether the last read took all that was there, so that another would be in vain."""
        self._line_due: float | None = None
        self._moved_at = float("-inf")
        self._closed = False

    @property
    def peer(self) -> PeerId | None:
        """The id that the other side gave in its hello; None is nobody."""
        return self.session.peer

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self._closed

    @property
    def moved_at(self) -> float:
        """When the last bytes came, in seconds of the loop's clock. Not kept for blocks that are received
        into a buffer: those have times of their own."""
        return self._moved_at

    # -- receiving

    async def next_event(self, idle_s: float | None = None) -> Event:
        """Wait for what happens next. Raises `TimeoutError` after `idle_s` seconds without an event, or when
        a line takes too long to come."""
        loop = asyncio.get_running_loop()
        until = None if idle_s is None else loop.time() + idle_s
        while (event := self.session.next_event()) is None:
            if self.session.partial:
                self._line_due = self._line_due or loop.time() + self._timeouts.line_s
                until = self._line_due if until is None else min(until, self._line_due)
            data = await self._receive(until)
            self._moved_at = loop.time()
            self.session.receive_data(data)
        self._line_due = None
        return event

    async def _receive(self, until: float | None) -> bytes:
        """Return bytes that are here, or the next that come; none at the end of the stream. Raises
        `TimeoutError` at `until`."""
        wait = self._drained
        while True:
            if wait and self._readiness is not None:
                try:
                    await self._readiness.wait(until)
                except NotImplementedError:
                    self._readiness = None
            try:
                data = self._sock.recv(self._read_size)
            except (BlockingIOError, InterruptedError):
                if self._readiness is not None:
                    wait = True
                    continue
                async with asyncio.timeout_at(until):
                    data = await asyncio.get_running_loop().sock_recv(self._sock, self._read_size)
            self._drained = 0 < len(data) < self._read_size
            return data

    def _pause_readiness(self) -> None:
        """Let the loop's own calls read from the socket."""
        self._drained = False
        if self._readiness is not None:
            self._readiness.pause()

    async def read_body_into(self, view: memoryview) -> None:
        """Fill `view` with the body that follows. Raises `ConnectionError` when it ends early, `TimeoutError`
        when it stalls."""
        loop = asyncio.get_running_loop()
        self._pause_readiness()
        held = self.session.take_body(len(view))
        view[: len(held)] = held
        got = len(held)
        while got < len(view):
            try:
                count = self._sock.recv_into(view[got:])
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(self._timeouts.stall_s):
                    count = await loop.sock_recv_into(self._sock, view[got:])
            if not count:
                raise ConnectionResetError("the other side hung up in the middle of a block")
            self.session.body_arrived(count)
            got += count

    async def read_body(self) -> bytes:
        """Return the body that follows. Memory grows with what comes, never with what was announced. Raises
        as `read_body_into`."""
        parts = [self.session.take_body()]
        while self.session.body_missing:
            parts.append(await self._read_part())
        return b"".join(parts)

    async def skip_body(self) -> None:
        """Read the body that follows, and drop it. Raises as `read_body_into`."""
        self.session.take_body()
        while self.session.body_missing:
            await self._read_part()

    async def _read_part(self) -> bytes:
        loop = asyncio.get_running_loop()
        self._pause_readiness()
        async with asyncio.timeout(self._timeouts.stall_s):
            part = await loop.sock_recv(self._sock, min(self.session.body_missing, _BODY_READ))
        if not part:
            raise ConnectionResetError("the other side hung up in the middle of a body")
        self._moved_at = loop.time()
        self.session.body_arrived(len(part))
        return part

    # -- writing

    async def send(self, chunks: Sequence[Chunk], on_sent: OnSent | None = None) -> None:
        """Write chunks, whole and in order. Raises `OSError` (`TimeoutError` is one) when the other side is
        gone, `DiskError` for a file.

        A write that fails or is cancelled half way closes the connection, because the other side could not
        tell where the next line begins. Raises `Refused` before the first byte when this side has no thread
        or no descriptor for files now; the connection lives then, and the other side can be told.
        """
        async with self._writing:
            if self._closed:
                raise ConnectionAbortedError("this connection was closed")
            try:
                lines = [chunk for chunk in chunks if not isinstance(chunk, FileSpan)]
                if len(lines) < len(chunks):
                    if self._files is None:
                        raise ConnectionAbortedError("this connection sends no files")
                    # A cancel closes the socket, which ends the send at once.
                    await self._files.send(self._sock, chunks, self._timeouts.stall_s, on_sent, self.close)
                    return
                for line in lines:
                    await self._send_bytes(line)
            except Refused:
                raise
            except BaseException:
                self.close()
                raise

    async def _send_bytes(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            part = rest[:_SLICE]
            try:
                sent = self._sock.send(part)
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(self._timeouts.stall_s):
                    await asyncio.get_running_loop().sock_sendall(self._sock, part)
                sent = len(part)
            rest = rest[sent:]

    def close(self) -> None:
        """Hang up. What is being read or written on it fails."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        # A task that waits on the socket is woken by the shutdown in the next turn of the loop, and stops
        # watching the descriptor in the one after that. Closed earlier, the number could belong to another
        # connection by then.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, loop.call_soon, self._close_socket)

    def _close_socket(self) -> None:
        self._pause_readiness()
        self._sock.close()


def broken(error: BaseException, whom: object) -> Unreachable:
    """The error for a connection to `whom` that failed while it was used."""
    if isinstance(error, Unreachable):
        return error
    why = str(error) if isinstance(error, ProtocolError) else reason_of(error)
    return Unreachable(f"connection to {whom} broke: {why}")
