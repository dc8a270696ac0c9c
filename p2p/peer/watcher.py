"""Watches shared files and folders: publishes what is added, and retracts what is changed or removed.

The standard library has no notice from the kernel, so each path is looked at again each second; a look is a
`stat` a file. A file that is still being written is left alone until two looks in a row see the same.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from p2p.errors import DiskError, EnjambreError, Refused
from p2p.model import ContentId
from p2p.peer.reports import Report, Warned
from p2p.peer.settings import WatchLimits
from p2p.storage.disk import disk_error, whole_path
from p2p.storage.hashing import HashPool
from p2p.storage.scan import Scanned, scan

UNFINISHED: Final = (".part", ".part.manifest")
"""Endings of names of unfinished downloads."""


class Publisher(Protocol):
    """What the watcher publishes with."""

    def held_at(self, path: Path) -> ContentId | None:
        """The content that is shared from `path` already, as after an upload."""

    def holds(self, content: ContentId) -> bool:
        """Whether a content is shared, from any path."""

    async def publish(self, scanned: Scanned) -> ContentId:
        """Hash and share. Raises `DiskError`."""

    def retract(self, content: ContentId, path: Path) -> None:
        """Stop sharing what lies at `path`."""


@dataclass(slots=True)
class _Seen:
    """A path at the last look: what was there, and the id that it is shared under, if it is."""

    scanned: Scanned
    content: ContentId | None
    refused: bool = False
    """Whether it cannot be shared as it is."""


class Watcher:
    """Watches the entries of one folder, or some named paths, and remembers what was there at the last
    look."""

    def __init__(
        self,
        publisher: Publisher,
        pool: HashPool,
        report: Callable[[Report], None],
        limits: WatchLimits,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`wall_clock` returns the seconds since the epoch, as times of files count."""
        self._publisher = publisher
        self._pool = pool
        self._report = report
        self._limits = limits
        self._wall_clock = wall_clock
        self._seen: dict[Path, _Seen] = {}
        self._warned: dict[str, None] = {}
        self._loop = asyncio.get_running_loop()

    async def watch_folder(self, folder: Path, ready: Callable[[], None] = lambda: None) -> None:
        """Share each file and folder directly in `folder` until cancelled. Raises `DiskError` if there is no
        such folder at first."""
        folder = whole_path(folder)
        try:
            there = folder.is_dir()
        except OSError as error:
            raise disk_error(error, "share", folder) from error
        if not there:
            raise DiskError(f"cannot share '{folder}': it is not a folder")
        await self._watch(lambda: _entries(folder), ready)

    async def watch_paths(self, paths: Iterable[Path], ready: Callable[[], None] = lambda: None) -> None:
        """Share these paths until cancelled. Raises `DiskError` if one of them cannot be shared at first."""
        fixed = [whole_path(path) for path in paths]
        await self._watch(lambda: fixed, ready, strict=True)

    async def look(self, paths: list[Path], *, strict: bool = False, told: bool = False) -> None:
        """Look at these paths once, and retract what is shared from others.

        With `strict`, raises `DiskError` for a path that cannot be shared. `told` says that what is wrong
        with all of them was reported already.
        """
        here = set(paths)
        for path in [path for path in self._seen if path not in here]:
            self._on_gone(path)
        for path in paths:
            try:
                scanned = await self._pool.run(partial(scan, path, self._warn_soon))
            except EnjambreError as error:
                if strict:
                    raise
                if not _passing(error):
                    self._on_gone(path)
                if not told:
                    self._warn(str(error))
            else:
                await self._compare(path, scanned)

    def forget(self, path: Path) -> None:
        """What was shared from `path` was retracted already: what lies there at the next look is new."""
        self._seen.pop(path, None)

    async def _watch(
        self, targets: Callable[[], list[Path]], ready: Callable[[], None], *, strict: bool = False
    ) -> None:
        while True:
            began = self._loop.time()
            told = False
            try:
                found = await self._pool.run(targets)
            except DiskError as error:
                self._warn(str(error))
                found, told = list(self._seen), True
            await self.look(found, strict=strict, told=told)
            strict = False
            ready()
            took = self._loop.time() - began
            await asyncio.sleep(min(max(self._limits.pause, 10 * took), self._limits.longest_pause))

    async def _compare(self, path: Path, scanned: Scanned) -> None:
        seen = self._seen.get(path)
        held = self._publisher.held_at(path)
        if seen is None and held is not None:
            self._seen[path] = _Seen(scanned, held)
            return
        if seen is not None and seen.scanned == scanned:
            if seen.content is None and held is None and not seen.refused:
                await self._share(seen)
                return
            # The same content may lie at two of the paths. It is shared from the first.
            if (
                seen.refused
                or seen.content == held
                or (seen.content is not None and self._publisher.holds(seen.content))
            ):
                return
        if seen is not None and seen.content is not None:
            self._publisher.retract(seen.content, path)
        fresh = self._seen[path] = _Seen(scanned, None)
        newest = max((file.mtime_ns for file in scanned.files), default=0) / 1e9
        if seen is None and abs(self._wall_clock() - newest) > self._limits.at_rest:
            await self._share(fresh)

    async def _share(self, seen: _Seen) -> None:
        try:
            seen.content = await self._publisher.publish(seen.scanned)
        except EnjambreError as error:
            seen.refused = not _passing(error)
            self._warn(str(error))

    def _on_gone(self, path: Path) -> None:
        seen = self._seen.pop(path, None)
        if seen is not None and seen.content is not None:
            self._publisher.retract(seen.content, path)

    def _warn_soon(self, message: str) -> None:
        """Warn from the worker thread that scans; the report itself belongs to the loop."""
        self._loop.call_soon_threadsafe(self._warn, message)

    def _warn(self, message: str) -> None:
        """Report a warning, unless it was reported a short time ago."""
        if message in self._warned:
            return
        self._warned[message] = None
        if len(self._warned) > self._limits.warnings:
            del self._warned[next(iter(self._warned))]
        self._report(Warned(message))


def _passing(error: EnjambreError) -> bool:
    """Whether an error says nothing about the file: this side has no descriptor or thread to spare, or the
    disk failed for a moment."""
    cause = error.__cause__
    return isinstance(error, Refused) or (
        isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE, errno.EIO)
    )


def _entries(folder: Path) -> list[Path]:
    """Return what lies directly in a folder, without hidden files and unfinished downloads. Raises
    `DiskError`."""
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and not path.name.endswith(UNFINISHED)
        )
    except OSError as error:
        raise disk_error(error, "read", folder) from error
