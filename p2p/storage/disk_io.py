"""Move bytes between files, buffers and sockets: the fast calls of POSIX, and a way that works everywhere."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import Final, Protocol

from p2p.errors import DiskError
from p2p.model import KIB, MIB, FileSpan
from p2p.net.sending import wait_writable
from p2p.storage.disk import disk_error

_CHUNK: Final = MIB
_COPIED_CHUNK: Final = 256 * KIB
_PACED_CHUNK: Final = 32 * KIB
"""Bytes sent between two looks at the rate: few, so that a low rate leaves no gap that looks like a stall."""
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


class DiskIO(Protocol):
    """Reads and writes at an offset, and files sent to sockets. All methods block, and are thread-safe."""

    def pread_into(self, fd: int, view: memoryview, offset: int) -> int:
        """Read bytes at `offset` into `view`; returns how many, 0 at the end of the file. Raises
        `OSError`."""

    def pwrite_all(self, fd: int, view: memoryview, offset: int) -> None:
        """Write all of `view` at `offset`. Raises `OSError`."""

    def send_span(
        self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None
    ) -> None:
        """Send `span` over the non-blocking stream socket `sock`.

        After each part `pace` is called with the bytes that were sent, and may sleep. The socket is
        duplicated: if `sock` is closed meanwhile, another file may get its number, and must not get the
        bytes. To stop a send at once, `shutdown` the socket before it is closed.

        Raises `TimeoutError` if no byte can be sent for `timeout` seconds, `DiskError` if the file has become
        shorter or cannot be read, and `OSError` for faults of the socket.
        """


def disk_io(portable: bool = False) -> DiskIO:
    """The fastest `DiskIO` of this system, or with `portable` the one that works on every system."""
    if not portable and hasattr(os, "preadv") and hasattr(os, "pwrite") and hasattr(os, "sendfile"):
        return _PosixIO()
    return _PortableIO()


class _PortableIO:
    """Seek, then read or write.

    A descriptor has one position, which a lock guards. Descriptors share 64 locks.
    """

    def __init__(self) -> None:
        self._locks = tuple(threading.Lock() for _ in range(64))

    def pread_into(self, fd: int, view: memoryview, offset: int) -> int:
        with self._locks[fd % len(self._locks)]:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)

    def pwrite_all(self, fd: int, view: memoryview, offset: int) -> None:
        with self._locks[fd % len(self._locks)]:
            os.lseek(fd, offset, os.SEEK_SET)
            while view:
                view = view[_moved(os.write(fd, view)) :]

    def send_span(
        self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None
    ) -> None:
        with sock.dup() as out:
            _send_copied(self, out, span, timeout, pace)


class _PosixIO:
    """`preadv`, `pwrite` and `sendfile`: no shared position, and no copy of what is sent."""

    def pread_into(self, fd: int, view: memoryview, offset: int) -> int:
        return os.preadv(fd, [view], offset)

    def pwrite_all(self, fd: int, view: memoryview, offset: int) -> None:
        while view:
            written = _moved(os.pwrite(fd, view, offset))
            view = view[written:]
            offset += written

    def send_span(
        self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None
    ) -> None:
        sent = 0
        chunk = _PACED_CHUNK if pace else _CHUNK
        with sock.dup() as out:
            while sent < span.length:
                try:
                    moved = os.sendfile(
                        out.fileno(), span.fd, span.offset + sent, min(chunk, span.length - sent)
                    )
                except BlockingIOError:
                    wait_writable(out, timeout)
                    continue
                except OSError as error:
                    if error.errno == errno.EIO:
                        raise disk_error(error, "read", "a shared file") from error
                    if error.errno not in _NO_SENDFILE:
                        raise
                    _send_copied(
                        self, out, FileSpan(span.fd, span.offset + sent, span.length - sent), timeout, pace
                    )
                    return
                if not moved:
                    raise _shorter()
                sent += moved
                if pace:
                    pace(moved)


def _send_copied(
    io: DiskIO, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None
) -> None:
    """Send by reading into a buffer, where the kernel cannot send from the file itself."""
    buffer = memoryview(bytearray(min(span.length, _PACED_CHUNK if pace else _COPIED_CHUNK)))
    done = 0
    while done < span.length:
        try:
            filled = io.pread_into(span.fd, buffer[: span.length - done], span.offset + done)
        except OSError as error:
            raise disk_error(error, "read", "a shared file") from error
        if not filled:
            raise _shorter()
        done += filled
        rest = buffer[:filled]
        while rest:
            try:
                moved = sock.send(rest)
            except BlockingIOError:
                wait_writable(sock, timeout)
                continue
            rest = rest[moved:]
            if pace:
                pace(moved)


def _moved(count: int) -> int:
    if not count:
        raise OSError(errno.EIO, "a write moved no byte")
    return count


def _shorter() -> DiskError:
    return DiskError("a shared file became shorter while it was sent")
