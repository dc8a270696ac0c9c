"""Look at what is to be shared: which regular files and empty folders there are, and how to know later that
they are still the same."""

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
"""Reparse tag of a Windows junction: a link between folders that does not call itself a link."""


@frozen
class Fingerprint:
    """One file as it was: `path` on disk below the content's folder (`/` between parts), size in bytes, and
    what changes with its bytes."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int

    def matches(self, found: os.stat_result) -> bool:
        """Whether `found` is the same file, unchanged as far as a look without reading can tell."""
        return (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev) == (
            self.size,
            self.mtime_ns,
            self.inode,
            self.device,
        )


@frozen
class Scanned:
    """What `scan` found. `root` is the file or folder itself; `files` are sorted by path; `folders` are the
    empty ones, sorted."""

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
        """Where file number `index` lies on disk."""
        return located(self.root, self.kind, self.files[index].path)


def located(root: Path, kind: str, path: str) -> str:
    """Where the file called `path` of a content of `kind` at `root` lies on disk."""
    return str(root) if kind == "file" else os.path.join(root, path)  # noqa: PTH118 (called once a block, and a Path costs ten times as much)


def fingerprint(path: str, name: str) -> Fingerprint:
    """Look at the file at `path`, to be known as `name`. Opens it, so that one we may not read is told now;
    never waits for a FIFO.

    Raises `DiskError` unless it is a regular file we may read.
    """
    fd, found = open_read(path)
    os.close(fd)
    return fingerprint_of(found, name)


def fingerprint_of(found: os.stat_result, name: str) -> Fingerprint:
    """What a look at a file says of it, to be known as `name`."""
    return Fingerprint(name, found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


def scan(path: str | os.PathLike[str], warn: Callable[[str], None]) -> Scanned:
    """Look at a file or folder to share. `warn` gets a sentence for everything in it that is skipped: links,
    FIFOs, devices, sockets, what cannot be read, and names that not every disk could hold.

    Raises `DiskError` if `path` itself cannot be shared, or is more than a manifest may list. Blocks; call it
    in a worker thread.
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
        scanned = _Walk(root, warn).run()
    elif stat.S_ISREG(found.st_mode):
        scanned = Scanned(root.name, "file", root, (fingerprint(str(root), root.name),), ())
    else:
        raise DiskError(f"cannot share '{printable(str(root))}': it is neither a regular file nor a folder")
    if scanned.size > MAX_SIZE:
        raise DiskError(f"cannot share '{printable(str(root))}': it has more than {MAX_SIZE:,} bytes")
    return scanned


class _Walk:
    """One walk through a folder."""

    def __init__(self, root: Path, warn: Callable[[str], None]) -> None:
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
                    f"skipped '{printable(entry.path)}': some disks could not tell it from '{printable(twin)}'"
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
                    f"skipped '{printable(entry.path)}': it is no regular file (a link, a FIFO, a device or a socket)"
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
        if len(self._files) + len(self._folders) >= MAX_FILES:
            raise DiskError(
                f"cannot share '{printable(str(self._root))}': it holds more than {MAX_FILES:,} files (at '{printable(path)}')"
            )


def _is_junction(found: os.stat_result) -> bool:
    return getattr(found, "st_reparse_tag", 0) == _JUNCTION
