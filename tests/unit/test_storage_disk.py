"""Tests of p2p/storage/disk.py: what is opened, locked, synced and moved, and the sentences about what goes
wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import MIB
from p2p.storage.disk import (
    data_ranges,
    disk_error,
    free_space,
    lock_file,
    move_new,
    open_read,
    open_write,
    scratch_file,
)
from tests.kit.content_samples import some_bytes
from tests.kit.waiting import HANG_S

DATA = some_bytes(3 * MIB + 77)
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "data").write_bytes(DATA)
    found = open_write(tmp_path / "data", create=False)
    yield found
    os.close(found)


@posix_only
def test_case_44_only_regular_files_are_opened_and_a_fifo_never_blocks(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for name in ("fifo", "link", "missing", "."):
        with pytest.raises(DiskError):
            open_read(tmp_path / name)
    with pytest.raises(DiskError):
        open_read("/dev/null")
    for name in ("fifo", "link"):
        with pytest.raises((DiskError, OSError)):
            open_write(tmp_path / name, create=False)
    with pytest.raises(FileExistsError):
        open_write(tmp_path / "file", create=True)
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before
    fd, found = open_read(tmp_path / "file")
    assert found.st_size == 1
    os.close(fd)


def test_a_scratch_file_has_no_name_and_keeps_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        fd = scratch_file()
        os.write(fd, b"abc")
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 10) == b"abc"
        os.close(fd)
        monkeypatch.delattr(os, "memfd_create", raising=False)


LOCK_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from p2p.storage.disk import lock_file
lock_file(sys.argv[2])
"""


def test_a_lock_keeps_a_second_holder_out_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = lock_file(path)
    with pytest.raises(BlockingIOError):
        lock_file(path)
    child = subprocess.run(
        [sys.executable, "-c", LOCK_CHILD, Path(__file__).resolve().parents[2], path],
        check=False,
        capture_output=True,
        timeout=HANG_S,
    )
    assert b"BlockingIOError" in child.stderr
    lock.close()
    lock.close()
    lock_file(path).close()
    assert path.exists()


def test_a_lock_file_is_removed_while_held(tmp_path: Path) -> None:
    lock = lock_file(tmp_path / "lock")
    lock.remove()
    assert list(tmp_path.iterdir()) == []
    lock.remove()


@pytest.mark.parametrize("gone", ["replaced", "deleted"])
def test_a_lock_on_a_file_that_lost_its_name_is_taken_again_on_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"old")
    real = os.fstat
    calls: list[int] = []

    def fstat(fd: int) -> os.stat_result:
        calls.append(fd)
        if len(calls) == 1:
            path.unlink()
            if gone == "replaced":
                path.write_bytes(b"new")
        return real(fd)

    monkeypatch.setattr(os, "fstat", fstat)
    lock = lock_file(path)
    monkeypatch.undo()
    assert os.path.samestat(os.fstat(lock.fd), os.stat(path))
    lock.close()


@posix_only
def test_where_a_disk_knows_no_locks_it_works_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    lock = lock_file(tmp_path / "lock")
    assert os.path.samestat(os.fstat(lock.fd), os.stat(tmp_path / "lock"))
    lock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="holes are reported for sure here only")
def test_case_35_holes_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    size = 10 * 1024 * MIB
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(5 * 1024 * MIB)
        file.write(b"x" * 8192)
        file.flush()
        found = list(data_ranges(file.fileno(), size))
        assert len(found) == 1
        start, end = found[0]
        assert start <= 5 * 1024 * MIB < end <= start + MIB
        assert list(data_ranges(file.fileno(), 1024 * MIB)) == []
        assert list(data_ranges(file.fileno(), size, portable=True)) == [(0, size)]
        assert list(data_ranges(file.fileno(), 0, portable=True)) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_where_holes_cannot_be_asked_for_the_file_is_one_part(
    fd: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def lseek(*_arguments: int) -> int:
        raise OSError(number, "no holes here")

    monkeypatch.setattr(os, "lseek", lseek)
    assert list(data_ranges(fd, 100)) == [(0, 100)]


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="needs SEEK_DATA")
def test_another_fault_while_looking_for_holes_is_raised(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lseek(*_arguments: int) -> int:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "lseek", lseek)
    with pytest.raises(OSError, match="bad sector"):
        list(data_ranges(fd, 100))


def test_free_space_is_that_of_the_nearest_folder_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_space(tmp_path) > 0
    assert free_space(tmp_path / "not" / "yet" / "there") > 0

    def fail(_path: object) -> None:
        raise OSError(errno.EIO, "bad sector")

    def missing(_path: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone")

    for broken in (fail, missing):
        monkeypatch.setattr("shutil.disk_usage", broken)
        with pytest.raises(DiskError, match="measure"):
            free_space(tmp_path)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_case_43_a_move_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, kind: str
) -> None:
    if not links:

        def no_links(*_arguments: object, **_more: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "source", tmp_path / "target"
    if kind == "file":
        source.write_bytes(b"new")
    else:
        source.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        move_new(source, target)
    assert target.read_bytes() == b"old"
    assert source.exists()
    target.unlink()
    move_new(source, target)
    assert target.is_dir() if kind == "folder" else target.read_bytes() == b"new"
    assert not source.exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk full: need 1,000 bytes, have "),
        (errno.EACCES, "cannot write '.*': no permission"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "does not exist"),
        (errno.EIO, "read or write error"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.ENOTDIR, "not a directory"),
    ],
)
def test_case_47_each_fault_of_the_disk_has_its_sentence(tmp_path: Path, number: int, words: str) -> None:
    error = disk_error(OSError(number, os.strerror(number)), "write", tmp_path / "x", need=1000)
    assert error.exit_code == 7
    with pytest.raises(DiskError, match=words):
        raise error


def test_case_46_a_disk_that_is_full_with_bytes_to_give_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = disk_error(OSError(errno.EDQUOT, "quota"), "write", tmp_path / "x", need=5)
    assert str(quota).startswith("disk full: need 5 bytes, have ")
    assert str(quota).endswith("x': the quota of this user is used up")
    assert str(disk_error(OSError(errno.ENOSPC, "full"), "write", tmp_path / "no" / "x")).endswith("x'")
    found = os.statvfs(tmp_path)

    class Crowded:
        f_files, f_favail, f_bavail = found.f_files, 0, found.f_bavail
        f_frsize, f_blocks, f_bfree = found.f_frsize, found.f_blocks, found.f_bfree  # for shutil.disk_usage

    monkeypatch.setattr(os, "statvfs", lambda _path: Crowded)
    crowded = disk_error(OSError(errno.ENOSPC, "full"), "write", tmp_path / "no" / "x")
    assert str(crowded).endswith("x': there is no room for another file")


def test_a_fault_without_a_number_has_a_sentence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "oserror" in str(disk_error(OSError("odd"), "read", tmp_path))
    assert "disk full: have" in str(disk_error(OSError(errno.ENOSPC, "full"), "read", tmp_path))

    def fail(_path: object) -> None:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr("shutil.disk_usage", fail)
    assert "not known" in str(disk_error(OSError(errno.ENOSPC, "full"), "write", tmp_path))


def test_case_42_a_path_in_a_sentence_cannot_control_a_terminal() -> None:
    assert (
        str(disk_error(OSError(errno.EIO, "x"), "read", "a\x1b[31m\nb"))
        == r"cannot read 'a\x1b[31m\x0ab': the disk reports a read or write error"
    )
