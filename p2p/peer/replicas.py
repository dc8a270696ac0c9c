"""Keep copies for others: accept `replicate` within the quota, fetch, and say when the copy is verified."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2p.errors import DiskError, EnjambreError, Refused
from p2p.model import ContentId, Manifest, is_loopback
from p2p.peer.control import ControlConnection
from p2p.peer.local_content import LocalContent
from p2p.peer.reports import Downloaded, Received, Report, Warned
from p2p.protocol.peer_messages import Replicate
from p2p.storage.disk import free_space
from p2p.value import frozen

AT_ONCE: Final = 8
"""Copies fetched at the same time; more are told to come later."""
AT_ONCE_OF_ONE: Final = AT_ONCE // 2
"""Of these, such as one host asked for; loopback, where many peers share a host, may have them all."""
COPIES: Final = 10_000
"""Different contents that are kept, at most: each costs a file and a name even when it has no bytes."""
ENTRY_COST: Final = 4096
"""Bytes of room that a file or folder needs at least: disks give out no less, and a million empty files would
be free otherwise."""
FREE_ENTRIES: Final = 1000
"""Files and folders that any copy may have."""


@frozen
class Allowance:
    """What a copy may have at most: bytes, and files and folders."""

    size: int
    entries: int


FetchCopy = Callable[
    [ContentId, Path, ControlConnection, Callable[[Manifest], None], Callable[[], None]],
    Awaitable[Downloaded],
]
"""Fetch a content into a folder, beginning at a link. The first of the two given last is asked before
anything is written, and may raise `Refused`; the second is told when something of it may lie on the disk."""


@dataclass(slots=True, eq=False)
class _Copy:
    """A copy that is being fetched: for which host, what it cost before (None: nothing), and how large it is,
    once it may take room."""

    host: str
    before: int | None
    size: int | None = None


class Replicas:
    """The copies that this peer keeps for others. All that was begun since it started counts against `quota`,
    in bytes; 0 accepts nothing.

    While a copy is fetched it counts as large as was announced, and then as large as it is. One that failed
    counts too if it may have left something on the disk, for a later try of the same id; and nothing if it
    may not.
    """

    def __init__(
        self,
        folder: Path | None,
        quota: int,
        holdings: Mapping[ContentId, LocalContent],
        fetch: FetchCopy,
        here: Callable[[LocalContent], Awaitable[bool]],
        report: Callable[[Report], None],
    ) -> None:
        """`here` looks whether a whole content still lies on the disk as it was, and withdraws it if not."""
        self._folder = folder
        self._quota = quota if folder is not None else 0
        self._holdings = holdings
        self._fetch = fetch
        self._here = here
        self._report = report
        self._charged: dict[ContentId, int] = {}
        self._running: dict[ContentId, asyncio.Task[int]] = {}
        self._copies: dict[ContentId, _Copy] = {}
        """What is to be known of those that run."""
        self._looks: dict[ContentId, asyncio.Task[bool]] = {}
        """Contents that are being looked at."""

    @property
    def room(self) -> int:
        """How many bytes are accepted now: what the quota leaves, and what the disk has besides what the
        copies that run will yet take."""
        if self._folder is None or not self._quota:
            return 0
        try:
            free = free_space(self._folder) - sum(map(self._to_come, self._running))
        except DiskError:
            return 0
        return max(0, min(self._quota - sum(self._charged.values()), free))

    def accept(self, link: ControlConnection, request: Replicate) -> Awaitable[object]:
        """Begin to fetch a copy; the result ends when it is verified. Raises `Refused`: `not_allowed`,
        `quota`, `busy`."""
        if self._folder is None or not self._quota:
            raise Refused("not_allowed", "this peer accepts no uploads")
        held = self._holdings.get(request.id)
        running = self._running.get(request.id)
        if running is None:
            if held is not None and held.have.full and held.whole.is_set():
                return self._looked_at(
                    held, link, request
                )  # not before it has its final name, which the disk may still refuse it
            if held is not None:
                raise Refused("busy", "this peer is fetching it already, for itself")
            running = self._begin(self._folder, link, request)
        return asyncio.shield(running)

    async def _looked_at(self, held: LocalContent, link: ControlConnection, request: Replicate) -> None:
        """A copy that is here already, which is true only after a look: if it is not any more, it is fetched
        anew."""
        look = self._looks.get(held.id)
        if look is None:
            look = self._looks[held.id] = asyncio.create_task(self._look(held))
            look.add_done_callback(lambda _: self._looks.pop(held.id))
        if not await asyncio.shield(look):
            await self.accept(link, request)

    async def _look(self, held: LocalContent) -> bool:
        return await self._here(held)

    def _begin(self, folder: Path, link: ControlConnection, request: Replicate) -> asyncio.Task[int]:
        before, room = self._charged.get(request.id), self.room
        charged = before or 0
        if request.size > room + charged or len(self._charged) >= COPIES:
            raise Refused("quota", f"this peer has room for {room} bytes")
        if len(self._running) >= AT_ONCE:
            raise Refused("busy", f"{AT_ONCE} copies are being fetched; ask again later")
        if (
            not is_loopback(link.host)
            and sum(copy.host == link.host for copy in self._copies.values()) >= AT_ONCE_OF_ONE
        ):
            raise Refused(
                "busy", f"{AT_ONCE_OF_ONE} copies that your host asked for are being fetched; ask again later"
            )
        self._charged[request.id] = max(request.size, charged)
        self._copies[request.id] = _Copy(link.host, before)
        allowed = Allowance(request.size, max(FREE_ENTRIES, room // ENTRY_COST))
        running = self._running[request.id] = asyncio.create_task(self._keep(folder, link, request, allowed))
        running.add_done_callback(lambda task: self._ended(request.id, task))
        return running

    def _to_come(self, content: ContentId) -> int:
        """Bytes that a copy that is being fetched may yet take on the disk."""
        held = self._holdings.get(content)
        return max(0, self._charged[content] - (held.bytes_here if held is not None else 0))

    async def close(self) -> None:
        """Stop fetching; what has come is kept for a later try."""
        tasks = [*self._running.values(), *self._looks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, content: ContentId, task: asyncio.Task[int]) -> None:
        """Count what may lie on the disk: what was kept, or what a copy that failed may have left; else what
        it cost before."""
        del self._running[content]
        copy = self._copies.pop(content)
        failed = (
            task.cancelled() or task.exception() is not None
        )  # reported where it was raised; the asker may be gone
        cost = copy.size if failed else task.result()
        if cost is None:
            cost = copy.before
        if cost is None:
            del self._charged[content]
        else:
            self._charged[content] = cost

    async def _keep(
        self, folder: Path, link: ControlConnection, request: Replicate, allowed: Allowance
    ) -> int:
        """Fetch a copy; returns its size in bytes."""
        size = 0

        def admit(manifest: Manifest) -> None:
            nonlocal size
            check_cost(manifest, allowed)
            size = manifest.size

        def made() -> None:
            self._copies[request.id].size = self._charged[request.id] = size

        try:
            copy = await self._fetch(request.id, folder, link, admit, made)
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
