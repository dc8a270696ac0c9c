"""Tests of p2p/storage/part_files.py: a loss on the way to the disk is told for every file, and not kept in
memory as if all were well."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.storage.part_file import PartialContent
from tests.kit.content_samples import fill, folder_manifest, manifest_of, partial_of, some_bytes

DATA = some_bytes(300_000)
FILES = [(f"f{number}", DATA[number * 100_000 : (number + 1) * 100_000]) for number in range(3)]

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="finds out which file a descriptor is of"
)


class Disk:
    """Stands for a disk that loses what is written to the files of `lossy`, and tells of each loss once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lossy: set[str]) -> None:
        self.lossy = lossy
        self.synced: list[str] = []
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._sync_by(getattr(os, name)))

    def _sync_by(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            real(fd)
            self.synced.append(_name(fd))
            if _name(fd) in self.lossy:
                self.lossy.remove(_name(fd))
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return sync


def _name(fd: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


def full(tmp_path: Path, *, idle_open: bool = True) -> PartialContent:
    """A folder all of whose bytes were written; with `idle_open` its files are still open, otherwise
    closed."""
    partial = partial_of(folder_manifest(FILES), tmp_path)
    partial.open()
    if not idle_open:
        partial._files.open._limit = 0
    fill(partial, DATA)
    return partial


@pytest.mark.parametrize("idle_open", [True, False], ids=["open", "closed"])
def test_case_47_one_file_that_was_lost_does_not_keep_the_others_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_open: bool
) -> None:
    partial = full(tmp_path, idle_open=idle_open)
    disk = Disk(monkeypatch, {"f0", "f2"})
    with pytest.raises(DiskError, match="cannot sync"):
        partial.finish()
    partial.abandon()
    assert disk.lossy == set()
    assert {"f0", "f1", "f2"} <= set(disk.synced)


@pytest.mark.parametrize("files", [1, 3])
def test_case_47_a_resume_drops_what_is_kept_in_memory_before_it_looks_at_any_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    """Whoever was told of lost bytes meanwhile, and died of it: what is verified is what lies on the disk."""
    manifest = manifest_of(DATA) if files == 1 else folder_manifest(FILES)
    first = partial_of(manifest, tmp_path)
    first.open()
    fill(first, DATA)
    first.abandon()
    steps: list[str] = []
    monkeypatch.setattr("p2p.storage.part_files.drop_cached", lambda fd: steps.append(f"drop {_name(fd)}"))

    def look(fd: int, size: int) -> list[tuple[int, int]]:
        steps.append(f"look {_name(fd)}")
        return [(0, size)]

    monkeypatch.setattr("p2p.storage.part_files.data_ranges", look)
    again = partial_of(manifest, tmp_path)
    again.open()
    assert again.written().full
    names = ["x.bin.part"] if files == 1 else ["f0", "f1", "f2"]
    assert steps == [step for name in names for step in (f"drop {name}", f"look {name}")]
    again.abandon()


def test_a_file_is_synced_once_through_the_descriptor_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = full(tmp_path)
    written = {_name(entry.fd): entry.fd for entry in partial._files.open._open.values()}
    by: list[tuple[str, int]] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: by.append((_name(fd), fd)))
    partial.finish()
    assert sorted(pair for pair in by if pair[0] in written) == sorted(written.items())
