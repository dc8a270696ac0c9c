"""Keep copies for others: accept `replicate` within the quota, fetch, and say when the copy is verified."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from p2p.errors import DiskError, EnjambreError, Refused
from p2p.model import ContentId
from p2p.peer.holding import Holding
from p2p.peer.links import Link
from p2p.peer.reports import Downloaded, Received, Report, Warned
from p2p.protocol.messages import Replicate
from p2p.system import free_space

AT_ONCE: Final = 8
"""Copies fetched at the same time; more are told to come later."""

FetchCopy = Callable[[ContentId, Path, Link, int], Awaitable[Downloaded]]
"""Fetch a content of at most so many bytes into a folder, beginning at a link."""


class Keeper:
    """The copies that this peer keeps for others. What it has kept since it started counts against `quota`, in bytes; 0 accepts nothing."""

    def __init__(
        self,
        folder: Path | None,
        quota: int,
        holdings: Mapping[ContentId, Holding],
        fetch: FetchCopy,
        report: Callable[[Report], None],
    ) -> None:
        self._folder = folder
        self._quota = quota if folder is not None else 0
        self._holdings = holdings
        self._fetch = fetch
        self._report = report
        self._used = 0
        self._running: dict[ContentId, asyncio.Task[int]] = {}

    @property
    def room(self) -> int:
        """How many bytes are accepted now: what the quota leaves, and the disk has."""
        if self._folder is None or not self._quota:
            return 0
        try:
            return max(0, min(self._quota - self._used, free_space(self._folder)))
        except DiskError:
            return 0

    def accept(self, link: Link, request: Replicate) -> Awaitable[object]:
        """Begin to fetch a copy; the result ends when it is verified. Raises `Refused`: `not_allowed`, `quota`, `busy`."""
        if self._folder is None or not self._quota:
            raise Refused("not_allowed", "this peer accepts no uploads")
        held = self._holdings.get(request.id)
        if held is not None and held.have.full:
            return _done()
        running = self._running.get(request.id)
        if running is None:
            if held is not None:
                raise Refused("busy", "this peer is fetching it already, for itself")
            if request.size > self.room:
                raise Refused("quota", f"this peer has room for {self.room} bytes")
            if len(self._running) >= AT_ONCE:
                raise Refused("busy", f"{AT_ONCE} copies are being fetched; ask again later")
            self._used += request.size
            running = self._running[request.id] = asyncio.create_task(self._keep(self._folder, link, request))
            running.add_done_callback(lambda task: self._ended(request, task))
        return asyncio.shield(running)

    async def close(self) -> None:
        """Stop fetching; what has come is kept for a later try."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, request: Replicate, task: asyncio.Task[int]) -> None:
        """Count what was kept in the place of what was announced."""
        del self._running[request.id]
        self._used -= request.size
        if not task.cancelled() and task.exception() is None:  # an error was reported where it was raised; the asker may be gone
            self._used += task.result()

    async def _keep(self, folder: Path, link: Link, request: Replicate) -> int:
        """Fetch a copy; returns its size in bytes."""
        try:
            copy = await self._fetch(request.id, folder, link, request.size)
        except EnjambreError as error:
            self._report(Warned(f"copy of {request.name} from {link.name}: {error}"))
            raise
        self._report(Received(copy.path.name, copy.id, copy.size, link.name))
        return copy.size


def _done() -> asyncio.Future[None]:
    """A copy that is here already."""
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
