"""Replicas kept for others: accept `replicate` within the quota, download, and say when the copy is
verified."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from p2p.errors import DiskError, EnjambreError, Refused
from p2p.model import ContentId, Manifest, is_loopback
from p2p.peer.control import ControlConnection
from p2p.peer.download import Download
from p2p.peer.local_content import LocalContent
from p2p.peer.reports import Downloaded, Received, Warned
from p2p.peer.services import Services
from p2p.protocol.peer_messages import Replicate
from p2p.storage.cache import ReplicaCache
from p2p.storage.disk import free_space
from p2p.value import frozen


@frozen
class ReplicaLimits:
    """What a peer does for others; sizes in bytes."""

    quota: int = 0
    """Bytes of replicas that were begun since this peer started; 0 accepts nothing."""
    at_once: int = 8
    """Replicas fetched at the same time; more are told to come later."""
    at_once_per_host: int = 4
    """Of these, such as one host asked for; loopback, where many peers share a host, may have them all."""
    replicas: int = 10_000
    """Different contents: each costs a file and a name even when it has no bytes."""
    entry_cost: int = 4096
    """Bytes that a file or folder takes at least: a million empty files would be free otherwise."""
    free_entries: int = 1000
    """Files and folders that any replica may have."""


@frozen
class Allowance:
    """What a replica may have at most: bytes, and files and folders."""

    size: int
    entries: int


@dataclass(slots=True, eq=False)
class _Running:
    """A replica that is being fetched."""

    host: str
    """The host that asked for it."""
    before: int | None
    """What it cost before, in bytes; None: nothing."""
    task: asyncio.Task[int]
    size: int | None = None
    """Its size, once something of it may lie on the disk."""


class Replicas:
    """The replicas of this peer and what they cost.

    While a replica is fetched it is charged as announced, and then as large as it is. One that failed is
    charged too if it may have left something on the disk, for a later try of the same id; and nothing if not.
    """

    def __init__(
        self,
        folder: Path | None,
        limits: ReplicaLimits,
        services: Services,
        cache: ReplicaCache,
        still_there: Callable[[LocalContent], Awaitable[bool]],
        free: Callable[[Path], int] = free_space,
        new_download: Callable[[ContentId, Services], Download] = Download,
    ) -> None:
        """`folder` is where replicas lie; None accepts nothing. `still_there` looks whether a whole content
        still lies on the disk as it was, and retracts it if not. `free` returns how many bytes a disk has
        left; `new_download` makes the download of a content."""
        self._folder = folder
        self._limits = limits
        self._services = services
        self._cache = cache
        self._still_there = still_there
        self._free = free
        self._new_download = new_download
        self._charged: dict[ContentId, int] = {}
        self._running: dict[ContentId, _Running] = {}
        self._looks: dict[ContentId, asyncio.Task[bool]] = {}
        """Whole contents that are being looked at."""

    @property
    def room(self) -> int:
        """How many bytes are accepted now: what the quota leaves, and what the disk has besides what running
        replicas will yet take."""
        if self._folder is None or not self._limits.quota:
            return 0
        try:
            free = self._free(self._folder) - sum(map(self._to_come, self._running))
        except DiskError:
            return 0
        return max(0, min(self._limits.quota - sum(self._charged.values()), free))

    def accept(self, connection: ControlConnection, request: Replicate) -> Awaitable[object]:
        """Begin to fetch a replica; the result ends when it is verified. Raises `Refused`: `not_allowed`,
        `quota`, `busy`."""
        if self._folder is None or not self._limits.quota:
            raise Refused("not_allowed", "this peer accepts no uploads")
        running = self._running.get(request.id)
        if running is None:
            local = self._services.library.find(request.id)
            if local is not None and local.have.full and local.settled.is_set():
                return self._look_at(
                    local, connection, request
                )  # it may still be refused its final name before
            if local is not None:
                raise Refused("busy", "this peer is fetching it already, for itself")
            running = self._start(self._folder, connection, request)
        return asyncio.shield(running.task)

    async def close(self) -> None:
        """Stop fetching; what came is kept for a later try."""
        tasks = [*(running.task for running in self._running.values()), *self._looks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_at(self, local: LocalContent, connection: ControlConnection, request: Replicate) -> None:
        """A replica that is here already, which is certain only after a look; otherwise it is fetched
        anew."""
        look = self._looks.get(local.id)
        if look is None:
            look = self._looks[local.id] = asyncio.ensure_future(self._still_there(local))
            look.add_done_callback(lambda _: self._looks.pop(local.id))
        if not await asyncio.shield(look):
            await self.accept(connection, request)

    def _start(self, folder: Path, connection: ControlConnection, request: Replicate) -> _Running:
        limits, host = self._limits, connection.host
        before, room = self._charged.get(request.id), self.room
        charged = before or 0
        if request.size > room + charged or len(self._charged) >= limits.replicas:
            raise Refused("quota", f"this peer has room for {room} bytes")
        if len(self._running) >= limits.at_once:
            raise Refused("busy", f"{limits.at_once} copies are being fetched; ask again later")
        of_host = sum(running.host == host for running in self._running.values())
        if not is_loopback(host) and of_host >= limits.at_once_per_host:
            raise Refused(
                "busy",
                f"{limits.at_once_per_host} copies that your host asked for are being fetched; "
                "ask again later",
            )
        self._charged[request.id] = max(request.size, charged)
        allowed = Allowance(request.size, max(limits.free_entries, room // limits.entry_cost))
        task = asyncio.create_task(self._fetch(folder, connection, request, allowed))
        running = self._running[request.id] = _Running(host, before, task)
        task.add_done_callback(lambda task: self._on_ended(request.id, task))
        return running

    async def _fetch(
        self, folder: Path, connection: ControlConnection, request: Replicate, allowed: Allowance
    ) -> int:
        """Fetch a replica; returns its size in bytes."""
        services = self._services
        try:
            async with self._new_download(request.id, services) as download:
                found = await download.manifest(connection)
                check_cost(found.manifest, allowed)
                try:
                    await download.prepare(found, folder)
                finally:
                    if download.made:
                        size = self._charged[request.id] = found.manifest.size
                        self._running[request.id].size = size
                done = await download.fetch()
            await self._remember(done, found.data)
        except EnjambreError as error:
            services.report(Warned(f"copy of {request.name} from {connection.name}: {error}"))
            raise
        services.report(Received(done.path.name, done.id, done.size, connection.name, done.bytes_by))
        return done.size

    async def _remember(self, done: Downloaded, data: bytes) -> None:
        """Keep the manifest, so that after a restart the replica has the same id."""
        try:
            await self._services.hashing.run(lambda: self._cache.keep(done.path, data))
        except (DiskError, Refused) as error:
            self._services.report(
                Warned(f"after a restart this copy may be shared under another id: {error}")
            )

    def _to_come(self, content: ContentId) -> int:
        """Bytes that a running replica may yet take on the disk."""
        local = self._services.library.find(content)
        return max(0, self._charged[content] - (local.bytes_here if local is not None else 0))

    def _on_ended(self, content: ContentId, task: asyncio.Task[int]) -> None:
        """Charge what may lie on the disk: a finished replica, or what a failed one may have left; else what
        was charged before."""
        running = self._running.pop(content)
        failed = task.cancelled() or task.exception() is not None  # reported where it was raised
        cost = running.size if failed else task.result()
        if cost is None:
            cost = running.before
        if cost is None:
            del self._charged[content]
        else:
            self._charged[content] = cost


def check_cost(manifest: Manifest, allowed: Allowance) -> None:
    """Raise `Refused("quota")` if a content has more bytes, or more files and folders, than are allowed."""
    if manifest.size > allowed.size:
        raise Refused("quota", f"it has {manifest.size} bytes, {allowed.size} were announced")
    entries = len(manifest.files) + len(manifest.folders)
    if entries > allowed.entries:
        raise Refused("quota", f"it has {entries} files and folders, there is room for {allowed.entries}")
