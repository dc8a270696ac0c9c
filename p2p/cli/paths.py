"""Paths that a user named on the command line."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from p2p.errors import UsageError
from p2p.storage.disk import disk_error


def named_path(text: str, what: str = "PATH") -> Path:
    """Return the path that was named as `what`. A symbolic link stands for its target.

    An empty text is refused: it would mean the current folder, and a shell variable that is not set would
    publish it. Raises `UsageError` if there is nothing, and `DiskError` if the disk cannot tell.
    """
    if not text:
        raise UsageError(f"{what}: must not be empty")
    try:
        path = Path(os.path.realpath(text))
        path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{text}: no such file or folder") from error
    except OSError as error:
        raise disk_error(error, "share", text) from error
    return path


def served_folder(text: str, *, make: bool) -> Path:
    """Return the folder that `serve` was told to share; with `make`, one that is missing is made.

    Raises `UsageError` when there is no such folder, and `DiskError` when it cannot be made.
    """
    if not text:
        raise UsageError("DIR: must not be empty")
    folder = Path(text)
    try:
        exists = folder.is_dir() or folder.exists()
    except OSError as error:
        raise disk_error(error, "share", folder) from error
    if exists and folder.is_dir():
        return folder
    if exists:
        raise UsageError(f"{folder} is a file; share it with: peer share {shlex.quote(str(folder))}")
    if not make:
        raise UsageError(f"{folder}: no such folder")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise disk_error(error, "make", folder) from error
    return folder
