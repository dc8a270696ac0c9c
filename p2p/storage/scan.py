"""Find what is to be shared: regular files, each with a fingerprint to tell a later change, and empty
folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from p2p.content.manifest import MAX_FILES
from p2p.content.names import MAX_DEPTH, check_part, check_path, collision_key
from p2p.errors import DiskError, ProtocolError
from p2p.model import MAX_SIZE, FileEntry
from p2p.storage.disk import disk_error, open_read, whole_path
from p2p.text import printable
from p2p.value import frozen

_JUNCTION: Final = 0xA0000003
"""Reparse tag of a Windows junction: a link to a folder that `is_symlink` does not report."""


@frozen
class Fingerprint:
    """One file as a scan saw it: what changes whenever its bytes do.

    `path` is its path on disk below the content's folder, with `/` between its parts.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int

    def matches(self, found: os.stat_result) -> bool:
        """Whether `found` is the same file, unchanged as far as `stat` can tell."""
        return (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev) == (
            self.size,
            self.mtime_ns,
            self.inode,
            self.device,
        )


@frozen
class Scanned:
    """What `scan` found. `root` is the file or folder itself, `folders` are the empty ones.

    Files are sorted by path, and folders too.
    """

    name: str
    kind: str
    root: Path
    files: tuple[Fingerprint, ...]
    folders: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """The files as a manifest lists them."""
        return tuple(FileEntry(file.path, file.size) for file in self.files)

    def path_of(self, index: int) -> str:
        """The path of file number `index` on disk."""
        return located(self.root, self.kind, self.files[index].path)


def located(root: Path, kind: str, path: str) -> str:
    """The path on disk of the file `path` of a content of `kind` at `root`."""
    # Called once a block. A Path costs ten times as much.
    return str(root) if kind == "file" else os.path.join(root, path)  # noqa: PTH118 (see above)


def fingerprint(path: str, name: str) -> Fingerprint:
    """The fingerprint of the file at `path`, with `name` as its path.

    The file is opened, to find out if it can be read. Raises `DiskError` unless it is a regular file that
    can.
    """
    fd, found = open_read(path)
    os.close(fd)
    return fingerprint_of(found, name)


def fingerprint_of(found: os.stat_result, name: str) -> Fingerprint:
    """The fingerprint of a file by its `stat`, with `name` as its path."""
    return Fingerprint(name, found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


def scan(
    path: str | os.PathLike[str],
    warn: Callable[[str], None],
    *,
    max_files: int = MAX_FILES,
    max_size: int = MAX_SIZE,
) -> Scanned:
    """Find the files and empty folders of the file or folder `path`. Blocks; call it in a worker thread.

    `warn` is called with a sentence for everything that is skipped: links, FIFOs, devices, sockets, what
    cannot be read, and names that some disk cannot hold. Raises `DiskError` if `path` itself cannot be
    shared, or holds more than a manifest may list.
    """
    root = whole_path(path)
    try:
        check_part(root.name)
        found = os.lstat(root)
    except ProtocolError as error:
        raise DiskError(f"cannot share '{printable(str(root))}': {error}") from error
    except OSError as error:
        raise disk_error(error, "share", root) from error
    if stat.S_ISDIR(found.st_mode) and not _is_junction(found):
        scanned = _Walk(root, warn, max_files).run()
    elif stat.S_ISREG(found.st_mode):
        scanned = Scanned(root.name, "file", root, (fingerprint(str(root), root.name),), ())
    else:
        raise DiskError(f"cannot share '{printable(str(root))}': it is neither a regular file nor a folder")
    if scanned.size > max_size:
        raise DiskError(f"cannot share '{printable(str(root))}': it has more than {max_size:,} bytes")
    return scanned


class _Walk:
    """One walk through a folder."""

    def __init__(self, root: Path, warn: Callable[[str], None], max_files: int) -> None:
        self._max_files = max_files
        self._root = root
        self._warn = warn
        self._files: list[Fingerprint] = []
        self._folders: list[str] = []
        self._left: list[tuple[str, int]] = [("", 0)]

    def run(self) -> Scanned:
        while self._left:
            self._look_into(*self._left.pop())
        files = tuple(sorted(self._files, key=lambda file: file.path))
        return Scanned(self._root.name, "folder", self._root, files, tuple(sorted(self._folders)))

    def _look_into(self, folder: str, depth: int) -> None:
        kept = False
        names: dict[tuple[str, ...], str] = {}
        for entry in self._list(folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                check_path(path)
            except ProtocolError as error:
                self._warn(f"skipped '{printable(entry.path)}': {error}")
                continue
            twin = names.setdefault(collision_key(entry.name), entry.name)
            if twin != entry.name:
                self._warn(
                    f"skipped '{printable(entry.path)}': "
                    f"some disks could not tell it from '{printable(twin)}'"
                )
                continue
            kept = self._take(entry, path, depth) or kept
        if not kept and folder:
            self._count(path=folder)
            self._folders.append(folder)

    def _list(self, folder: str) -> list[os.DirEntry[str]]:
        place = self._root / folder
        try:
            with os.scandir(place) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise disk_error(error, "share", place) from error
            self._warn(f"skipped what is in a folder: {disk_error(error, 'list', place)}")
            return []

    def _take(self, entry: os.DirEntry[str], path: str, depth: int) -> bool:
        """Note one entry of a folder; returns whether it will be shared."""
        try:
            if entry.is_dir(follow_symlinks=False):
                if depth + 1 >= MAX_DEPTH or _is_junction(entry.stat(follow_symlinks=False)):
                    self._warn(
                        f"skipped '{printable(entry.path)}': it is too deep or a link to another folder"
                    )
                    return False
                self._left.append((path, depth + 1))
                return True
            if not entry.is_file(follow_symlinks=False):
                self._warn(
                    f"skipped '{printable(entry.path)}': it is no regular file "
                    "(a link, a FIFO, a device or a socket)"
                )
                return False
            file = fingerprint(entry.path, path)
        except OSError as error:
            self._warn(f"skipped: {disk_error(error, 'read', entry.path)}")
            return False
        except DiskError as error:
            self._warn(f"skipped: {error}")
            return False
        self._count(path)
        self._files.append(file)
        return True

    def _count(self, path: str) -> None:
        if len(self._files) + len(self._folders) >= self._max_files:
            raise DiskError(
                f"cannot share '{printable(str(self._root))}': "
                f"it holds more than {self._max_files:,} files (at '{printable(path)}')"
            )


def _is_junction(found: os.stat_result) -> bool:
    return getattr(found, "st_reparse_tag", 0) == _JUNCTION
