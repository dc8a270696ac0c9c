"""A session with a tracker that outlives one command, kept in a file of the user's state folder that nobody else can read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Final

from p2p.content.names import printable
from p2p.errors import DiskError, ProtocolError
from p2p.frozen import frozen
from p2p.model import Address
from p2p.protocol.messages import SESSION, SHORT_NAME
from p2p.strictjson import loads
from p2p.system import disk_error, make_private

MAX_FILE: Final = 65_536
"""Bytes that are read of a session file, at most."""


@frozen
class StoredSession:
    """Who is logged in where. `token` is a secret."""

    tracker: Address
    user: str
    token: str


def _path(state: Path, tracker: Address) -> Path:
    return state / f"session-{hashlib.blake2b(str(tracker).encode(), digest_size=8).hexdigest()}.json"


def load_session(state: Path, tracker: Address) -> StoredSession | None:
    """Return the session kept for a tracker, or None. Raises `DiskError` when the file cannot be read or is not ours."""
    path = _path(state, tracker)
    try:
        with open(path, "rb") as file:
            data = loads(file.read(MAX_FILE))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, "read", path) from error
    except ProtocolError as error:
        raise _no_session(path) from error
    if not isinstance(data, dict):
        raise _no_session(path)
    try:
        return StoredSession(tracker, SHORT_NAME.check(data.get("user"), "user"), SESSION.check(data.get("token"), "token"))
    except ProtocolError as error:
        raise _no_session(path) from error


def _no_session(path: Path) -> DiskError:
    return DiskError(f"{path}: not a session file; remove it and log in again")


def save_session(state: Path, session: StoredSession) -> None:
    """Keep a session: written beside and renamed, created with mode 0600 in a folder of mode 0700. Raises `DiskError`."""
    path = _path(state, session.tracker)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        make_private(state)
        _check_private(state)
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump({"tracker": str(session.tracker), "user": session.user, "token": session.token}, file)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a half of a secret must not lie about
            fresh.unlink(missing_ok=True)
        raise disk_error(error, "write", path) from error


def _check_private(state: Path) -> None:
    """Raise `DiskError` for a folder in which others could put another file in the place of ours."""
    if os.name == "posix":
        mode = state.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            raise DiskError(f"others may write into the folder '{printable(str(state))}', so no session is kept there; chmod 700 it")


def forget_session(state: Path, tracker: Address) -> None:
    """Remove the session kept for a tracker, if there is one. Raises `DiskError`."""
    try:
        _path(state, tracker).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, "remove", _path(state, tracker)) from error
