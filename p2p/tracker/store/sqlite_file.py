"""Reads and writes the SQLite file of a store, and refuses a file that is not ours, damaged, or in use."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import Final

from p2p.errors import DiskError, Refused, UsageError
from p2p.storage.disk import make_private
from p2p.tracker.store.journal import Key, Row, Tables

APPLICATION_ID: Final = 0x456E6A31
"""Marks a SQLite file as ours ("Enj1")."""
SCHEMA_VERSION: Final = 1
LOCK_RETRY_S: Final = 0.02
"""Seconds between two tries to lock the file for a commit."""

_HINT: Final = "move it away or name another with --store"
_WAL_MAGIC: Final = (0x377F0682, 0x377F0683)
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE sessions (key TEXT PRIMARY KEY, user TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE peers (no INTEGER PRIMARY KEY, id TEXT NOT NULL, session TEXT NOT NULL, name TEXT NOT NULL,
    host TEXT NOT NULL, advertised TEXT, listen TEXT NOT NULL, room INTEGER NOT NULL);
CREATE TABLE claims (no INTEGER PRIMARY KEY, peer INTEGER NOT NULL, content BLOB NOT NULL, name TEXT NOT NULL,
    size INTEGER NOT NULL, have INTEGER NOT NULL, UNIQUE (peer, content));
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
# In this order: a share that was withdrawn and announced again is the youngest of its content, and a dropped
# peer takes its shares along last. An update keeps the row's number, and so the order of announcers, which
# decides whose title a content has.
_STATEMENTS: Final = (
    ("no share", "DELETE FROM claims WHERE peer = ? AND content = ?"),
    ("session", "INSERT OR REPLACE INTO sessions VALUES (?, ?)"),
    ("peer", "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
    (
        "share",
        """INSERT INTO claims (peer, content, name, size, have) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (peer, content) DO UPDATE SET name = excluded.name, size = excluded.size, have =
        excluded.have""",
    ),
    ("no session", "DELETE FROM sessions WHERE key = ?"),
    ("no peer", "DELETE FROM peers WHERE no = ?"),
    ("no peer", "DELETE FROM claims WHERE peer = ?"),
)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a store is opened into a sentence that names its file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        what = _HINT if _kind(error) != sqlite3.SQLITE_FULL else "make room or name another with --store"
        raise DiskError(f"the tracker's store {path} cannot be used: {error}; {what}") from error
    except OSError as error:
        raise DiskError(f"the tracker's store {path} cannot be opened: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise DiskError(f"the tracker's store {path} is damaged; {_HINT}") from error


class SqliteFile:
    """An open file, locked against other trackers. `write` may run in another thread, `interrupt` in any.

    Opening raises `DiskError` or `UsageError`, and what `explained` explains. The file is never emptied or
    replaced.
    """

    def __init__(self, path: Path, lock_wait_s: float) -> None:
        """`lock_wait_s`: how long opening, and each write, waits for another process that locks the file."""
        self._path = path
        self._tries = max(1, ceil(lock_wait_s / LOCK_RETRY_S))
        self._interrupted = threading.Event()
        _check_wal(path)
        _create_private(path)
        self._guard = self._lock_out_others()
        try:
            self._db = sqlite3.connect(
                path, timeout=lock_wait_s, isolation_level=None, check_same_thread=False
            )
            try:
                self._open_schema()
                self._files = self._look()
                # From here on a write waits by itself, since SQLite's own wait cannot be interrupted.
                self._db.execute("PRAGMA busy_timeout = 0")
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._guard.close()
            raise

    def _lock_out_others(self) -> sqlite3.Connection:
        """Hold a lock beside the file, by SQLite's own portable locks. The system gives it back however this
        process ends."""
        beside = self._path.with_name(self._path.name + ".lock")
        _create_private(beside)
        guard = sqlite3.connect(beside, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            guard.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            guard.close()
            if _kind(error) != sqlite3.SQLITE_BUSY:
                raise
            raise UsageError(
                f"another tracker uses the store {self._path}; name another with --store"
            ) from error
        return guard

    def _open_schema(self) -> None:
        version = self._pragma("user_version")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == 0 and version == 0:
            self._db.executescript(_SCHEMA)
        elif self._pragma("application_id") != APPLICATION_ID:
            raise UsageError(f"{self._path} is a database of another program; name another file with --store")
        elif version > SCHEMA_VERSION:
            raise UsageError(
                f"the store {self._path} was written by a newer version of this program;"
                " use that one, or another file"
            )
        elif version < SCHEMA_VERSION:
            raise UsageError(
                f"the store {self._path} has version {version}, which this program cannot read;"
                " name another with --store"
            )
        # Loading does not read the indices, and on a damaged one every change would fail; 37 ms for 100,000
        # shares, which take 700 to load.
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise DiskError(
                f"the tracker's store {self._path} is damaged: {' '.join(found.split())}; {_HINT}"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def tables(self) -> Tables:
        """All rows, each table in the order in which its rows were first written."""
        return (
            self._db.execute("SELECT key, user FROM sessions"),
            self._db.execute(
                "SELECT no, id, session, name, host, advertised, listen, room FROM peers ORDER BY no"
            ),
            self._db.execute("SELECT peer, content, name, size, have FROM claims ORDER BY no"),
        )

    def write(self, changes: Mapping[Key, Row]) -> None:
        """Write changes: all or none. Touches nothing but the database, so it may run in a thread. Raises
        `Refused("unavailable")`."""
        try:
            self._check_files()
            self._begin()
            try:
                self._execute(changes)
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._check_files()
        except (sqlite3.Error, OSError) as error:
            reason = DiskError(f"{self._path}: {error}")
            reason.__cause__ = error
            raise Refused(
                "unavailable", "the tracker cannot write its store now; ask again later"
            ) from reason

    def _begin(self) -> None:
        for attempt in range(self._tries + 1):
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                if attempt == self._tries or self._interrupted.wait(LOCK_RETRY_S):
                    raise
            else:
                return

    def _execute(self, changes: Mapping[Key, Row]) -> None:
        rows: dict[str, list[Row]] = {kind: [] for kind, _ in _STATEMENTS}
        for (kind, _, _), row in changes.items():
            rows[kind].append(row)
        for kind, statement in _STATEMENTS:
            self._db.executemany(statement, rows[kind])

    def _look(self) -> dict[Path, os.stat_result]:
        """The files that hold the store, as they are found by their names."""
        found: dict[Path, os.stat_result] = {}
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            with suppress(FileNotFoundError, NotADirectoryError):
                found[path] = path.stat()
        return found

    def _check_files(self) -> None:
        """Raise `FileNotFoundError` if a file of the store was taken away. SQLite writes on into a file that
        has no name any more, and a tracker that starts after this one would know nothing of it."""
        now = self._look()
        for path, then in self._files.items():
            if path not in now or not os.path.samestat(then, now[path]):
                raise FileNotFoundError(f"{path} was taken away or replaced")
        self._files = now

    def interrupt(self) -> None:
        """Make a write that waits for a lock give up soon."""
        self._interrupted.set()

    def close(self) -> None:
        """Close the files and give the lock back."""
        with closing(self._guard):
            self._db.close()


def _check_wal(path: Path) -> None:
    """Refuse a write-ahead log that SQLite would drop without a word, with all that a killed tracker had not
    yet brought over into the store."""
    wal = path.with_name(path.name + "-wal")
    try:
        with open(wal, "rb") as file:
            begin = file.read(4)
    except FileNotFoundError:
        return
    if begin and (not path.exists() or not path.stat().st_size):
        raise DiskError(
            f"the journal {wal} is there, but the store it belongs to is empty or gone;"
            " bring that back, or move both away"
        )
    # A crash of the machine may leave zeros, of a log that had only begun.
    if begin.strip(b"\0") and int.from_bytes(begin, "big") not in _WAL_MAGIC:
        raise DiskError(
            f"the journal {wal} of the tracker's store is damaged;"
            " move both away or name another with --store"
        )


def _create_private(path: Path) -> None:
    """Make a file that only its owner can read, in a folder of the same kind, with these modes from the first
    moment. SQLite's files beside it get the file's mode."""
    make_private(path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _kind(error: sqlite3.Error) -> int:
    """The primary code of what SQLite complains of."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
