"""Lanes to peers: which transport to take, one lane a peer, opened when first needed and opened again when it
broke."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from p2p.errors import ProtocolError, Unreachable
from p2p.model import BlockSpan, ContentId, PeerId, PeerKey
from p2p.peer.control import ControlConnection
from p2p.peer.transport import DataConnection, DataConnectionClosed, DataConnectionRefused, Transport

SILENT_TIME: Final = 10.0
"""A fetch that is called off after so long without any block from its peer speaks against the transport: the
next one tries another. To be wrong costs little, for a peer that is only slow is so over any transport."""
ENDS: Final = 3
"""Lanes that may end under one fetch, one after the other, although nothing came from their peer meanwhile.
One ends by nobody's fault, as after ninety idle seconds, and the next is opened at once; a peer that accepts
and hangs up would be dialled thousands of times a second."""

_Opening = asyncio.Task[tuple[str, DataConnection]]


class DataPool:
    """The lanes of this peer, which says it is `me`. `transports` are in the order they are preferred in."""

    def __init__(self, transports: Sequence[Transport], me: PeerId) -> None:
        self._transports = transports
        self.me = me
        self._lanes: dict[PeerKey, _Opening] = {}
        self._failed: dict[PeerKey, set[str]] = {}
        """Transports that a peer offered and that did not work; not tried again while the peer is linked."""
        self._moved_at: dict[PeerKey, float] = {}
        """When each peer last brought a block."""
        self._ending: dict[_Opening, asyncio.Task[None]] = {}
        """Lanes that are being closed."""

    async def fetch(
        self, link: ControlConnection, content: ContentId, span: BlockSpan, into: memoryview
    ) -> str:
        """Fill `into` with a block of a peer; returns the transport by which it came. Raises as
        `DataConnection.fetch` does."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends, brought = 0, self._moved_at.get(link.key)
        while True:
            if link.wire.closed:
                raise DataConnectionClosed(f"the link to {link.name} is closed")
            task = self._task(link)
            name, lane = await self._opened(link.key, task)
            try:
                await lane.fetch(content, span, into)
            except DataConnectionClosed:
                # Another fetch was called off, or the lane had been idle for too long: not this peer's fault,
                # unless it happens again.
                await self._end(link.key, task)
                before, brought = brought, self._moved_at.get(link.key)
                ends = ends + 1 if brought == before else 1
                if ends >= ENDS:
                    self._works_not(link, name)
                    raise
            except DataConnectionRefused:
                await self._end(link.key, task)
                raise
            except (Unreachable, ProtocolError):
                self._works_not(link, name)
                await self._end(link.key, task)
                raise
            except asyncio.CancelledError:
                silent = loop.time() - max(began, self._moved_at.get(link.key, began))
                if silent >= SILENT_TIME and name != self._transports[-1].name:
                    self._works_not(link, name)
                    await self._end(link.key, task)
                raise
            else:
                if not link.wire.closed:
                    self._moved_at[link.key] = loop.time()
                return name

    async def close(self, peer: PeerKey) -> None:
        """Close the lane to a peer, if there is one."""
        task = self._lanes.get(peer)
        if task is not None:
            await self._end(peer, task)

    async def close_all(self) -> None:
        """Close every lane, and wait for those that are being closed."""
        for peer, task in list(self._lanes.items()):
            self._end_soon(peer, task)
        while self._ending:
            await asyncio.wait(list(self._ending.values()))

    def forget(self, peer: PeerKey) -> None:
        """A peer has no link any more: its lane is closed, or whoever comes and goes under new ids would fill
        this side with lanes. Should it come back, all its transports are tried again."""
        task = self._lanes.get(peer)
        if task is not None:
            self._end_soon(peer, task)
        self._failed.pop(peer, None)
        self._moved_at.pop(peer, None)

    def _works_not(self, link: ControlConnection, transport: str) -> None:
        """Try another transport from now on, unless this is the last; of a peer that has left nothing is
        noted."""
        if transport != self._transports[-1].name and not link.wire.closed:
            self._failed.setdefault(link.key, set()).add(transport)

    def _task(self, link: ControlConnection) -> _Opening:
        """The lane to a peer, open or being opened."""
        task = self._lanes.get(link.key)
        if task is None:
            task = self._lanes[link.key] = asyncio.create_task(self._open(link))
            task.add_done_callback(lambda task: self._forget_failed(link.key, task))
        return task

    @staticmethod
    async def _opened(peer: PeerKey, task: _Opening) -> tuple[str, DataConnection]:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if task.cancelled() and me is not None and not me.cancelling():
                raise Unreachable(f"the lane to {peer[:8]} was closed before it was open") from None
            raise

    def _forget_failed(self, peer: PeerKey, task: _Opening) -> None:
        """A lane that could not be opened is tried anew by the next fetch."""
        if (task.cancelled() or task.exception() is not None) and self._lanes.get(peer) is task:
            del self._lanes[peer]

    async def _end(self, peer: PeerKey, task: _Opening) -> None:
        """Close one lane, and wait for it; a newer one to the same peer stays."""
        await asyncio.shield(self._end_soon(peer, task))

    def _end_soon(self, peer: PeerKey, task: _Opening) -> asyncio.Task[None]:
        """Close one lane, in a task of its own: whoever waits for it may be called off, and the lane must not
        stay for that."""
        if self._lanes.get(peer) is task:
            del self._lanes[peer]
        ending = self._ending.get(task)
        if ending is None:
            task.cancel()
            ending = self._ending[task] = asyncio.create_task(_closed(task))
            ending.add_done_callback(lambda _: self._ending.pop(task))
        return ending

    async def _open(self, link: ControlConnection) -> tuple[str, DataConnection]:
        fault = Unreachable(f"{link.name} offers no transport that we speak")
        for transport in self._transports:
            if transport.name not in link.listen or transport.name in self._failed.get(link.key, ()):
                continue
            try:
                return transport.name, await transport.connect(link.address(transport.name), self.me)
            except Unreachable as error:
                fault = error
                if not link.wire.closed:
                    self._failed.setdefault(link.key, set()).add(transport.name)
        self._failed.pop(link.key, None)
        raise fault


async def _closed(opening: _Opening) -> None:
    """Wait for the end of what was opened, and close what came of it."""
    await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        await opening.result()[1].close()
