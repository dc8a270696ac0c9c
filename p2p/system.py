"""What only some systems have (`sendfile`, `pread`, holes, locks, signals on the loop), each with a fallback that works everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from p2p.content.names import printable
from p2p.errors import DiskError
from p2p.model import KIB, MIB, FileSpan

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

OPEN_FILES_CANNOT_MOVE: Final = os.name == "nt"
"""Whether a file must be closed before it, or a folder above it, can be renamed."""

_SAFE: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
_CHUNK: Final = MIB
_COPIED_CHUNK: Final = 256 * KIB
_PACED_CHUNK: Final = 32 * KIB
"""Bytes sent between two looks at the rate: few, so that a low rate leaves no gap that the receiver takes for a stall."""
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_FOLDER_SYNC: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
_REASONS: Final = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the disk is read-only",
    errno.ENOENT: "it does not exist",
    errno.EIO: "the disk reports a read or write error",
    errno.EEXIST: "it exists already",
    errno.ELOOP: "it is a symbolic link",
    errno.ENAMETOOLONG: "the name is too long for this disk",
    errno.EFBIG: "the file is too large for this disk, or for the limit of this process",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this system has too many open files",
}
_QUOTA: Final = getattr(errno, "EDQUOT", errno.ENOSPC)
_FULL: Final = frozenset({errno.ENOSPC, _QUOTA})


def disk_error(error: OSError, doing: str, path: str | os.PathLike[str], *, need: int | None = None) -> DiskError:
    """The sentence for the user about `error`, met while `doing` something ("write", "rename", …) with `path`.

    For a full disk it tells how many bytes are needed, if `need` is given, and how many there are.
    """
    shown = printable(os.fspath(path))
    if error.errno in _FULL:
        asked = f"need {need:,} bytes, " if need is not None else ""
        try:
            have = f"have {free_space(path):,}"
        except DiskError:
            have = "and its free space is not known"
        return DiskError(f"disk full: {asked}{have}; cannot {doing} '{shown}'{_why_full(error, path)}")
    reason = _REASONS.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()
    return DiskError(f"cannot {doing} '{shown}': {reason}")


def _why_full(error: OSError, path: str | os.PathLike[str]) -> str:
    """What makes a disk full that has bytes to give: the user's quota is used up, or there are as many files as there can be."""
    if error.errno == _QUOTA != errno.ENOSPC:
        return ": the quota of this user is used up"
    if hasattr(os, "statvfs"):
        with contextlib.suppress(OSError):
            found = os.statvfs(_nearest(path))
            if found.f_files and not found.f_favail and found.f_bavail:
                return ": there is no room for another file"
    return ""


def descriptor_limit() -> int | None:
    """How many descriptors this process may have open; None where that is not told, or there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if 0 <= soft < 1 << 30 else None


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process open up to `wanted` descriptors, where the system allows more than it gave at first; else as many as it may."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if 0 <= soft < most:
        with contextlib.suppress(OSError, ValueError):  # macOS has a bound of its own below the one that it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or the system's own below it, says that there are too many open files."""
    found = error.__cause__ if isinstance(error, DiskError) else error
    return isinstance(found, OSError) and found.errno in (errno.EMFILE, errno.ENFILE)


class DiskIO(Protocol):
    """Positioned reads and writes, and files sent to sockets. Every method blocks: call it in a worker thread. Safe from many threads."""

    def pread_into(self, fd: int, view: memoryview, offset: int) -> int:
        """Read bytes at `offset` into `view`; returns how many, 0 at the end of the file. Raises `OSError`."""

    def pwrite_all(self, fd: int, view: memoryview, offset: int) -> None:
        """Write all of `view` at `offset`. Raises `OSError`."""

    def send_span(self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None) -> None:
        """Send `span` over the non-blocking stream socket `sock`. After each part `pace` is told how many bytes went, and may sleep.

        Raises `TimeoutError` if no byte moves for `timeout` seconds, `DiskError` if the file has become shorter or cannot be read, and
        `OSError` for the socket's own faults. It sends through a duplicate of the socket, so that closing `sock` meanwhile can never send
        bytes to whoever gets its number next; to stop a send at once, `shutdown` the socket before closing it.
        """


def disk_io(portable: bool = False) -> DiskIO:
    """The fastest `DiskIO` of this system, or with `portable` the one that every system has."""
    if not portable and hasattr(os, "preadv") and hasattr(os, "pwrite") and hasattr(os, "sendfile"):
        return _PosixIO()
    return _PortableIO()


class _PortableIO:
    """Seek, then read or write. A descriptor has one position, so a lock guards it; locks are shared between descriptors to stay few."""

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

    def send_span(self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None) -> None:
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

    def send_span(self, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None = None) -> None:
        sent, quiet_since = 0, time.monotonic()
        chunk = _PACED_CHUNK if pace else _CHUNK
        with sock.dup() as out:
            while sent < span.length:
                try:
                    moved = os.sendfile(out.fileno(), span.fd, span.offset + sent, min(chunk, span.length - sent))
                except BlockingIOError:
                    _wait_writable(out, quiet_since + timeout - time.monotonic())
                    continue
                except OSError as error:
                    if error.errno == errno.EIO:
                        raise disk_error(error, "read", "a shared file") from error
                    if error.errno not in _NO_SENDFILE:
                        raise
                    _send_copied(self, out, FileSpan(span.fd, span.offset + sent, span.length - sent), timeout, pace)
                    return
                if not moved:
                    raise _shorter()
                sent += moved
                if pace:
                    pace(moved)
                quiet_since = time.monotonic()


def send_bytes(sock: socket.socket, data: bytes, timeout: float) -> None:
    """Send all of `data` as `DiskIO.send_span` sends a file. Raises `TimeoutError` if no byte moves for `timeout` seconds, `OSError`."""
    rest = memoryview(data)
    with sock.dup() as out:
        while rest:
            try:
                rest = rest[out.send(rest) :]
            except BlockingIOError:
                _wait_writable(out, timeout)


def _send_copied(io: DiskIO, sock: socket.socket, span: FileSpan, timeout: float, pace: Callable[[int], None] | None) -> None:
    """Send by reading into a buffer, where the kernel cannot send from the file itself."""
    buffer = memoryview(bytearray(min(span.length, _PACED_CHUNK if pace else _COPIED_CHUNK)))
    done, quiet_since = 0, time.monotonic()
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
                _wait_writable(sock, quiet_since + timeout - time.monotonic())
                continue
            rest = rest[moved:]
            if pace:
                pace(moved)
            quiet_since = time.monotonic()


def _wait_writable(sock: socket.socket, seconds: float) -> None:
    """Wait until `sock` may take bytes or has failed. Raises `TimeoutError` when `seconds` have passed."""
    if seconds > 0:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            ready = bool(poll.poll(seconds * 1000))
        else:
            _, writable, failed = select.select([], [sock], [sock], seconds)
            ready = bool(writable or failed)
        if ready:
            return
    raise TimeoutError("the other side takes no bytes")


def _moved(count: int) -> int:
    if not count:
        raise OSError(errno.EIO, "a write moved no byte")
    return count


def _shorter() -> DiskError:
    return DiskError("a shared file became shorter while it was sent")


def open_read(path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; return its descriptor and what there is to know of it. Never follows a link, never waits for a FIFO
    or a device.

    Raises `DiskError` for anything that is not a regular file, or that cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _NO_WAIT | _SAFE)
    except OSError as error:
        raise disk_error(error, "read", path) from error
    return fd, _checked_regular(fd, path)


def open_write(path: str | os.PathLike[str], *, create: bool, dir_fd: int | None = None) -> int:
    """Open a regular file for reading and writing; with `create` it must not exist yet. Never follows a link at the end of `path`.

    Raises `OSError`, and `DiskError` for anything that is not a regular file.
    """
    flags = os.O_RDWR | _NO_WAIT | _SAFE | (os.O_CREAT | os.O_EXCL if create else 0)
    fd = os.open(path, flags, 0o666, dir_fd=dir_fd)
    if not create:  # what is made new is a regular file
        _checked_regular(fd, path)
    return fd


def scratch_file() -> int:
    """A descriptor of an empty file without a name, gone when closed; in memory where the system can. Raises `OSError`."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gathered", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _checked_regular(fd: int, path: str | os.PathLike[str]) -> os.stat_result:
    try:
        found = os.fstat(fd)
    except OSError:
        os.close(fd)
        raise
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise DiskError(f"cannot use '{printable(os.fspath(path))}': it is not a regular file")
    return found


class FileLock:
    """A file held by one holder at a time; `close()` lets go of it. `fd` reads and writes it meanwhile."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def close(self) -> None:
        """Let go of the file; again is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        """Delete the file and let go of it. Where open files cannot be deleted, closing comes first. Raises `OSError`."""
        if OPEN_FILES_CANNOT_MOVE:
            self.close()
        self.path.unlink(missing_ok=True)
        self.close()


def lock_file(path: str | os.PathLike[str], mode: int = 0o666) -> FileLock:
    """Open `path`, making an empty file of `mode` if there is none, and hold it alone until closed; the lock dies with the process.

    Raises `BlockingIOError` if another holder has it, `DiskError` if it is not a regular file or has a second name, and `OSError` if it
    cannot be opened. Where a file system knows no locks, holding is not exclusive.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _NO_WAIT | _SAFE, mode)
        if _checked_regular(fd, path).st_nlink > 1:
            os.close(fd)
            raise DiskError(f"'{printable(os.fspath(path))}' has another name too, so it is not ours; move it away")
        try:
            _lock(fd)
            # The last holder may have deleted the file between our open and our lock; then we hold what has no name any more.
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                return FileLock(fd, Path(path))
        except FileNotFoundError:
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        os.lseek(fd, 1 << 40, os.SEEK_SET)  # beyond any byte of it, since this lock also keeps others from reading
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EAGAIN, "locked by another holder") from error
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
    else:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise


def sync_data(fd: int) -> None:
    """Bring a file's bytes to disk, its times where that is cheaper to leave out not. Raises `OSError`."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def whole_path(path: str | os.PathLike[str]) -> Path:
    """`path` from the root on, without `..`, links not followed (`Path.absolute` keeps "..", and `resolve` follows links).

    Raises `DiskError` for a relative one when the current folder has been deleted.
    """
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100
    except OSError as error:
        raise DiskError(f"cannot find '{printable(os.fspath(path))}': the current folder does not exist any more") from error


def make_private(folder: Path) -> None:
    """Make a folder for this user alone, and those above it that are missing, whatever the umask. Raises `OSError`.

    `Path.mkdir` gives its mode to the last folder only, and who may write into one above can put another in its place.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if folder == folder.parent:
            raise
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder last through a power cut, where the system lets a folder be synced. Raises `OSError`."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def make_folders(path: Path) -> None:
    """Make a folder, and those above it that are missing, so that their names last through a power cut. Raises `OSError`."""
    missing = [path] if not path.exists() else []
    missing += [above for above in path.parents if missing and not above.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        with contextlib.suppress(PermissionError):  # a folder may be written to without being open to reading, and so to a sync
            fsync_folder(made.parent)


def data_ranges(fd: int, size: int, *, portable: bool = False) -> Iterator[tuple[int, int]]:
    """Yield `(start, end)` in bytes for the parts of a file of `size` bytes that are no holes. Moves the position of `fd`.

    Where holes cannot be asked for, or with `portable`, the whole file is one part. Raises `OSError`.
    """
    if portable or not hasattr(os, "SEEK_DATA"):
        if size:
            yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            yield end, size
            return
        if start >= size:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def free_space(path: str | os.PathLike[str]) -> int:
    """Bytes this user may still write on the disk that holds `path`, or would hold it once made. Raises `DiskError`."""
    try:
        return shutil.disk_usage(_nearest(path)).free
    except OSError as error:
        raise disk_error(error, "measure", path) from error


def _nearest(path: str | os.PathLike[str]) -> Path:
    """`path`, or the nearest folder above it that is there. Raises `OSError`."""
    place = Path(path).absolute()
    while place != place.parent:
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            place = place.parent
        else:
            break
    return place


def sync_disk(fd: int) -> bool:
    """Bring to disk all that was written to the disk on which the open folder `fd` lies; returns False where that cannot be asked for.

    Raises `OSError` if anything that was written there since `fd` was opened has been lost. `os.sync` would tell nobody of that.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # needed for folders of many files only

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    if syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True


def move_new(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file or a folder; raises `FileExistsError` if `target` exists, and other `OSError` as they come.

    A file gets its second name by a hard link, which can never overwrite. Where that cannot be (folders; disks without links) a look comes
    before the rename, and only a target that appears between the two could be lost: an empty folder, or on such a disk a file.
    """
    if os.name != "nt" and not Path(source).is_dir():
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):
            pass
        else:
            Path(source).unlink()
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    Path(source).rename(target)


def install_stop_signals(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[signal.Signals], None],
    stops: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    *,
    portable: bool = False,
) -> Callable[[], None]:
    """Call `callback` with the signal, in `loop`, on each of `stops`. Returns what takes this back. Call it in the main thread.

    Where the loop knows no signals, or with `portable`, it goes by `signal.signal`.
    """
    previous = [(number, signal.getsignal(number)) for number in stops]

    def restore() -> None:
        for number, former in previous:
            signal.signal(number, signal.SIG_DFL if former is None else former)

    if not portable:
        with contextlib.suppress(NotImplementedError):
            for number in stops:
                loop.add_signal_handler(number, callback, number)

            def remove() -> None:
                for number in stops:
                    loop.remove_signal_handler(number)
                restore()  # the loop leaves the system's handler behind, whatever was there before

            return remove

    def handler(number: int, _frame: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed since
            loop.call_soon_threadsafe(callback, signal.Signals(number))

    for number in stops:
        signal.signal(number, handler)
    return restore
