"""Syncs while a download is written: one at a time, after enough bytes, and never with a fault forgotten."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.storage import part_file as partial_module
from p2p.storage.disk import sync_data
from p2p.storage.flusher import Flusher
from tests.kit.content_samples import fill, manifest_of, partial_of, some_bytes
from tests.kit.leaks import Snapshot, check_back_to

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
        assert self.go_on.acquire(timeout=10)
        self.at_once -= 1
        if self.fault:
            raise self.fault


def test_a_sync_begins_when_enough_is_written_and_not_before() -> None:
    disk = Disk()
    flusher = Flusher(disk.sync, every=100)
    flusher.wrote(99)
    assert disk.calls == 0
    flusher.wrote(1)
    assert disk.begun.acquire(timeout=10)
    disk.go_on.release()
    flusher.finish()
    assert disk.calls == 1


def test_what_is_written_during_a_sync_is_synced_after_it_and_never_two_at_once() -> None:
    disk = Disk()
    flusher = Flusher(disk.sync, every=100)
    flusher.wrote(100)
    assert disk.begun.acquire(timeout=10)
    for _ in range(5):
        flusher.wrote(100)
    disk.go_on.release(2)
    assert disk.begun.acquire(timeout=10)
    flusher.finish()
    assert (disk.calls, disk.most_at_once) == (2, 1)


def test_a_failed_sync_is_told_to_whoever_writes_or_finishes_from_then_on() -> None:
    disk = Disk()
    disk.fault = OSError(errno.EIO, "lost")
    flusher = Flusher(disk.sync, every=1)
    flusher.wrote(1)
    disk.go_on.release(9)
    with pytest.raises(OSError, match="lost"):
        flusher.finish()
    for _ in range(2):
        with pytest.raises(OSError, match="lost"):
            flusher.wrote(1)
        with pytest.raises(OSError, match="lost"):
            flusher.finish()
    assert disk.calls == 1


def test_where_no_thread_can_be_had_nothing_is_lost_and_a_later_one_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    disk = Disk()
    flusher = Flusher(disk.sync, every=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        flusher.wrote(1)
        flusher.finish()
    disk.go_on.release()
    flusher.wrote(1)
    flusher.finish()
    assert disk.calls == 1


def test_a_download_is_synced_on_its_way_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(partial_module, "Flusher", lambda sync: Flusher(sync, every=1))
    partial = partial_of(SINGLE, tmp_path, fault=steps.append)
    partial.open()
    fill(partial, DATA)
    partial.finish()
    assert "flush" in steps
    assert steps.index("flush") < steps.index("fsync")
    assert partial.target.read_bytes() == DATA


def test_a_download_whose_bytes_were_lost_on_the_way_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()

    def fault(step: str) -> None:
        if step == "flush":
            lost.set()
            raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(partial_module, "Flusher", lambda sync: Flusher(sync, every=len(DATA)))
    partial = partial_of(SINGLE, tmp_path, fault=fault)
    partial.open()
    fill(partial, DATA)
    assert lost.wait(10)
    for _ in range(2):
        with pytest.raises(DiskError):
            partial.finish()
    assert not partial.target.exists()
    partial.abandon()


def test_a_file_is_synced_with_and_without_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "x").open("wb") as file:
        sync_data(file.fileno())
        monkeypatch.delattr(os, "fdatasync", raising=False)
        sync_data(file.fileno())
    with pytest.raises(OSError):
        sync_data(10**6)
