"""Ctrl-C, SIGTERM and SIGHUP stop each command in time and quietly, while it waits and while it works."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.model import Address
from p2p.peer.session_file import StoredSession, load_session, save_session
from tests.kit.crashing import tree_of
from tests.kit.processes import (
    DEADLINE,
    Running,
    check_stopped,
    clean_environment,
    command,
    old_file,
    run_peer,
    start_peer,
    start_tracker,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
HERE = ["--host", "127.0.0.1", "--port", "0"]
WAITING = {
    "list": ["list"],
    "search": ["search", "x"],
    "peers": ["peers"],
    "info": ["info", "x"],
    "upload": ["upload", "FILE", *HERE],
    "download": ["download", "x", *HERE],
    "serve": ["serve", "FOLDER", *HERE],
    "share": ["share", "FILE", *HERE],
    "login": ["login", "alice"],
    "logout": ["logout"],
    "status": ["status"],
}
LASTING = ("serve", "share", "download")
"""Commands that run for long, under which a terminal may be closed."""
Stop = tuple[signal.Signals, int]


@pytest.fixture(params=STOPS, ids=["Ctrl-C", "SIGTERM", "SIGHUP"])
def stop(request: pytest.FixtureRequest) -> Stop:
    found: Stop = request.param
    return found


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A tracker that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(DEADLINE)
        yield made


@contextlib.contextmanager
def asked(silent: socket.socket) -> Iterator[None]:
    """Hold a connection on which the tracker got a request. Connections without one are probes."""
    with contextlib.ExitStack() as connections:
        while True:
            connection = connections.enter_context(silent.accept()[0])
            connection.settimeout(DEADLINE)
            if connection.recv(65536):
                break
        yield


def check_ends(running: Running, stop: Stop, frozen: int | None = None) -> None:
    """Stop a command and let a frozen process go on. The command must end in time, with the code of the stop,
    and write nothing to standard error."""
    began = time.monotonic()
    running.send(stop[0])
    if frozen is not None:
        os.kill(frozen, signal.SIGCONT)
    code = running.wait()
    seconds = time.monotonic() - began
    said = [line for line in running.err.splitlines() if "the links work on this machine only" not in line]
    assert (code, said) == (stop[1], [])
    check_stopped(seconds)
    assert json.loads(running.out.splitlines()[-1]) == {"event": "stopped", "signal": stop[0].name}


def words_of(place: Path, name: str, tracker: str) -> list[str]:
    """The line of a command that waits for its tracker. What the command needs before that is made."""
    file = old_file(place / "share" / "file.bin", b"some bytes")
    named = {"FILE": str(file), "FOLDER": str(file.parent)}
    if name == "logout":
        save_session(place / "state", StoredSession(Address.parse(tracker), "alice", "ab" * 16))
    words = [named.get(word, word) for word in WAITING[name]]
    return [*command("peer"), words[0], "--json", "--tracker", tracker, *words[1:]]


@pytest.mark.parametrize(
    ("name", "stop"),
    [(name, one) for name in WAITING for one in STOPS if name in LASTING or one != STOPS[2]],
    ids=str,
)
def test_case_51_each_command_that_waits_for_a_silent_tracker_is_stopped_in_time(
    tmp_path: Path, silent: socket.socket, name: str, stop: Stop
) -> None:
    words = words_of(tmp_path, name, f"127.0.0.1:{silent.getsockname()[1]}")
    before = tree_of(tmp_path / "share")
    with Running(words, clean_environment(tmp_path / "state")) as waiting, asked(silent):
        check_ends(waiting, stop)
    assert tree_of(tmp_path / "share") == before
    if name == "logout":
        tracker = Address("127.0.0.1", silent.getsockname()[1])
        assert load_session(tmp_path / "state", tracker) is not None, (
            "it was forgotten, and the tracker has it still"
        )


@pytest.mark.parametrize("name", WAITING)
def test_case_51_a_second_ctrl_c_while_a_command_stops_shows_no_traceback(
    tmp_path: Path, silent: socket.socket, name: str
) -> None:
    words = words_of(tmp_path, name, f"127.0.0.1:{silent.getsockname()[1]}")
    with Running(words, clean_environment(tmp_path / "state")) as waiting, asked(silent):
        waiting.send(signal.SIGINT)
        waiting.event("stopped")
        code, _ = waiting.stop(signal.SIGINT)
    # In its last moments Python gives signals back to the system; for a shell, both are 130.
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in waiting.err


def test_case_51_a_tracker_that_works_is_stopped_in_time(tmp_path: Path, stop: Stop) -> None:
    file = old_file(tmp_path / "a.bin", b"a")
    with (
        start_tracker(tmp_path, store=f"sqlite:{tmp_path / 'tracker.db'}") as tracker,
        start_peer(tmp_path, "share", str(file), tracker=tracker.address) as peer,
    ):
        peer.event("shared")
        check_ends(tracker, stop)
    with start_tracker(tmp_path, store=f"sqlite:{tmp_path / 'tracker.db'}") as again:
        assert len(run_peer(tmp_path, "list", tracker=again.address).events) == 1


def test_case_51_a_tracker_that_loads_its_store_stops_and_leaves_the_store_alone(
    tmp_path: Path, stop: Stop
) -> None:
    store, file = tmp_path / "tracker.db", old_file(tmp_path / "a.bin", b"a")
    with (
        start_tracker(tmp_path, store=f"sqlite:{store}") as tracker,
        start_peer(tmp_path, "share", str(file), tracker=tracker.address) as peer,
    ):
        peer.event("shared")
        tracker.stop()
    before, journal = store.read_bytes(), Path(f"{store}-wal")
    os.mkfifo(journal)  # whoever reads it waits, as on a disk that does not answer
    words = [
        *command("tracker"),
        "--json",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--store",
        f"sqlite:{store}",
    ]
    with Running(words, clean_environment(tmp_path / "state")) as loading:
        end = time.monotonic() + DEADLINE
        while (writer := reading(journal)) is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        try:
            check_ends(loading, stop)
        finally:
            os.close(writer)
    journal.unlink()
    assert store.read_bytes() == before
    with start_tracker(tmp_path, store=f"sqlite:{store}") as again:
        assert len(run_peer(tmp_path, "list", tracker=again.address).events) == 1


def reading(fifo: Path) -> int | None:
    """A descriptor to write to a FIFO; None while it has no reader."""
    with contextlib.suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


@pytest.mark.parametrize("name", ["serve", "share", "upload"])
def test_case_51_a_command_that_hashes_is_stopped_in_time(tmp_path: Path, name: str, stop: Stop) -> None:
    file = old_file(tmp_path / "share" / "big.bin", b"")
    os.truncate(file, 64 << 30)  # a hole, which takes minutes to hash
    os.utime(file, (1, 1))
    what = str(file.parent if name == "serve" else file)
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, name, what, tracker=tracker.address) as peer,
    ):
        while peer.event("progress")["phase"] != "hashing":
            pass
        check_ends(peer, stop)


def test_case_51_a_download_that_runs_or_verifies_is_stopped_in_time_and_goes_on(
    tmp_path: Path, stop: Stop
) -> None:
    data, out = os.urandom(24 << 20), tmp_path / "out"
    file = old_file(tmp_path / "share" / "big.bin", data)
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(file), tracker=tracker.address, name="origin") as seed,
    ):
        content = seed.event("shared")["id"]
        words = ["download", content, "-o", str(out)]
        with start_peer(tmp_path, *words, "--limit", "8M", tracker=tracker.address, name="me") as me:
            while me.event("progress", phase="downloading")["bytes"] < len(data) // 3:
                pass
            check_ends(me, stop)
        with start_peer(tmp_path, *words, "--limit", "8M", tracker=tracker.address, name="me") as me:
            me.event("manifest")
            check_ends(me, stop)
        assert not (out / "big.bin").exists()
        done = run_peer(tmp_path, *words, *HERE, tracker=tracker.address)
        assert done.code == 0, done.err
        assert sum(done.event("done")["bytes_from"].values()) < len(data) * 0.75
    assert tree_of(out) == {"big.bin": data}


def test_case_51_an_upload_that_others_fetch_is_stopped_in_time(tmp_path: Path, stop: Stop) -> None:
    file = old_file(tmp_path / "share" / "big.bin", os.urandom(24 << 20))
    (tmp_path / "store").mkdir()
    with start_tracker(tmp_path) as tracker:
        keep = ["serve", str(tmp_path / "store"), "--accept-uploads", "1G", "--limit", "4M"]
        with start_peer(tmp_path, *keep, tracker=tracker.address, name="target") as target:
            target.event("listening")
            with start_peer(tmp_path, "upload", str(file), tracker=tracker.address, name="me") as me:
                me.event("placed")
                check_ends(me, stop)
            assert run_peer(tmp_path, "peers", tracker=tracker.address).event("peer")["name"] == "target"


def children_of(pid: int) -> list[int]:
    """The running children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_case_51_a_demo_is_stopped_in_time_and_takes_its_processes_and_files_along(
    tmp_path: Path, stop: Stop, twice: bool
) -> None:
    """The origin is frozen until the signal is sent, so that the downloads cannot end before."""
    (tmp_path / "tmp").mkdir()
    file = old_file(tmp_path / "big.bin", os.urandom(16 << 20))
    words = [*command("demo"), str(file), "--json", "--peers", "4"]
    with Running(words, clean_environment(tmp_path / "state", {"TMPDIR": str(tmp_path / "tmp")})) as demo:
        origin = int(demo.event("started", name="origin")["pid"])
        demo.event("shared")
        os.kill(origin, signal.SIGSTOP)
        children = children_of(demo.pid)
        assert len(children) >= 2
        if twice:
            demo.send(stop[0])
            os.kill(origin, signal.SIGCONT)
            demo.event("stopped")
            code, _ = demo.stop(stop[0])
            assert code in (stop[1], -stop[0])
            assert "Traceback" not in demo.err
        else:
            check_ends(demo, stop, frozen=origin)
    gone = [pid for pid in children if not alive(pid)]
    assert twice or gone == children
    if not twice:
        assert list((tmp_path / "tmp").iterdir()) == []


def processor_seconds(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_case_51_a_simulation_is_stopped_in_time(tmp_path: Path, stop: Stop) -> None:
    words = [*command("simulate"), "--json", "--peers", "2000", "--pieces", "4000"]
    with Running(words, clean_environment(tmp_path / "state")) as simulation:
        end = time.monotonic() + DEADLINE
        while processor_seconds(simulation.pid) < 1.5:  # it has imported all that it needs, and computes
            assert time.monotonic() < end
            time.sleep(0.02)
        code, _ = simulation.stop(stop[0])
        assert (code, simulation.err) == (stop[1], "")


def test_case_51_under_nohup_a_terminal_that_hangs_up_stops_nothing(tmp_path: Path) -> None:
    with start_tracker(tmp_path) as tracker:
        quiet = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
        words = [
            *quiet,
            *command("peer"),
            "share",
            str(old_file(tmp_path / "a.bin", b"a")),
            "--json",
            "--tracker",
            tracker.address,
            *HERE,
        ]
        with Running(words, clean_environment(tmp_path / "state")) as peer:
            peer.event("shared")
            peer.send(signal.SIGHUP)
            assert len(run_peer(tmp_path, "list", tracker=tracker.address).events) == 1
            check_ends(peer, (signal.SIGTERM, 143))
