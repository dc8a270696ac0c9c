"""Tests of p2p/storage/disk_sync.py: files, folders and whole disks are synced, and no loss goes unheard."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

import pytest

from p2p.storage.disk_sync import DiskWatch, sync_file, sync_folder, syncfs_reports


def test_a_file_is_synced_with_and_without_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "x").open("wb") as file:
        sync_file(file.fileno())
        monkeypatch.delattr(os, "fdatasync", raising=False)
        sync_file(file.fileno())
    with pytest.raises(OSError):
        sync_file(10**6)


def test_a_folder_is_synced_or_the_fault_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync_folder(tmp_path)
    with pytest.raises(OSError):
        sync_folder(tmp_path / "missing")
    numbers = [errno.EINVAL, errno.EIO]

    def fsync(_fd: int) -> None:
        raise OSError(numbers.pop(0), "fault")

    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)
    with pytest.raises(OSError, match="fault"):
        sync_folder(tmp_path)
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    sync_folder(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="asks for syncfs")
def test_case_47_a_whole_disk_is_synced_or_the_loss_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = DiskWatch(tmp_path)
    if not watch.sync():
        pytest.skip("the kind of this disk does not report losses")

    class Libc:
        @staticmethod
        def syncfs(_fd: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_words, **_more: Libc)
    with pytest.raises(OSError) as caught:
        watch.sync()
    assert caught.value.errno == errno.EIO
    monkeypatch.setattr(ctypes, "CDLL", lambda *_words, **_more: object())
    assert not watch.sync()
    watch.close()
    watch.close()
    assert not watch.sync()


@pytest.mark.parametrize(
    ("release", "file_system", "reports"),
    [
        ("5.8.0-63-generic", "ext4", True),
        ("6.18.44", "xfs", True),
        ("10.1", "btrfs", True),
        ("5.7.19", "ext4", False),
        ("4.18.0-553.el8.x86_64", "xfs", False),
        ("6.1.0", "overlay", False),
        ("6.1.0", "fuse.sshfs", False),
        ("6.1.0", "", False),
        ("odd", "ext4", False),
    ],
)
def test_case_47_syncfs_is_trusted_only_where_it_reports_losses(
    release: str, file_system: str, reports: bool
) -> None:
    assert syncfs_reports(release, file_system) is reports
