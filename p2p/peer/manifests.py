"""Bring a manifest that matches its id: find peers, ask one, and soon another if the first says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from p2p.content.hashing import HashPool
from p2p.content.manifest import content_id, parse
from p2p.errors import EnjambreError, IntegrityError, ProtocolError, Refused, Unreachable
from p2p.frozen import frozen
from p2p.model import ContentId, Manifest, PeerKey
from p2p.peer.finder import Finder
from p2p.peer.links import Link, Links
from p2p.swarm.mesh import EAGER_TIME

ROUNDS: Final = 3
"""How often all listed peers are tried before a download that never began says that nobody can be reached. Where the tracker knows of more
that were not tried yet, it goes on for as long as its patience lasts: the one honest seed may be hidden among many that are made up."""
HEDGE_TIME: Final = 0.5
"""Seconds to wait for a manifest before another peer is asked for it too."""
AT_ONCE: Final = 4
"""Peers asked at once; a manifest may have 32 MiB."""
PATIENCE: Final = 10.0
"""Seconds after which the one asked longest ago makes room, when that many are asked and there are more."""


@frozen
class Found:
    """A manifest and its canonical bytes, checked against the id."""

    data: bytes
    manifest: Manifest


class _Unusable(IntegrityError):
    """The id is that of bytes that are no valid manifest, so that no peer can have another for it."""


@frozen
class _Asking:
    link: Link
    since: float


class ManifestSearch:
    """The search for the manifest of one content. `bad` are the peers that sent another or nothing, and why that is."""

    def __init__(
        self, content: ContentId, links: Links, pool: HashPool, finder: Finder, progress: Callable[[str], None], patience: float
    ) -> None:
        """`progress` is told of each phase: searching, connecting. `patience` is in seconds."""
        self.bad: dict[PeerKey, str] = {}
        self._content = content
        self._links = links
        self._pool = pool
        self._finder = finder
        self._progress = progress
        self._patience = patience
        self._corrupt = False
        self._refused: dict[PeerKey, str] = {}

    async def run(self, first: Link | None = None) -> Found:
        """Bring it, from `first` if that has it. Raises `NotFound`, `Unreachable`, `IntegrityError`, `Refused`."""
        self._progress("searching")
        if first is not None:
            try:
                return await self._from(first)
            except _Unusable:
                raise
            except EnjambreError:
                pass  # others may have it
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        rounds = 0
        while rounds < ROUNDS or (self._finder.more and loop.time() < until):
            if rounds:
                await asyncio.sleep(EAGER_TIME)
            rounds += 1
            await self._finder.look()
            self._progress("connecting")
            found = await self._ask_all()
            if found is not None:
                return found
            if self._finder.listed == 0:
                break
        if self._corrupt:
            raise IntegrityError(f"no peer has a manifest that matches the id: {'; '.join(self.bad.values())}")
        reasons = [*self.bad.values(), *self._finder.reasons(), *self._refused.values()]
        raise Unreachable(f"no peer that has it can be reached: {'; '.join(reasons[:4]) or 'none is listed'}")

    async def _ask_all(self) -> Found | None:
        """Ask each link as it opens, until one brings the manifest; None when all dials have ended and none did."""
        loop = asyncio.get_running_loop()
        settled = asyncio.create_task(self._finder.settled())
        asked: set[PeerKey] = set()
        asking: dict[asyncio.Task[Found], _Asking] = {}
        try:
            while True:
                ended = settled.done()
                fresh = [link for link in self._links.all() if link.key not in asked and link.key not in self.bad]
                self._make_room(asking, waiting=bool(fresh))
                if fresh and len(asking) < AT_ONCE:
                    asked.add(fresh[0].key)
                    asking[asyncio.create_task(self._from(fresh[0]))] = _Asking(fresh[0], loop.time())
                elif ended and not asking:
                    return None
                if asking:
                    await asyncio.wait(asking, timeout=HEDGE_TIME, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.wait([settled], timeout=0.05)
                for task in [task for task in asking if task.done()]:
                    found = self._came(task, asking.pop(task))
                    if found is not None:
                        return found
        finally:
            settled.cancel()
            for task in asking:
                task.cancel()
            await asyncio.gather(settled, *asking, return_exceptions=True)

    def _make_room(self, asking: dict[asyncio.Task[Found], _Asking], *, waiting: bool) -> None:
        """Hang up on who was asked longest ago and said nothing, where all places are taken and others wait."""
        oldest = next(iter(asking.values()), None)
        if oldest is not None and waiting and len(asking) >= AT_ONCE and asyncio.get_running_loop().time() - oldest.since > PATIENCE:
            oldest.link.close()

    def _came(self, task: asyncio.Task[Found], asked: _Asking) -> Found | None:
        link = asked.link
        try:
            return task.result()
        except _Unusable:
            raise
        except IntegrityError as error:
            self._corrupt = True
            self.bad[link.key] = f"{link.name}: {error}"
        except ProtocolError as error:
            self.bad[link.key] = f"{link.name}: {error}"
        except (Refused, Unreachable) as error:
            silent = asyncio.get_running_loop().time() - asked.since > PATIENCE
            (self.bad if silent else self._refused)[link.key] = f"{link.name}: {error}"
        return None

    async def _from(self, link: Link) -> Found:
        data = await link.manifest(self._content)
        return Found(data, await self._pool.run(lambda: _parsed(data, self._content)))


def _parsed(data: bytes, content: ContentId) -> Manifest:
    try:
        return parse(data, content)
    except ProtocolError as error:
        if content_id(data) != content:
            raise
        raise _Unusable(f"{content} is the id of a content that cannot be: {error}") from error
