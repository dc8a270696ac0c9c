"""The files of a content that is being downloaded: made at their full size, written, and brought to disk so
that no loss goes unseen.

A kernel that cannot bring written bytes to disk tells it once to each program that has the file open, forgets
it, and may keep the bytes in memory as if all were well: to sync again succeeds, and to verify again finds
them right. What PostgreSQL found out in 2018 (its wiki's page "Fsync Errors"). So files are synced through
the descriptors that wrote them where those are still open, one fault does not keep the others from being
told, and what a resume finds in memory is dropped before it is verified, whoever was told of a loss
meanwhile.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry, Layout
from p2p.content.names import local_path, local_paths
from p2p.errors import DiskError
from p2p.model import Manifest
from p2p.storage.confined import make_confined, make_folder, open_confined
from p2p.storage.disk import (
    data_ranges,
    disk_error,
    drop_cached,
    fsync_folder,
    open_read,
    open_write,
    sync_disk,
)
from p2p.storage.disk_io import DiskIO
from p2p.storage.file_set import FileSet
from p2p.storage.scan import located
from p2p.text import printable

_MANY_FILES: Final = 256


class PartFiles:
    """All files of one content at `place`, which is renamed when all is there. All methods block."""

    def __init__(self, manifest: Manifest, place: Path, io: DiskIO) -> None:
        self.place = place
        """Where the bytes are now; to be set when it changes."""
        self.local = local_paths(manifest)
        """Where each file is below `place`, as this system calls it."""
        self._manifest = manifest
        self._layout = Layout(manifest.files)
        self._lazy = False
        self._made: set[int] = set()
        self._disk = -1
        self.open = FileSet(self._layout, io, open_file=self._open_file, path_of=self._path_of)
        """Reads and writes."""

    def make(self, *, new: bool) -> None:
        """Make what is not there: folders, and files at their full size, as holes. Raises `OSError`,
        `FileExistsError` if one of a new is.

        Of a new folder only the empty files are made here; ten thousand others are made when something is
        written to them.
        """
        manifest = self._manifest
        self._lazy = new and manifest.kind == "folder"
        if manifest.kind == "folder":
            make_folder(self.place)
            for folder in sorted(self._folders()):
                make_confined(self.place, folder)
        for index, entry in enumerate(manifest.files):
            if entry.size and self._lazy:
                continue
            try:
                fd = self._open_at(index, create=True)
            except FileExistsError:
                if new:
                    raise
                fd = self._open_at(index, create=False)
            try:
                if os.fstat(fd).st_size != entry.size:
                    os.ftruncate(fd, entry.size)
            finally:
                os.close(fd)

    def watch_disk(self) -> None:
        """Hear of all that is lost on this disk from now on, where so many files would take long to be synced
        one by one."""
        folder = self.place.parent
        if self._many and hasattr(os, "O_DIRECTORY") and os.access(folder, os.R_OK):
            self._disk = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def leave_disk(self) -> None:
        """Hear no more of it. Harmless when called again."""
        fd, self._disk = self._disk, -1
        if fd >= 0:
            os.close(fd)

    def written(self) -> Bitmap:
        """The pieces that may hold bytes already, since they are not all hole, to be read from the disk
        itself. Raises `DiskError`."""
        geometry, length, bits = (
            Geometry(self._manifest.size, self._manifest.piece_length),
            self._manifest.piece_length,
            0,
        )
        for index, entry in enumerate(self._manifest.files):
            if not entry.size:
                continue
            path = self._path_of(index)
            (fd, _), base = open_read(path), self._layout.start(index)
            try:
                drop_cached(fd)
                for start, end in data_ranges(fd, entry.size):
                    first, last = (base + start) // length, (base + end - 1) // length
                    bits |= ((1 << (last - first + 1)) - 1) << first
            except OSError as error:
                raise disk_error(error, "read", path) from error
            finally:
                os.close(fd)
        return Bitmap(geometry.pieces, bits)

    def unwritten(self) -> int:
        """Bytes that the rest of the content will take on disk."""
        have = 0
        for index in range(len(self.local) if os.path.lexists(self.place) else 0):
            try:
                found = os.lstat(self._path_of(index))
            except OSError:
                continue  # not made yet
            have += min(getattr(found, "st_blocks", found.st_size) * 512, found.st_size)
        return max(self._manifest.size - have, 0)

    def flush(self) -> None:
        """Bring to disk what was written until now, unless those are many files. Raises `OSError` for bytes
        that are lost."""
        if not self._many:
            self.open.sync()

    def sync(self) -> None:
        """Bring all files and their names to disk. Raises `OSError` for lost bytes, `DiskError` for a file
        that is not ours any more."""
        self.open.check()
        # One call for all: syncing ten thousand small files one by one takes longer than fetching them.
        if not (self._disk >= 0 and sync_disk(self._disk)):
            self._sync_each()
            if self._manifest.kind == "folder":
                for folder in ("", *self._folders()):
                    fsync_folder(self.place / folder)
        self._check_in_place()

    def _sync_each(self) -> None:
        fault: OSError | None = None
        done: set[int] = set()
        try:
            done = self.open.sync()
        except OSError as error:
            fault = error
        for index in range(len(self.local)):
            if index in done:
                continue
            try:
                fd = self._open_at(index, create=False)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                fault = fault or error
        if fault is not None:
            raise fault

    def _check_in_place(self) -> None:
        """What is written through a descriptor reaches its file also when that has lost its name; what has
        the name now gets renamed."""
        opened = self.open.stats()
        for index, entry in enumerate(self._manifest.files):
            found = os.lstat(self._path_of(index))
            ours = stat.S_ISREG(found.st_mode) and found.st_size == entry.size
            if not ours or (index in opened and not os.path.samestat(found, opened[index])):
                raise DiskError(
                    f"'{printable(self._path_of(index))}' was changed by another program during the download; begin it again"
                )

    def _folders(self) -> set[str]:
        """All folders below the content's own, as they are called on disk."""
        found: set[str] = set()
        for path in (
            *(path.rpartition("/")[0] for path in self.local),
            *map(local_path, self._manifest.folders),
        ):
            folder = path
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return found

    def _open_file(self, index: int) -> int:
        create = self._lazy and index not in self._made
        fd = self._open_at(index, create=create)
        if create:
            self._made.add(index)
        return fd

    def _open_at(self, index: int, *, create: bool) -> int:
        if self._manifest.kind == "file":
            return open_write(self.place, create=create)
        return open_confined(self.place, self.local[index], create=create)

    @property
    def _many(self) -> bool:
        return len(self.local) + len(self._manifest.folders) > _MANY_FILES

    def _path_of(self, index: int) -> str:
        return located(self.place, self._manifest.kind, self.local[index])
