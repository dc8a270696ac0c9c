"""The files of a part: made at their full size, written, looked at, and brought to disk with no loss unseen.

`disk_sync` has the theory of syncs. A file is synced through the descriptor that wrote it where that is
still open. One failed sync does not keep the other files from being synced, since each loss is reported once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry, Layout
from p2p.content.names import local_path, local_paths
from p2p.errors import DiskError
from p2p.model import FileEntry, Manifest
from p2p.storage.confined import make_confined, make_folder, open_confined
from p2p.storage.disk import data_ranges, disk_error, open_read, open_write
from p2p.storage.disk_io import DiskIO
from p2p.storage.disk_sync import DiskWatch, drop_cached, sync_folder
from p2p.storage.file_set import FileSet
from p2p.storage.scan import located
from p2p.text import printable


class PartTree:
    """All files of one content below `root`; for a single file `root` is that file. All methods block."""

    def __init__(
        self,
        manifest: Manifest,
        root: Path,
        io: DiskIO,
        *,
        open_files: int,
        many_files: int,
        watch: Callable[[Path], DiskWatch],
    ) -> None:
        """`open_files` descriptors are kept open at most. More than `many_files` files and folders are synced
        with their whole disk, by the `DiskWatch` that `watch` makes."""
        self.root = root
        self.paths = local_paths(manifest)
        """The local path of each file below `root`."""
        self._manifest = manifest
        self._layout = Layout(manifest.files)
        self._many = len(self.paths) + len(manifest.folders) > many_files
        self._make_watch = watch
        self._watch: DiskWatch | None = None
        self._lazy = False
        self._made: set[int] = set()
        self.files = FileSet(
            self._layout, io, open_file=self._open_file, path_of=self._path_of, limit=open_files
        )
        """The bytes of the content, to be read and written."""

    def make(self, *, new: bool) -> None:
        """Make what is not there: folders, and files at their full size as holes. The watch begins here.

        Of a new folder only the empty files are made now. The others, perhaps ten thousand, are made at their
        first write. Raises `OSError`; `FileExistsError` if a file of a new part is there.
        """
        manifest = self._manifest
        if self._many:
            self._watch = self._make_watch(self.root.parent)
        self._lazy = new and manifest.kind == "folder"
        if manifest.kind == "folder":
            make_folder(self.root)
            for folder in sorted(self._folders()):
                make_confined(self.root, folder)
        for index, entry in enumerate(manifest.files):
            if not (entry.size and self._lazy):
                self._make_file(index, entry.size, new=new)

    def fits(self) -> bool:
        """Whether every file is there with its size. Their bytes are for the caller to verify."""
        try:
            if self._manifest.kind == "folder" and not stat.S_ISDIR(os.lstat(self.root).st_mode):
                return False
            return all(_is_file(found, entry.size) for _, entry, found in self._stats())
        except OSError:
            return False

    def written(self) -> Bitmap:
        """The pieces that may hold bytes: those that are not all hole. They will be read from the disk
        itself. Raises `DiskError`."""
        pieces = Geometry(self._manifest.size, self._manifest.piece_length).pieces
        length, bits = self._manifest.piece_length, 0
        for index, entry in enumerate(self._manifest.files):
            if not entry.size:
                continue
            path, base = self._path_of(index), self._layout.start(index)
            fd, _ = open_read(path)
            try:
                drop_cached(fd)
                for start, end in data_ranges(fd, entry.size):
                    first, last = (base + start) // length, (base + end - 1) // length
                    bits |= ((1 << (last - first + 1)) - 1) << first
            except OSError as error:
                raise disk_error(error, "read", path) from error
            finally:
                os.close(fd)
        return Bitmap(pieces, bits)

    def unwritten(self) -> int:
        """Bytes that the rest of the content will take on disk."""
        have = 0
        for index in range(len(self.paths) if os.path.lexists(self.root) else 0):
            try:
                found = os.lstat(self._path_of(index))
            except OSError:
                continue  # not made yet
            have += min(getattr(found, "st_blocks", found.st_size) * 512, found.st_size)
        return max(self._manifest.size - have, 0)

    def flush(self) -> None:
        """Bring to disk what was written until now, unless the files are many. Raises `OSError` for lost
        bytes."""
        if not self._many:
            self.files.sync()

    def sync(self) -> None:
        """Bring all files and their names to disk.

        Raises `OSError` for lost bytes, and `DiskError` if another program replaced or cut a file.
        """
        self.files.check()
        if self._watch is None or not self._watch.sync():
            self._sync_each()
            if self._manifest.kind == "folder":
                for folder in ("", *self._folders()):
                    sync_folder(self.root / folder)
        self._check_in_place()

    def close(self) -> None:
        """Close all files and end the watch. Harmless when called again."""
        self.files.close()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _sync_each(self) -> None:
        first: OSError | None = None
        done: set[int] = set()
        try:
            done = self.files.sync()
        except OSError as error:
            first = error
        for index in range(len(self.paths)):
            if index in done:
                continue
            try:
                fd = self._open_at(index, create=False)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                first = first or error
        if first is not None:
            raise first

    def _check_in_place(self) -> None:
        """Each name must still lead to the file that was written: a descriptor writes also to a file that
        has lost its name, and what has the name now would be renamed."""
        opened = self.files.stats()
        for index, entry, found in self._stats():
            replaced = index in opened and not os.path.samestat(found, opened[index])
            if replaced or not _is_file(found, entry.size):
                raise DiskError(
                    f"'{printable(self._path_of(index))}' was changed by another program "
                    "during the download; begin it again"
                )

    def _stats(self) -> Iterator[tuple[int, FileEntry, os.stat_result]]:
        for index, entry in enumerate(self._manifest.files):
            yield index, entry, os.lstat(self._path_of(index))

    def _folders(self) -> set[str]:
        """The local paths of all folders below the root."""
        parents = (path.rpartition("/")[0] for path in self.paths)
        found: set[str] = set()
        for path in (*parents, *map(local_path, self._manifest.folders)):
            folder = path
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return found

    def _make_file(self, index: int, size: int, *, new: bool) -> None:
        try:
            fd = self._open_at(index, create=True)
        except FileExistsError:
            if new:
                raise
            fd = self._open_at(index, create=False)
        try:
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _open_file(self, index: int) -> int:
        create = self._lazy and index not in self._made
        fd = self._open_at(index, create=create)
        if create:
            self._made.add(index)
        return fd

    def _open_at(self, index: int, *, create: bool) -> int:
        if self._manifest.kind == "file":
            return open_write(self.root, create=create)
        return open_confined(self.root, self.paths[index], create=create)

    def _path_of(self, index: int) -> str:
        return located(self.root, self._manifest.kind, self.paths[index])


def _is_file(found: os.stat_result, size: int) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_size == size
