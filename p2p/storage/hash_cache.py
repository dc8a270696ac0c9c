"""Remembers the piece hashes of what was shared, so that what has not changed since is not read again.

One small file a content in the user's state folder, named after the path, the hash function and the piece
length. It holds for exactly what a scan saw: path, size, time of the last change, inode and device of every
file. Like git's index, it keeps nothing of a file that changed less than two seconds before it was hashed,
since a change in the same tick of the clock would look the same.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from p2p.storage.atomic_file import write_private
from p2p.storage.disk import disk_error, make_private
from p2p.storage.scan import Scanned

DIGEST: Final = 32
"""Bytes of a piece hash, and of the digests in a file."""
MAX_FILES: Final = 1000
"""Contents that are remembered; of more, those that were shared longest ago are forgotten."""
SETTLED: Final = 2.0
"""Seconds between a file's last change and its hashing."""


class HashCache:
    """Piece hashes by what was scanned. All methods block."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when something is first kept."""
        self._folder = folder

    def recall(self, scanned: Scanned, hash_name: str, piece_length: int) -> tuple[bytes, ...] | None:
        """The hashes of the pieces of exactly this, or None. Whatever is not as it was written is as if it
        were not there."""
        try:
            if not _private(self._folder):
                return None
            data = self._path(scanned, hash_name, piece_length).read_bytes()
        except OSError:  # to hash once more is always right
            return None
        seen, pieces, check = data[:DIGEST], data[DIGEST:-DIGEST], data[-DIGEST:]
        if (
            seen != _digest(scanned, hash_name, piece_length)
            or check != blake2b(data[:-DIGEST], digest_size=DIGEST).digest()
        ):
            return None
        return tuple(pieces[at : at + DIGEST] for at in range(0, len(pieces), DIGEST))

    def keep(
        self, scanned: Scanned, hash_name: str, piece_length: int, pieces: Sequence[bytes], began: float
    ) -> None:
        """Remember the hashes of what was scanned and, from `began` (seconds since 1970), hashed. Raises
        `DiskError`."""
        if any(file.mtime_ns > (began - SETTLED) * 1e9 for file in scanned.files):
            return
        data = _digest(scanned, hash_name, piece_length) + b"".join(pieces)
        path = self._path(scanned, hash_name, piece_length)
        try:
            make_private(self._folder)
            if not _private(self._folder):
                return
            self._make_room()
            with contextlib.suppress(BlockingIOError):  # another process remembers the same
                write_private(path, data + blake2b(data, digest_size=DIGEST).digest(), sync=False)
        except OSError as error:
            raise disk_error(error, "write", path) from error

    def _path(self, scanned: Scanned, hash_name: str, piece_length: int) -> Path:
        key = os.fsencode(scanned.root) + f"\0{hash_name}\0{piece_length}".encode()
        return self._folder / blake2b(key, digest_size=16).hexdigest()

    def _make_room(self) -> None:
        found = list(self._folder.iterdir())
        if len(found) >= MAX_FILES:
            for path in sorted(found, key=_age)[: len(found) - MAX_FILES + 1]:
                path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _private(folder: Path) -> bool:
    """Whether nobody else can put another file in the place of ours."""
    return os.name != "posix" or not folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(scanned: Scanned, hash_name: str, piece_length: int) -> bytes:
    """What tells one state of the files from every other."""
    hasher = blake2b(digest_size=DIGEST)
    hasher.update(
        repr((1, scanned.name, scanned.kind, hash_name, piece_length, scanned.folders)).encode(
            "utf-8", "surrogatepass"
        )
    )
    for file in scanned.files:
        row = repr((file.path, file.size, file.mtime_ns, file.inode, file.device))
        hasher.update(row.encode("utf-8", "surrogatepass"))
    return hasher.digest()
