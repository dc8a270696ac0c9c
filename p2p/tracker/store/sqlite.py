"""A store that survives a restart. Answers come from a directory in memory. Its changes go through a journal
to a SQLite file, many of them in one transaction.

The promise: an answer that waited until nothing was `unsaved` survives the death of the process (kill -9) at
any time. With `synchronous=NORMAL` in WAL mode a power cut or a crash of the whole machine may lose the last
moments before it, but never leaves half a transaction. Peers announce again every ttl/3 anyway, so the
directory heals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from p2p.tracker.store.base import StoreLimits
from p2p.tracker.store.directory import Directory
from p2p.tracker.store.journal import Journal, restore
from p2p.tracker.store.sqlite_file import SqliteFile, explained

LOCK_WAIT_S: Final = 3.0
"""Seconds that a commit waits for another process that holds the file's lock."""


class SqliteStore:
    """`TrackerStore` on disk: a directory, its journal, and the file. Opening loads everything.

    Raises `DiskError` when the file cannot be used or is damaged, `UsageError` when it belongs to something
    else, to a newer version of this program, or to a tracker that is running.
    """

    def __init__(
        self, path: Path, now: float, limits: StoreLimits | None = None, *, lock_wait_s: float = LOCK_WAIT_S
    ) -> None:
        limits = limits or StoreLimits()
        with explained(path):
            self._file = SqliteFile(path, lock_wait_s)
            try:
                saved, numbers = restore(self._file.tables(), now, limits)
                self._journal = Journal(limits, numbers)
                self.directory = Directory(limits, self._journal, saved)
            except BaseException:
                self._file.close()
                raise

    @property
    def unsaved(self) -> bool:
        """Whether a change waits, or is being written."""
        return self._journal.unsaved

    def take_pending(self) -> Mapping[Any, Any]:
        """Take all changes that wait."""
        return self._journal.take_pending()

    def commit(self, changes: Mapping[Any, Any]) -> None:
        """Write changes: all or none. May run in a thread. Raises `Refused("unavailable")`."""
        self._file.write(changes)

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        """Note how the commit ended."""
        self._journal.settle(changes, written=written)

    def interrupt(self) -> None:
        """Make a commit that waits for a lock give up soon."""
        self._file.interrupt()

    def close(self) -> None:
        """Close the files and give the lock back."""
        self._file.close()
