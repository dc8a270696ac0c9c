"""Tests of p2p/storage/file_set.py: many files as one, with few descriptors."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.content.geometry import Layout
from p2p.errors import DiskError, Refused
from p2p.model import FileEntry, FileSpan
from p2p.storage.disk import open_read
from p2p.storage.disk_io import DiskIO, disk_io
from p2p.storage.file_set import MAX_SPANS, FileSet
from tests.kit.content_samples import some_bytes
from tests.kit.faulty_io import FaultyIO, bad_sector, full_disk
from tests.kit.waiting import HANG_S


class Files:
    """Some files of the given sizes, and which of their descriptors are open."""

    def __init__(self, folder: Path, sizes: list[int], portable: bool) -> None:
        self.data = some_bytes(sum(sizes))
        self.paths = [folder / f"f{index}" for index in range(len(sizes))]
        self.opened = 0
        at = 0
        for path, size in zip(self.paths, sizes, strict=True):
            path.write_bytes(self.data[at : at + size])
            at += size
        self.layout = Layout(
            [FileEntry(path.name, size) for path, size in zip(self.paths, sizes, strict=True)]
        )
        self.io: DiskIO = disk_io(portable)

    def fileset(self, limit: int = 64, open_file: Callable[[int], int] | None = None) -> FileSet:
        return FileSet(
            self.layout,
            self.io,
            open_file=open_file or self.open_file,
            path_of=lambda index: str(self.paths[index]),
            limit=limit,
        )

    def open_file(self, index: int) -> int:
        self.opened += 1
        return os.open(self.paths[index], os.O_RDWR | getattr(os, "O_BINARY", 0))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def bytes_of(spans: list[FileSpan]) -> bytes:
    found = b""
    for span in spans:
        os.lseek(span.fd, span.offset, os.SEEK_SET)
        found += os.read(span.fd, span.length)
    return found


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def three(tmp_path: Path, request: pytest.FixtureRequest) -> Files:
    return Files(tmp_path, [100, 0, 50, 200], request.param)


def test_bytes_are_read_and_written_across_file_borders(three: Files) -> None:
    files = three.fileset()
    into = bytearray(120)
    files.read(60, memoryview(into))
    assert bytes(into) == three.data[60:180]
    files.write(90, memoryview(b"x" * 70))
    files.close()
    assert (
        b"".join(path.read_bytes() for path in three.paths) == three.data[:90] + b"x" * 70 + three.data[160:]
    )


def test_spans_hold_the_bytes_in_order(three: Files) -> None:
    files = three.fileset()
    with files.opened(60, 120) as spans:
        assert [span.length for span in spans] == [40, 50, 30]
        assert bytes_of(spans) == three.data[60:180]
    files.close()


def test_a_block_over_many_tiny_files_takes_one_descriptor(tmp_path: Path) -> None:
    tiny = Files(tmp_path, [3] * 500, portable=False)
    files = tiny.fileset(limit=4)
    with files.opened(1, 1400) as spans:
        assert len(spans) == 1
        assert bytes_of(spans) == tiny.data[1:1401]
        fd = spans[0].fd
    assert not is_open(fd)
    with files.opened(0, 3 * MAX_SPANS) as spans:
        assert len(spans) == MAX_SPANS
    files.close()


def test_only_the_files_used_last_are_kept_open(tmp_path: Path) -> None:
    many = Files(tmp_path, [1] * 6, portable=False)
    files = many.fileset(limit=2)
    fds = []
    for offset in range(6):
        with files.opened(offset, 1) as (span,):
            fds.append(span.fd)
    assert many.opened == 6
    with files.opened(5, 1), files.opened(4, 1):
        assert many.opened == 6
    with files.opened(0, 1):
        assert many.opened == 7
    files.close()
    assert not any(is_open(fd) for fd in fds)


def test_a_file_in_use_is_not_closed_to_make_room_for_others(tmp_path: Path) -> None:
    many = Files(tmp_path, [1] * 6, portable=False)
    files = many.fileset(limit=1)
    with files.opened(0, 1) as (held,):
        for offset in range(1, 6):
            with files.opened(offset, 1):
                pass
        assert bytes_of([held]) == many.data[:1]
    files.close()


def test_close_waits_for_what_is_in_use_and_opens_nothing_more(three: Files) -> None:
    files = three.fileset()
    with files.opened(0, 1) as (span,):
        files.close()
        assert is_open(span.fd)
        with pytest.raises(Refused, match="put away"), files.opened(0, 1):
            pass
        with pytest.raises(DiskError, match="still being read"):
            files.close(wait=0.01)
    assert not is_open(span.fd)
    files.close(wait=1)


def test_a_close_that_waits_returns_when_the_last_user_is_done(three: Files) -> None:
    files = three.fileset()
    entered, leave = threading.Event(), threading.Event()

    def use() -> None:
        with files.opened(0, 1):
            entered.set()
            leave.wait(HANG_S)

    user = threading.Thread(target=use)
    user.start()
    assert entered.wait(10)
    threading.Timer(0.02, leave.set).start()
    files.close(wait=10)
    user.join(10)
    assert leave.is_set()


def test_case_60_with_no_descriptor_left_idle_files_are_closed_first(tmp_path: Path) -> None:
    some = Files(tmp_path, [1, 1], portable=False)
    refused: list[int] = []

    def open_file(index: int) -> int:
        if index and not refused:
            refused.append(index)
            raise OSError(errno.EMFILE, "too many")
        return some.open_file(index)

    files = some.fileset(open_file=open_file)
    with files.opened(0, 1):
        pass
    with files.opened(1, 1) as (span,):
        assert bytes_of([span]) == some.data[1:]
    with files.opened(0, 1):
        assert some.opened == 3
    files.close()
    assert refused == [1]


def test_with_no_descriptor_and_nothing_idle_it_is_an_error(tmp_path: Path) -> None:
    some = Files(tmp_path, [1, 1], portable=False)

    def open_file(index: int) -> int:
        if index:
            raise OSError(errno.EMFILE, "too many")
        return some.open_file(index)

    files = some.fileset(open_file=open_file)
    with files.opened(0, 1), pytest.raises(DiskError, match="too many open files"), files.opened(1, 1):
        pass
    files.close()


def test_a_file_that_cannot_be_opened_is_named(three: Files) -> None:
    three.paths[2].unlink()
    files = three.fileset()
    with pytest.raises(DiskError, match=r"f2.*does not exist"), files.opened(100, 1):
        pass
    missing = three.fileset(open_file=lambda index: open_read(three.paths[index])[0])
    with pytest.raises(DiskError, match="f2"):
        missing.read(100, memoryview(bytearray(1)))


def test_a_file_that_became_shorter_is_an_error(three: Files) -> None:
    os.truncate(three.paths[0], 50)
    files = three.fileset()
    with pytest.raises(DiskError, match="shorter"):
        files.read(0, memoryview(bytearray(100)))
    files.close()


def test_case_47_read_and_write_faults_are_errors_with_the_path(three: Files) -> None:
    three.io = FaultyIO(read=bad_sector, write=bad_sector)
    files = three.fileset()
    with pytest.raises(DiskError, match=r"cannot read '.*f0'"):
        files.read(0, memoryview(bytearray(1)))
    with pytest.raises(DiskError, match=r"cannot write '.*f0'"):
        files.write(0, memoryview(b"x"))
    files.close()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="sees the file in which a block is gathered")
@pytest.mark.parametrize("step", ["make", "write", "read"])
def test_a_block_that_cannot_be_gathered_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tiny = Files(tmp_path, [3] * 20, portable=False)
    if step == "write":
        tiny.io = FaultyIO(write=full_disk)
    files = tiny.fileset()
    made: list[int] = []

    real = os.memfd_create

    def scratch(name: str, flags: int) -> int:
        if step == "make":
            full_disk()
        made.append(real(name, flags))
        return made[0]

    monkeypatch.setattr(os, "memfd_create", scratch)
    if step == "read":
        tiny.paths[15].unlink()
    with pytest.raises(DiskError), files.opened(0, 60):
        pass
    assert not any(is_open(fd) for fd in made)
    files.close()


def test_one_fileset_serves_many_threads(tmp_path: Path) -> None:
    for portable in (False, True):
        many = Files(tmp_path, [997] * 40, portable)
        files = many.fileset(limit=3)
        wrong: list[int] = []

        def read(start: int, many: Files = many, files: FileSet = files, wrong: list[int] = wrong) -> None:
            into = bytearray(5000)
            for offset in range(start, start + 15_000, 997):
                files.read(offset, memoryview(into))
                if bytes(into) != many.data[offset : offset + 5000]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 16_000, 2_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
        files.close()
        assert wrong == []
