"""Remembers which content a copy is that is kept for others, so that it is the same one after a restart.

What lies on disk does not say it: the names there may be written otherwise than in the manifest, and the
publisher may have chosen another hash function or piece length than this peer would. One file a copy in the
user's state folder: the manifest, named after the path. It is no more than a hint how to hash what is found;
what does not give the manifest's own hashes is another content.
"""

from __future__ import annotations

import contextlib
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

from p2p.content.manifest import MAX_MANIFEST, parse
from p2p.content.names import local_part, local_path, local_paths
from p2p.errors import EnjambreError
from p2p.model import Manifest
from p2p.storage.atomic_file import write_private
from p2p.storage.disk import disk_error, make_private
from p2p.storage.scan import Scanned
from p2p.value import frozen

MAX_KEPT: Final = 10_000
"""Copies that are remembered; of more, those that came longest ago are forgotten."""


@frozen
class Hint:
    """What a copy was when it came, and what lies there now, with its files in the order of that manifest."""

    manifest: Manifest
    data: bytes
    scanned: Scanned


class ReplicaCache:
    """The manifests of copies, by where they lie. All methods block."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when something is first kept."""
        self._folder = folder

    def keep(self, root: Path, data: bytes) -> None:
        """Remember that the copy at `root` has the manifest whose canonical form is `data`. Raises
        `DiskError`."""
        path = self._path(root)
        try:
            make_private(self._folder)
            self._make_room()
            with contextlib.suppress(BlockingIOError):  # another process remembers the same
                write_private(path, data, sync=False)
        except OSError as error:
            raise disk_error(error, "write", path) from error

    def recall(self, scanned: Scanned) -> Hint | None:
        """What lay at this path when it was last kept, if the same files and folders lie there now; None also
        for what cannot be read."""
        try:
            with self._path(scanned.root).open("rb") as file:
                data = file.read(MAX_MANIFEST + 1)
            manifest = parse(data, None)
        except (OSError, EnjambreError):  # then it is shared as any file is
            return None
        found = {file.path: file for file in scanned.files}
        places = local_paths(manifest)
        if (scanned.kind, scanned.name) != (manifest.kind, local_part(manifest.name, top=True)) or set(
            places
        ) != found.keys():
            return None
        if any(found[place].size != entry.size for place, entry in zip(places, manifest.files, strict=True)):
            return None
        if sorted(map(local_path, manifest.folders)) != list(scanned.folders):
            return None
        files = tuple(found[place] for place in places)
        return Hint(manifest, data, Scanned(scanned.name, scanned.kind, scanned.root, files, scanned.folders))

    def _path(self, root: Path) -> Path:
        return self._folder / blake2b(os.fsencode(root), digest_size=16).hexdigest()

    def _make_room(self) -> None:
        with os.scandir(self._folder) as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries]
        for _, path in sorted(found)[: max(0, len(found) - MAX_KEPT + 1)]:
            Path(path).unlink(missing_ok=True)
