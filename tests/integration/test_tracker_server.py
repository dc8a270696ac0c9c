"""The tracker on real sockets: what it survives. The names say the number of the hostile case."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import UsageError
from p2p.model import Address
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.peer_messages import Ping, Request
from p2p.protocol.schema import plan_of
from p2p.protocol.tracker_messages import TRACKER_OPS
from p2p.tracker import connection as connection_module
from p2p.tracker.server import ServerConfig, TrackerServer
from p2p.tracker.service import TrackerService
from p2p.tracker.store.base import Caps, TrackerStore
from p2p.tracker.store.directory import Directory
from p2p.tracker.store.journal import SqliteStore
from tests.kit.effort import limit, times
from tests.kit.processes import SLACK
from tests.kit.protocol_samples import right_object, wrong_objects

if sys.platform != "win32":
    import resource

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]
PEER = "5f" * 16
LOOPBACK = "127.0.0.1"


class Client:
    """A blocking connection that speaks lines."""

    def __init__(self, address: Address, *, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(20)
        self.sock.connect((address.host, address.port))
        self.stream = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hear(self) -> dict[str, Any]:
        line = self.stream.readline()
        assert line.endswith(b"\n"), f"hung up, with {line!r}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        self.send(json.dumps({"op": op, **fields}).encode() + b"\n")
        return self.hear()

    def announce(self, peer: str = PEER, *numbers: int, **fields: object) -> dict[str, Any]:
        contents = [
            {"id": f"{number:064x}", "name": f"file-{number}", "size": 7, "have": 7} for number in numbers
        ]
        return self.ask("announce", peer=peer, name="one", listen={"tcp": 7000}, contents=contents, **fields)

    def over(self) -> bool:
        """Whether the other side has ended it, with nothing more said."""
        try:
            return self.stream.read(1) == b""
        except OSError:
            return True

    def close(self) -> None:
        self.stream.close()
        self.sock.close()


class Running:
    """A server on a loop of its own, in a thread."""

    def __init__(self, store: TrackerStore, config: ServerConfig, trace: Any = None, **service: Any) -> None:
        self.later = 0.0
        self.store = store
        self.clients: list[Client] = []
        self._service_options = service
        self._trace = trace
        self._config = config
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(10)

    def now(self) -> float:
        return time.monotonic() + self.later

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.service = TrackerService(
            self.store,
            random.Random(1),
            lambda: secrets.token_hex(16),
            started=self.now(),
            **self._service_options,
        )
        self.server = TrackerServer(self.service, self._config, self._trace, self.now)
        (self.address,) = await self.server.start()
        self._ready.set()
        await self._over.wait()
        await self.server.stop()
        self.store.close()

    def connect(self, **options: Any) -> Client:
        client = Client(self.address, **options)
        self.clients.append(client)
        return client

    def logged_in(self) -> Client:
        client = self.connect()
        client.ask("login", user="alice")
        return client

    def connections(self) -> int:
        return self.service.connections

    def stop(self) -> float:
        """Stop it; return the seconds that took."""
        began = time.monotonic()
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._over.set)
            self._thread.join(10)
            assert not self._thread.is_alive()
        return time.monotonic() - began


Starter = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts servers; at the end all are stopped, and none has leaked a descriptor."""
    before = open_files()
    running: list[Running] = []

    def start_one(
        store: TrackerStore | None = None,
        *,
        trace: Any = None,
        service: dict[str, Any] | None = None,
        **config: Any,
    ) -> Running:
        settings = ServerConfig(**{"host": LOOPBACK, "port": 0, "tick": 0.05, **config})
        running.append(Running(store or Directory(), settings, trace, **(service or {})))
        return running[-1]

    yield start_one
    for one in running:
        for client in one.clients:
            client.close()
        one.stop()
    until(lambda: open_files() <= before, "descriptors are given back")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def until(true: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Wait for what must happen soon."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        threading.Event().wait(0.005)


def fresh_ping(running: Running, seconds: float = 1.0) -> None:
    """A new client is still answered, and soon."""
    with closing(Client(running.address)) as client:
        began = time.monotonic()
        assert client.ask("ping") == {"ok": True}
        assert time.monotonic() - began < seconds


# -- bad input
# ---------------------------------------------------------------------------------------------------------------------


def test_case_1_an_endless_line_is_cut_soon_after_the_limit(start: Starter) -> None:
    running = start()
    client = running.connect()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        client.send(b'{"' + b"a" * 100_000_000)
    assert time.monotonic() - began < 5
    assert client.hear()["error"] == "line_too_long"
    fresh_ping(running)
    until(lambda: running.connections() == 0, "it is closed", 1)


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
            assert "error" not in (answer := connected.hear()) or answer["error"] in (
                "login_needed",
                "not_found",
            ), (cls.OP, size)
        client = client if cls.OP != "hello" else running.connect()
        client.send(head + b" " * (MAX_LINE + 1 - len(head) - len(end)) + end)
        assert client.hear()["error"] == "line_too_long"
        assert client.over()


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
def test_case_3_a_line_that_is_no_object_ends_the_connection_the_same_way_each_time(
    start: Starter, line: bytes
) -> None:
    running = start()
    for _ in range(2):
        client = running.connect()
        client.send(line + b"\n")
        assert client.hear()["error"] == "bad_json"
        assert client.over()
        later = running.connect()
        assert later.ask("ping")["ok"]
        later.send(line + b"\n")
        assert later.hear()["error"] == "bad_json"
        assert later.over()


@pytest.mark.parametrize("depth", [33, 5_000, 30_000, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_case_4_deep_nesting_is_an_error_and_no_crash(
    start: Starter, depth: int, brackets: tuple[bytes, bytes]
) -> None:
    running = start()
    client = running.connect()
    with contextlib.suppress(OSError):
        client.send(b'{"op":' + brackets[0] * depth + b"1" + brackets[1] * depth + b"}\n")
    answer = client.hear()
    assert answer["error"] in ("bad_json", "line_too_long")
    assert client.over()
    fresh_ping(running)


def test_case_5_a_key_that_comes_twice_is_refused(start: Starter) -> None:
    client = start().connect()
    client.send(b'{"op":"ping","op":"stats"}\n')
    assert client.hear()["error"] == "bad_json"
    assert client.over()


def test_case_6_every_wrong_type_in_every_field_of_every_message_is_an_error_that_names_the_field(
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
            answer = client.hear()
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


def test_case_6_every_wrong_type_in_hello_is_an_error_that_names_the_field(start: Starter) -> None:
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
    assert late.hear()["error"] == "bad_field"
    assert late.over()


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
def test_cases_8_64_other_protocols_are_closed_at_once_with_one_log_line_and_no_echo(
    start: Starter, opening: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    running = start()
    with caplog.at_level(logging.INFO):
        client = running.connect()
        began = time.monotonic()
        client.send(opening)
        line = client.stream.readline()
        assert client.over()
        assert time.monotonic() - began < 1
    assert json.loads(line)["error"] == "bad_json"
    assert not any(part in line for part in (b"HTTP", b"SSH", b"secret"))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("p2p")]
    assert len(lines) == 1
    assert "bad_json" in lines[0]
    assert lines[0].isprintable()
    assert "HTTP" not in lines[0]
    assert running.service.store.totals().sessions == 0


def test_case_64_a_flood_of_faults_is_counted_and_not_logged_one_by_one(
    start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(tick=0.3)
    with caplog.at_level(logging.INFO):
        for _ in range(60):
            with closing(Client(running.address)) as client:
                client.send(b"GET / HTTP/1.0\r\n")
                client.hear()
        until(
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
            assert client.over()
        until(lambda: running.connections() == 0, "the connection is forgotten", 1)
    assert running.store.totals().sessions == 2


def test_what_was_asked_before_the_end_of_input_is_answered(start: Starter) -> None:
    client = start().connect()
    client.send(b'{"op":"ping","seq":1}\n' * 500)
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.hear()["seq"] for _ in range(500)] == [1] * 500
    assert client.over()


def test_an_answer_to_nothing_ends_the_connection(start: Starter) -> None:
    running = start()
    for line in (b'{"ok":false,"error":"busy","message":"go away"}\n', b'{"ok":true,"seq":1}\n'):
        client = running.connect()
        client.send(line)
        client.stream.readline()
        assert client.over()
    fresh_ping(running)


# -- abuse and load
# ----------------------------------------------------------------------------------------------------------------


def test_cases_12_13_a_message_that_does_not_come_whole_in_time_ends_the_connection(start: Starter) -> None:
    running = start()
    silent, slow, healthy, late = running.connect(), running.connect(), running.connect(), running.connect()
    assert healthy.ask("ping")["ok"]
    assert late.ask("ping")["ok"]
    late.send(b'{"op":"pi')
    slow.send(b"{")
    until(
        lambda: sum(one._line_since is not None for one in list(running.server._connections)) == 2,
        "both lines have begun",
    )
    running.later += 5.0
    slow.send(b'"')  # bytes that trickle in move no deadline
    late.send(b"n")
    fresh_ping(running)
    until(lambda: running.connections() == 4, "all are still there")
    running.later += 5.5
    assert silent.over()
    assert slow.over()
    assert late.over()
    assert healthy.ask("ping")["ok"]


def test_case_12_thousands_of_idle_connections_cost_little_and_hold_nobody_up(start: Starter) -> None:
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
        until(lambda: running.connections() == count, "all are in", 10)
        used = memory() - before
        with closing(Client(running.address)) as client:
            times = []
            for _ in range(50):
                began = time.monotonic()
                client.ask("ping")
                times.append(time.monotonic() - began)
        assert sorted(times)[45] < 0.1
        assert used < 15_000 * count + 8_000_000, f"{used / count:.0f} bytes a connection, both ends counted"
        running.later += 11
        until(lambda: running.connections() == 0, "all are closed at the deadline", 10)
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
    until(lambda: running.connections() == 0, "all are forgotten")
    until(lambda: open_files() <= before, "descriptors are given back")
    fresh_ping(running)


def test_case_15_contents_beyond_the_quota_are_refused(start: Starter) -> None:
    running = start(Directory(Caps(contents_per_peer=100)))
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
    assert client.hear()["message"].startswith("contents: ")


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
    client = Client.__new__(Client)
    try:
        client.sock = socket.create_connection(
            (running.address.host, running.address.port), source_address=("127.0.0.9", 0)
        )
    except OSError:
        pytest.skip("this system has but one loopback address")
    client.stream = client.sock.makefile("rb")
    running.clients.append(client)
    client.ask("login", user="alice")
    client.announce(PEER, 1)
    assert running.connect().ask("lookup", id=f"{1:064x}")["sources"][0]["host"] == "127.0.0.9"


def test_case_19_the_smallest_question_gets_at_most_a_hundred_times_its_bytes(start: Starter) -> None:
    running = start()
    client = running.logged_in()
    for first in range(0, 320, 64):
        client.announce(PEER, *range(first, first + 64))
    nobody = running.connect()
    for line in (
        b'{"op":"list"}\n',
        b'{"op":"peers"}\n',
        b'{"op":"stats"}\n',
        b'{"op":"search","text":""}\n',
        b'{"op":"list","limit":100}\n',
    ):
        nobody.send(line)
        assert len(nobody.stream.readline()) <= 100 * len(line)


def test_case_20_a_silent_peer_is_gone_after_its_ttl_and_memory_is_freed_by_the_tick(start: Starter) -> None:
    running = start(service={"ttl": 30})
    client = running.logged_in()
    client.announce(PEER, 1)
    running.later += 15
    assert running.connect().ask("lookup", id=f"{1:064x}")["ok"]
    running.later += 16
    until(lambda: running.store.totals().peers == 0, "the tick forgets it")
    assert running.connect().ask("lookup", id=f"{1:064x}")["error"] == "not_found"


def test_too_many_connections_are_told_busy_in_one_line(start: Starter) -> None:
    running = start(max_connections=2)
    first, second = running.connect(), running.connect()
    assert first.ask("ping")["ok"]
    assert second.ask("ping")["ok"]
    third = running.connect()
    assert third.hear()["error"] == "busy"
    assert third.over()
    first.close()
    until(lambda: running.connections() == 1, "there is room again")
    fresh_ping(running)


@pytest.mark.parametrize("bound", ["max_connections", "max_per_host"])
def test_case_12_one_that_says_nothing_gives_way_to_a_newcomer_and_one_that_spoke_does_not(
    start: Starter, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr("p2p.tracker.server.kind_of", lambda host: "private")
    running = start(
        silent_timeout=4.0, **{bound: 3}
    )  # longer than a pause of a busy machine, and twice it is less than a line may take
    spoke, silent, slow = running.connect(), running.connect(), running.connect()
    assert spoke.ask("ping")["ok"]
    slow.send(b'{"op"')
    until(lambda: running.connections() == 3, "all are in")
    assert running.connect().hear()["error"] == "busy"
    running.later += 4.1
    newcomers = [running.connect(), running.connect()]
    assert all(one.ask("ping")["ok"] for one in newcomers)
    assert silent.over()
    assert slow.over()
    running.later += 4.1
    assert running.connect().hear()["error"] == "busy"
    assert spoke.ask("ping")["ok"]


def test_one_source_cannot_take_all_connections_but_loopback_may(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(max_per_host=1)
    assert running.connect().ask("ping")["ok"]
    assert running.connect().ask("ping")["ok"]
    monkeypatch.setattr("p2p.tracker.server.kind_of", lambda host: "private")
    assert running.connect().hear()["error"] == "busy"


def test_an_idle_connection_is_closed_unless_it_has_a_session(start: Starter) -> None:
    running = start(service={"ttl": 30})
    nobody, somebody = running.connect(), running.logged_in()
    nobody.ask("ping")
    running.later += 200
    nobody.ask("ping")
    running.later += 200
    fresh_ping(running)
    assert nobody.ask("ping")["ok"]
    running.later += 301
    assert nobody.over()
    assert somebody.ask("ping")["ok"]


def test_a_client_that_asks_and_does_not_read_is_held_up_and_then_dropped(start: Starter) -> None:
    running = start()
    client = running.connect(receive_buffer=4096)
    client.sock.setblocking(False)
    line = b'{"op":"explode"}\n' * 1000
    sent, stuck_since = 0, time.monotonic()
    while time.monotonic() - stuck_since < 0.5:
        try:
            sent += client.sock.send(line)
            stuck_since = time.monotonic()
        except BlockingIOError:
            threading.Event().wait(0.01)
    assert sent < 40_000_000, "the tracker read on though nobody took its answers"
    fresh_ping(running)
    until(lambda: held_up(running), "it is held up")
    running.later += 31
    until(lambda: running.connections() == 0, "it is dropped")


def held_up(running: Running) -> bool:
    return any(one._blocked_since is not None for one in list(running.server._connections))


def test_a_client_that_reads_late_gets_all_answers_in_order(start: Starter) -> None:
    running = start()
    client = running.connect(receive_buffer=4096)
    count = 30_000
    lines = b"".join(b'{"op":"explode","seq":%d}\n' % number for number in range(count))
    sender = threading.Thread(target=client.send, args=(lines,))
    sender.start()
    until(lambda: held_up(running), "its answers are too many for all buffers")
    assert [client.hear()["seq"] for _ in range(count)] == list(range(count))
    sender.join(10)


def test_one_busy_connection_does_not_hold_up_another(start: Starter) -> None:
    running = start()
    busy = running.connect()
    busy.sock.setblocking(False)
    stop, answered = threading.Event(), threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError):
                busy.sock.send(b'{"op":"stats"}\n' * 4000)
            with contextlib.suppress(BlockingIOError):
                if busy.sock.recv(1 << 20):
                    answered.set()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        assert answered.wait(10), "the flood is being served"
        for _ in range(10):
            fresh_ping(running)
    finally:
        stop.set()
        thread.join(5)


def test_case_14_dozens_that_ask_without_end_and_read_little_leave_a_newcomer_its_turn(
    start: Starter,
) -> None:
    running = start()
    floods = [running.connect() for _ in range(40)]
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            for one in floods:
                one.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.sock.send(b'{"op":"stats"}\n' * 4000)
                with contextlib.suppress(BlockingIOError):
                    one.sock.recv(1 << 16)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        waits = []
        for _ in range(10):
            began = time.monotonic()
            fresh_ping(
                running, seconds=5.0
            )  # one may wait for the machine; what the crowd costs shows in all ten, below
            waits.append(time.monotonic() - began)
    finally:
        stop.set()
        thread.join(5)
    assert sorted(waits)[5] < 1.0, waits
    assert running.server.busy <= 40


def test_a_fault_of_ours_is_internal_and_the_server_lives(
    start: Starter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    client = running.connect()

    def fail(*_: object) -> None:
        raise KeyError("secret detail")

    monkeypatch.setitem(running.service._handlers, Ping, fail)
    answer = client.ask("ping", seq=3)
    assert (answer["error"], answer["seq"]) == ("internal", 3)
    assert "secret" not in answer["message"]
    assert any("internal error" in record.getMessage() for record in caplog.records)
    assert client.ask("stats")["ok"]
    monkeypatch.setattr(running.service, "expire", fail)
    until(
        lambda: sum("internal error" in record.getMessage() for record in caplog.records) > 1,
        "the tick survives",
    )
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


def test_a_loop_that_reads_ahead_has_a_buffer_for_each_connection(start: Starter) -> None:
    running = start()
    running.server._shared_buffer = None
    one, two = running.connect(), running.connect()
    assert one.ask("ping")["ok"]
    assert two.ask("ping")["ok"]
    assert one.ask("ping")["ok"]


def test_an_address_that_cannot_be_had_is_a_usage_error(start: Starter) -> None:
    taken = start().address

    async def listen(config: ServerConfig) -> None:
        await TrackerServer(TrackerService(Directory(), random.Random(1), str), config).start()

    for config in (ServerConfig(LOOPBACK, taken.port), ServerConfig("host.invalid", 0)):
        with pytest.raises(UsageError, match="cannot listen on"):
            asyncio.run(listen(config))


def test_a_server_that_never_started_can_be_stopped() -> None:
    asyncio.run(TrackerServer(TrackerService(Directory(), random.Random(1), str)).stop())


# -- a store with a disk
# -----------------------------------------------------------------------------------------------------------


def test_an_answer_leaves_only_when_its_change_is_on_disk_and_answers_stay_in_order(
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
            answer = client.hear()
            assert answer["seq"] == seq
            assert answer["ok"] is (seq % 6 != 1)
            if seq % 100 == 0:
                assert other.execute(
                    "SELECT count(*) FROM peers WHERE id = ?", (f"{seq // 2:032x}",)
                ).fetchone() == (1,)


def test_more_answers_wait_for_the_disk_than_one_connection_may_have(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_HELD", 5)
    client = start(SqliteStore(tmp_path / "tracker.db", time.monotonic())).logged_in()
    lines = [
        json.dumps({"op": "announce", "peer": f"{n:032x}", "name": "p", "listen": {}, "seq": n})
        for n in range(200)
    ]
    client.send("\n".join([*lines, ""]).encode())
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.hear()["seq"] for _ in range(200)] == list(range(200))
    assert client.over()


def test_case_22_while_another_process_holds_the_lock_writes_are_unavailable_and_reads_go_on(
    start: Starter, tmp_path: Path
) -> None:
    file = tmp_path / "tracker.db"
    running = start(SqliteStore(file, time.monotonic(), lock_wait=0.5))
    client, reader = running.logged_in(), running.connect()
    assert client.announce(PEER, 1)["ok"]
    before = threading.active_count()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in (2, 3):
            began = time.monotonic()
            client.send(json.dumps({"op": "ping", "seq": 1}).encode() + b"\n")
            refused = client.announce(PEER, number)
            assert refused == {"ok": True, "seq": 1}
            assert client.hear()["error"] == "unavailable"
            assert time.monotonic() - began < 5
            assert reader.ask("lookup", id=f"{1:064x}")["ok"]
        # Said again, though memory has it already: not promised either.
        assert client.announce(PEER, 2)["error"] == "unavailable"
        assert threading.active_count() <= before + 1
        other.execute("ROLLBACK")
    began = time.monotonic()
    until(lambda: client.announce(PEER, 2)["ok"] is True, "it recovers alone", 2)
    assert time.monotonic() - began < 2
    running.stop()
    with closing(SqliteStore(file, 0.0)) as again:
        assert again.totals().contents == 3


def test_a_stop_takes_less_than_two_seconds_even_when_the_disk_is_locked(
    start: Starter, tmp_path: Path
) -> None:
    file = tmp_path / "tracker.db"
    running = start(SqliteStore(file, time.monotonic(), lock_wait=30))
    client = running.logged_in()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        client.send(json.dumps({"op": "announce", "peer": PEER, "name": "p", "listen": {}}).encode() + b"\n")
        until(lambda: running.store.unsaved, "it waits for the disk")
        assert running.stop() < 2.0 + SLACK
    assert client.hear()["error"] == "unavailable"
    assert client.over()


def test_a_stop_writes_what_is_left_and_ends_connections_that_do_not_read(
    start: Starter, tmp_path: Path
) -> None:
    running = start(SqliteStore(tmp_path / "tracker.db", time.monotonic()))
    client = running.logged_in()
    client.announce(PEER, 1)
    running.later += 31  # the peer's lease ends; nobody is promised anything, but it is written all the same
    deaf = running.connect(
        receive_buffer=4096
    )  # only now: a connection on which 31 s pass without a message is closed

    def send() -> None:
        with contextlib.suppress(OSError):
            deaf.send(b'{"op":"explode"}\n' * 100_000)

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: held_up(running), "one does not read")
    assert running.stop() < 2.0 + SLACK
    sender.join(10)
    with closing(SqliteStore(tmp_path / "tracker.db", 0.0)) as again:
        assert again.totals()[:3] == (1, 0, 0)


# -- as a process
# ------------------------------------------------------------------------------------------------------------------


class Tracker:
    """`bin/tracker` as a process."""

    def __init__(self, store: str, **options: Any) -> None:
        command = [
            sys.executable,
            str(ROOT / "bin" / "tracker"),
            "--json",
            "--host",
            LOOPBACK,
            "--port",
            "0",
            "--store",
            store,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=10)
            raise AssertionError(f"the tracker did not start: {errors.decode()}")
        event = json.loads(line)
        if event["event"] != "listening":
            _, errors = self.process.communicate(timeout=10)
            raise AssertionError(f"the tracker did not start: {line.decode()} {errors.decode()}")
        self.address = Address(event["host"], event["port"])

    def end(self, how: signal.Signals = signal.SIGKILL) -> tuple[int, bytes]:
        """Send a signal; return the exit code and what it said on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors


posix_only = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


@posix_only
@limit(120)
def test_case_52_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    acknowledged: set[int] = set()
    session = None
    number = 0
    began, loads = time.monotonic(), 0.0
    for round_ in range(times(4)):
        tracker = Tracker(f"sqlite:{file}")
        try:
            client = Client(tracker.address)
            if session is None:
                session = client.ask("login", user="alice")["session"]
            else:
                assert client.ask("hello", version=1, session=session)["ok"], (
                    f"the session is lost in round {round_}"
                )
            assert client.announce(PEER)["known"] >= len(acknowledged), (
                f"announces are lost in round {round_}"
            )
            for known in rng.sample(sorted(acknowledged), min(len(acknowledged), 300)):
                assert client.ask("lookup", id=f"{known:064x}")["ok"]
            kill_at = rng.randrange(50, 400)
            timer = threading.Timer(rng.random() * 0.3, tracker.process.kill)
            load_began = time.monotonic()
            with contextlib.suppress(OSError, AssertionError):
                for batch in range(kill_at * 10):
                    if batch == 3:  # so that there is something to lose, however slow the machine is
                        timer.start()
                    lines = []
                    for _ in range(10):
                        number += 1
                        content = {"id": f"{number:064x}", "name": f"f{number}", "size": 7, "have": 7}
                        lines.append(
                            json.dumps(
                                {
                                    "op": "announce",
                                    "peer": PEER,
                                    "name": "p",
                                    "listen": {"tcp": 7000},
                                    "contents": [content],
                                    "seq": number,
                                }
                            )
                        )
                    client.send("\n".join([*lines, ""]).encode())
                    for _ in range(10):
                        answer = client.hear()
                        assert answer["ok"]
                        acknowledged.add(answer["seq"])
            timer.join()
            loads += time.monotonic() - load_began
            client.close()
        finally:
            code, _ = tracker.end()
        assert code == -signal.SIGKILL
        # On a copy: to look at the store would bring the journal over, which is the next tracker's work.
        copy = tmp_path / "copy.db"
        for ending in ("", "-wal"):
            shutil.copy(f"{file}{ending}", f"{copy}{ending}")
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with closing(SqliteStore(copy, 0.0)) as store:
            assert acknowledged <= {int(content.id, 16) for content in store.contents()}, (
                f"lost in round {round_}"
            )
    rate = len(acknowledged) / loads
    print(
        f"{round_ + 1} kills in {time.monotonic() - began:.0f} s, {len(acknowledged)} announces acknowledged, {rate:.0f} a second"
    )
    assert len(acknowledged) > 20
    with closing(SqliteStore(file, 0.0)) as store:
        assert acknowledged <= {int(content.id, 16) for content in store.contents()}


@posix_only
def test_case_52_a_tracker_with_100_000_contents_starts_quickly_after_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    tracker = Tracker(f"sqlite:{file}")
    try:
        with closing(Client(tracker.address)) as client:
            client.ask("login", user="alice")
            for start in range(0, 100_000, 50):
                contents = [
                    {"id": f"{n:064x}", "name": f"f{n}", "size": 7, "have": 7}
                    for n in range(start, start + 50)
                ]
                answer = client.ask("announce", peer=PEER, name="p", listen={"tcp": 7000}, contents=contents)
                assert answer["ok"], answer
    finally:
        tracker.end()
    began = time.monotonic()
    again = Tracker(f"sqlite:{file}")
    took = time.monotonic() - began
    try:
        used = processor_seconds(again.process.pid)
        with closing(Client(again.address)) as client:
            assert client.ask("stats")["contents"] == 100_000
    finally:
        again.end()
    print(f"it listened after {took:.2f} s, of which the processor worked {used:.2f} s")
    # Coverage, which traces it, doubles the time. What grows with the square of the number would take
    # minutes.
    assert (used or took) < 8.0


@posix_only
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_case_51_a_signal_stops_the_tracker_within_two_seconds_without_a_traceback(
    tmp_path: Path, how: signal.Signals
) -> None:
    tracker = Tracker(f"sqlite:{tmp_path / 'tracker.db'}")
    try:
        with closing(Client(tracker.address)) as client:
            client.ask("login", user="alice")
            client.announce(PEER, 1)
            began = time.monotonic()
            code, errors = tracker.end(how)
            assert time.monotonic() - began < 2.0 + SLACK
    finally:
        tracker.end()
    assert code == 128 + how
    assert b"Traceback" not in errors
    with closing(SqliteStore(tmp_path / "tracker.db", 0.0)) as store:
        assert store.totals()[:3] == (1, 1, 1)


def test_case_53_a_newer_schema_is_refused_on_the_command_line_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "tracker.db"
    SqliteStore(file, 0.0).close()
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(AssertionError, match="newer version") as caught:
        Tracker(f"sqlite:{file}")
    assert "Traceback" not in str(caught.value)


@posix_only
def test_case_60_without_descriptors_the_tracker_backs_off_goes_on_and_recovers() -> None:
    tracker = Tracker("memory", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    crowd: list[socket.socket] = []
    try:
        with closing(Client(tracker.address)) as client:
            assert client.ask("ping")["ok"]
            crowd += [
                socket.create_connection((tracker.address.host, tracker.address.port), timeout=5)
                for _ in range(200)
            ]
            used = processor_seconds(tracker.process.pid)
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                assert client.ask("ping")["ok"]
                threading.Event().wait(0.02)
            assert processor_seconds(tracker.process.pid) - used < 0.75, "it is busy doing nothing"
            for sock in crowd:
                sock.close()
            with closing(Client(tracker.address)) as fresh:
                assert fresh.ask("ping")["ok"]
    finally:
        for sock in crowd:
            sock.close()
        _, errors = tracker.end(signal.SIGTERM)
    assert len(errors) < 100_000
    assert b"Traceback" not in errors


@posix_only
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_case_12_a_tracker_takes_more_descriptors_than_it_was_given_at_first_where_it_may() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 2048))

    tracker = Tracker("memory", preexec_fn=few)
    crowd: list[socket.socket] = []
    try:
        crowd += [
            socket.create_connection((tracker.address.host, tracker.address.port), timeout=5)
            for _ in range(300)
        ]
        with closing(Client(tracker.address)) as client:
            assert client.ask("stats")["connections"] == 301
    finally:
        for sock in crowd:
            sock.close()
        _, errors = tracker.end(signal.SIGTERM)
    assert errors == b""


def processor_seconds(pid: int) -> float:
    if sys.platform != "linux":
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
