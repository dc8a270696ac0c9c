"""What a peer remembers between two runs: the hashes of what it shared, and the manifests of replicas.

Both are caches in the user's state folder, one small private file an entry. What is missing or damaged costs
time and nothing else: files are hashed once more. So a write is not synced, and a read checks what it finds.

- `HashCache` spares a large content from being read again when it is shared again. An entry holds for exactly
  what a scan saw: path, size, time of the last change, inode and device of every file.
- `ReplicaCache` says which content a replica is, so that it is the same one after a restart. The files alone
  do not say it: their local names may differ from those of the manifest, and the publisher may have chosen
  another hash function or piece length than this peer would. An entry is a hint how to hash what is found;
  what does not give the manifest's own hashes is another content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from p2p.content.manifest import DIGEST_LENGTH, MAX_MANIFEST, parse
from p2p.content.names import local_part, local_path, local_paths
from p2p.errors import EnjambreError
from p2p.model import Manifest
from p2p.storage.atomic_file import write_private
from p2p.storage.disk import disk_error, make_private
from p2p.storage.scan import Scanned
from p2p.value import frozen

MAX_HASHED: Final = 1000
"""Contents whose hashes are remembered. The one that was shared longest ago is evicted."""
MAX_REPLICAS: Final = 10_000
"""Replicas that are remembered. The one that came longest ago is evicted."""
SETTLED_S: Final = 2.0
"""Seconds between a file's last change and its hashing, for its hash to be remembered. A second change in the
same tick of the disk's clock would look like none; git's index has the same rule."""


class _Entries:
    """A folder of at most `most` small private files, by key. The oldest is evicted."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most

    def read(self, key: bytes, length: int = -1) -> bytes | None:
        """At most `length` bytes of an entry; None if there is none that can be trusted."""
        try:
            if not self._is_private():
                return None
            with self._path(key).open("rb") as file:
                return file.read(length)
        except OSError:
            return None

    def write(self, key: bytes, data: bytes) -> None:
        """Write an entry; the folder is made when missing. Raises `DiskError`."""
        path = self._path(key)
        try:
            make_private(self._folder)
            if not self._is_private():
                return
            self._evict()
            with contextlib.suppress(BlockingIOError):  # another process writes the same entry
                write_private(path, data, sync=False)
        except OSError as error:
            raise disk_error(error, "write", path) from error

    def _path(self, key: bytes) -> Path:
        return self._folder / blake2b(key, digest_size=16).hexdigest()

    def _is_private(self) -> bool:
        """Whether only this user can put another file in the place of an entry."""
        return os.name != "posix" or not self._folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def _evict(self) -> None:
        found: list[tuple[float, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process evicts too
                    found.append((entry.stat().st_mtime, entry.path))
        for _, path in sorted(found)[: max(0, len(found) - self._most + 1)]:
            Path(path).unlink(missing_ok=True)


class HashCache:
    """Piece hashes by what was scanned. All methods block.

    An entry is the digest of what the scan saw, the hashes, and a checksum of both.
    """

    def __init__(self, folder: Path, most: int = MAX_HASHED) -> None:
        """`folder` is made when something is first kept. `most` entries are kept."""
        self._entries = _Entries(folder, most)

    def recall(self, scanned: Scanned, hash_name: str, piece_length: int) -> tuple[bytes, ...] | None:
        """The hashes of the pieces of exactly what was scanned, or None."""
        data = self._entries.read(_hash_key(scanned, hash_name, piece_length))
        if data is None:
            return None
        seen, pieces, check = data[:DIGEST_LENGTH], data[DIGEST_LENGTH:-DIGEST_LENGTH], data[-DIGEST_LENGTH:]
        if seen != scan_digest(scanned, hash_name, piece_length) or check != _digest(data[:-DIGEST_LENGTH]):
            return None
        return tuple(pieces[at : at + DIGEST_LENGTH] for at in range(0, len(pieces), DIGEST_LENGTH))

    def keep(
        self, scanned: Scanned, hash_name: str, piece_length: int, pieces: Sequence[bytes], began: float
    ) -> None:
        """Remember the hashes of what was scanned and, from `began` on (seconds since 1970), hashed.

        Nothing is kept of files that changed just before that. Raises `DiskError`.
        """
        if any(file.mtime_ns > (began - SETTLED_S) * 1e9 for file in scanned.files):
            return
        data = scan_digest(scanned, hash_name, piece_length) + b"".join(pieces)
        self._entries.write(_hash_key(scanned, hash_name, piece_length), data + _digest(data))


@frozen
class Hint:
    """What a replica was when it came, and what lies there now, with its files in the manifest's order."""

    manifest: Manifest
    data: bytes
    """The manifest's canonical form."""
    scanned: Scanned


class ReplicaCache:
    """The manifests of replicas by their paths. All methods block."""

    def __init__(self, folder: Path, most: int = MAX_REPLICAS) -> None:
        """`folder` is made when something is first kept. `most` entries are kept."""
        self._entries = _Entries(folder, most)

    def keep(self, root: Path, data: bytes) -> None:
        """Remember that the replica at `root` has the manifest whose canonical form is `data`. Raises
        `DiskError`."""
        self._entries.write(os.fsencode(root), data)

    def recall(self, scanned: Scanned) -> Hint | None:
        """What lay at this path when it was kept, if files and folders of those names and sizes lie there
        now."""
        data = self._entries.read(os.fsencode(scanned.root), MAX_MANIFEST + 1)
        try:
            manifest = parse(data or b"", None)
        except EnjambreError:
            return None
        found = {file.path: file for file in scanned.files}
        paths = local_paths(manifest)
        expected = {path: entry.size for path, entry in zip(paths, manifest.files, strict=True)}
        if (
            (scanned.kind, scanned.name) != (manifest.kind, local_part(manifest.name, top=True))
            or expected != {path: file.size for path, file in found.items()}
            or list(scanned.folders) != sorted(map(local_path, manifest.folders))
        ):
            return None
        files = tuple(found[path] for path in paths)
        in_order = Scanned(scanned.name, scanned.kind, scanned.root, files, scanned.folders)
        return Hint(manifest, data or b"", in_order)


def scan_digest(scanned: Scanned, hash_name: str, piece_length: int) -> bytes:
    """A digest that differs for any two states of the files, as far as a scan can tell them apart."""
    hasher = blake2b(digest_size=DIGEST_LENGTH)
    head = (1, scanned.name, scanned.kind, hash_name, piece_length, scanned.folders)
    hasher.update(repr(head).encode("utf-8", "surrogatepass"))
    for file in scanned.files:
        row = repr((file.path, file.size, file.mtime_ns, file.inode, file.device))
        hasher.update(row.encode("utf-8", "surrogatepass"))
    return hasher.digest()


def _hash_key(scanned: Scanned, hash_name: str, piece_length: int) -> bytes:
    return os.fsencode(scanned.root) + f"\0{hash_name}\0{piece_length}".encode()


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_LENGTH).digest()
