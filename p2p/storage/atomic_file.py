"""Small private files that are replaced whole: a crash leaves the old file or the new one.

The new bytes are written to `NAME.new`, which is locked, and which then gets the name. A lock ends with its
process, so the next writer takes over a `.new` that a kill left behind. (On Windows the file is not locked
during the rename, and two writers at once may disturb each other.)
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from p2p.storage.disk import OPEN_FILES_CANNOT_MOVE, FileLock, lock_file

_TRY_EVERY: Final = 0.01


def beside(path: Path) -> Path:
    """The path of the new bytes before they take the place of `path`."""
    return path.with_suffix(".new")


def write_private(path: Path, data: bytes, *, sync: bool, patience: float = 0.0) -> None:
    """Replace the file at `path` by one that holds `data` and that only its owner may read. Blocks.

    With `sync` the bytes are on disk before the rename, so that a power cut too leaves the old file or the
    new one. Without, it may leave anything: for readers that check what they read. The folder must exist.
    Raises `BlockingIOError` if another writer holds the lock for longer than `patience` seconds, `OSError`,
    and `DiskError` if something else than a file is in the way.
    """
    fresh = beside(path)
    lock = _lock(fresh, patience)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(lock.fd, 0o600)
        os.ftruncate(lock.fd, 0)
        with open(lock.fd, "wb", closefd=False) as file:
            file.write(data)
        if sync:
            os.fsync(lock.fd)
        if OPEN_FILES_CANNOT_MOVE:
            lock.close()
        fresh.replace(path)
    except OSError:
        lock.remove()
        raise
    finally:
        lock.close()


def _lock(fresh: Path, patience: float) -> FileLock:
    until = time.monotonic() + patience
    while True:
        try:
            return lock_file(fresh, mode=0o600)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(_TRY_EVERY)
