"""`bin/tracker` as a process: kills, signals, a store of a newer version, and few descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from p2p.model import Address
from p2p.tracker.store.sqlite import SqliteStore
from tests.kit.effort import limit, times
from tests.kit.processes import Running, clean_environment, command, run, start_tracker
from tests.kit.tracker_kit import PEER, Client
from tests.kit.waiting import HANG_S

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX"),
]


def client_of(tracker: Running) -> Client:
    """A new client of it."""
    return Client(Address("127.0.0.1", tracker.port))


def announce_line(*numbers: int) -> str:
    """The announce of a peer that has all of these contents."""
    contents = [{"id": f"{n:064x}", "name": f"f{n}", "size": 7, "have": 7} for n in numbers]
    request = {"op": "announce", "peer": PEER, "name": "p", "listen": {"tcp": 7000}, "contents": contents}
    return json.dumps({**request, "seq": numbers[0]})


class Announcer:
    """Announces ever new contents, and remembers which were acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self._number = 0

    def announce(self, client: Client, count: int = 10) -> None:
        """Announce so many. Raises `OSError` or `AssertionError` when the tracker dies meanwhile."""
        lines = [announce_line(self._number + at + 1) for at in range(count)]
        self._number += count
        client.send("\n".join([*lines, ""]).encode())
        for _ in range(count):
            answer = client.answer()
            assert answer["ok"]
            self.acknowledged.add(answer["seq"])


def known_in(file: Path) -> set[int]:
    """The contents in a store."""
    with closing(SqliteStore(file, 0.0)) as store:
        return {int(content.id, 16) for content in store.directory.contents()}


@limit(300)
def test_case_52_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    announcer, session = Announcer(), None
    for round_ in range(times(4)):
        with (
            start_tracker(tmp_path, store=f"sqlite:{file}") as tracker,
            closing(client_of(tracker)) as client,
        ):
            if session is None:
                session = client.ask("login", user="alice")["session"]
            else:
                resumed = client.ask("hello", version=1, session=session)
                assert resumed["ok"], f"the session is lost in round {round_}"
            known = client.announce(PEER)["known"]
            assert known >= len(announcer.acknowledged), f"announces are lost in round {round_}"
            some = min(len(announcer.acknowledged), 300)
            for number in rng.sample(sorted(announcer.acknowledged), some):
                assert client.ask("lookup", id=f"{number:064x}")["ok"]
            timer = threading.Timer(rng.random() * 0.3, tracker.send, [signal.SIGKILL])
            with contextlib.suppress(OSError, AssertionError):
                for batch in range(rng.randrange(50, 400) * 10):
                    if batch == 3:  # so that there is something to lose, however slow the machine is
                        timer.start()
                    announcer.announce(client)
            timer.join()
            assert tracker.wait() == -signal.SIGKILL
        # On a copy: to look at the store would bring the journal over, which is the next tracker's work.
        copy = tmp_path / "copy.db"
        for ending in ("", "-wal"):
            shutil.copy(f"{file}{ending}", f"{copy}{ending}")
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert announcer.acknowledged <= known_in(copy), f"lost in round {round_}"
    assert len(announcer.acknowledged) > 20
    assert announcer.acknowledged <= known_in(file)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_case_52_a_tracker_with_100_000_contents_starts_quickly_after_a_kill(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'tracker.db'}"
    with start_tracker(tmp_path, store=store) as tracker, closing(client_of(tracker)) as client:
        client.ask("login", user="alice")
        for start in range(0, 100_000, 1000):
            lines = [announce_line(*range(first, first + 50)) for first in range(start, start + 1000, 50)]
            client.send("\n".join([*lines, ""]).encode())
            for _ in lines:
                answer = client.answer()
                assert answer["ok"], answer
        tracker.stop(signal.SIGKILL)
    with start_tracker(tmp_path, store=store) as again, closing(client_of(again)) as client:
        used = processor_seconds(again.pid)
        assert client.ask("stats")["contents"] == 100_000
    # Processor time, which other work on the machine does not change. Coverage, which traces it, doubles it.
    # Work that grows with the square of the number would take minutes.
    assert used < 8.0, f"{used:.2f} s"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_case_51_a_signal_stops_the_tracker_within_two_seconds(tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "tracker.db"
    with (
        start_tracker(tmp_path, store=f"sqlite:{file}") as tracker,
        closing(client_of(tracker)) as client,
    ):
        client.ask("login", user="alice")
        client.announce(PEER, 1)
        code, _ = tracker.stop(how)  # checks the two seconds
    assert code == 128 + how
    with closing(SqliteStore(file, 0.0)) as store:
        assert store.directory.totals()[:3] == (1, 1, 1)


def test_case_53_a_store_of_a_newer_version_is_refused_by_the_command(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    SqliteStore(file, 0.0).close()
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")
    ended = run([*command("tracker"), "--store", f"sqlite:{file}"], clean_environment(tmp_path / "state"))
    assert ended.code == 2
    assert "newer version" in ended.err


@contextmanager
def tracker_with_descriptors(folder: Path, soft: int, hard: int) -> Iterator[Running]:
    """A tracker that may open `soft` descriptors, and may raise that to `hard`."""
    limited = ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh"]
    words = [*command("tracker"), "--json", "--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    with Running([*limited, *words], clean_environment(folder / "state")) as tracker:
        tracker.port = tracker.event("listening")["port"]
        yield tracker


@contextmanager
def idle_clients(tracker: Running, count: int) -> Iterator[list[socket.socket]]:
    """Clients that say nothing."""
    clients: list[socket.socket] = []
    try:
        clients.extend(
            socket.create_connection(("127.0.0.1", tracker.port), timeout=HANG_S) for _ in range(count)
        )
        yield clients
    finally:
        for client in clients:
            client.close()


def test_case_60_without_descriptors_the_tracker_pauses_goes_on_and_recovers(tmp_path: Path) -> None:
    with tracker_with_descriptors(tmp_path, 64, 64) as tracker, closing(client_of(tracker)) as client:
        assert client.ask("ping")["ok"]
        with idle_clients(tracker, 200):
            used = processor_seconds(tracker.pid)
            for _ in range(75):
                assert client.ask("ping")["ok"]
                threading.Event().wait(0.02)
            assert processor_seconds(tracker.pid) - used < 0.75, "it is busy doing nothing"
        with closing(client_of(tracker)) as fresh:
            assert fresh.ask("ping")["ok"]
        tracker.stop()
        assert len(tracker.err) < 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_case_12_a_tracker_raises_its_limit_of_descriptors_where_it_may(tmp_path: Path) -> None:
    with (
        tracker_with_descriptors(tmp_path, 128, 2048) as tracker,
        idle_clients(tracker, 300),
        closing(client_of(tracker)) as client,
    ):
        assert client.ask("stats")["connections"] == 301
        tracker.stop()
        assert tracker.err == ""


def processor_seconds(pid: int) -> float:
    """The processor time of a process; 0 where that is not known."""
    if sys.platform != "linux":
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
