"""Blocks without sockets: a real transport inside one process, for tests and for teaching.

A "network" is a table from port to listener that the transports of one process share. Host names mean nothing
in it.
"""

from __future__ import annotations

import asyncio

from p2p.errors import ProtocolError, Unreachable
from p2p.model import Address, BlockSpan, ContentId, FileSpan, PeerId, client_id
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.wire import WireTrace
from p2p.peer.transport import BlockSource, Control, DataConnectionClosed
from p2p.storage.disk_io import DiskIO


class MemoryTransport:
    """Moves blocks by reading the source's files straight into the buffer of the fetch."""

    name = "memory"

    def __init__(
        self,
        io: DiskIO,
        trace: WireTrace | None = None,
        network: dict[int, MemoryListener] | None = None,
        *,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        """Nothing is waited for here and no line is sent, so `trace`, `timeouts` and `limits` have no use."""
        self._io = io
        self._network: dict[int, MemoryListener] = {} if network is None else network

    async def listen(
        self, source: BlockSource, address: Address, control: Control | None = None
    ) -> MemoryListener:
        """Serve blocks at a port of this network. Raises `OSError` when it is taken."""
        port = address.port or next(port for port in range(1024, 65536) if port not in self._network)
        if port in self._network:
            raise OSError(f"port {port} is taken")
        listener = self._network[port] = MemoryListener(port, source, self._network)
        return listener

    async def connect(self, address: Address, me: PeerId | None = None) -> MemoryDataConnection:
        """Reach a listener of this network."""
        listener = self._network.get(address.port)
        if listener is None:
            raise Unreachable(f"peer {address} cannot be reached: nobody listens")
        return MemoryDataConnection(listener, client_id(me, address.host), self._io)


class MemoryListener:
    """A port of this process on which blocks are served."""

    def __init__(self, port: int, source: BlockSource, network: dict[int, MemoryListener]) -> None:
        self.port = port
        self.source = source
        self.connections: set[MemoryDataConnection] = set()
        self._network = network

    async def close(self) -> None:
        """Stop listening, and close all connections that came in."""
        self._network.pop(self.port, None)
        for connection in list(self.connections):
            await connection.close()


class MemoryDataConnection:
    """A way to one listener. Fetches are served one after the other, as on a connection."""

    def __init__(self, listener: MemoryListener, client: str, io: DiskIO) -> None:
        self._listener = listener
        self._client = client
        self._io = io
        self._in_order = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False
        listener.connections.add(self)

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        """Fill `into` with the block. Raises `Refused`, `Unreachable` (`DataConnectionClosed` is one),
        `ProtocolError`."""
        if self._closed:
            raise DataConnectionClosed("the data connection was closed")
        task = asyncio.create_task(self._move(content, span, into))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if task.cancelled() and me is not None and not me.cancelling():
                raise DataConnectionClosed("the data connection was closed") from None
            task.cancel()
            await asyncio.wait([task])
            raise

    async def close(self) -> None:
        """End it; what is under way raises `DataConnectionClosed`."""
        self._closed = True
        self._listener.connections.discard(self)
        for task in list(self._under_way):
            task.cancel()

    async def _move(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        source = self._listener.source
        async with self._in_order, source.blocks(self._client, content, [span]) as (files,):
            size = sum(file.length for file in files)
            if size != len(into):
                raise ProtocolError(
                    "bad_body", f"body: {len(into)} bytes were asked for, {size} announced", fatal=True
                )
            got = 0
            for file in files:
                got += await self._copy(file, into[got:])

    async def _copy(self, file: FileSpan, into: memoryview) -> int:
        got = 0
        while got < file.length:
            window = into[got : file.length]
            try:
                count = self._io.pread_into(file.fd, window, file.offset + got)
            except OSError as error:
                raise Unreachable("the other side cannot read its file") from error
            if not count:
                raise Unreachable("the other side's file became shorter")
            got += count
            await asyncio.to_thread(self._listener.source.throttle, count, self._client)
        return got
