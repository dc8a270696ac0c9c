"""The read side of a content: its files on disk, served only while they are unchanged since their hashing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from p2p.content.geometry import Geometry, Layout
from p2p.content.names import local_paths
from p2p.errors import Refused
from p2p.model import BlockSpan, FileSpan, Manifest
from p2p.storage.disk import disk_error, open_read
from p2p.storage.disk_io import DiskIO
from p2p.storage.file_set import FileSet
from p2p.storage.scan import Fingerprint, fingerprint_of, located


def fingerprints(manifest: Manifest, root: Path) -> tuple[Fingerprint, ...]:
    """The fingerprints of a content that was downloaded to `root`, in the order of the manifest. Blocks.

    The files are not opened here: they were just written. When one is served it must still match. Raises
    `DiskError`.
    """
    found = []
    for path in local_paths(manifest):
        place = located(root, manifest.kind, path)
        try:
            found.append(fingerprint_of(os.lstat(place), path))
        except OSError as error:
            raise disk_error(error, "read", place) from error
    return tuple(found)


class SharedContent:
    """A whole content at `root`, the file or folder itself. All methods block, and are thread-safe."""

    def __init__(
        self, manifest: Manifest, root: Path, fingerprints: Sequence[Fingerprint], io: DiskIO
    ) -> None:
        """`fingerprints` are of the files in the order of the manifest, with their paths below `root`."""
        self.manifest = manifest
        self.geometry = Geometry(manifest.size, manifest.piece_length)
        self.root = root
        self.changed = False
        self._paths = tuple(located(root, manifest.kind, file.path) for file in fingerprints)
        self._fingerprints = tuple(fingerprints)
        self._files = FileSet(
            Layout(manifest.files),
            io,
            open_file=self._open,
            path_of=self._paths.__getitem__,
            check=self._check,
        )

    @contextmanager
    def opened(self, block: BlockSpan) -> Iterator[list[FileSpan]]:
        """The spans that hold `block`, in order, to be sent before the `with` ends.

        Raises `Refused`: `bad_range`, or `not_found` if one of the files has changed, after which `changed`
        is true; and `DiskError`.
        """
        self.geometry.check(block)
        with self._files.opened(self.geometry.offset(block), block.length) as spans:
            yield spans

    def scattered(self, block: BlockSpan) -> bool:
        """Whether `opened` takes long for `block`, since it lies in many files that have to be read."""
        return self._files.scattered(self.geometry.offset(block), block.length)

    def read(self, block: BlockSpan, into: memoryview) -> None:
        """Read `block` into the first bytes of `into`. Raises as `opened` does."""
        self.geometry.check(block)
        self._files.read(self.geometry.offset(block), into[: block.length])

    def unchanged(self) -> bool:
        """Whether every file still matches its fingerprint, which takes an `lstat` of each."""
        self.changed = self.changed or not all(self._same(index) for index in range(len(self._paths)))
        return not self.changed

    def close(self) -> None:
        """Close all files; those being sent are closed at the end of that."""
        self._files.close()

    def _same(self, index: int) -> bool:
        try:
            return self._fingerprints[index].matches(os.lstat(self._paths[index]))
        except OSError:
            return False

    def _check(self, index: int) -> None:
        if not self._same(index):
            raise self._changed()

    def _open(self, index: int) -> int:
        fd, found = open_read(self._paths[index])
        if not self._fingerprints[index].matches(found):
            os.close(fd)
            raise self._changed()
        return fd

    def _changed(self) -> Refused:
        self.changed = True
        return Refused("not_found", "a file of this content has changed here, so it is no longer shared")
