"""A pool of data connections: one for each peer, over the best transport that works, opened when it is first
needed and again after it closed.

Which transport is taken:

- The transports are tried in the order of this peer's preference, as far as the other side offers them.
- One that could not be reached, or broke while it was used, has *failed* for that peer. It is not tried again
  while the control connection lasts, unless all have failed.
- One over which nothing came until the fetch was cancelled was *silent* (`Timeouts.silent_s`), and counts as
  failed. The last transport of the order never counts as failed while it is used.
- A connection that closed on this side, or because the other side is busy, has not failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from p2p.errors import ProtocolError, Unreachable
from p2p.model import BlockSpan, ContentId, PeerId, PeerKey
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.peer.control import ControlConnection
from p2p.peer.transport import DataConnection, DataConnectionClosed, DataConnectionRefused, Transport

_Opening = asyncio.Task[tuple[str, DataConnection]]
"""A data connection that is open or being opened, and the name of its transport."""


class DataPool:
    """The data connections of this peer."""

    def __init__(
        self,
        transports: Sequence[Transport],
        me: Callable[[], PeerId],
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        """`transports` are in the order of preference. `me` is this peer's id now."""
        self._transports = transports
        self._me = me
        self._timeouts = timeouts
        self._limits = limits
        self._open: dict[PeerKey, _Opening] = {}
        self._failed: dict[PeerKey, set[str]] = {}
        self._moved_at: dict[PeerKey, float] = {}
        """When each peer last brought a block."""
        self._closing: dict[_Opening, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """Connections that are open, being opened or being closed."""
        return len(self._open) + len(self._closing)

    def knows(self, peer: PeerKey) -> bool:
        """Whether anything is kept about a peer."""
        return any(peer in kept for kept in (self._open, self._failed, self._moved_at))

    def failed(self, peer: PeerKey) -> frozenset[str]:
        """The transports that have failed for a peer."""
        return frozenset(self._failed.get(peer, ()))

    async def fetch(
        self, connection: ControlConnection, content: ContentId, span: BlockSpan, into: memoryview
    ) -> str:
        """Fill `into` with a block of a peer; returns the transport by which it came. Raises as
        `DataConnection.fetch`."""
        key, clock = connection.key, asyncio.get_running_loop().time
        began = clock()
        closed, brought = 0, self._moved_at.get(key)
        while True:
            if connection.closed:
                raise DataConnectionClosed(f"the control connection to {connection.name} is closed")
            task = self._task(connection)
            name, data = await self._opened(key, task)
            try:
                await data.fetch(content, span, into)
            except DataConnectionClosed:
                # Another fetch was cancelled, or the connection had been idle for too long: not this peer's
                # fault, unless it happens again.
                await self._close(key, task)
                before, brought = brought, self._moved_at.get(key)
                closed = closed + 1 if brought == before else 1
                if closed >= self._limits.closed_in_a_row:
                    self._note_failed(connection, name)
                    raise
            except DataConnectionRefused:
                await self._close(key, task)
                raise
            except (Unreachable, ProtocolError):
                self._note_failed(connection, name)
                await self._close(key, task)
                raise
            except asyncio.CancelledError:
                silent = clock() - max(began, self._moved_at.get(key, began))
                if silent >= self._timeouts.silent_s and name != self._transports[-1].name:
                    self._note_failed(connection, name)
                    await self._close(key, task)
                raise
            else:
                if not connection.closed:
                    self._moved_at[key] = clock()
                return name

    async def close(self, peer: PeerKey) -> None:
        """Close the connection to a peer, if there is one."""
        task = self._open.get(peer)
        if task is not None:
            await self._close(peer, task)

    async def close_all(self) -> None:
        """Close every connection, and wait for those that are being closed."""
        for peer, task in list(self._open.items()):
            self._close_soon(peer, task)
        while self._closing:
            await asyncio.wait(list(self._closing.values()))

    def forget(self, peer: PeerKey) -> None:
        """A peer has no control connection any more. Its data connection is closed: a peer that comes and
        goes under new ids would fill this side with them. If it comes back, all its transports are tried
        again."""
        task = self._open.get(peer)
        if task is not None:
            self._close_soon(peer, task)
        self._failed.pop(peer, None)
        self._moved_at.pop(peer, None)

    def _note_failed(self, connection: ControlConnection, transport: str) -> None:
        """Try another transport from now on, unless this is the last. Nothing is noted of a peer that has
        left."""
        if transport != self._transports[-1].name and not connection.closed:
            self._failed.setdefault(connection.key, set()).add(transport)

    def _task(self, connection: ControlConnection) -> _Opening:
        """The data connection to a peer, open or being opened."""
        key = connection.key
        task = self._open.get(key)
        if task is None:
            task = self._open[key] = asyncio.create_task(self._connect(connection))
            task.add_done_callback(lambda task: self._drop_failed(key, task))
        return task

    @staticmethod
    async def _opened(peer: PeerKey, task: _Opening) -> tuple[str, DataConnection]:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if task.cancelled() and me is not None and not me.cancelling():
                raise Unreachable(
                    f"the data connection to {peer[:8]} was closed before it was open"
                ) from None
            raise

    def _drop_failed(self, peer: PeerKey, task: _Opening) -> None:
        """A connection that could not be opened is tried anew by the next fetch."""
        if (task.cancelled() or task.exception() is not None) and self._open.get(peer) is task:
            del self._open[peer]

    async def _close(self, peer: PeerKey, task: _Opening) -> None:
        """Close one connection, and wait for it; a newer one to the same peer stays."""
        await asyncio.shield(self._close_soon(peer, task))

    def _close_soon(self, peer: PeerKey, task: _Opening) -> asyncio.Task[None]:
        """Close one connection in a task of its own, so that it is closed also when the fetch that waits for
        that is cancelled."""
        if self._open.get(peer) is task:
            del self._open[peer]
        closing = self._closing.get(task)
        if closing is None:
            task.cancel()
            closing = self._closing[task] = asyncio.create_task(_closed(task))
            closing.add_done_callback(lambda _: self._closing.pop(task))
        return closing

    async def _connect(self, connection: ControlConnection) -> tuple[str, DataConnection]:
        fault = Unreachable(f"{connection.name} offers no transport that we speak")
        for transport in self._transports:
            name = transport.name
            if name not in connection.listen or name in self._failed.get(connection.key, ()):
                continue
            try:
                return name, await transport.connect(connection.address(name), self._me())
            except Unreachable as error:
                fault = error
                if not connection.closed:
                    self._failed.setdefault(connection.key, set()).add(name)
        self._failed.pop(connection.key, None)
        raise fault


async def _closed(opening: _Opening) -> None:
    """Wait for the end of an opening, and close what came of it."""
    await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        await opening.result()[1].close()
