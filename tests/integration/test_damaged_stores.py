"""Tracker stores that are damaged, foreign or in use (case 53): refused with an error, and left unchanged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from p2p.model import ContentId, PeerId
from p2p.protocol.tracker_messages import Share
from p2p.tracker.store.base import PeerRecord
from p2p.tracker.store.sqlite import SqliteStore
from tests.kit.crashing import Point, crash_environment, launched, points_of
from tests.kit.processes import Ended, Running, clean_environment, command, run, run_peer, start_tracker

CONTENTS = 1500
PEER = PeerId("5f" * 16)
Files = dict[str, bytes | None]


def filled(file: Path) -> None:
    """Make a store with a peer and its contents, closed in order."""
    with closing(SqliteStore(file, 0.0)) as store:
        store.directory.put_session("s", "alice", 0.0)
        peer = PeerRecord(PEER, "s", "one", "alice", "10.0.0.7", None, {"tcp": 7000}, 0, 0.0)
        store.directory.put_peer(peer)
        store.directory.put_shares(
            peer,
            [
                Share(id=ContentId(f"{number:064x}"), name=f"file-{number}", size=7, have=7)
                for number in range(CONTENTS)
            ],
        )
        changes = store.take_pending()
        store.commit(changes)
        store.settle(changes, written=True)


def left_by_a_kill(file: Path) -> None:
    """Make the same as a killed tracker leaves it: most of it in SQLite's journal."""
    with closing(SqliteStore(file.with_name("other.db"), 0.0)):
        pass
    reader = sqlite3.connect(
        file.with_name("other.db")
    )  # while it is open, nothing is taken over from the journal
    try:
        reader.execute("SELECT count(*) FROM claims").fetchone()
        filled(file.with_name("other.db"))
        for ending in ("", "-wal"):
            shutil.copy(file.with_name(f"other.db{ending}"), file.with_name(f"{file.name}{ending}"))
    finally:
        reader.close()
    for path in file.parent.glob("other.db*"):
        path.unlink()


def files(folder: Path) -> Files:
    """All that lies beside the store, but what is locked or shared while it is looked at."""
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in folder.iterdir()
        if not path.name.endswith((".lock", "-shm"))
    }


def start(file: Path) -> Ended:
    """Start a tracker that is expected to refuse."""
    words = [*command("tracker"), "--json", "--host", "127.0.0.1", "--port", "0", "--store", f"sqlite:{file}"]
    return run(words, clean_environment(file.parent / "state"))


def refused(file: Path, code: int = 7) -> Ended:
    """Start a tracker; it must refuse, say why, name the file, and change nothing."""
    before = files(file.parent)
    ended = start(file)
    assert ended.code == code, ended.out + ended.err
    assert str(file) in ended.err
    assert "Traceback" not in ended.err
    assert ended.event("error")["message"]
    assert len(ended.err.splitlines()) == 1
    assert files(file.parent) == before, "it was changed"
    return ended


def random_bytes(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(len(data))


def half(data: bytes, _: random.Random) -> bytes:
    return data[: len(data) // 2 // 4096 * 4096]


def cut_anywhere(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(200, len(data) - 4096)]


def zeros(data: bytes, _: random.Random) -> bytes:
    return bytes(len(data))


def first_page_only(data: bytes, _: random.Random) -> bytes:
    return data[:4096]


def header_flipped(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(16) + data[16:]


@pytest.mark.parametrize("damage", [random_bytes, half, cut_anywhere, zeros, first_page_only, header_flipped])
def test_case_53_a_damaged_store_is_refused_and_left_alone(
    tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    file = tmp_path / "tracker.db"
    filled(file)
    file.write_bytes(damage(file.read_bytes(), random.Random(seed)))
    refused(file)


def test_case_53_a_store_with_any_page_overwritten_is_refused_or_complete(tmp_path: Path) -> None:
    """Also a page of an index, which loading does not read, and on which every later change would fail."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    file = tmp_path / "tracker.db"
    filled(file)
    whole = file.read_bytes()
    pages = len(whole) // 4096
    assert pages > 30
    for page in rng.sample(range(pages), 12):
        file.write_bytes(whole[: page * 4096] + rng.randbytes(4096) + whole[(page + 1) * 4096 :])
        refused(file)


def test_case_53_what_a_kill_left_in_the_journal_is_all_there(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    left_by_a_kill(file)
    assert file.with_name("tracker.db-wal").stat().st_size > 100_000
    with start_tracker(tmp_path, store=f"sqlite:{file}") as tracker:
        assert run_peer(tmp_path, "status", tracker=tracker.address).event("stats")["contents"] == CONTENTS


@pytest.mark.parametrize("damage", ["store emptied", "store gone", "journal overwritten"])
def test_case_53_a_journal_without_its_store_or_a_damaged_one_is_refused_and_kept(
    tmp_path: Path, damage: str
) -> None:
    """SQLite would take the one for new and delete the journal, and the other for empty: all that it holds
    would be gone without a word."""
    file = tmp_path / "tracker.db"
    left_by_a_kill(file)
    journal = file.with_name("tracker.db-wal")
    if damage == "store emptied":
        os.truncate(file, 0)
    elif damage == "store gone":
        file.unlink()
    else:
        journal.write_bytes(b"\x99" * 32 + journal.read_bytes()[32:])
    kept = journal.read_bytes()
    ended = start(file)
    assert ended.code == 7, ended.out
    assert str(journal) in ended.err
    assert "Traceback" not in ended.err
    assert journal.read_bytes() == kept


def test_case_53_an_empty_file_that_a_killed_first_start_left_is_used(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tracker.db"
    file.write_bytes(b"")
    with start_tracker(tmp_path, store=f"sqlite:{file}") as tracker:
        assert run_peer(tmp_path, "status", tracker=tracker.address).event("stats")["contents"] == 0


def test_case_53_a_folder_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    (file / "mine").mkdir(parents=True)
    refused(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a thing of POSIX")
@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_case_53_a_pipe_or_a_socket_in_place_of_the_store_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "tracker.db"
    if kind == "fifo":
        os.mkfifo(file)
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(file))
    ended = start(file)
    assert ended.code == 7, ended.err
    assert str(file) in ended.err
    assert "Traceback" not in ended.err


def test_case_53_the_store_of_a_running_tracker_is_refused_until_that_is_killed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tracker.db"
    filled(file)
    with start_tracker(tmp_path, store=f"sqlite:{file}") as first:
        ended = start(file)
        assert ended.code == 2
        assert "already runs" in ended.err
        assert str(file) in ended.err
        assert run_peer(tmp_path, "status", tracker=first.address).event("stats")["contents"] == CONTENTS
        first.send(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        first.wait()
    with start_tracker(tmp_path, store=f"sqlite:{file}") as again:
        assert run_peer(tmp_path, "status", tracker=again.address).event("stats")["contents"] == CONTENTS


def test_case_53_a_store_locked_by_another_program_is_refused_and_kept(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tracker.db"
    filled(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        ended = start(file)
        assert ended.code == 7, ended.out
        assert "locked" in ended.err
        assert "Traceback" not in ended.err
        other.execute("ROLLBACK")
    with closing(SqliteStore(file, 0.0)) as store:
        assert store.directory.totals().contents == CONTENTS


def test_case_50_a_first_start_killed_at_any_call_is_followed_by_one_that_works(tmp_path: Path) -> None:
    def start_and_die(place: Path, point: Point | None) -> None:
        place.mkdir(exist_ok=True)
        words = [
            "tracker",
            "--json",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--store",
            f"sqlite:{place / 'new' / 'tracker.db'}",
        ]
        with Running(
            launched(words), crash_environment(place, place, tmp_path / f"{place.name}.log", point)
        ) as tracker:
            if point is None:
                tracker.event("listening")
                tracker.send(signal.SIGTERM)
                assert tracker.wait() == 128 + signal.SIGTERM
            else:
                assert tracker.wait() == -signal.SIGKILL

    start_and_die(tmp_path / "whole", None)
    points = points_of(tmp_path / "whole.log")
    assert {point.kind for point in points} >= {"mkdir", "open"}
    for point in points:
        place = tmp_path / str(point)
        start_and_die(place, point)
        with start_tracker(place, store=f"sqlite:{place / 'new' / 'tracker.db'}") as tracker:
            assert run_peer(place, "status", tracker=tracker.address).event("stats")["contents"] == 0
