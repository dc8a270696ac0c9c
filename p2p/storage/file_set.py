"""The files of one content as one run of bytes, with a bounded number of open descriptors.

A file is opened when it is needed, and stays open for the next block. When too many are open, the one that
was unused longest is closed. A file in use is never closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from p2p.content.geometry import Layout
from p2p.errors import DiskError, Refused
from p2p.model import KIB, FileSpan
from p2p.storage.disk import disk_error, scratch_file
from p2p.storage.disk_io import DiskIO
from p2p.storage.disk_sync import sync_file

MAX_SPANS: Final = 8
"""Most files that one block is sent from directly. A block may lie in thousands of tiny files, and each would
take a descriptor."""

_GATHER: Final = 256 * KIB
_TOO_MANY: Final = (errno.EMFILE, errno.ENFILE)


class _Open:
    """A descriptor, and how many reads and writes use it now."""

    __slots__ = ("fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0


class FileSet:
    """Reads and writes at offsets of files that are laid end to end. All methods block, and are
    thread-safe."""

    def __init__(
        self,
        layout: Layout,
        io: DiskIO,
        *,
        open_file: Callable[[int], int],
        path_of: Callable[[int], str],
        check: Callable[[int], None] | None = None,
        limit: int = 64,
    ) -> None:
        """`open_file` returns a descriptor for a file's index. `check` is called before each use of a file
        and may raise.

        `limit` descriptors are kept open. More are open only while more than that are in use at once.
        """
        self._layout = layout
        self._io = io
        self._open_file = open_file
        self._path_of = path_of
        self._check = check
        self._limit = limit
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._closed = False
        self._failed_close: tuple[int, OSError] | None = None
        """The first file whose close failed. Network disks report lost bytes only then, and only once."""
        self._changed = threading.Condition()

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` of the content. Raises `DiskError`, also if a file is too short."""
        done = 0
        for index, start, length in self._layout.slices(offset, len(into)):
            if length == self._layout.sizes[index]:
                self._read_whole(index, into[done : done + length])
                done += length
                continue
            with self._using(index) as fd, self._told("read", index):
                end = done + length
                while done < end:
                    moved = self._io.pread_into(fd, into[done:end], start)
                    if not moved:
                        raise DiskError(f"'{self._path_of(index)}' is shorter than it should be")
                    done += moved
                    start += moved

    def write(self, offset: int, view: memoryview) -> None:
        """Write `view` at `offset` of the content.

        Raises `DiskError`, also if a file that was written before could not be closed.
        """
        self._check_closes()
        done = 0
        for index, start, length in self._layout.slices(offset, len(view)):
            part = view[done : done + length]
            if length == self._layout.sizes[index]:
                self._write_whole(index, part)
            else:
                with self._using(index) as fd, self._told("write", index):
                    self._io.pwrite_all(fd, part, start)
            done += length

    def scattered(self, offset: int, length: int) -> bool:
        """Whether `opened` has to gather this range from many files, perhaps thousands, which takes long."""
        return len(self._layout.sizes) > MAX_SPANS and self._layout.touched(offset, length) > MAX_SPANS

    @contextlib.contextmanager
    def opened(self, offset: int, length: int) -> Iterator[list[FileSpan]]:
        """The spans that together hold `length` bytes from `offset`. They stay open until the `with` ends.

        A range over more than `MAX_SPANS` files is gathered into one unnamed file first. Raises `DiskError`.
        """
        slices = list(islice(self._layout.slices(offset, length), MAX_SPANS + 1))
        with contextlib.ExitStack() as stack:
            if len(slices) > MAX_SPANS:
                fd = self._gather(offset, length)
                stack.callback(os.close, fd)
                yield [FileSpan(fd, 0, length)]
            else:
                yield [
                    FileSpan(stack.enter_context(self._using(index)), start, part)
                    for index, start, part in slices
                ]

    def sync(self) -> set[int]:
        """Bring to disk what was written to the files that are open now; returns their indexes.

        Raises the first `OSError` after all have been tried.
        """
        self.check()
        with self._changed:
            entries = dict(self._open)
            for entry in entries.values():
                entry.users += 1
        fault: OSError | None = None
        try:
            for entry in entries.values():
                try:
                    sync_file(entry.fd)
                except OSError as error:
                    fault = fault or error
        finally:
            self._release(*entries.values())
        if fault is not None:
            raise fault
        return set(entries)

    def stats(self) -> dict[int, os.stat_result]:
        """`fstat` of the files that are open now. Raises `OSError`."""
        with self._changed:
            return {index: os.fstat(entry.fd) for index, entry in self._open.items()}

    def check(self) -> None:
        """Raise the `OSError` of a file that could not be closed: bytes written to it may be lost."""
        if self._failed_close is not None:
            error = self._failed_close[1]
            raise OSError(error.errno, error.strerror) from error

    def close(self, wait: float = 0.0) -> None:
        """Open no more files, and close all: idle ones at once, the others at the end of their use.

        With `wait`, wait so many seconds for that, and raise `DiskError` if some are still in use.
        """
        with self._changed:
            self._closed = True
            self._trim(0)
            if wait and not self._changed.wait_for(lambda: not self._open, wait):
                raise DiskError(
                    "files of this content are still being read; try again when those downloads have ended"
                )

    # A file that is read or written as a whole is not needed again soon: it is opened and closed, and never
    # kept open. For ten thousand small files that saves a third of the time.

    def _read_whole(self, index: int, into: memoryview) -> None:
        with self._told("read", index), self._open_once(index) as fd:
            done = 0
            while done < len(into):
                moved = self._io.pread_into(fd, into[done:], done)
                if not moved:
                    raise DiskError(f"'{self._path_of(index)}' is shorter than it should be")
                done += moved

    def _write_whole(self, index: int, view: memoryview) -> None:
        with self._told("write", index), self._open_once(index) as fd:
            self._io.pwrite_all(fd, view, 0)

    @contextlib.contextmanager
    def _open_once(self, index: int) -> Iterator[int]:
        fd = self._open_for_once(index)
        try:
            yield fd
        except BaseException:
            with contextlib.suppress(OSError):  # the first fault is raised
                os.close(fd)
            raise
        os.close(fd)

    def _open_for_once(self, index: int) -> int:
        if self._closed:
            raise _closing()
        try:
            return self._open_file(index)
        except (OSError, DiskError):
            with self._changed:
                return self._open_or_make_room(index)

    def _gather(self, offset: int, length: int) -> int:
        try:
            fd = scratch_file()
        except OSError as error:
            raise disk_error(error, "make", "a file for many small ones") from error
        try:
            buffer = memoryview(bytearray(min(length, _GATHER)))
            for done in range(0, length, _GATHER):
                part = buffer[: length - done]
                self.read(offset + done, part)
                self._io.pwrite_all(fd, part, done)
        except OSError as error:
            os.close(fd)
            raise disk_error(error, "write", "a file for many small ones") from error
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextlib.contextmanager
    def _told(self, doing: str, index: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, doing, self._path_of(index)) from error

    @contextlib.contextmanager
    def _using(self, index: int) -> Iterator[int]:
        if self._check:
            self._check(index)
        with self._changed:
            if self._closed:
                raise _closing()
            entry = self._open.get(index)
            if entry is None:
                entry = self._open[index] = _Open(self._open_or_make_room(index))
            entry.users += 1
            self._open.move_to_end(index)
            self._trim(self._limit)
        try:
            yield entry.fd
        finally:
            self._release(entry)

    def _check_closes(self) -> None:
        if self._failed_close is not None:
            index, error = self._failed_close
            raise disk_error(error, "close", self._path_of(index)) from error

    def _release(self, *entries: _Open) -> None:
        with self._changed:
            for entry in entries:
                entry.users -= 1
            self._trim(0 if self._closed else self._limit)

    def _open_or_make_room(self, index: int) -> int:
        try:
            return self._open_file(index)
        except (OSError, DiskError) as error:
            fault = error if isinstance(error, OSError) else error.__cause__
            if isinstance(fault, OSError) and fault.errno in _TOO_MANY and self._trim(0):
                return self._open_or_make_room(index)
            if isinstance(error, OSError):
                raise disk_error(error, "open", self._path_of(index)) from error
            raise

    def _trim(self, limit: int) -> int:
        """Close idle files, longest unused first, until `limit` are open; returns how many were closed.

        Called with the lock held.
        """
        surplus = len(self._open) - limit
        if surplus <= 0:
            return 0
        idle = list(islice((index for index, entry in self._open.items() if not entry.users), surplus))
        for index in idle:
            try:
                os.close(self._open.pop(index).fd)
            except OSError as error:
                self._failed_close = self._failed_close or (index, error)
        if idle:
            self._changed.notify_all()
        return len(idle)


def _closing() -> Refused:
    return Refused("unavailable", "this content is being put away; ask again later")
