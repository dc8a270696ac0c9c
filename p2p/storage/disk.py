"""Open, lock, make and move files and folders safely, and say in a sentence what went wrong with them.

"Safely" means: no link is followed at the end of a path, no FIFO or device makes an open wait, and nothing is
overwritten unasked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2p.errors import DiskError
from p2p.storage.disk_sync import sync_folder
from p2p.text import printable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

OPEN_FILES_CANNOT_MOVE: Final = os.name == "nt"
"""Whether a file must be closed before it, or a folder above it, can be renamed."""

_SAFE: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
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


def disk_error(
    error: OSError, doing: str, path: str | os.PathLike[str], *, need: int | None = None
) -> DiskError:
    """The error for the user about `error`, which came while `doing` something ("write", "rename") to `path`.

    For a full disk it says how many bytes are free, and with `need` how many are needed.
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


def check_encodable(name: str) -> None:
    """Raise `DiskError` for a name that has no form in this system's encoding of file names.

    Python would raise another exception, much later.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        why = f"names of files here are {sys.getfilesystemencoding()}; set PYTHONUTF8=1"
        raise DiskError(f"the name '{printable(name)}' cannot be written: {why}") from error


def _why_full(error: OSError, path: str | os.PathLike[str]) -> str:
    """Why a disk with free bytes is full: the user's quota is used up, or it can hold no more files."""
    if error.errno == _QUOTA != errno.ENOSPC:
        return ": the quota of this user is used up"
    if hasattr(os, "statvfs"):
        with contextlib.suppress(OSError):
            found = os.statvfs(_nearest(path))
            if found.f_files and not found.f_favail and found.f_bavail:
                return ": there is no room for another file"
    return ""


def open_read(path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; returns its descriptor and its `fstat`.

    Raises `DiskError` for anything that is not a regular file, or that cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _NO_WAIT | _SAFE)
    except OSError as error:
        raise disk_error(error, "read", path) from error
    return fd, _checked_regular(fd, path)


def open_write(path: str | os.PathLike[str], *, create: bool, dir_fd: int | None = None) -> int:
    """Open a regular file for reading and writing; with `create` it must not exist yet.

    Raises `OSError`, and `DiskError` for anything that is not a regular file.
    """
    flags = os.O_RDWR | _NO_WAIT | _SAFE | (os.O_CREAT | os.O_EXCL if create else 0)
    fd = os.open(path, flags, 0o666, dir_fd=dir_fd)
    if not create:  # what is made new is a regular file
        _checked_regular(fd, path)
    return fd


def scratch_file() -> int:
    """A descriptor of an empty file without a name, in memory where the system can. It is gone when closed.

    Raises `OSError`.
    """
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
    """A file that is locked until `close` or `remove`. `fd` reads and writes it."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def close(self) -> None:
        """Unlock the file. Harmless when called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        """Delete the file and unlock it; the other way round where an open file cannot be deleted.

        Raises `OSError`.
        """
        if OPEN_FILES_CANNOT_MOVE:
            self.close()
        self.path.unlink(missing_ok=True)
        self.close()


def lock_file(path: str | os.PathLike[str], mode: int = 0o666) -> FileLock:
    """Lock the file at `path`, made empty with `mode` if there is none. A lock ends with its process.

    Raises `BlockingIOError` if it is locked, `DiskError` if it is not a regular file or has a second name,
    and `OSError` if it cannot be opened. Where a file system knows no locks, the lock is not exclusive.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _NO_WAIT | _SAFE, mode)
        if _checked_regular(fd, path).st_nlink > 1:
            os.close(fd)
            raise DiskError(
                f"'{printable(os.fspath(path))}' has another name too, so it is not ours; move it away"
            )
        try:
            _lock(fd)
            # The last holder may have deleted the file between our open and our lock. Then this lock is on a
            # file without a name, and the next try makes a new one.
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
        os.lseek(fd, 1 << 40, os.SEEK_SET)  # beyond its last byte: this lock also keeps others from reading
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


def whole_path(path: str | os.PathLike[str]) -> Path:
    """`path` from the root on, without `..`, and without following links.

    (`Path.absolute` keeps `..`, and `Path.resolve` follows links.) Raises `DiskError` for a relative path
    when the current folder has been deleted.
    """
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100
    except OSError as error:
        raise DiskError(
            f"cannot find '{printable(os.fspath(path))}': the current folder does not exist any more"
        ) from error


def make_private(folder: Path) -> None:
    """Make a folder for this user alone, and those above it that are missing, whatever the umask.

    `Path.mkdir` gives its mode to the last folder only. With write permission for a folder above, another
    user could put a folder in its place. Raises `OSError`.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if folder == folder.parent:
            raise
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def make_folders(path: Path) -> None:
    """Make a folder, and those above it that are missing, and bring their names to disk. Raises `OSError`."""
    missing = [path] if not path.exists() else []
    missing += [above for above in path.parents if missing and not above.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        with contextlib.suppress(PermissionError):  # it may be written and not read: then it cannot be opened
            sync_folder(made.parent)


def data_ranges(fd: int, size: int, *, portable: bool = False) -> Iterator[tuple[int, int]]:
    """Yield `(start, end)` in bytes for each range of a file of `size` bytes that is no hole.

    Moves the position of `fd`. Where the system does not tell holes, or with `portable`, the whole file is
    one range. Raises `OSError`.
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
    """Bytes that this user may still write on the disk of `path`, which may not exist yet. Raises
    `DiskError`."""
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


def move_new(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file or a folder. Raises `FileExistsError` if `target` exists, and `OSError`.

    A file gets the new name by a hard link, which never overwrites, and then loses the old one. For folders,
    and on disks without hard links, the target is looked for before the rename. Only what appears between the
    two can be lost: an empty folder, or on such a disk a file.
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
