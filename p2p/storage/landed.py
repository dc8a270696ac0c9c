"""Tells, after a crash, whether what stands under the final name is the download that had just been moved
there.

Before the move, a mark goes behind the manifest in the sidecar: which file of which disk the part is. The
move keeps that; whatever else somebody puts under the name is another file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MOST_OF_MARK: Final = 256
"""More bytes than a mark has."""


def mark_of(path: Path) -> bytes:
    """The mark of a file as it is now, or of a folder, whose own files `is_landed` looks at. Raises
    `OSError`."""
    found = os.lstat(path)
    state = (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0)
    return b"\n" + " ".join(map(str, (found.st_dev, found.st_ino, *state))).encode()


def is_landed(mark: bytes, path: Path, files: Iterable[tuple[str, int]]) -> bool:
    """Whether `path` is what `mark` was made of, and has all of `files` (path, size). Their bytes are for the
    caller to verify."""
    try:
        return mark == mark_of(path) and all(_is_file(each, size) for each, size in files)
    except OSError:
        return False


def _is_file(path: str, size: int) -> bool:
    found = os.lstat(path)
    return stat.S_ISREG(found.st_mode) and found.st_size == size
