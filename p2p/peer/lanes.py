"""Lanes to peers: which transport to take, one lane a peer, opened when first needed and opened again when it broke."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from p2p.errors import Unreachable
from p2p.model import PeerId
from p2p.peer.links import Link
from p2p.peer.transport import Lane, Transport


class Lanes:
    """The lanes of this peer. `transports` are in the order they are preferred in."""

    def __init__(self, transports: Sequence[Transport], me: PeerId) -> None:
        self._transports = transports
        self._me = me
        self._lanes: dict[PeerId, asyncio.Task[tuple[str, Lane]]] = {}
        self._failed: dict[PeerId, set[str]] = {}
        """Transports that a peer offered and that did not work; not tried again while the peer is linked."""

    async def get(self, link: Link) -> tuple[str, Lane]:
        """Return the name of the transport and the lane to a peer. Raises `Unreachable`."""
        task = self._lanes.get(link.peer)
        if task is None:
            task = self._lanes[link.peer] = asyncio.create_task(self._open(link))
        try:
            return await asyncio.shield(task)
        except Unreachable:
            if self._lanes.get(link.peer) is task:
                del self._lanes[link.peer]
            raise

    async def broke(self, peer: PeerId, transport: str) -> None:
        """A lane failed while it was used: the next `get` opens another, by another transport if there is one."""
        if transport != self._transports[-1].name:
            self._failed.setdefault(peer, set()).add(transport)
        await self.close(peer)

    async def close(self, peer: PeerId) -> None:
        """Close the lane to a peer, if there is one."""
        task = self._lanes.pop(peer, None)
        if task is None:
            return
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, tuple):
            await result[1].close()

    async def close_all(self) -> None:
        """Close every lane."""
        for peer in list(self._lanes):
            await self.close(peer)

    def forget(self, peer: PeerId) -> None:
        """A peer is gone; should it come back, all its transports are tried again."""
        self._failed.pop(peer, None)

    async def _open(self, link: Link) -> tuple[str, Lane]:
        fault = Unreachable(f"{link.name} offers no transport that we speak")
        for transport in self._transports:
            if transport.name not in link.listen or transport.name in self._failed.get(link.peer, ()):
                continue
            try:
                return transport.name, await transport.connect(link.address(transport.name), self._me)
            except Unreachable as error:
                fault = error
                self._failed.setdefault(link.peer, set()).add(transport.name)
        self._failed.pop(link.peer, None)
        raise fault
