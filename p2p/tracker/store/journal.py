"""A store that survives: answers come from memory, every change is journalled to SQLite, many of them in one
transaction.

What is promised: an answer that waited until nothing was `unsaved` survives the death of the process (kill
-9) at any time. With `synchronous=NORMAL` in WAL mode a power cut or a crash of the whole machine may lose
the last moments before it, but never leaves half a transaction; peers announce again every ttl/3 anyway, so
the directory heals.

Changes wait in a dict keyed by row, so that a row that changes often is written once. A peer has a row number
that is never used again, so dropping a peer is one change, whatever it announced. Leases are not written:
monotonic time does not survive a restart, so every peer that is loaded gets a fresh one, and every session
without peers counts as idle for long.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from p2p.errors import DiskError, Refused, UsageError
from p2p.model import ContentId, PeerId
from p2p.storage.disk import make_private
from p2p.tracker.store.base import EVICT_IDLE, Caps, Claim, PeerRecord, SessionRecord
from p2p.tracker.store.directory import Directory

APPLICATION_ID: Final = 0x456E6A31
"""Marks a SQLite file as ours ("Enj1")."""
SCHEMA_VERSION: Final = 1
LOCK_WAIT: Final = 3.0
"""Seconds that a commit waits for another process that holds the file's lock."""
MAX_PENDING: Final = 200_000
"""Rows that may wait for the disk; beyond it new entries are `Refused("unavailable")`."""

_HINT: Final = "move it away or name another with --store"
_JOURNAL_MAGIC: Final = (0x377F0682, 0x377F0683)
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
# In this order: a claim that was withdrawn and made again is the youngest of its content, and a dropped peer
# takes its claims along last. An update keeps the row's number, and so the order of announcers, which decides
# whose name a content has.
_STATEMENTS: Final = (
    ("no claim", "DELETE FROM claims WHERE peer = ? AND content = ?"),
    ("session", "INSERT OR REPLACE INTO sessions VALUES (?, ?)"),
    ("peer", "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
    (
        "claim",
        """INSERT INTO claims (peer, content, name, size, have) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (peer, content) DO UPDATE SET name = excluded.name, size = excluded.size, have =
        excluded.have""",
    ),
    ("no session", "DELETE FROM sessions WHERE key = ?"),
    ("no peer", "DELETE FROM peers WHERE no = ?"),
    ("no peer", "DELETE FROM claims WHERE peer = ?"),
)

Row = tuple[str | int | bytes | None, ...]
Key = tuple[str, str | int, str]
"""The kind of change (as in `_STATEMENTS`), whose, and of which content if of one."""


class SqliteStore(Directory):
    """`TrackerStore` on disk. Opening loads everything.

    Raises `DiskError` when the file cannot be used or is damaged, `UsageError` when it belongs to something
    else, to a newer version of this program, or to a tracker that is running. It is never emptied or
    replaced.
    """

    def __init__(
        self, path: Path, now: float, caps: Caps | None = None, *, lock_wait: float = LOCK_WAIT
    ) -> None:
        super().__init__(caps)
        self._path = path
        self._lock_wait = lock_wait
        self._interrupted = threading.Event()
        self._pending: dict[Key, Row] = {}
        self._in_flight = 0
        self._numbers: dict[PeerId, int] = {}
        self._next_number = 1
        self._loading = True
        with self._explained():
            _check_journal(path)
            _create_private(path)
            self._guard = self._lock_out_others()
            try:
                self._db = sqlite3.connect(
                    path, timeout=lock_wait, isolation_level=None, check_same_thread=False
                )
                try:
                    self._open_schema()
                    self._load(now)
                except BaseException:
                    self._db.close()
                    raise
            except BaseException:
                self._guard.close()
                raise
        self._files = self._look()
        # From here on a commit waits by itself, since SQLite's own wait cannot be interrupted.
        self._db.execute("PRAGMA busy_timeout = 0")
        self._loading = False

    # -- opening
    # -------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what is wrong with the file in a sentence."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            what = _HINT if _kind(error) != sqlite3.SQLITE_FULL else "make room or name another with --store"
            raise DiskError(f"the tracker's store {self._path} cannot be used: {error}; {what}") from error
        except OSError as error:
            raise DiskError(
                f"the tracker's store {self._path} cannot be opened: {error.strerror or error}"
            ) from error
        except (ValueError, TypeError, LookupError) as error:
            raise DiskError(f"the tracker's store {self._path} is damaged; {_HINT}") from error

    def _lock_out_others(self) -> sqlite3.Connection:
        """Hold a lock beside the file, by SQLite's own portable locks; the system gives it back however this
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
                f"the store {self._path} was written by a newer version of this program; use that one, or another file"
            )
        elif version < SCHEMA_VERSION:
            raise UsageError(
                f"the store {self._path} has version {version}, which this program cannot read; name another with --store"
            )
        # Loading does not read the indices, and on a damaged one every change would fail; 37 ms for 100,000
        # claims, which take 700 to load.
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise DiskError(
                f"the tracker's store {self._path} is damaged: {' '.join(found.split())}; {_HINT}"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _load(self, now: float) -> None:
        for key, user in self._db.execute("SELECT key, user FROM sessions"):
            self._sessions[key] = SessionRecord(key, user, now, now)
        peers: dict[int, PeerRecord] = {}
        for number, peer_id, session, name, host, advertised, listen, room in self._db.execute(
            "SELECT * FROM peers ORDER BY no"
        ):
            user = self._sessions[session].user
            peer = PeerRecord(
                PeerId(peer_id), session, name, user, host, advertised, _read_listen(listen), int(room), now
            )
            self._numbers[peer.id] = number
            self.put_peer(peer)
            peers[number] = peer
            self._next_number = number + 1
        claims: dict[int, list[Claim]] = {}
        names: dict[str, str] = {}
        ids: dict[bytes, ContentId] = {}
        # Claims of one peer after the other would lose who announced first, so they go in by age; runs of one
        # peer go in together.
        for number, content, name, size, have in self._db.execute(
            "SELECT peer, content, name, size, have FROM claims ORDER BY no"
        ):
            if number not in claims:
                self._put_loaded(claims, peers)
                claims = {number: []}
            content_id = ids.setdefault(content, ContentId(bytes.hex(content)))
            claims[number].append(Claim(content_id, names.setdefault(name, name), int(size), int(have)))
        self._put_loaded(claims, peers)
        # How long a session was idle is not kept. One without peers may make room at once: a full table that
        # a restart made young would lock newcomers out for `EVICT_IDLE`.
        for record in self._sessions.values():
            if not record.peers:
                record.used = now - EVICT_IDLE
        self._sessions = OrderedDict(sorted(self._sessions.items(), key=lambda item: item[1].used))

    def _put_loaded(self, claims: Mapping[int, Sequence[Claim]], peers: Mapping[int, PeerRecord]) -> None:
        for number, said in claims.items():
            self.put_claims(peers[number], said)

    # -- changes
    # -------------------------------------------------------------------------------------------------------------------

    def put_session(self, key: str, user: str, now: float, host: str = "") -> None:
        """Keep a new session. Raises `Refused`: `quota`, or `unavailable` when too much waits for the
        disk."""
        self._check_pending()
        super().put_session(key, user, now, host)

    def put_peer(self, record: PeerRecord) -> None:
        """Keep a new peer, or the new state of a known one. Raises `Refused`: `quota`, or `unavailable`."""
        self._check_pending()
        super().put_peer(record)

    def put_claims(self, peer: PeerRecord, claims: Sequence[Claim]) -> None:
        """Keep what a known peer says it has. Raises `Refused`: `quota`, or `unavailable`."""
        self._check_pending()
        super().put_claims(peer, claims)

    def _check_pending(self) -> None:
        if len(self._pending) >= MAX_PENDING:
            raise Refused("unavailable", "too much waits for the tracker's disk; ask again later")

    def _session_changed(self, record: SessionRecord, *, alive: bool) -> None:
        if alive:
            self._note(("session", record.key, ""), (record.key, record.user))
        else:
            self._note(("no session", record.key, ""), (record.key,))

    def _peer_changed(self, record: PeerRecord, *, alive: bool) -> None:
        if not alive:
            number = self._numbers.pop(record.id)
            self._note(("no peer", number, ""), (number,))
        elif not self._loading:
            if record.id not in self._numbers:
                self._numbers[record.id] = self._next_number
                self._next_number += 1
            number, listen = self._numbers[record.id], _write_listen(record.listen)
            row = (
                number,
                record.id,
                record.session,
                record.name,
                record.host,
                record.advertised,
                listen,
                record.room,
            )
            self._note(("peer", number, ""), row)

    def _claim_changed(self, peer: PeerRecord, content_id: ContentId, claim: Claim | None) -> None:
        if self._loading:
            return
        number, content = self._numbers[peer.id], bytes.fromhex(content_id)
        if claim is None:
            self._note(("no claim", number, content_id), (number, content))
        else:
            self._note(("claim", number, content_id), (number, content, claim.name, claim.size, claim.have))

    def _note(self, key: Key, row: Row) -> None:
        kind, whose, content = key
        if kind.startswith("no "):
            self._pending.pop((kind[3:], whose, content), None)
        self._pending[key] = row

    # -- disk
    # ----------------------------------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> bool:
        """Whether a change waits, or is being written."""
        return bool(self._pending) or self._in_flight > 0

    def take_pending(self) -> Mapping[Any, Any]:
        """Take all changes that wait."""
        taken, self._pending = self._pending, {}
        self._in_flight += len(taken)
        return taken

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        """Say how the commit ended; what was not written waits again, and newer changes of the same rows
        win."""
        self._in_flight -= len(changes)
        if not written:
            newer, self._pending = self._pending, dict(changes)
            for key, row in newer.items():
                self._note(key, row)

    def commit(self, changes: Mapping[Any, Any]) -> None:
        """Write changes: all or none. Touches nothing but the database, so it may run in a thread. Raises
        `Refused("unavailable")`."""
        try:
            self._check_here()
            self._begin()
            try:
                self._write(changes)
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._check_here()
        except (sqlite3.Error, OSError) as error:
            reason = DiskError(f"{self._path}: {error}")
            reason.__cause__ = error
            raise Refused(
                "unavailable", "the tracker cannot write its store now; ask again later"
            ) from reason

    def _look(self) -> dict[Path, os.stat_result]:
        """The files that hold the store, as they are found by their names."""
        found: dict[Path, os.stat_result] = {}
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            with suppress(FileNotFoundError, NotADirectoryError):
                found[path] = path.stat()
        return found

    def _check_here(self) -> None:
        """Raise `FileNotFoundError` if a file of the store was taken away. SQLite writes on into what has no
        name any more, and a tracker that starts after this one would know nothing of it."""
        now = self._look()
        for path, then in self._files.items():
            if path not in now or not os.path.samestat(then, now[path]):
                raise FileNotFoundError(f"{path} was taken away or replaced")
        self._files = now

    def _begin(self) -> None:
        deadline = time.monotonic() + self._lock_wait
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                if time.monotonic() >= deadline or self._interrupted.wait(0.02):
                    raise
            else:
                return

    def _write(self, changes: Mapping[Key, Row]) -> None:
        rows: dict[str, list[Row]] = {kind: [] for kind, _ in _STATEMENTS}
        for (kind, _, _), row in changes.items():
            rows[kind].append(row)
        for kind, statement in _STATEMENTS:
            self._db.executemany(statement, rows[kind])

    def interrupt(self) -> None:
        """Make a commit that waits for a lock give up soon."""
        self._interrupted.set()

    def close(self) -> None:
        """Close the files and give the lock back."""
        with closing(self._guard):
            self._db.close()


def _check_journal(path: Path) -> None:
    """Refuse a journal that SQLite would drop without a word, with all that a killed tracker had not yet
    brought over into the store."""
    journal = path.with_name(path.name + "-wal")
    try:
        with open(journal, "rb") as file:
            begin = file.read(4)
    except FileNotFoundError:
        return
    if begin and (not path.exists() or not path.stat().st_size):
        raise DiskError(
            f"the journal {journal} is there, but the store it belongs to is empty or gone; bring that back, or move both away"
        )
    # A crash of the machine may leave zeros, of a journal that had only begun.
    if begin.strip(b"\0") and int.from_bytes(begin, "big") not in _JOURNAL_MAGIC:
        raise DiskError(
            f"the journal {journal} of the tracker's store is damaged; move both away or name another with --store"
        )


def _create_private(path: Path) -> None:
    """Make a file that only its owner can read, in a folder of the same kind, with these modes from the first
    moment. SQLite's files beside it get the file's mode."""
    make_private(path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _kind(error: sqlite3.Error) -> int:
    """The primary code of what SQLite complains of."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _write_listen(listen: Mapping[str, int]) -> str:
    return ",".join(f"{name}={port}" for name, port in listen.items())


def _read_listen(text: str) -> dict[str, int]:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: int(port) for name, _, port in pairs}
