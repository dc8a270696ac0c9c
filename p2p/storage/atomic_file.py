"""Small private files that are replaced whole: after a crash there is the old one or the new (on Windows,
unless two write at once).

The new bytes go into a file beside, `NAME.new`, which its writer holds locked. A lock dies with its holder,
so a `.new` that nobody holds is nobody's any more, and the next writer takes it over instead of leaving one
behind for each kill.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from p2p.storage.disk import OPEN_FILES_CANNOT_MOVE, FileLock, lock_file

_TRY_EVERY: Final = 0.01


def beside(path: Path) -> Path:
    """Where the bytes are written before they take the place of `path`."""
    return path.with_suffix(".new")


def write_private(path: Path, data: bytes, *, sync: bool, patience: float = 0.0) -> None:
    """Let `path` hold `data`, readable by its owner only; its folder must be there. Blocks.

    With `sync` the bytes are on disk before the name is theirs, so that a power cut leaves the old file or
    the new; without, it may leave anything, which is for readers that check what they read. Raises
    `BlockingIOError` if another writer is at it for longer than `patience` seconds, other `OSError` as they
    come, and `DiskError` if something else than a file is in the way.
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
