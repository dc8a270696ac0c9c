"""The tracker on real sockets: bad input, abuse, and a store with a disk. Names say the number of the hostile
case. What depends on time or full buffers is in `unit/test_tracker_connection.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import UsageError
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.peer_messages import Request
from p2p.protocol.schema import plan_of
from p2p.protocol.tracker_messages import TRACKER_OPS
from p2p.tracker.limits import TrackerLimits, TrackerTimeouts
from p2p.tracker.server import TrackerServer
from p2p.tracker.service import TrackerService
from p2p.tracker.store.base import StoreLimits
from p2p.tracker.store.directory import Directory
from p2p.tracker.store.interface import TrackerStore
from p2p.tracker.store.memory import MemoryStore
from p2p.tracker.store.sqlite import SqliteStore
from tests.kit.protocol_samples import right_object, wrong_objects
from tests.kit.tracker_kit import LOOPBACK, PEER, Client, RunningTracker, wait_until

if sys.platform != "win32":
    import resource


Starter = Callable[..., RunningTracker]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts trackers. At the end all are stopped, and none has leaked a descriptor."""
    before = open_files()
    running: list[RunningTracker] = []

    def start_one(store: TrackerStore | None = None, **options: Any) -> RunningTracker:
        running.append(RunningTracker(store or MemoryStore(), **options))
        return running[-1]

    yield start_one
    for one in running:
        for client in one.clients:
            client.close()
        one.stop()
    wait_until(lambda: open_files() <= before, "descriptors are given back")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


# -- bad input


def test_case_1_an_endless_line_is_cut_soon_after_the_limit(start: Starter) -> None:
    running = start()
    client = running.connect()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    with contextlib.suppress(OSError):
        client.send(b'{"' + b"a" * 100_000_000)
    assert client.answer()["error"] == "line_too_long"
    running.check_alive()
    wait_until(lambda: running.connections() == 0, "it is closed")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_case_2_a_line_may_be_as_long_as_the_limit_and_no_longer(start: Starter, end: bytes) -> None:
    running = start()
    for cls in TRACKER_OPS:
        head = json.dumps({"op": cls.OP, **example(cls)}).encode()
        client = running.connect()
        for size in (MAX_LINE - 1, MAX_LINE):
            # hello may only be the first line
            connected = client if cls.OP != "hello" else running.connect()
            connected.send(head + b" " * (size - len(head) - len(end)) + end)
            assert "error" not in (answer := connected.answer()) or answer["error"] in (
                "login_needed",
                "not_found",
            ), (cls.OP, size)
        client = client if cls.OP != "hello" else running.connect()
        client.send(head + b" " * (MAX_LINE + 1 - len(head) - len(end)) + end)
        assert client.answer()["error"] == "line_too_long"
        assert client.closed()


def example(cls: type[Request]) -> dict[str, object]:
    """A request of the class that the service takes."""
    fields = right_object(cls)
    fields.pop("session", None)
    fields.pop("advertise", None)
    for name, value in (("version", 1), ("offset", 0)):
        if name in fields:
            fields[name] = value
    return fields


@pytest.mark.parametrize(
    "line", [b"", b"   ", b"\r", b"null", b"[]", b"1", b'"x"', b"true", b"{", b"{}x", b'{"op":NaN}', b"\xff"]
)
def test_case_3_a_line_that_is_no_object_ends_the_connection(start: Starter, line: bytes) -> None:
    running = start()
    for _ in range(2):
        client = running.connect()
        client.send(line + b"\n")
        assert client.answer()["error"] == "bad_json"
        assert client.closed()
        later = running.connect()
        assert later.ask("ping")["ok"]
        later.send(line + b"\n")
        assert later.answer()["error"] == "bad_json"
        assert later.closed()


@pytest.mark.parametrize("depth", [33, 5_000, 30_000, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_case_4_deep_nesting_is_an_error_and_no_crash(
    start: Starter, depth: int, brackets: tuple[bytes, bytes]
) -> None:
    running = start()
    client = running.connect()
    with contextlib.suppress(OSError):
        client.send(b'{"op":' + brackets[0] * depth + b"1" + brackets[1] * depth + b"}\n")
    answer = client.answer()
    assert answer["error"] in ("bad_json", "line_too_long")
    assert client.closed()
    running.check_alive()


def test_case_5_a_key_that_comes_twice_is_refused(start: Starter) -> None:
    client = start().connect()
    client.send(b'{"op":"ping","op":"stats"}\n')
    assert client.answer()["error"] == "bad_json"
    assert client.closed()


def test_case_6_a_wrong_type_in_any_field_is_an_error_that_names_the_field(
    start: Starter,
) -> None:
    client = start().logged_in()
    tried: set[tuple[str, str]] = set()
    for cls in TRACKER_OPS:
        if cls.OP == "hello":
            continue
        for field, wrong in wrong_objects(cls):
            line = json.dumps({"op": cls.OP, **wrong, "seq": 5}).encode() + b"\n"
            if len(line) > MAX_LINE:
                continue
            client.send(line)
            answer = client.answer()
            assert (answer["ok"], answer["error"], answer["seq"]) == (False, "bad_field", 5), (
                cls.OP,
                field,
                wrong,
            )
            assert answer["message"].startswith(field.partition("[")[0].partition(".grpc")[0]), (
                cls.OP,
                field,
                answer,
            )
            assert len(json.dumps(answer)) < 1024
            tried.add((cls.OP, field.partition("[")[0].partition(".")[0]))
    assert tried == {
        (cls.OP, row.name) for cls in TRACKER_OPS for row in plan_of(cls).rows if cls.OP != "hello"
    }
    assert client.ask("stats")["peers"] == 0


def test_case_6_a_wrong_type_in_hello_is_an_error_that_names_the_field(start: Starter) -> None:
    running = start()
    (hello,) = (cls for cls in TRACKER_OPS if cls.OP == "hello")
    for field, wrong in wrong_objects(hello):
        with closing(Client(running.address)) as client:
            answer = client.ask("hello", **wrong)
            assert answer["error"] == "bad_field"
            assert answer["message"].startswith(field.partition(".")[0])


@pytest.mark.parametrize("seq", [None, True, -1, 1.5, "1", 2**53, 2**63, []])
def test_case_6_a_wrong_seq_is_an_error_that_names_it(start: Starter, seq: object) -> None:
    client = start().connect()
    answer = client.ask("ping", seq=seq)
    assert answer["error"] == "bad_field"
    assert answer["message"].startswith("seq")
    assert client.ask("ping")["ok"]


def test_case_7_an_unknown_op_or_version_is_unsupported_and_ends_nothing(start: Starter) -> None:
    running = start()
    client = running.connect()
    assert client.ask("explode", seq=1)["error"] == "unsupported"
    assert client.ask("ping", seq=2) == {"ok": True, "seq": 2}
    late = running.connect()
    assert late.ask("hello", version=99)["error"] == "unsupported"
    assert late.ask("ping")["ok"]
    late.send(b'{"op":"hello","version":1}\n')
    assert late.answer()["error"] == "bad_field"
    assert late.closed()


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: secret-host\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + b'{"op":"login","user":"evil"}\n',
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00",
    ],
)
def test_cases_8_64_other_protocols_get_one_log_line_and_no_echo(
    start: Starter, opening: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    running = start()
    with caplog.at_level(logging.INFO):
        client = running.connect()
        client.send(opening)
        line = client.stream.readline()
        assert client.closed()
    assert json.loads(line)["error"] == "bad_json"
    assert not any(part in line for part in (b"HTTP", b"SSH", b"secret"))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("p2p")]
    assert len(lines) == 1
    assert "bad_json" in lines[0]
    assert lines[0].isprintable()
    assert "HTTP" not in lines[0]
    assert running.store.directory.totals().sessions == 0


def test_case_64_a_flood_of_faults_is_counted_and_not_logged_one_by_one(
    start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(timeouts=TrackerTimeouts(tick_s=0.3))
    with caplog.at_level(logging.INFO):
        for _ in range(60):
            with closing(Client(running.address)) as client:
                client.send(b"GET / HTTP/1.0\r\n")
                client.answer()
        wait_until(
            lambda: any("more of the kind" in record.getMessage() for record in caplog.records),
            "the rest is counted",
        )
    assert len(caplog.records) < 40


def test_case_9_half_a_request_changes_nothing_and_leaves_nothing(start: Starter) -> None:
    running = start()
    for reset in (False, True):
        client = running.logged_in()
        client.send(b'{"op":"logout"')
        if reset:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        else:
            client.sock.shutdown(socket.SHUT_WR)
            assert client.closed()
        wait_until(lambda: running.connections() == 0, "the connection is forgotten")
    assert running.store.directory.totals().sessions == 2


def test_requests_before_the_end_of_input_are_answered(start: Starter) -> None:
    client = start().connect()
    client.send(b'{"op":"ping","seq":1}\n' * 500)
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.answer()["seq"] for _ in range(500)] == [1] * 500
    assert client.closed()


def test_an_answer_to_nothing_ends_the_connection(start: Starter) -> None:
    running = start()
    for line in (b'{"ok":false,"error":"busy","message":"go away"}\n', b'{"ok":true,"seq":1}\n'):
        client = running.connect()
        client.send(line)
        client.stream.readline()
        assert client.closed()
    running.check_alive()


# -- abuse and load


def test_case_12_thousands_of_idle_connections_cost_little_and_end_in_time(start: Starter) -> None:
    count = (
        1500
        if sys.platform == "win32"
        else min(1500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100)
    )
    running = start()
    before = memory()
    idle = [socket.create_connection((running.address.host, running.address.port)) for _ in range(count)]
    try:
        for sock in idle:
            sock.send(b"{")
        wait_until(lambda: running.connections() == count, "all are admitted")
        used = memory() - before
        assert used < 15_000 * count + 8_000_000, f"{used / count:.0f} bytes a connection, both ends counted"
        running.check_alive()
        running.later += 11
        wait_until(lambda: running.connections() == 0, "all are closed at the deadline")
    finally:
        for sock in idle:
            sock.close()


def memory() -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_case_14_connections_that_come_and_go_leave_nothing(start: Starter) -> None:
    running = start()
    before = open_files()
    for _ in range(500):
        socket.create_connection((running.address.host, running.address.port)).close()
    wait_until(lambda: running.connections() == 0, "all are forgotten")
    wait_until(lambda: open_files() <= before, "descriptors are given back")
    running.check_alive()


def test_case_15_contents_beyond_the_quota_are_refused(start: Starter) -> None:
    running = start(MemoryStore(StoreLimits(contents_per_peer=100)))
    client = running.logged_in()
    assert client.announce(PEER, *range(64))["known"] == 64
    refused = client.announce(PEER, *range(64, 128))
    assert refused["error"] == "quota"
    assert client.announce(PEER)["known"] == 64
    client.send(
        json.dumps(
            {"op": "announce", "peer": PEER, "name": "x", "listen": {}, "contents": [{}] * 65}
        ).encode()
        + b"\n"
    )
    assert client.answer()["message"].startswith("contents: ")


@pytest.mark.parametrize("text", ["", "*", "%", "_", "(a+)+$", ".*", "'; DROP TABLE claims; --", "x" * 256])
def test_case_16_a_search_has_no_wildcards_and_its_pages_are_capped(start: Starter, text: str) -> None:
    running = start()
    client = running.logged_in()
    for first in range(0, 320, 64):
        client.announce(PEER, *range(first, first + 64))
    answer = client.ask("search", text=text)
    assert answer["total"] == (320 if text == "" else 0)
    assert len(answer["hits"]) == (50 if text == "" else 0)
    assert client.ask("search", text=text, limit=101)["error"] == "bad_field"
    assert client.ask("search", text="y" * 60_000)["error"] == "bad_field"


def test_cases_17_18_what_a_peer_says_of_its_address_is_not_believed(start: Starter) -> None:
    client = start().logged_in()
    assert client.announce(PEER, 1, host="10.9.9.9", ip="10.9.9.9", advertise="10.9.9.9")["ok"]
    assert client.ask("lookup", id=f"{1:064x}")["sources"][0]["host"] == LOOPBACK
    for advertise in ("0.0.0.0", "::", "224.0.0.1", "169.254.169.254", "fe80::1%lo", "[::1]:80"):
        refused = client.announce(PEER, advertise=advertise)
        assert (refused["error"], refused["message"].partition(":")[0]) == ("bad_field", "advertise")
    for port in (0, 22, 25, 65536, -1):
        refused = client.ask("announce", peer=PEER, name="one", listen={"tcp": port})
        assert (refused["error"], refused["message"].partition(":")[0]) == ("bad_field", "listen.tcp")


def test_a_peer_on_another_loopback_address_is_handed_out_under_its_own(start: Starter) -> None:
    running = start()
    try:
        client = running.connect(source="127.0.0.9")
    except OSError:
        pytest.skip("this system has but one loopback address")
    client.ask("login", user="alice")
    client.announce(PEER, 1)
    assert running.connect().ask("lookup", id=f"{1:064x}")["sources"][0]["host"] == "127.0.0.9"


def test_case_19_an_answer_is_at_most_a_hundred_times_its_request(start: Starter) -> None:
    running = start()
    client = running.logged_in()
    for first in range(0, 320, 64):
        client.announce(PEER, *range(first, first + 64))
    without_session = running.connect()
    for line in (
        b'{"op":"list"}\n',
        b'{"op":"peers"}\n',
        b'{"op":"stats"}\n',
        b'{"op":"search","text":""}\n',
        b'{"op":"list","limit":100}\n',
    ):
        without_session.send(line)
        assert len(without_session.stream.readline()) <= 100 * len(line)


def test_case_20_a_silent_peer_is_gone_after_its_ttl(start: Starter) -> None:
    running = start(ttl=30)
    client = running.logged_in()
    client.announce(PEER, 1)
    running.later += 15
    assert running.connect().ask("lookup", id=f"{1:064x}")["ok"]
    running.later += 16
    wait_until(lambda: running.store.directory.totals().peers == 0, "the tick forgets it")
    assert running.connect().ask("lookup", id=f"{1:064x}")["error"] == "not_found"


def test_a_client_that_reads_late_gets_all_answers_in_order(start: Starter) -> None:
    running = start()
    client = running.connect(receive_buffer=4096)
    count = 30_000
    lines = b"".join(b'{"op":"explode","seq":%d}\n' % number for number in range(count))
    sender = threading.Thread(target=client.send, args=(lines,))
    sender.start()
    assert [client.answer()["seq"] for _ in range(count)] == list(range(count))
    sender.join()


class FaultyDirectory(Directory):
    """A directory with a fault in it, from the moment that the test says."""

    faulty = False

    def expire(self, now: float, ttl: float) -> float:
        if self.faulty:
            raise KeyError("secret detail")
        return super().expire(now, ttl)


def test_a_fault_of_ours_is_internal_and_the_server_lives(
    start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.directory = directory = FaultyDirectory()
    running = start(store, ttl=30)
    client = running.connect()
    directory.faulty = True
    running.later += 31  # so that each request expires leases, and the tick does so anyway
    answer = client.ask("ping", seq=3)
    assert (answer["error"], answer["seq"]) == ("internal", 3)
    assert "secret" not in answer["message"]
    wait_until(
        lambda: sum("internal error" in record.getMessage() for record in caplog.records) > 2,
        "the tick survives",
    )
    directory.faulty = False
    assert client.ask("stats")["ok"]


def test_each_line_is_traced_in_both_directions_with_the_other_side(start: Starter) -> None:
    seen: list[tuple[str, str, bytes]] = []
    client = start(trace=lambda *what: seen.append(what)).connect()
    client.ask("ping", seq=1)
    host, port = client.sock.getsockname()
    assert seen == [
        ("received", f"{host}:{port}", b'{"op": "ping", "seq": 1}'),
        ("sent", f"{host}:{port}", b'{"ok":true,"seq":1}'),
    ]


def test_an_address_that_cannot_be_had_is_a_usage_error(start: Starter) -> None:
    taken = start().address

    async def listen(host: str, port: int) -> None:
        store = MemoryStore()
        server = TrackerServer(TrackerService(store.directory, random.Random(1), str), store)
        await server.start(host, port)

    for host, port in ((LOOPBACK, taken.port), ("host.invalid", 0)):
        with pytest.raises(UsageError, match="cannot listen on"):
            asyncio.run(listen(host, port))


def test_a_server_that_never_started_can_be_stopped() -> None:
    store = MemoryStore()
    asyncio.run(TrackerServer(TrackerService(store.directory, random.Random(1), str), store).stop())


# -- a store with a disk


def test_an_answer_waits_until_its_change_is_on_disk_and_answers_stay_in_order(
    start: Starter, tmp_path: Path
) -> None:
    file = tmp_path / "tracker.db"
    running = start(SqliteStore(file, time.monotonic()))
    client = running.logged_in()
    lines = []
    for number in range(300):
        lines.append(
            json.dumps(
                {
                    "op": "announce",
                    "peer": f"{number:032x}",
                    "name": "p",
                    "listen": {"tcp": 7000},
                    "seq": 2 * number,
                }
            )
        )
        lines.append(json.dumps({"op": "ping" if number % 3 else "nonsense", "seq": 2 * number + 1}))
    client.send("\n".join([*lines, ""]).encode())
    with closing(sqlite3.connect(file)) as other:
        for seq in range(600):
            answer = client.answer()
            assert answer["seq"] == seq
            assert answer["ok"] is (seq % 6 != 1)
            if seq % 100 == 0:
                assert other.execute(
                    "SELECT count(*) FROM peers WHERE id = ?", (f"{seq // 2:032x}",)
                ).fetchone() == (1,)


def test_a_connection_with_too_many_waiting_answers_is_read_again_after_the_commit(
    start: Starter, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "tracker.db", time.monotonic())
    client = start(store, limits=TrackerLimits(waiting_answers=5)).logged_in()
    lines = [
        json.dumps({"op": "announce", "peer": f"{n:032x}", "name": "p", "listen": {}, "seq": n})
        for n in range(200)
    ]
    client.send("\n".join([*lines, ""]).encode())
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.answer()["seq"] for _ in range(200)] == list(range(200))
    assert client.closed()


def test_case_22_while_the_store_is_locked_writes_are_unavailable_and_reads_go_on(
    start: Starter, tmp_path: Path
) -> None:
    file = tmp_path / "tracker.db"
    running = start(SqliteStore(file, time.monotonic(), lock_wait_s=0.5))
    client, reader = running.logged_in(), running.connect()
    assert client.announce(PEER, 1)["ok"]
    before = threading.active_count()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in (2, 3):
            client.send(json.dumps({"op": "ping", "seq": 1}).encode() + b"\n")
            refused = client.announce(PEER, number)
            assert refused == {"ok": True, "seq": 1}
            assert client.answer()["error"] == "unavailable"
            assert reader.ask("lookup", id=f"{1:064x}")["ok"]
        # Announced again, though memory has it already: not promised either.
        assert client.announce(PEER, 2)["error"] == "unavailable"
        assert threading.active_count() <= before + 1
        other.execute("ROLLBACK")
    wait_until(lambda: client.announce(PEER, 2)["ok"] is True, "it recovers alone")
    running.stop()
    with closing(SqliteStore(file, 0.0)) as again:
        assert again.directory.totals().contents == 3


def test_a_stop_does_not_wait_for_a_locked_disk(start: Starter, tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    running = start(SqliteStore(file, time.monotonic(), lock_wait_s=3600))
    client = running.logged_in()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        client.send(json.dumps({"op": "announce", "peer": PEER, "name": "p", "listen": {}}).encode() + b"\n")
        wait_until(lambda: running.store.unsaved, "it waits for the disk")
        running.stop()
    assert client.answer()["error"] == "unavailable"
    assert client.closed()


def test_a_stop_writes_what_is_left_and_ends_clients_that_do_not_read(start: Starter, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tracker.db", time.monotonic())
    running = start(store, timeouts=TrackerTimeouts(tick_s=3600.0))
    client = running.logged_in()
    client.announce(PEER, 1)
    running.later += 31
    assert client.ask("ping")["ok"]
    assert store.unsaved, "the lease has ended, which no answer waits for, and no tick has come"
    unread = running.connect(receive_buffer=4096)

    def send() -> None:
        with contextlib.suppress(OSError):
            unread.send(b'{"op":"explode"}\n' * 100_000)

    sender = threading.Thread(target=send)
    sender.start()
    assert unread.answer()["error"] == "unsupported"
    running.stop()
    sender.join()
    with closing(SqliteStore(tmp_path / "tracker.db", 0.0)) as again:
        assert again.directory.totals()[:3] == (1, 0, 0)
