"""The sidecar `NAME.part.manifest`: says of which content the part beside it is, and locks it.

It holds the canonical form of the content's manifest. So a resume begins without a peer, and a part is never
taken for one of another content. Its lock keeps a second download of the same name out.
"""

from __future__ import annotations

import os
from enum import Enum, auto
from pathlib import Path
from typing import Final

from p2p.content.manifest import MAX_MANIFEST, parse
from p2p.content.names import MAX_PART
from p2p.errors import EnjambreError
from p2p.model import ContentId
from p2p.storage.disk import FileLock, lock_file

SIDECAR: Final = ".part.manifest"


def stem_of(name: str, content_id: ContentId) -> str:
    """The common beginning of the names of part and sidecar.

    It is the content's name, or a shorter one with the beginning of the id if the ending would not fit.
    """
    octets = name.encode("utf-8")
    if len(octets) + len(SIDECAR) <= MAX_PART:
        return name
    ending = f"~{content_id[:8]}"
    return octets[: MAX_PART - len(SIDECAR) - len(ending)].decode("utf-8", "ignore") + ending


class Owner(Enum):
    """Whose sidecar was found."""

    NOBODY = auto()
    """It is new, or empty."""
    US = auto()
    """It holds our manifest."""
    A_CRASH = auto()
    """A crash left it without a part: the beginning of our manifest, or another content's whole one."""
    SOMEBODY = auto()
    """Anything else: a file of the user's."""


class Sidecar:
    """The sidecar of one download. It is locked from `lock` until `close` or `remove`."""

    def __init__(self, path: Path, canonical: bytes) -> None:
        self.path = path
        self._canonical = canonical
        self._lock: FileLock | None = None
        self.owner = Owner.NOBODY

    @property
    def locked(self) -> bool:
        """Whether this download holds the lock."""
        return self._lock is not None

    def lock(self) -> None:
        """Make the sidecar or find it, lock it, and find out whose it is.

        Raises `BlockingIOError` if another download has it, `DiskError` and `OSError` as `lock_file`.
        """
        self._lock = lock_file(self.path)
        self.owner = self._owner_of(_content_of(self._lock))

    def write(self) -> None:
        """Write our manifest and bring it to disk: the part must never be there without it. Raises
        `OSError`."""
        fd = self._held().fd
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        rest = memoryview(self._canonical)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)

    def in_place(self) -> bool:
        """Whether the sidecar still has its name. If not, the folder was taken away below the download.

        True also when it is not locked any more. Raises `OSError`.
        """
        lock = self._lock
        if lock is None:
            return True
        try:
            return os.path.samestat(os.fstat(lock.fd), os.lstat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def remove(self) -> None:
        """Delete the sidecar and unlock it. Raises `OSError`."""
        lock = self._held()
        lock.remove()
        self._lock = None

    def remove_if_empty(self) -> None:
        """Delete a sidecar that was just made. Raises `OSError`."""
        if self._lock is not None and not os.fstat(self._lock.fd).st_size:
            self.remove()

    def close(self) -> None:
        """Unlock the sidecar and leave it where it is. Harmless when called again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _held(self) -> FileLock:
        if self._lock is None:
            raise RuntimeError("this download is not open")
        return self._lock

    def _owner_of(self, found: bytes) -> Owner:
        if not found:
            return Owner.NOBODY
        if found == self._canonical:
            return Owner.US
        if self._canonical.startswith(found.rstrip(b"\0")):  # a power cut may leave the length, not the bytes
            return Owner.A_CRASH
        try:
            parse(found, None)
        except EnjambreError:
            return Owner.SOMEBODY
        return Owner.A_CRASH


def _content_of(lock: FileLock) -> bytes:
    """All that a locked sidecar holds; of one that is longer than any manifest, its beginning. Raises
    `OSError`."""
    os.lseek(lock.fd, 0, os.SEEK_SET)
    found = bytearray()
    while len(found) <= MAX_MANIFEST:
        data = os.read(lock.fd, 1 << 20)
        if not data:
            break
        found += data
    return bytes(found)
