"""Files and folders below a folder of ours, reached one step after the other, so that no link on the way is
ever followed out of it.

A look at the path beforehand would not do: between the look and the use, whoever may write there could put a
link in a folder's place. Where the system knows no descriptors of folders, paths are used as they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from p2p.storage.disk import open_write

_BY_STEPS: Final = {os.open, os.mkdir} <= os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_FOLDER: Final = (
    getattr(os, "O_PATH", os.O_RDONLY)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


def open_confined(root: Path, path: str, *, create: bool) -> int:
    """As `open_write`, for the file at `path` (`/` between its parts) below the folder `root`, which must not
    be a link itself."""
    if not _BY_STEPS:
        return open_write(root / path, create=create)
    folder, _, name = path.rpartition("/")
    with _folder_below(root, folder) as place:
        return open_write(name, create=create, dir_fd=place)


def make_confined(root: Path, path: str) -> None:
    """Make the folder at `path` below `root`, unless it is there; the folder above it must be. Raises
    `OSError`."""
    above, _, name = path.rpartition("/")
    if not _BY_STEPS:
        make_folder(root / path)
        return
    with _folder_below(root, above) as place:
        make_folder(name, place)


def make_folder(path: str | os.PathLike[str], dir_fd: int | None = None) -> None:
    """Make a folder, unless it is there. Raises `FileExistsError` if something else is, and `OSError`."""
    try:
        os.mkdir(path, dir_fd=dir_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise


@contextmanager
def _folder_below(root: Path, path: str) -> Iterator[int]:
    place = os.open(root, _FOLDER)
    try:
        for part in path.split("/") if path else ():
            inner = os.open(part, _FOLDER, dir_fd=place)
            os.close(place)
            place = inner
        yield place
    finally:
        os.close(place)
