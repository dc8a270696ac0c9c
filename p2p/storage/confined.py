"""Open and make files below a root folder without following a link out of it.

Each part of a path is opened relative to the descriptor of its folder (`openat`), and never as a link. It is
not enough to check the path first: another program could put a link in a folder's place between the check and
the use. Where the system has no descriptors of folders (Windows), paths are used as they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from p2p.storage.disk import open_write

_HAS_OPENAT: Final = os.name == "posix"
_FOLDER: Final = (
    getattr(os, "O_PATH", os.O_RDONLY)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


def open_confined(root: Path, path: str, *, create: bool, openat: bool = _HAS_OPENAT) -> int:
    """As `open_write`, for the file at `path` (`/` between its parts) below `root`, which must be no link."""
    if not openat:
        return open_write(root / path, create=create)
    folder, _, name = path.rpartition("/")
    with _open_folder(root, folder) as place:
        return open_write(name, create=create, dir_fd=place)


def make_confined(root: Path, path: str, *, openat: bool = _HAS_OPENAT) -> None:
    """Make the folder at `path` below `root`, unless it is there. Its parent must be. Raises `OSError`."""
    above, _, name = path.rpartition("/")
    if not openat:
        make_folder(root / path)
        return
    with _open_folder(root, above) as place:
        make_folder(name, place)


def make_folder(path: str | os.PathLike[str], dir_fd: int | None = None) -> None:
    """Make a folder, unless it is there. Raises `FileExistsError` if something else is, and `OSError`."""
    try:
        os.mkdir(path, dir_fd=dir_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise


@contextmanager
def _open_folder(root: Path, path: str) -> Iterator[int]:
    place = os.open(root, _FOLDER)
    try:
        for part in path.split("/") if path else ():
            inner = os.open(part, _FOLDER, dir_fd=place)
            os.close(place)
            place = inner
        yield place
    finally:
        os.close(place)
