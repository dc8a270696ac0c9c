"""A `DiskIO` whose reads or writes a test replaces."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import NoReturn

from p2p.model import FileSpan
from p2p.storage.disk_io import disk_io


class FaultyIO:
    """Reads and writes as the real one, except for what `read` and `write` replace."""

    def __init__(
        self,
        *,
        read: Callable[[int, memoryview, int], int] | None = None,
        write: Callable[[int, memoryview, int], None] | None = None,
    ) -> None:
        self._real = disk_io()
        self._read = read or self._real.pread_into
        self._write = write or self._real.pwrite_all

    def pread_into(self, fd: int, view: memoryview, offset: int) -> int:
        return self._read(fd, view, offset)

    def pwrite_all(self, fd: int, view: memoryview, offset: int) -> None:
        self._write(fd, view, offset)

    def send_span(
        self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None
    ) -> None:
        self._real.send_span(sock, span, timeout, pace)


def bad_sector(*_arguments: object) -> NoReturn:
    """A read or a write of a disk that fails."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def full_disk(*_arguments: object) -> NoReturn:
    """A write to a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
