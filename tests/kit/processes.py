"""Start trackers and peers as real processes on free ports, read their events, stop them by their pid.

with (
    start_tracker(tmp_path) as tracker,
    start_peer(tmp_path, "serve", str(folder), tracker=tracker.address) as seed,
):
    shared = seed.event("shared")
    done = run_peer(tmp_path, "download", shared["id"], "-o", str(out), tracker=tracker.address)
    assert done.code == 0
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.waiting import HANG_S

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = HANG_S
"""Seconds after which a process whose event or end is awaited is taken to hang."""
STOP_GRACE_S = 5
"""After a test, a process has this long to stop before it is killed."""
STOP_S = 2.0
"""Seconds within which every command promises to end after SIGTERM or SIGINT."""
SLACK = 3.0
"""Seconds that a busy machine may add to `STOP_S`."""

Event = dict[str, Any]


def check_stopped(seconds: float) -> None:
    """Fail if a process took longer to stop than it promises.

    This is a bound on real time, in one place, because the promise is about real time.
    """
    assert seconds < STOP_S + SLACK, f"{seconds:.1f} s to stop"


def command(name: str) -> list[str]:
    """The words that start `bin/NAME` with the standard library alone; in development mode if we are."""
    strict = ["-X", "dev", "-W", "error::ResourceWarning"] if sys.flags.dev_mode else []
    return [sys.executable, "-I", "-S", *strict, str(ROOT / "bin" / name)]


def restore_hang_up() -> None:
    """Give every child process that is started from now on the default answer to SIGHUP, also where this
    process was started with SIGHUP ignored, as `nohup` does.

    An ignored signal stays ignored in a child; a handled one is set to its default there.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) == signal.SIG_IGN:
        signal.signal(hang_up, lambda _number, _frame: None)


def check_said(err: str) -> None:
    """Fail if a program's standard error has what Python writes only after a fault in that program."""
    for word in (
        "Traceback (most recent call last)",
        "Exception ignored in",
        "ResourceWarning",
        "was never awaited",
        "never retrieved",
    ):
        assert word not in err, err


def clean_environment(state: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without its `P2P_` variables, with a state folder for the test."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("P2P_") and key != "NO_COLOR"
    }
    return {**clean, "P2P_STATE": str(state), "TERM": "xterm", **(more or {})}


def events_of(text: str) -> list[Event]:
    """The events of a `--json` output. Fails when a line is not a JSON object with `event`."""
    events = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(event, dict) and isinstance(event.get("event"), str) for event in events), text
    return events


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[Event]:
        """The events that it printed with `--json`."""
        return events_of(self.out)

    def event(self, kind: str) -> Event:
        """The only event of this kind."""
        found = [event for event in self.events if event["event"] == kind]
        assert len(found) == 1, f"{len(found)} events {kind!r} in {self.out}\n{self.err}"
        return found[0]


class Running:
    """A running command. Leaving its `with` block stops it."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], *, json_output: bool = True) -> None:
        self._process = subprocess.Popen(
            list(words),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._json = json_output
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._out: list[str] = []
        self._err: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(HANG_S)
        for thread in self._threads:
            thread.join(HANG_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if kind is None:
            check_said(self.err)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def out(self) -> str:
        """Its standard output so far."""
        return "".join(self._out)

    @property
    def err(self) -> str:
        """Its standard error so far."""
        return "".join(self._err)

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`; of a tracker that `start_tracker` made."""
        return f"127.0.0.1:{self.port}"

    port: int = 0

    def line(self, timeout: float = DEADLINE) -> str:
        """The next line of its standard output."""
        try:
            found = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no line came; so far: {self.out}\n{self.err}") from None
        assert found is not None, f"it ended with {self._process.wait(HANG_S)}: {self.out}\n{self.err}"
        return found

    def event(self, kind: str, timeout: float = DEADLINE, **match: object) -> Event:
        """Wait for the next event of this kind with the keys of `match`, and skip the events before it."""
        until = time.monotonic() + timeout
        while True:
            event: Event = json.loads(self.line(max(until - time.monotonic(), 0.01)))
            if event["event"] == kind and all(event.get(key) == value for key, value in match.items()):
                return event

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float = DEADLINE) -> int:
        """Wait for its end and return the exit code."""
        code = self._process.wait(timeout)
        for thread in self._threads:
            thread.join(HANG_S)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = DEADLINE) -> tuple[int, float]:
        """Send a signal, wait for the end, and check that it came as soon as promised.

        Returns the exit code and the seconds that the process took.
        """
        began = time.monotonic()
        self.send(number)
        code = self.wait(timeout)
        took = time.monotonic() - began
        check_stopped(took)
        return code, took

    def _read_out(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with contextlib.suppress(ValueError):
            for raw in stream:
                line = raw.decode()
                self._out.append(line)
                self._lines.put(line)
        self._lines.put(None)

    def _read_err(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(ValueError):
            for raw in stream:
                self._err.append(raw.decode(errors="replace"))


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port of loopback at which nobody listens, and which the system hands out to no other socket.

    A process that is given its number may listen there, because acceptors set `SO_REUSEADDR`.
    """
    with socket.socket() as holder:
        if os.name == "posix":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        if os.name != "posix":  # elsewhere two sockets may not have the same port
            holder.close()
        yield holder.getsockname()[1]


@contextlib.contextmanager
def start_tracker(folder: Path, *options: str, port: int = 0, store: str = "memory") -> Iterator[Running]:
    """A tracker on loopback that listens already (`.port`, `.address`)."""
    words = [
        *command("tracker"),
        "--json",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--store",
        store,
        *options,
    ]
    with Running(words, clean_environment(folder / "state")) as tracker:
        tracker.port = tracker.event("listening")["port"]
        yield tracker


@contextlib.contextmanager
def start_peer(
    folder: Path,
    *words: str,
    tracker: str,
    name: str = "peer",
    env: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[Running]:
    """A peer on loopback that runs the command `words[0]` with `--json` and a state folder of its own.

    The caller waits for its events.
    """
    line = [
        *command("peer"),
        words[0],
        "--json",
        "--tracker",
        tracker,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--name",
        name,
        *words[1:],
    ]
    with Running(line, clean_environment(folder / f"state-{name}", env)) as peer:
        yield peer


def run_peer(
    folder: Path,
    *words: str,
    tracker: str = "127.0.0.1:1",
    env: Mapping[str, str] | None = None,
    text: bool = False,
    timeout: float = 60.0,
) -> Ended:
    """Run a peer command to its end, with `--json` unless `text`."""
    line = [*command("peer"), words[0], *([] if text else ["--json"]), "--tracker", tracker, *words[1:]]
    return run(line, clean_environment(folder / "state-run", env), timeout=timeout)


def run(words: Sequence[str], environ: Mapping[str, str], *, timeout: float = 60.0) -> Ended:
    """Run any command to its end."""
    done = subprocess.run(
        list(words),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))
    check_said(ended.err)
    return ended


def old_file(path: Path, data: bytes) -> Path:
    """Write a file that was last changed a minute ago, so that a peer shares it at the first scan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    before = time.time() - 60
    os.utime(path, (before, before))
    return path
