"""Several hosts on one machine: network namespaces joined by a bridge, each behind a link of its own.

A link can be shaped or cut.

    with lab(3, rate="20mbit") as net:
        server = net.popen(net.hosts[0], [sys.executable, "bin/tracker"], stdout=subprocess.PIPE)
        net.link(net.hosts[2], up=False)    # like a pulled cable: no FIN, no RST

Linux and root only; `why_not()` says what is missing. The bridge is in a namespace of its own, so a lab does
not touch the machine's network, and its hosts reach only each other. Leaving the block kills the processes
and removes everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

PREFIX: Final = "enjambre"
NETNS_FOLDER: Final = Path("/run/netns")
NETWORK: Final = "10.77.0"
"""The first three parts of every host's address. Labs are closed, so they may use the same addresses."""

MAX_HOSTS: Final = 250


def why_not() -> str:
    """The reason why no lab can be made here, or an empty string."""
    if not sys.platform.startswith("linux"):
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc are missing (package iproute2)"
    return ""


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a lab: its namespace, its IPv4 address, and its port on the bridge."""

    namespace: str
    address: str
    port: str


@dataclass(slots=True)
class Lab:
    """The hosts of one lab, and the processes started in them."""

    switch: str
    hosts: tuple[Host, ...]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def popen(
        self,
        host: Host,
        argv: Sequence[str | Path],
        *,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` inside `host`. The process returned is the command itself, so it can be signalled. The
        lab's end kills it."""
        command = ["ip", "netns", "exec", host.namespace, *(str(word) for word in argv)]
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, stdin=stdin, cwd=cwd, env=env)
        self.processes.append(process)
        return process

    def run(
        self, host: Host, argv: Sequence[str | Path], *, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` inside `host` to its end, for at most `timeout` seconds."""
        command = ["ip", "netns", "exec", host.namespace, *(str(word) for word in argv)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False
        )

    def link(self, host: Host, *, up: bool) -> None:
        """Cut the link of `host` at the bridge, or join it again. A cut link drops packets silently."""
        _ip("-n", self.switch, "link", "set", host.port, "up" if up else "down")

    def shape(self, host: Host, rate: str, burst: str = "32kb") -> None:
        """Limit the link of `host` to `rate` (`20mbit`, as `tc` writes it) each way, in bursts of `burst`."""
        for namespace, device in ((host.namespace, "eth0"), (self.switch, host.port)):
            limits = ["rate", rate, "burst", burst, "latency", "100ms"]
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", *limits)


@contextmanager
def lab(count: int, *, rate: str | None = None) -> Iterator[Lab]:
    """Make `count` hosts on one bridge, their links shaped to `rate` if given, and remove them at the end.

    Raises `ValueError` for an impossible count, and `RuntimeError` with the tool's message when a namespace
    cannot be made.
    """
    if not 1 <= count <= MAX_HOSTS:
        raise ValueError(f"a lab has 1 to {MAX_HOSTS} hosts, not {count}")
    _sweep()
    stem = f"{PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    hosts = tuple(
        Host(f"{stem}-h{index}", f"{NETWORK}.{index + 1}", f"port{index}") for index in range(count)
    )
    net = Lab(f"{stem}-switch", hosts)
    try:
        _build(net)
        for host in hosts:
            if rate is not None:
                net.shape(host, rate)
        yield net
    finally:
        _kill(net.processes)
        for name in (*(host.namespace for host in hosts), net.switch):
            if (NETNS_FOLDER / name).exists():
                _ip("netns", "del", name)


def _build(net: Lab) -> None:
    _ip("netns", "add", net.switch)
    _ip("-n", net.switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", net.switch, "link", "set", "bridge", "up")
    for host in net.hosts:
        name = host.namespace
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", host.port, "netns", net.switch)
        _ip("-n", net.switch, "link", "set", host.port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait(timeout=10)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _sweep() -> None:
    """Remove the labs of processes that were killed. A lab's name has the pid of its process."""
    if not NETNS_FOLDER.is_dir():
        return
    for path in NETNS_FOLDER.glob(f"{PREFIX}-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
