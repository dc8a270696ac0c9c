"""The rig of a load test: trackers and peers as processes with meters, and a healthy client beside the
load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.lib.lab import ROOT, Lab, cpu_of, memory_of, peer, running
from tests.load.report import Outcome, Times

LOOPBACK: Final = "127.0.0.1"
_CGROUPS: Final = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)
START_TIME: Final = 180.0
"""Seconds within which a process must say where it listens, or have hashed what it shares."""
SETTLE: Final = 5.0
"""Seconds within which the resources that a crowd used must be free again."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of the scenarios: full as the cases say, or short. `minutes` is the length of the mixed
    one."""

    short: bool = False
    minutes: float = 60.0
    only: str = ""
    """`tracker` or `peer`: load only this one."""

    def pick(self, full: int, short: int) -> int:
        """The number for this size."""
        return short if self.short else full


@dataclass(slots=True)
class Target:
    """A process under load. `content` is what a peer shares."""

    what: str
    process: subprocess.Popen[str]
    port: int
    log: Path
    content: str = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def rss(self) -> float:
        """Its memory now, in MiB."""
        return memory_of(self.pid)[0]

    @property
    def peak(self) -> float:
        """Its largest memory so far, in MiB."""
        return memory_of(self.pid)[1]

    @property
    def cpu(self) -> float:
        """Processor seconds so far."""
        return cpu_of(self.pid)

    @property
    def descriptors(self) -> int:
        """The number of open descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def threads(self) -> int:
        """The number of threads."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    @property
    def log_bytes(self) -> int:
        """Bytes written to standard output and standard error."""
        return sum(path.stat().st_size for path in (self.log, self.log.with_suffix(".err")))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def limit(self, kind: int, soft: int) -> None:
        """Lower a resource limit of the process. The hard limit stays, so that it can be raised again."""
        resource.prlimit(self.pid, kind, (soft, resource.prlimit(self.pid, kind)[1]))

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Rig:
    """Starts targets in a lab. Leaving its `with` block ends them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._stack = contextlib.ExitStack()
        self._number = 0

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tracker(
        self, *, port: int = 0, store: str = "memory", before: Callable[[], None] | None = None
    ) -> Target:
        """A tracker on all addresses. `before` is called in the new process, before it becomes a tracker."""
        argv = [
            sys.executable,
            str(ROOT / "bin/tracker"),
            "--json",
            "--port",
            str(port),
            "--store",
            store,
            *self.lab.state,
        ]
        return self._start("tracker", argv, before)

    def peer(
        self, tracker: Target, path: Path, *more: str, before: Callable[[], None] | None = None
    ) -> Target:
        """A peer on all addresses that shares a file or a folder."""
        self._number += 1
        state = self.lab.work / f"state-{self._number}"
        argv = [
            *peer("share", str(path)),
            "--json",
            "--host",
            "0.0.0.0",
            "--tracker",
            f"{LOOPBACK}:{tracker.port}",
            "--state",
            str(state),
        ]
        target = self._start("peer", [*argv, *more], before)
        target.content = str(_event(target, "shared")["id"])
        return target

    def _start(self, what: str, argv: list[str], before: Callable[[], None] | None) -> Target:
        self._number += 1
        log = self.lab.work / f"{what}-{self._number}.out"
        with log.open("w") as out, log.with_suffix(".err").open("w") as err:
            process = self._stack.enter_context(
                running(argv, stdout=out, stderr=err, stdin=subprocess.DEVNULL, preexec_fn=before)
            )
        target = Target(what, process, 0, log)
        target.port = int(_event(target, "listening")["port"])
        return target


def _event(target: Target, name: str) -> dict[str, Any]:
    """Wait for an event in the output of a target. Raises `RuntimeError` when it ends or stays silent."""
    until = time.monotonic() + START_TIME
    while time.monotonic() < until and target.alive:
        for line in target.log.read_text().splitlines(keepends=True):
            found: dict[str, Any] = json.loads(line) if line.endswith("\n") else {}
            if found.get("event") == name:
                return found
        time.sleep(0.02)
    raise RuntimeError(
        f"no event {name!r} of the {target.what}: {target.log.with_suffix('.err').read_text()[-500:]}"
    )


class Healthy:
    """The times of the healthy client, known when the block of `healthy` has ended."""

    times: Times


@contextlib.asynccontextmanager
async def healthy(
    target: Target, rate: float = 100.0, *, fresh: bool = False, read: bool = False
) -> AsyncIterator[Healthy]:
    """Run a client in a process of its own while the block runs. It pings, or with `read` fetches blocks."""
    argv = [
        str(ROOT / "tests/load/probe.py"),
        LOOPBACK,
        str(target.port),
        str(rate),
        "fresh" if fresh else "kept",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv,
        *([target.content] if read else []),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 26,
    )
    found = Healthy()
    try:
        yield found
    finally:
        out, _ = await process.communicate(b"")
        said = json.loads(out or b'{"times": [], "failed": 1, "why": {"the probe died": 1}}')
        found.times = Times.of(said["times"], said["failed"], said["why"])


async def measured(
    target: Target, seconds: float, *, fresh: bool = False, read: bool = False, rate: float = 100.0
) -> Times:
    """The times of a healthy client that asks for `seconds`."""
    async with healthy(target, rate, fresh=fresh, read=read) as found:
        await asyncio.sleep(seconds)
    return found.times


async def within(true: Callable[[], object], seconds: float) -> float:
    """The seconds until a condition held; `seconds` if it never did."""
    began = time.monotonic()
    while not true() and time.monotonic() - began < seconds:  # noqa: ASYNC110 (another process makes it true)
        await asyncio.sleep(0.01)
    return min(time.monotonic() - began, seconds)


@contextlib.asynccontextmanager
async def watched(scenario: str, target: Target, **probe: bool) -> AsyncIterator[Outcome]:
    """An outcome with the checks of every scenario: the target's resources before and after, and a fresh
    ping."""
    await measured(target, 0.5, **probe)  # the first request makes what stays, before anything is counted
    outcome = Outcome(scenario, target.what)
    outcome.before = await measured(target, 1.5, **probe)
    outcome.idle_rss, descriptors, threads, said = (
        target.rss,
        target.descriptors,
        target.threads,
        target.log_bytes,
    )
    yield outcome
    outcome.peak_rss = target.peak
    outcome.notes["seconds until descriptors are back"] = await within(
        lambda: target.descriptors <= descriptors + 2, SETTLE
    )
    outcome.descriptors = (descriptors, target.descriptors)
    outcome.check("descriptors more than before", target.descriptors - descriptors, 2)
    outcome.notes["threads more than before"] = target.threads - threads
    outcome.notes["RSS more than before, MiB"] = target.rss - outcome.idle_rss
    outcome.log_bytes = target.log_bytes - said
    outcome.check("bytes of log", outcome.log_bytes, 1 << 20)
    outcome.check("tracebacks", target.log.with_suffix(".err").read_text().count("Traceback"), 0)
    fresh = await measured(target, 0.5, fresh=True)
    outcome.check("pings that fail afterwards", fresh.failed, 0)
    outcome.check("p50 of a fresh ping afterwards, ms", fresh.p50, 100)


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Raise the descriptor limit of this process and its children to the hard limit, and lower it again
    after."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def own_address() -> str | None:
    """An address of this machine other than loopback, if it has one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        host = str(sock.getsockname()[0])
        return None if host.startswith("127.") else host
    return None


@contextlib.contextmanager
def in_cgroup(target: Target, mib: int) -> Iterator[bool]:
    """Bound the memory of a process, page cache included, if this user may make a cgroup. Yields whether."""
    base = next(
        (
            one
            for one in _CGROUPS
            if (one[0] / one[1]).exists() or (one[0] / "cgroup.subtree_control").exists()
        ),
        None,
    )
    folder = base[0] / f"enjambre-{target.pid}" if base is not None else None
    bounded = False
    if base is not None and folder is not None:
        with contextlib.suppress(OSError):
            folder.mkdir()
            (folder / base[1]).write_text(str(mib << 20))
            (folder / "cgroup.procs").write_text(str(target.pid))
            bounded = True
    try:
        yield bounded
    finally:
        if base is not None and folder is not None and folder.exists():
            with contextlib.suppress(OSError):
                (base[0] / "cgroup.procs").write_text(str(target.pid))
            with contextlib.suppress(OSError):
                folder.rmdir()
