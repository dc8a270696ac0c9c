"""Brings a manifest that matches its id: looks for peers, asks them, and checks what comes.

Which peers are asked, and how many at once, is decided in `hedging.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from p2p.content.manifest import content_id, parse
from p2p.errors import EnjambreError, IntegrityError, ProtocolError, Refused, Unreachable
from p2p.model import ContentId, Manifest, PeerKey
from p2p.peer.control import ControlConnection, ControlConnections
from p2p.peer.finder import Finder
from p2p.peer.hedging import Hedging, Offer, SearchLimits
from p2p.storage.hashing import HashPool
from p2p.value import frozen


@frozen
class Found:
    """A manifest and its canonical bytes, checked against the id."""

    data: bytes
    manifest: Manifest


class _Unusable(IntegrityError):
    """The id is that of bytes that are no valid manifest, so that no peer can have another for it."""


class ManifestSearch:
    """The search for the manifest of one content."""

    def __init__(
        self,
        content: ContentId,
        controls: ControlConnections,
        pool: HashPool,
        finder: Finder,
        progress: Callable[[str], None],
        patience: float,
        rng: Random,
        limits: SearchLimits,
    ) -> None:
        """`progress` is told of each phase: searching, connecting.

        The search ends after `patience` seconds, or when the manifest that is coming then has come.
        """
        self.bad: dict[PeerKey, str] = {}
        """Peers that sent something else, and what: they are of no use for this content."""
        self._content = content
        self._controls = controls
        self._pool = pool
        self._finder = finder
        self._progress = progress
        self._patience = patience
        self._limits = limits
        self._hedging = Hedging(limits, rng)
        self._requests: dict[asyncio.Task[Found], ControlConnection] = {}
        self._lookups = 0
        self._asked_at: dict[PeerKey, int] = {}
        """The number of the lookup before each peer was asked. It is asked again after the next one."""
        self._slow: set[PeerKey] = set()
        """Peers that were given up while they sent; others were faster."""
        self._refused: dict[PeerKey, str] = {}
        self._corrupt = False

    async def run(self, first: ControlConnection | None = None) -> Found:
        """Bring the manifest, from `first` if that has it. Raises `NotFound`, `Unreachable`,
        `IntegrityError`, `Refused`."""
        self._progress("searching")
        if first is not None:
            try:
                return await self._fetch(first)
            except _Unusable:
                raise
            except EnjambreError:
                pass  # others may have it
        until = asyncio.get_running_loop().time() + self._patience
        await self._look()
        self._progress("connecting")
        looking = asyncio.create_task(self._look_again(until))
        try:
            found = await self._ask_peers(looking, until)
            if found is not None:
                return found
            if looking.done():
                looking.result()  # raises, if the tracker had no answer
        finally:
            tasks = [looking, *self._requests]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._corrupt:
            raise IntegrityError(
                f"no peer has a manifest that matches the id: {'; '.join(self.bad.values())}"
            )
        silent = [f"{connection.name} does not answer" for connection in self._requests.values()]
        reasons = [*self.bad.values(), *self._finder.reasons(), *self._refused.values(), *silent]
        raise Unreachable(f"no peer that has it can be reached: {'; '.join(reasons[:4]) or 'none is listed'}")

    async def _look(self) -> None:
        await self._finder.look()
        self._lookups += 1

    async def _look_again(self, until: float) -> None:
        """Look and dial until all listed peers have failed several times, and for as long as the tracker
        knows of more: the one honest seed may be hidden among many that are made up."""
        loop = asyncio.get_running_loop()
        tries = 1
        while self._finder.listed and loop.time() <= until:
            last = tries >= self._limits.tries and not self._finder.more
            await asyncio.sleep(self._limits.poll if last else self._limits.pause)
            if not self._busy():
                if last:
                    return
                tries += 1
            if not last:
                await self._look()

    def _busy(self) -> bool:
        return bool(self._requests or self._finder.dials or self._waiting())

    async def _ask_peers(self, looking: asyncio.Task[None], until: float) -> Found | None:
        """Ask peers as they are connected, until one brings the manifest; None when all have failed, or when
        time is over and none will bring it in time."""
        loop = asyncio.get_running_loop()
        while True:
            ended, now = looking.done(), loop.time()
            self._watch_requests(now)
            if now > until and self._hedging.in_time(now) is None:
                return None
            waiting = self._waiting() if now <= until else {}
            offer = self._hedging.next([_offer(connection) for connection in waiting.values()], now)
            if offer is not None:
                self._ask(waiting.pop(offer.peer))
            for peer in self._hedging.to_give_up(now, others_wait=bool(waiting)):
                self._give_up(peer)
            under_way: list[asyncio.Task[Any]] = [*self._requests, *self._finder.dials]
            if ended and not waiting and not under_way:
                return None
            if not ended:
                under_way.append(looking)
            pause = self._hedging.pause(now)
            await asyncio.wait(under_way, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._requests if task.done()]:
                found = self._on_ended(task)
                if found is not None:
                    return found

    def _waiting(self) -> dict[PeerKey, ControlConnection]:
        """The peers that may be asked now."""
        asked_now = {connection.key for connection in self._requests.values()} | self._slow | self.bad.keys()
        return {
            connection.key: connection
            for connection in self._controls.all()
            if connection.key not in asked_now and self._asked_at.get(connection.key, 0) < self._lookups
        }

    def _ask(self, connection: ControlConnection) -> None:
        self._asked_at[connection.key] = self._lookups
        self._requests[asyncio.create_task(self._fetch(connection))] = connection

    def _watch_requests(self, now: float) -> None:
        for connection in self._requests.values():
            self._hedging.on_missing(connection.key, connection.wire.session.body_missing, now)

    def _give_up(self, peer: PeerKey) -> None:
        self._slow.add(peer)
        for connection in self._requests.values():
            if connection.key == peer:
                connection.close()

    def _on_ended(self, task: asyncio.Task[Found]) -> Found | None:
        connection = self._requests.pop(task)
        self._hedging.on_ended(connection.key)
        try:
            return task.result()
        except _Unusable:
            raise
        except (IntegrityError, ProtocolError) as error:
            self._corrupt = self._corrupt or isinstance(error, IntegrityError)
            self.bad[connection.key] = f"{connection.name}: {error}"
        except (Refused, Unreachable) as error:  # may go better another time
            self._refused[connection.key] = f"{connection.name}: {error}"
        return None

    async def _fetch(self, connection: ControlConnection) -> Found:
        data = await connection.manifest(self._content)
        return Found(data, await self._pool.run(lambda: _parsed(data, self._content)))


def _offer(connection: ControlConnection) -> Offer:
    return Offer(connection.key, connection.host, connection.dialled)


def _parsed(data: bytes, content: ContentId) -> Manifest:
    try:
        return parse(data, content)
    except ProtocolError as error:
        if content_id(data) != content:
            raise
        raise _Unusable(f"{content} is the id of a content that cannot be: {error}") from error
