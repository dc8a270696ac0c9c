"""The SQLite store as a file: its modes, what is refused, and changes that cannot be written."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from p2p.errors import DiskError, Refused, UsageError
from p2p.model import ContentId, PeerId
from p2p.protocol.tracker_messages import Share
from p2p.tracker.store import open_store
from p2p.tracker.store.base import PeerRecord, StoreLimits
from p2p.tracker.store.memory import MemoryStore
from p2p.tracker.store.sqlite import SqliteStore
from p2p.tracker.store.sqlite_file import SCHEMA_VERSION

PEER = PeerId("5f" * 16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tracker.db"


@pytest.fixture
def store(file: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(file, 0.0, lock_wait_s=0.2)) as opened:
        yield opened


def fill(store: SqliteStore, count: int = 3) -> None:
    store.directory.put_session("s", "alice", 0.0)
    store.directory.put_peer(PeerRecord(PEER, "s", "one", "alice", "10.0.0.7", None, {"tcp": 7000}, 0, 0.0))
    announce(store, *range(count))


def announce(store: SqliteStore, *numbers: int, have: int = 7) -> None:
    peer = store.directory.peer(PEER)
    assert peer is not None
    store.directory.put_shares(
        peer,
        [
            Share(id=ContentId(f"{number:064x}"), name=f"file-{number}", size=7, have=have)
            for number in numbers
        ],
    )


def save(store: SqliteStore) -> None:
    changes = store.take_pending()
    store.commit(changes)
    store.settle(changes, written=True)


def rewrite(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute(statement)
        db.commit()


@pytest.mark.skipif(os.name == "nt", reason="modes are a thing of POSIX")
def test_the_file_and_its_folder_are_private_from_the_first_moment(file: Path) -> None:
    old = os.umask(0)
    try:
        with closing(SqliteStore(file, 0.0)) as store:
            fill(store)
            save(store)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert modes
    assert set(modes.values()) == {0o600}, modes


def test_no_secret_of_a_session_is_in_the_file(file: Path, store: SqliteStore) -> None:
    # The store is given a digest; that the service does so is tested with the service.
    fill(store)
    save(store)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT * FROM sessions").fetchall() == [("s", "alice")]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_after_a_restart_a_full_table_of_sessions_has_room_for_new_ones(file: Path) -> None:
    limits = StoreLimits(sessions=3)
    with closing(SqliteStore(file, 0.0, limits)) as store:
        fill(store)  # alice has a peer
        for key in ("t", "u"):
            store.directory.put_session(key, "mallory", 0.0)
        with pytest.raises(Refused):
            store.directory.put_session("v", "bob", 100.0)
        save(store)
    with closing(SqliteStore(file, 200.0, limits)) as store:
        for key in ("v", "w"):
            store.directory.put_session(key, "bob", 200.0)
        assert [store.directory.session(key) is not None for key in ("s", "t", "u", "v", "w")] == [
            True,
            False,
            False,
            True,
            True,
        ]
        with pytest.raises(Refused, match="keeps no more sessions"):
            store.directory.put_session("x", "eve", 300.0)


def test_a_loaded_session_that_is_used_again_stays(file: Path) -> None:
    limits = StoreLimits(sessions=2)
    with closing(SqliteStore(file, 0.0, limits)) as store:
        for key in ("s", "t"):
            store.directory.put_session(key, "alice", 0.0)
        save(store)
    with closing(SqliteStore(file, 0.0, limits)) as store:
        store.directory.touch_session("s", 1.0)
        store.directory.put_session("u", "bob", 2.0)
        assert [store.directory.session(key) is not None for key in ("s", "t", "u")] == [True, False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="there every ~name is a folder beside the user's own")
def test_a_store_in_an_unknown_home_is_a_usage_error_that_names_the_option() -> None:
    with pytest.raises(UsageError, match=r"^--store: 'sqlite:~no-such-user/t\.db'") as failed:
        open_store("sqlite:~no-such-user/t.db", 0.0)
    assert failed.value.__cause__ is None, "it would be taken for the lock of another tracker"


def test_a_second_tracker_on_the_same_file_is_refused_and_harms_nothing(
    file: Path, store: SqliteStore
) -> None:
    fill(store)
    with pytest.raises(UsageError, match="another tracker"):
        SqliteStore(file, 0.0)
    save(store)
    store.close()
    with closing(SqliteStore(file, 0.0)) as again:
        assert again.directory.totals().shares == 3


@pytest.mark.parametrize(
    "junk",
    [
        b"this is no database, but it is long enough to be read as a page of one" * 20,
        b"SQLite format 3\0" + bytes(80),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_left_alone(file: Path, junk: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(junk)
    for _ in range(2):  # and the lock is not kept by the failure
        with pytest.raises(DiskError, match=r"tracker\.db.*--store"):
            SqliteStore(file, 0.0)
    assert file.read_bytes() == junk


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE peers SET listen = 'tcp=seven'",
        "UPDATE peers SET session = 'gone'",
        "UPDATE claims SET peer = 99",
        "UPDATE claims SET content = 5",
    ],
)
def test_rows_that_make_no_sense_are_an_error_and_no_crash(
    file: Path, store: SqliteStore, statement: str
) -> None:
    fill(store, 1)
    save(store)
    store.close()
    rewrite(file, statement)
    with pytest.raises(DiskError, match="damaged"):
        SqliteStore(file, 0.0)


def test_case_53_a_newer_schema_is_refused_and_never_emptied(file: Path, store: SqliteStore) -> None:
    fill(store)
    save(store)
    store.close()
    rewrite(file, "PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="newer version"):
        SqliteStore(file, 0.0)
    rewrite(file, f"PRAGMA user_version = {SCHEMA_VERSION}")
    with closing(SqliteStore(file, 0.0)) as again:
        assert again.directory.totals().shares == 3


def test_case_53_an_older_schema_is_refused_and_never_emptied(file: Path, store: SqliteStore) -> None:
    store.close()
    rewrite(file, "PRAGMA user_version = 0")
    with pytest.raises(UsageError, match="version 0"):
        SqliteStore(file, 0.0)


def test_the_database_of_another_program_is_refused(file: Path) -> None:
    file.parent.mkdir()
    rewrite(file, "CREATE TABLE bookmarks (url)")
    with pytest.raises(UsageError, match="another program"):
        SqliteStore(file, 0.0)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot be opened"):
        SqliteStore(tmp_path, 0.0)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot be opened"):
        SqliteStore(tmp_path / "file" / "tracker.db", 0.0)


def test_case_22_a_locked_file_refuses_as_unavailable_and_nothing_is_lost(
    file: Path, store: SqliteStore
) -> None:
    fill(store)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        changes = store.take_pending()
        with pytest.raises(Refused) as caught:
            store.commit(changes)
        assert caught.value.code == "unavailable"
        store.settle(changes, written=False)
        assert store.unsaved
        announce(store, 1, have=3)
        announce(store, 9)
        other.execute("ROLLBACK")
    save(store)
    store.close()
    with closing(SqliteStore(file, 0.0)) as again:
        assert again.directory.totals().shares == 4
        changed = again.directory.content(ContentId(f"{1:064x}"))
        assert changed is not None
        assert changed.seeds == 0


def test_newer_changes_win_over_those_that_could_not_be_written(file: Path, store: SqliteStore) -> None:
    fill(store)
    changes = store.take_pending()
    peer = store.directory.peer(PEER)
    assert peer is not None
    store.directory.drop_shares(peer, [ContentId(f"{0:064x}")])
    announce(store, 1, have=2)
    store.settle(changes, written=False)
    save(store)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT name, have FROM claims ORDER BY no").fetchall() == [
            ("file-1", 2),
            ("file-2", 7),
        ]


def test_a_commit_that_waits_for_a_lock_gives_up_when_interrupted(file: Path) -> None:
    with (
        closing(SqliteStore(file, 0.0, lock_wait_s=3600)) as store,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
    ):
        fill(store)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, store.interrupt)
        timer.start()
        with pytest.raises(Refused):
            store.commit(store.take_pending())
        timer.join()


def test_a_commit_is_all_or_nothing(file: Path, store: SqliteStore) -> None:
    fill(store)
    save(store)
    rewrite(
        file,
        "CREATE TRIGGER no BEFORE INSERT ON claims WHEN NEW.name = 'file-8' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    announce(store, 7, 8)
    changes = store.take_pending()
    with pytest.raises(Refused) as caught:
        store.commit(changes)
    assert caught.value.code == "unavailable"
    store.settle(changes, written=False)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM claims").fetchone() == (3,)
    rewrite(file, "DROP TRIGGER no")
    save(store)
    assert not store.unsaved


def test_with_too_many_changes_unwritten_new_entries_are_refused_and_drops_are_not(
    file: Path,
) -> None:
    with closing(SqliteStore(file, 0.0, StoreLimits(pending_rows=5))) as store:
        fill(store)
        attempts: list[Callable[[], object]] = [
            lambda: store.directory.put_session("t", "bob", 0.0),
            lambda: store.directory.put_peer(
                PeerRecord(PEER, "s", "new name", "alice", "10.0.0.7", None, {}, 0, 0.0)
            ),
            lambda: announce(store, 5),
        ]
        for attempt in attempts:
            with pytest.raises(Refused) as caught:
                attempt()
            assert caught.value.code == "unavailable"
        assert store.directory.expire(100.0, 30.0) > 100.0
        assert store.directory.totals().peers == 0
        save(store)
        store.directory.put_session("t", "bob", 0.0)


def test_case_52_start_with_100_000_contents_is_quick(file: Path, store: SqliteStore) -> None:
    fill(store, 0)
    announce(store, *range(100_000))
    save(store)
    store.close()
    began = time.process_time()
    with closing(SqliteStore(file, 0.0)) as again:
        took = time.process_time() - began
        assert again.directory.totals().contents == 100_000
    # Under coverage, on a slow machine, it has taken 2.1 s. Time that grows with the square of the number
    # would be minutes.
    assert took < 8, f"{took:.2f} s of processor time"


def test_a_store_is_opened_by_its_name(tmp_path: Path) -> None:
    assert isinstance(open_store("memory", 0.0), MemoryStore)
    with closing(open_store(f"sqlite:{tmp_path / 'a.db'}", 0.0)) as store:
        assert isinstance(store, SqliteStore)


@pytest.mark.parametrize("spec", ["", "redis:host", "sqlite", "sqlite:", "memory:", "Memory"])
def test_an_unknown_store_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError, match="memory and sqlite:FILE"):
        open_store(spec, 0.0)


def test_a_python_without_sqlite_is_reported_and_a_missing_file_of_ours_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("sqlite", "sqlite_file"):
        monkeypatch.delitem(sys.modules, f"p2p.tracker.store.{module}")
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(UsageError, match="without SQLite"):
        open_store("sqlite:x.db", 0.0)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "p2p.tracker.store.sqlite", None)
    with pytest.raises(ModuleNotFoundError):
        open_store("sqlite:x.db", 0.0)


def test_a_store_that_was_taken_away_is_written_to_no_more(store: SqliteStore, file: Path) -> None:
    fill(store)
    save(store)
    file.rename(file.with_name("elsewhere.db"))
    announce(store, 9)
    with pytest.raises(Refused) as refused:
        store.commit(store.take_pending())
    assert refused.value.code == "unavailable"


@pytest.mark.parametrize(
    ("log", "word"), [(b"no log of SQLite's", "damaged"), (b"\x37\x7f\x06\x82", "empty")]
)
def test_a_journal_that_sqlite_would_drop_is_refused(file: Path, log: bytes, word: str) -> None:
    file.parent.mkdir()
    if word == "damaged":
        SqliteStore(file, 0.0).close()
    file.with_name(file.name + "-wal").write_bytes(log)
    with pytest.raises(DiskError, match=word):
        SqliteStore(file, 0.0)


def test_a_store_with_a_damaged_index_is_refused(file: Path) -> None:
    with closing(SqliteStore(file, 0.0)) as store:
        fill(store, 50)
        save(store)
    data = bytearray(file.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    for start in range(page, len(data), page):
        if data[start] == 0x0A:  # a leaf of an index
            data[start + page - 40 : start + page] = bytes(40)
    file.write_bytes(data)
    with pytest.raises(DiskError, match="damaged"):
        SqliteStore(file, 0.0)
