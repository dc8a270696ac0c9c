"""Keeps a session with a tracker beyond one command: a file in the user's state folder that only this user
can read."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Final

from p2p.errors import DiskError, ProtocolError
from p2p.model import Address
from p2p.protocol.peer_messages import SESSION, SHORT_NAME
from p2p.protocol.strict_json import loads
from p2p.storage.atomic_file import beside, write_private
from p2p.storage.disk import disk_error, make_private
from p2p.text import printable
from p2p.value import frozen

MAX_FILE_BYTES: Final = 65_536
LOCK_TIMEOUT_S: Final = 2.0
"""A login waits this long for another one that writes the same file."""


@frozen
class StoredSession:
    """A user's session with a tracker. `token` is a secret."""

    tracker: Address
    user: str
    token: str


def _path(state: Path, tracker: Address) -> Path:
    return state / f"session-{hashlib.blake2b(str(tracker).encode(), digest_size=8).hexdigest()}.json"


def load_session(state: Path, tracker: Address) -> StoredSession | None:
    """Return the session with a tracker, or None if there is no file. Raises `DiskError` for a file that
    cannot be read, or that holds something else."""
    path = _path(state, tracker)
    try:
        with open(path, "rb") as file:
            data = loads(file.read(MAX_FILE_BYTES))
    except (FileNotFoundError, NotADirectoryError):  # users without a home have /dev/null for one
        return None
    except OSError as error:
        raise _fault(error, "read", path) from error
    except ProtocolError as error:
        raise _no_session(path) from error
    if not isinstance(data, dict):
        raise _no_session(path)
    try:
        return StoredSession(
            tracker, SHORT_NAME.check(data.get("user"), "user"), SESSION.check(data.get("token"), "token")
        )
    except ProtocolError as error:
        raise _no_session(path) from error


def _fault(error: OSError, doing: str, path: Path) -> DiskError:
    """Return what went wrong, and what to do if this user may not use the folder: it may be in the home of
    another."""
    fault = disk_error(error, doing, path)
    if isinstance(error, PermissionError | NotADirectoryError):
        return DiskError(f"{fault}; name a folder of your own with --state")
    return fault


def _no_session(path: Path) -> DiskError:
    return DiskError(f"{path}: not a session file; remove it and log in again")


def save_session(state: Path, session: StoredSession) -> None:
    """Write a session to its file: beside it and renamed, with mode 0600 in a folder of mode 0700. Raises
    `DiskError`."""
    path = _path(state, session.tracker)
    data = {"tracker": str(session.tracker), "user": session.user, "token": session.token}
    try:
        make_private(state)
        _check_private(state)
        write_private(path, json.dumps(data).encode(), sync=True, patience=LOCK_TIMEOUT_S)
    except OSError as error:
        raise _fault(error, "write", path) from error


def _check_private(state: Path) -> None:
    """Raise `DiskError` for a folder in which other users could replace our file."""
    if os.name == "posix":
        mode = state.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            name = printable(str(state))
            raise DiskError(
                f"others may write into the folder '{name}', so no session is kept there; chmod 700 it"
            )


def forget_session(state: Path, tracker: Address) -> None:
    """Remove the session with a tracker, if there is one. Raises `DiskError`."""
    path = _path(state, tracker)
    try:
        path.unlink(missing_ok=True)
        beside(path).unlink(missing_ok=True)  # a login that was killed may have left a token there
    except NotADirectoryError:
        return
    except OSError as error:
        raise _fault(error, "remove", path) from error
