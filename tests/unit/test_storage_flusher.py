"""Syncs while a download is written: one at a time, after enough bytes, and never with a fault forgotten."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.storage.flusher import Flusher
from p2p.storage.part_file import PartLimits
from tests.kit.content_samples import fill, manifest_of, part_of, some_bytes
from tests.kit.leaks import Snapshot, check_back_to
from tests.kit.waiting import HANG_S

DATA = some_bytes(300_000)
SINGLE = manifest_of(DATA)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = Snapshot.take()
    yield
    check_back_to(before)


class Disk:
    """A sync that a test can hold, let go and fail, and that counts itself."""

    def __init__(self) -> None:
        self.calls = self.at_once = self.most_at_once = 0
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.fault: OSError | None = None

    def sync(self) -> None:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.release()
        assert self.go_on.acquire(timeout=HANG_S)
        self.at_once -= 1
        if self.fault:
            raise self.fault


def test_a_sync_begins_when_enough_is_written_and_not_before() -> None:
    disk = Disk()
    flusher = Flusher(disk.sync, every=100)
    flusher.on_written(99)
    assert disk.calls == 0
    flusher.on_written(1)
    assert disk.begun.acquire(timeout=HANG_S)
    disk.go_on.release()
    flusher.wait()
    assert disk.calls == 1


def test_what_is_written_during_a_sync_is_synced_by_the_next_one() -> None:
    disk = Disk()
    flusher = Flusher(disk.sync, every=100)
    flusher.on_written(100)
    assert disk.begun.acquire(timeout=HANG_S)
    for _ in range(5):
        flusher.on_written(100)
    disk.go_on.release(2)
    assert disk.begun.acquire(timeout=HANG_S)
    flusher.wait()
    assert (disk.calls, disk.most_at_once) == (2, 1)


def test_a_failed_sync_is_raised_by_every_later_write_and_by_the_end() -> None:
    disk = Disk()
    disk.fault = OSError(errno.EIO, "lost")
    flusher = Flusher(disk.sync, every=1)
    flusher.on_written(1)
    disk.go_on.release(9)
    with pytest.raises(OSError, match="lost"):
        flusher.wait()
    for _ in range(2):
        with pytest.raises(OSError, match="lost"):
            flusher.on_written(1)
        with pytest.raises(OSError, match="lost"):
            flusher.wait()
    assert disk.calls == 1


def test_without_a_thread_nothing_is_lost_and_a_later_write_flushes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    disk = Disk()
    flusher = Flusher(disk.sync, every=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        flusher.on_written(1)
        flusher.wait()
    disk.go_on.release()
    flusher.on_written(1)
    flusher.wait()
    assert disk.calls == 1


def test_a_download_is_synced_on_its_way_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    steps: list[str] = []
    part = part_of(SINGLE, tmp_path, fault=steps.append, limits=PartLimits(flush_every=1))
    part.open()
    fill(part, DATA)
    part.finish()
    assert "flush" in steps
    assert steps.index("flush") < steps.index("fsync")
    assert part.target.read_bytes() == DATA


def test_a_download_whose_bytes_were_lost_on_the_way_is_not_finished(tmp_path: Path) -> None:
    lost = threading.Event()

    def fault(step: str) -> None:
        if step == "flush":
            lost.set()
            raise OSError(errno.EIO, "lost")

    part = part_of(SINGLE, tmp_path, fault=fault, limits=PartLimits(flush_every=len(DATA)))
    part.open()
    fill(part, DATA)
    assert lost.wait(10)
    with pytest.raises(DiskError, match="cannot sync"):
        part.finish()
    assert not part.target.exists()
    part.abandon()
