"""Tests of p2p/peer/watcher.py: when a watched path is published, published again, and retracted."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from p2p.errors import DiskError
from p2p.model import ContentId
from p2p.peer.reports import Report, Warned
from p2p.peer.settings import WatchLimits
from p2p.peer.watcher import Watcher
from p2p.storage.scan import Scanned
from tests.kit.virtual_time import in_virtual_time

T = TypeVar("T")


LIMITS = WatchLimits()
FRESH = 1_000_000
"""Seconds since the epoch: a file of this time was written right now."""


class DirectPool:
    """Does the work at once, in the loop, or fails."""

    def __init__(self) -> None:
        self.fault: DiskError | None = None

    async def run(self, work: Callable[[], T]) -> T:
        if self.fault is not None:
            raise self.fault
        return work()


class FakePublisher:
    """Makes the id of a content of its name and of what is known of its files."""

    def __init__(self) -> None:
        self.shared: dict[ContentId, Path] = {}
        self.log: list[tuple[str, str]] = []
        self.fault: Exception | None = None

    def held_at(self, path: Path) -> ContentId | None:
        return next((content for content, where in self.shared.items() if where == path), None)

    def holds(self, content: ContentId) -> bool:
        return content in self.shared

    async def publish(self, scanned: Scanned) -> ContentId:
        self.log.append(("publish", scanned.name))
        if self.fault is not None:
            raise self.fault
        content = ContentId(
            f"{scanned.name} {[(file.path, file.size, file.mtime_ns) for file in scanned.files]}"
        )
        self.shared.setdefault(content, scanned.root)
        return content

    def retract(self, content: ContentId, path: Path) -> None:
        if self.shared.get(content) == path:
            del self.shared[content]
            self.log.append(("retract", path.name))


class Scene:
    """A watcher, and what it did."""

    def __init__(self, limits: WatchLimits = LIMITS) -> None:
        self.publisher = FakePublisher()
        self.reports: list[Report] = []
        self.pool = DirectPool()
        pool: Any = self.pool
        self.watcher = Watcher(self.publisher, pool, self.reports.append, limits, lambda: FRESH)

    @property
    def log(self) -> list[tuple[str, str]]:
        """What was done since this was last read."""
        log, self.publisher.log = self.publisher.log, []
        return log

    @property
    def warnings(self) -> list[str]:
        return [report.message for report in self.reports if isinstance(report, Warned)]


def write(path: Path, data: bytes, at: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (at, at))
    return path


def watching(folder: Path, play: Callable[[Scene], Any]) -> None:
    """Watch a folder while `play` goes on; each of its rounds is one look."""

    async def work() -> None:
        scene = Scene()
        task = asyncio.create_task(scene.watcher.watch_folder(folder))
        try:
            await looks(0.5)
            await play(scene)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


async def looks(count: float = 1) -> None:
    await asyncio.sleep(count * LIMITS.pause)


def test_a_file_at_rest_is_shared_at_the_first_look_and_only_once(tmp_path: Path) -> None:
    write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        assert scene.log == [("publish", "a")]
        await looks(5)
        assert scene.log == []

    watching(tmp_path, play)


def test_a_file_that_is_being_written_is_shared_when_two_looks_see_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", FRESH)

    async def play(scene: Scene) -> None:
        for number in range(4):
            write(path, b"a" * (number + 2), FRESH + number)
            await looks()
            assert scene.log == []
        await looks()
        assert scene.log == [("publish", "a")]

    watching(tmp_path, play)


def test_a_changed_file_is_retracted_at_once_and_published_again_at_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        assert scene.log == [("publish", "a")]
        write(path, b"b", 2)
        await looks()
        assert scene.log == [("retract", "a")]
        await looks()
        assert scene.log == [("publish", "a")]

    watching(tmp_path, play)


def test_a_removed_file_is_retracted_and_published_again_when_it_is_back(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        path.unlink()
        await looks()
        assert scene.log == [("publish", "a"), ("retract", "a")]
        write(path, b"a", 1)
        await looks()
        assert scene.log == [("publish", "a")]

    watching(tmp_path, play)


def test_a_file_that_a_reader_found_changed_is_published_again(tmp_path: Path) -> None:
    write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        scene.publisher.shared.clear()
        await looks(3)
        assert scene.log == [("publish", "a"), ("publish", "a")]

    watching(tmp_path, play)


def test_hidden_and_unfinished_files_are_left_alone(tmp_path: Path) -> None:
    for name in (".hidden", "x.part", "x.part.manifest"):
        write(tmp_path / name, b"x", 1)
    write(tmp_path / "folder" / ".inside", b"x", 1)

    async def play(scene: Scene) -> None:
        await looks(2)
        assert scene.log == [("publish", "folder")]

    watching(tmp_path, play)


def test_a_file_that_cannot_be_shared_is_tried_again_when_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", 1)

    async def work() -> None:
        scene = Scene()
        scene.publisher.fault = DiskError("no permission")
        task = asyncio.create_task(scene.watcher.watch_folder(tmp_path))
        await looks(3)
        assert scene.log == [("publish", "a")]
        assert scene.warnings == ["no permission"]
        scene.publisher.fault = None
        write(path, b"b", 2)
        await looks(3)
        assert scene.log == [("publish", "a")]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


def test_a_file_that_is_shared_already_is_not_published_again(tmp_path: Path) -> None:
    """As after an upload that was kept in the folder that is watched."""
    path = write(tmp_path / "a", b"a", 1)

    async def work() -> None:
        scene = Scene()
        scene.publisher.shared[ContentId("kept")] = path
        task = asyncio.create_task(scene.watcher.watch_folder(tmp_path))
        await looks(3)
        assert scene.log == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


def test_a_folder_that_goes_away_is_retracted_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        folder.rename(tmp_path / "elsewhere")
        await looks(2)
        assert scene.log == [("publish", "a"), ("retract", "a")]
        (tmp_path / "elsewhere").rename(folder)
        await looks(2)
        assert scene.log == [("publish", "a")]

    watching(folder, play)

    async def never() -> None:
        with pytest.raises(DiskError, match="not a folder"):
            await Scene().watcher.watch_folder(tmp_path / "nothing")

    in_virtual_time(never)


def test_one_content_at_two_paths_is_published_once_from_each(
    tmp_path: Path,
) -> None:
    paths = [write(tmp_path / folder / "x", b"x", 1) for folder in ("one", "two")]

    async def work() -> None:
        scene = Scene()
        task = asyncio.create_task(scene.watcher.watch_paths(paths))
        await looks(6)
        assert scene.log == [("publish", "x"), ("publish", "x")]
        paths[0].unlink()
        await looks(3)
        assert scene.log == [("retract", "x"), ("publish", "x")]
        assert list(scene.publisher.shared.values()) == [paths[1]]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


def test_a_warning_is_reported_again_only_when_many_others_came_since(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(WatchLimits(warnings=3))
        for name in ("1", "2", "3", "1", "4", "5", "1"):
            scene.publisher.fault = DiskError(name)
            await scene.watcher.look([write(tmp_path / "a", name.encode(), int(name))])
            await scene.watcher.look([tmp_path / "a"])
        assert scene.warnings == ["1", "2", "3", "4", "5", "1"]

    in_virtual_time(work)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_what_is_shared_stays_so_when_a_look_fails_for_want_of_descriptors(
    tmp_path: Path, number: int
) -> None:
    async def work() -> None:
        scene = Scene()
        path = write(tmp_path / "a.txt", b"words", 1)
        await scene.watcher.look([path])
        assert scene.log == [("publish", "a.txt")]
        scene.pool.fault = DiskError("cannot read")
        scene.pool.fault.__cause__ = OSError(number, "fault")
        await scene.watcher.look([path])
        assert scene.log == []
        scene.pool.fault = None
        path.unlink()
        await scene.watcher.look([path])
        assert scene.log == [("retract", "a.txt")]

    in_virtual_time(work)


def test_case_60_a_file_that_no_descriptor_was_left_for_is_hashed_at_the_next_look(
    tmp_path: Path,
) -> None:
    full = DiskError("cannot open 'a': this process has too many open files")
    full.__cause__ = OSError(errno.EMFILE, "Too many open files")

    async def play(scene: Scene) -> None:
        scene.publisher.fault = full
        write(tmp_path / "a", b"a", 1)
        await asyncio.sleep(2 * LIMITS.pause)
        assert ("publish", "a") in scene.log
        assert not scene.publisher.shared
        scene.publisher.fault = None
        await asyncio.sleep(2 * LIMITS.pause)
        assert [path.name for path in scene.publisher.shared.values()] == ["a"]

    watching(tmp_path, play)
