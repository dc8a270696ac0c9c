"""Opens a store by its name; each kind is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from p2p.errors import UsageError
from p2p.tracker.store.interface import TrackerStore


def open_store(spec: str, now: float) -> TrackerStore:
    """Open `memory` or `sqlite:FILE`; `now` is monotonic time in seconds.

    Raises `UsageError` when there is no such store, or its file is not for this program now; `DiskError` when
    the file cannot be used.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "memory":
        from p2p.tracker.store.memory import MemoryStore

        return MemoryStore()
    if kind == "sqlite" and colon and rest:
        try:
            from p2p.tracker.store.sqlite import SqliteStore
        except ModuleNotFoundError as error:
            if error.name not in ("sqlite3", "_sqlite3"):
                raise
            raise UsageError("this Python was built without SQLite; use --store memory") from error
        try:
            path = Path(rest).expanduser()
        except RuntimeError:
            raise UsageError(
                f"--store: {spec!r} names a home folder that is not known; write the whole path"
            ) from None
        return SqliteStore(path, now)
    raise UsageError(f"the store {spec!r} is not known; known are memory and sqlite:FILE")
