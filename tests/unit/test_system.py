"""Tests of p2p/system.py: the fast way and the portable way do the same."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import KIB, MIB, FileSpan
from p2p.system import (
    DiskIO,
    data_ranges,
    disk_error,
    disk_io,
    free_space,
    fsync_folder,
    install_stop_signals,
    lock_file,
    move_new,
    open_read,
    open_write,
    scratch_file,
    sync_disk,
)
from tests.unit.content_samples import some_bytes

DATA = some_bytes(3 * MIB + 77)
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def io(request: pytest.FixtureRequest) -> DiskIO:
    return disk_io(request.param)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "data").write_bytes(DATA)
    found = open_write(tmp_path / "data", create=False)
    yield found
    os.close(found)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected stream sockets; the first does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    with one, other:
        one.setblocking(False)
        other.settimeout(20)
        yield one, other


def receive(sock: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (data := sock.recv(1 << 16)):
        found += data
    return bytes(found)


def send_on(io: DiskIO, sock: socket.socket, fd: int, timeout: float) -> None:
    """Send more than any buffer on the way can hold."""
    for _ in range(100):
        io.send_span(sock, FileSpan(fd, 0, len(DATA)), timeout)


def in_thread(work: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    """Run `work` beside the test; what it raises is kept."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 (given to the test)
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_bytes_are_read_and_written_at_their_place(io: DiskIO, fd: int) -> None:
    view = memoryview(bytearray(1000))
    assert io.pread_into(fd, view, 2000) == 1000
    assert bytes(view) == DATA[2000:3000]
    io.pwrite_all(fd, memoryview(b"hello"), 100)
    assert io.pread_into(fd, view[:10], 98) == 10
    assert bytes(view[:10]) == DATA[98:100] + b"hello" + DATA[105:108]
    assert io.pread_into(fd, view, len(DATA) - 5) == 5
    assert io.pread_into(fd, view, len(DATA)) == 0


def test_a_write_that_the_system_does_in_parts_is_whole(io: DiskIO, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pwrite, real_write = os.pwrite, os.write
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: real_pwrite(fd, view[:7], offset))
    monkeypatch.setattr(os, "write", lambda fd, view: real_write(fd, view[:7]))
    io.pwrite_all(fd, memoryview(b"0123456789" * 5), 10)
    monkeypatch.undo()
    assert os.pread(fd, 50, 10) == b"0123456789" * 5


def test_a_write_that_moves_nothing_is_an_error_and_no_endless_loop(io: DiskIO, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_arguments: 0)
    monkeypatch.setattr(os, "write", lambda *_arguments: 0)
    with pytest.raises(OSError, match="no byte"):
        io.pwrite_all(fd, memoryview(b"x"), 0)


def test_many_threads_read_and_write_one_descriptor(io: DiskIO, fd: int) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        view = memoryview(bytearray(4096))
        for offset in range(number * 4096, 2 * MIB, 8 * 4096):
            io.pwrite_all(fd, memoryview(DATA)[offset : offset + 4096], offset)
            io.pread_into(fd, view, offset)
            if bytes(view) != DATA[offset : offset + 4096]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_span_is_sent_through_a_socket_that_does_not_block(io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    span = FileSpan(fd, 1000, 3 * MIB - 2000)
    thread, errors = in_thread(lambda: io.send_span(sender, span, 20))
    assert receive(receiver, span.length) == DATA[1000 : 1000 + span.length]
    thread.join(20)
    assert errors == []


def test_pace_is_told_every_byte_that_goes(io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    told: list[int] = []
    thread, errors = in_thread(lambda: io.send_span(sender, FileSpan(fd, 0, MIB + 5), 20, told.append))
    assert receive(receiver, MIB + 5) == DATA[: MIB + 5]
    thread.join(20)
    assert errors == []
    assert sum(told) == MIB + 5
    assert max(told) <= 256 * KIB


def test_case_32_a_side_that_takes_nothing_is_given_up(io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    sender, _ = pair
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with pytest.raises(TimeoutError):
        send_on(io, sender, fd, 0.05)


def test_without_poll_a_stalled_side_is_given_up_too(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("select.poll", raising=False)
    sender, receiver = pair
    thread, errors = in_thread(lambda: io.send_span(sender, FileSpan(fd, 0, 2 * MIB), 20))
    assert receive(receiver, 2 * MIB) == DATA[: 2 * MIB]
    thread.join(20)
    assert errors == []
    with pytest.raises(TimeoutError):
        send_on(io, sender, fd, 0.05)


def test_case_57_a_connection_that_breaks_while_sending_is_an_error(io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    receiver.close()
    with pytest.raises(ConnectionError):
        send_on(io, sender, fd, 5)


def test_case_80_a_socket_shut_down_while_sending_ends_the_send_at_once(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    sender, receiver = pair
    thread, errors = in_thread(lambda: send_on(io, sender, fd, 30))
    receive(receiver, 1)
    sender.shutdown(socket.SHUT_RDWR)
    sender.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(errors[0], OSError)


def test_a_socket_that_is_closed_already_is_an_error(io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(OSError):
        io.send_span(pair[0], FileSpan(fd, 0, 1), 1)


def test_a_file_that_became_shorter_is_told(io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(DiskError, match="shorter"):
        io.send_span(pair[0], FileSpan(fd, len(DATA) - 10, 20), 5)


def test_case_47_a_read_fault_while_sending_is_the_disks(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "sendfile", fail, raising=False)
    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(DiskError, match="cannot read"):
        io.send_span(pair[0], FileSpan(fd, 0, 10), 5)


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="needs sendfile")
def test_where_the_kernel_cannot_send_this_file_its_bytes_are_copied(
    fd: int, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.sendfile
    calls: list[int] = []

    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(errno.EINVAL, "not from this file system")
        return real(out, source, offset, 1000)

    monkeypatch.setattr(os, "sendfile", sendfile)
    sender, receiver = pair
    thread, errors = in_thread(lambda: disk_io().send_span(sender, FileSpan(fd, 5, 500_000), 20))
    assert receive(receiver, 500_000) == DATA[5:500_005]
    thread.join(20)
    assert errors == []
    assert calls == [5, 1005]


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="needs sendfile")
def test_a_fault_of_the_socket_is_passed_on(fd: int, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> int:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises(ConnectionResetError):
        disk_io().send_span(pair[0], FileSpan(fd, 0, 10), 5)


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
from p2p.system import lock_file
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
        timeout=60,
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

    monkeypatch.setattr("p2p.system.os.fstat", fstat)
    lock = lock_file(path)
    monkeypatch.undo()
    assert os.path.samestat(os.fstat(lock.fd), os.stat(path))
    lock.close()


@posix_only
def test_where_a_disk_knows_no_locks_it_works_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    lock = lock_file(tmp_path / "lock")
    assert os.path.samestat(os.fstat(lock.fd), os.stat(tmp_path / "lock"))
    lock.close()


def test_a_folder_is_synced_or_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync_folder(tmp_path)
    with pytest.raises(OSError):
        fsync_folder(tmp_path / "missing")
    numbers = [errno.EINVAL, errno.EIO]

    def fsync(_fd: int) -> None:
        raise OSError(numbers.pop(0), "fault")

    monkeypatch.setattr(os, "fsync", fsync)
    fsync_folder(tmp_path)
    with pytest.raises(OSError, match="fault"):
        fsync_folder(tmp_path)
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    fsync_folder(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="holes are sure to be told here only")
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
def test_where_holes_cannot_be_asked_for_the_file_is_one_part(fd: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def lseek(*_arguments: int) -> int:
        raise OSError(number, "no holes here")

    monkeypatch.setattr(os, "lseek", lseek)
    assert list(data_ranges(fd, 100)) == [(0, 100)]


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="needs SEEK_DATA")
def test_another_fault_while_looking_for_holes_is_told(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lseek(*_arguments: int) -> int:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "lseek", lseek)
    with pytest.raises(OSError, match="bad sector"):
        list(data_ranges(fd, 100))


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_case_43_a_move_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, kind: str) -> None:
    if not links:

        def no_links(*_arguments: object, **_more: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr("p2p.system.os.link", no_links)
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


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself these signals there")
def test_case_51_stop_signals_reach_the_loop_until_taken_back(portable: bool) -> None:
    def of_the_host(_number: int, _frame: object) -> None:
        """A handler that was there before, as of whoever runs the tests."""

    before = signal.signal(signal.SIGTERM, of_the_host)
    former = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def body() -> list[signal.Signals]:
        seen: list[signal.Signals] = []
        came = asyncio.Event()

        def stop(number: signal.Signals) -> None:
            seen.append(number)
            came.set()

        uninstall = install_stop_signals(asyncio.get_running_loop(), stop, portable=portable)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            await asyncio.wait_for(came.wait(), 10)
            came.clear()
        uninstall()
        return seen

    try:
        assert asyncio.run(body()) == [signal.SIGTERM, signal.SIGINT]
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == former
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_loop_without_signals_gets_the_portable_way() -> None:
    loop = asyncio.new_event_loop()
    former = signal.getsignal(signal.SIGTERM)

    def unknown(*_arguments: object) -> None:
        raise NotImplementedError

    loop.add_signal_handler = unknown  # type: ignore[method-assign,assignment]
    uninstall = install_stop_signals(loop, lambda _number: None)
    handler = signal.getsignal(signal.SIGTERM)
    assert handler is not former
    loop.close()
    assert callable(handler)
    handler(signal.SIGTERM, None)
    uninstall()
    assert signal.getsignal(signal.SIGTERM) is former


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
def test_case_47_each_fault_has_its_sentence(tmp_path: Path, number: int, words: str) -> None:
    error = disk_error(OSError(number, os.strerror(number)), "write", tmp_path / "x", need=1000)
    assert error.exit_code == 7
    with pytest.raises(DiskError, match=words):
        raise error


def test_case_46_a_disk_that_is_full_with_bytes_to_give_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = disk_error(OSError(errno.EDQUOT, "quota"), "write", tmp_path / "x", need=5)
    assert str(quota).startswith("disk full: need 5 bytes, have ")
    assert str(quota).endswith("x': the quota of this user is used up")
    assert str(disk_error(OSError(errno.ENOSPC, "full"), "write", tmp_path / "no" / "x")).endswith("x'")
    found = os.statvfs(tmp_path)

    class Crowded:
        f_files, f_favail, f_bavail = found.f_files, 0, found.f_bavail

    monkeypatch.setattr(os, "statvfs", lambda _path: Crowded)
    monkeypatch.setattr("p2p.system.free_space", lambda _path: 7)
    crowded = disk_error(OSError(errno.ENOSPC, "full"), "write", tmp_path / "no" / "x")
    assert str(crowded).endswith("x': there is no room for another file")


@pytest.mark.skipif(sys.platform != "linux", reason="asks for syncfs")
def test_case_47_a_disk_is_synced_as_a_whole_or_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert sync_disk(fd)
    os.close(fd)
    with pytest.raises(OSError, match="descriptor") as caught:
        sync_disk(fd)
    assert caught.value.errno == errno.EBADF
    monkeypatch.setattr("ctypes.CDLL", lambda *_words, **_more: object())
    assert not sync_disk(fd)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not sync_disk(fd)


def test_a_fault_without_a_number_has_a_sentence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "oserror" in str(disk_error(OSError("odd"), "read", tmp_path))
    assert "disk full: have" in str(disk_error(OSError(errno.ENOSPC, "full"), "read", tmp_path))

    def fail(_path: object) -> None:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr("shutil.disk_usage", fail)
    assert "not known" in str(disk_error(OSError(errno.ENOSPC, "full"), "write", tmp_path))


def test_case_42_a_path_in_a_sentence_cannot_steer_a_terminal() -> None:
    assert (
        str(disk_error(OSError(errno.EIO, "x"), "read", "a\x1b[31m\nb"))
        == r"cannot read 'a\x1b[31m\x0ab': the disk reports a read or write error"
    )
