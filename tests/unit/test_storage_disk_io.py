"""Tests of p2p/storage/disk_io.py: the fast way and the portable way do the same."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import KIB, MIB, FileSpan
from p2p.storage.disk import open_write
from p2p.storage.disk_io import DiskIO, disk_io
from tests.kit.content_samples import some_bytes
from tests.kit.waiting import HANG_S

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


def test_a_write_that_the_system_does_in_parts_is_whole(
    io: DiskIO, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pwrite, real_write = os.pwrite, os.write
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: real_pwrite(fd, view[:7], offset))
    monkeypatch.setattr(os, "write", lambda fd, view: real_write(fd, view[:7]))
    io.pwrite_all(fd, memoryview(b"0123456789" * 5), 10)
    monkeypatch.undo()
    assert os.pread(fd, 50, 10) == b"0123456789" * 5


def test_a_write_that_moves_nothing_is_an_error_and_no_endless_loop(
    io: DiskIO, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        thread.join(HANG_S)
    assert wrong == []


def test_a_span_is_sent_through_a_socket_that_does_not_block(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    sender, receiver = pair
    span = FileSpan(fd, 1000, 3 * MIB - 2000)
    thread, errors = in_thread(lambda: io.send_span(sender, span, 20))
    assert receive(receiver, span.length) == DATA[1000 : 1000 + span.length]
    thread.join(20)
    assert errors == []


def test_pace_is_called_for_every_byte_that_is_sent(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    sender, receiver = pair
    sent: list[int] = []
    thread, errors = in_thread(lambda: io.send_span(sender, FileSpan(fd, 0, MIB + 5), 20, sent.append))
    assert receive(receiver, MIB + 5) == DATA[: MIB + 5]
    thread.join(20)
    assert errors == []
    assert sum(sent) == MIB + 5
    assert max(sent) <= 256 * KIB


def test_case_32_a_side_that_takes_nothing_is_given_up(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
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


def test_case_57_a_connection_that_breaks_while_sending_is_an_error(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
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


def test_a_socket_that_is_closed_already_is_an_error(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[0].close()
    with pytest.raises(OSError):
        io.send_span(pair[0], FileSpan(fd, 0, 1), 1)


def test_a_file_that_became_shorter_is_an_error(
    io: DiskIO, fd: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    with pytest.raises(DiskError, match="shorter"):
        io.send_span(pair[0], FileSpan(fd, len(DATA) - 10, 20), 5)


def test_case_47_a_read_fault_while_sending_is_a_disk_error(
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
def test_a_fault_of_the_socket_is_passed_on(
    fd: int, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises(ConnectionResetError):
        disk_io().send_span(pair[0], FileSpan(fd, 0, 10), 5)
