"""When a path that is watched is shared, shared again, and taken back."""

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
from p2p.peer import watcher as module
from p2p.peer.reports import Report, Warned
from p2p.peer.watcher import LOOK_TIME, Watcher
from p2p.storage.scan import Scanned
from tests.kit.virtual_time import in_virtual_time

T = TypeVar("T")


class DirectPool:
    """Does the work at once, in the loop."""

    async def run(self, work: Callable[[], T]) -> T:
        return work()


class FakeLibrary:
    """Names a content by its name and what is in it."""

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
    def __init__(self) -> None:
        self.library = FakeLibrary()
        self.reports: list[Report] = []
        pool: Any = DirectPool()
        self.watcher = Watcher(self.library, pool, self.reports.append)

    @property
    def log(self) -> list[tuple[str, str]]:
        """What was done since the last time this was asked."""
        log, self.library.log = self.library.log, []
        return log


@pytest.fixture(autouse=True)
def _still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes no time here, and now is long after the old files and at the time of the fresh ones."""

    class Clock:
        monotonic = staticmethod(lambda: 0.0)
        time = staticmethod(lambda: 1_000_000.0)

    monkeypatch.setattr(module, "time", Clock)


def write(path: Path, data: bytes, at: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (at, at))
    return path


FRESH = 1_000_000
"""A file that was written right now."""


def watching(folder: Path, play: Callable[[Scene], Any]) -> None:
    """Watch a folder while `play` goes on; each of its rounds is one look."""

    async def work() -> None:
        scene = Scene()
        task = asyncio.create_task(scene.watcher.watch_folder(folder))
        try:
            await asyncio.sleep(LOOK_TIME / 2)
            await play(scene)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


async def looks(count: int = 1) -> None:
    await asyncio.sleep(count * LOOK_TIME)


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


def test_a_shared_file_that_changes_is_taken_back_at_once_and_shared_again_at_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        assert scene.log == [("publish", "a")]
        write(path, b"b", 2)
        await looks()
        assert scene.log == [("retract", "a")]
        await looks()
        assert scene.log == [("publish", "a")]

    watching(tmp_path, play)


def test_what_is_removed_is_taken_back_and_what_comes_back_is_shared_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        path.unlink()
        await looks()
        assert scene.log == [("publish", "a"), ("retract", "a")]
        write(path, b"a", 1)
        await looks()
        assert scene.log == [("publish", "a")]

    watching(tmp_path, play)


def test_what_was_found_changed_by_a_reader_is_shared_again_even_if_it_looks_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a", b"a", 1)

    async def play(scene: Scene) -> None:
        scene.library.shared.clear()
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


def test_what_cannot_be_shared_is_warned_of_once_and_tried_again_when_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"a", 1)

    async def work() -> None:
        scene = Scene()
        scene.library.fault = DiskError("no permission")
        task = asyncio.create_task(scene.watcher.watch_folder(tmp_path))
        await looks(3)
        assert scene.log == [("publish", "a")]
        assert [report for report in scene.reports if isinstance(report, Warned)] == [Warned("no permission")]
        scene.library.fault = None
        write(path, b"b", 2)
        await looks(3)
        assert scene.log == [("publish", "a")]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


def test_what_is_shared_from_this_path_already_is_not_hashed_again(tmp_path: Path) -> None:
    """As after an upload that was kept in the folder that is watched."""
    path = write(tmp_path / "a", b"a", 1)

    async def work() -> None:
        scene = Scene()
        scene.library.shared[ContentId("kept")] = path
        task = asyncio.create_task(scene.watcher.watch_folder(tmp_path))
        await looks(3)
        assert scene.log == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


def test_a_folder_that_goes_away_takes_all_back_and_one_that_never_was_is_an_error(tmp_path: Path) -> None:
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


def test_the_same_content_at_two_paths_is_published_once_from_each_and_then_left_alone(
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
        assert list(scene.library.shared.values()) == [paths[1]]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(work)


def test_the_memory_of_warnings_is_bounded(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene()
        for number in range(3000):
            scene.watcher._warn(f"warning {number}")
        assert len(scene.watcher._warned) <= 1000
        assert len(scene.reports) == 3000

    in_virtual_time(work)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_what_is_shared_stays_shared_when_a_look_fails_for_lack_of_descriptors(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        scene = Scene()
        path = write(tmp_path / "a.txt", b"words", 1)
        await scene.watcher._look([path], strict=False)
        assert scene.log == [("publish", "a.txt")]

        def failing(*_: object) -> Scanned:
            raise DiskError("cannot read") from OSError(number, "fault")

        with monkeypatch.context() as patch:
            patch.setattr(module, "scan", failing)
            await scene.watcher._look([path], strict=False)
        assert scene.log == []
        path.unlink()
        await scene.watcher._look([path], strict=False)
        assert scene.log == [("retract", "a.txt")]

    in_virtual_time(work)


def test_case_60_a_file_that_could_not_be_hashed_for_want_of_a_descriptor_is_tried_again_at_the_next_look(
    tmp_path: Path,
) -> None:
    full = DiskError("cannot open 'a': this process has too many open files")
    full.__cause__ = OSError(errno.EMFILE, "Too many open files")

    async def play(scene: Scene) -> None:
        scene.library.fault = full
        write(tmp_path / "a", b"a", 1)
        await asyncio.sleep(2 * LOOK_TIME)
        assert ("publish", "a") in scene.log
        assert not scene.library.shared
        scene.library.fault = None
        await asyncio.sleep(2 * LOOK_TIME)
        assert [path.name for path in scene.library.shared.values()] == ["a"]

    watching(tmp_path, play)
