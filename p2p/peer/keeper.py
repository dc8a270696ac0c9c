"""Keep copies for others: accept `replicate` within the quota, fetch, and say when the copy is verified."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from p2p.disk import free_space
from p2p.errors import DiskError, EnjambreError, Refused
from p2p.frozen import frozen
from p2p.model import ContentId, Manifest
from p2p.peer.holding import Holding
from p2p.peer.links import Link
from p2p.peer.reports import Downloaded, Received, Report, Warned
from p2p.protocol.messages import Replicate

AT_ONCE: Final = 8
"""Copies fetched at the same time; more are told to come later."""

COPIES: Final = 10_000
"""Different contents that are kept, at most: each costs a file and a name even when it has no bytes."""
ENTRY_COST: Final = 4096
"""Bytes of room that a file or folder needs at least: disks give out no less, and a million empty files would be free otherwise."""
FREE_ENTRIES: Final = 1000
"""Files and folders that any copy may have."""


@frozen
class Allowance:
    """What a copy may have at most: bytes, and files and folders."""

    size: int
    entries: int


FetchCopy = Callable[[ContentId, Path, Link, Callable[[Manifest], None]], Awaitable[Downloaded]]
"""Fetch a content into a folder, beginning at a link; what is given last is asked before anything is written, and may raise `Refused`."""


class Keeper:
    """The copies that this peer keeps for others. All that was begun since it started counts against `quota`, in bytes; 0 accepts nothing.

    A copy that failed counts too once its manifest has come: what came of it is still on the disk, for a later try of the same id.
    """

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
        self._charged: dict[ContentId, int] = {}
        self._running: dict[ContentId, asyncio.Task[int]] = {}

    @property
    def room(self) -> int:
        """How many bytes are accepted now: what the quota leaves, and the disk has."""
        if self._folder is None or not self._quota:
            return 0
        try:
            return max(0, min(self._quota - sum(self._charged.values()), free_space(self._folder)))
        except DiskError:
            return 0

    def accept(self, link: Link, request: Replicate) -> Awaitable[object]:
        """Begin to fetch a copy; the result ends when it is verified. Raises `Refused`: `not_allowed`, `quota`, `busy`."""
        if self._folder is None or not self._quota:
            raise Refused("not_allowed", "this peer accepts no uploads")
        held = self._holdings.get(request.id)
        running = self._running.get(request.id)
        if running is None:
            if held is not None and held.have.full and held.whole.is_set():
                return _done()  # not before it has its final name, which the disk may still refuse it
            if held is not None:
                raise Refused("busy", "this peer is fetching it already, for itself")
            before = self._charged.get(request.id)
            charged = before or 0
            allowed = Allowance(request.size, max(FREE_ENTRIES, self.room // ENTRY_COST))
            if request.size > self.room + charged or len(self._charged) >= COPIES:
                raise Refused("quota", f"this peer has room for {self.room} bytes")
            if len(self._running) >= AT_ONCE:
                raise Refused("busy", f"{AT_ONCE} copies are being fetched; ask again later")
            self._charged[request.id] = max(request.size, charged)
            begun = asyncio.Event()
            running = self._running[request.id] = asyncio.create_task(self._keep(self._folder, link, request, allowed, begun))
            running.add_done_callback(lambda task: self._ended(request.id, task, before, begun=begun.is_set()))
        return asyncio.shield(running)

    async def close(self) -> None:
        """Stop fetching; what has come is kept for a later try."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, content: ContentId, task: asyncio.Task[int], before: int | None, *, begun: bool) -> None:
        """Count what was kept in the place of what was announced; what never began costs what it did `before`."""
        del self._running[content]
        if task.cancelled():
            return
        fault = task.exception()  # reported where it was raised; the asker may be gone
        if fault is None:
            self._charged[content] = task.result()
        elif not begun and before is None:
            del self._charged[content]
        elif not begun and before is not None:
            self._charged[content] = before

    async def _keep(self, folder: Path, link: Link, request: Replicate, allowed: Allowance, begun: asyncio.Event) -> int:
        """Fetch a copy; returns its size in bytes. `begun` is set before the first byte is written."""

        def admit(manifest: Manifest) -> None:
            check_cost(manifest, allowed)
            begun.set()

        try:
            copy = await self._fetch(request.id, folder, link, admit)
        except EnjambreError as error:
            self._report(Warned(f"copy of {request.name} from {link.name}: {error}"))
            raise
        self._report(Received(copy.path.name, copy.id, copy.size, link.name, copy.bytes_by))
        return copy.size


def check_cost(manifest: Manifest, allowed: Allowance) -> None:
    """Raise `Refused("quota")` if a content has more bytes, or more files and folders, than were allowed."""
    if manifest.size > allowed.size:
        raise Refused("quota", f"it has {manifest.size} bytes, {allowed.size} were announced")
    entries = len(manifest.files) + len(manifest.folders)
    if entries > allowed.entries:
        raise Refused("quota", f"it has {entries} files and folders, there is room for {allowed.entries}")


def _done() -> asyncio.Future[None]:
    """A copy that is here already."""
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
