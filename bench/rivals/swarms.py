"""The engines of `bench/run.py swarm`: how each is started on the hosts of a lab, and how its output is
read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.lib.lab import MIB, ROOT, Lab
from bench.lib.netns import Host
from bench.lib.netns import Lab as Net
from bench.rivals.servers import torrent
from bench.rivals.tools import program, python_with

Argv = list[str | Path]
PORT: Final = 6969
PIECE_LENGTH: Final = 128 * 1024
"""Of the torrents: what libtorrent chooses by itself for 64 and 128 MiB."""
_LIBTORRENT: Final = str(ROOT / "bench/rivals/libtorrent_swarm.py")
_ARIA_PROGRESS: Final = re.compile(r"\[#\w+ ([\d.]+)([KMG]?)i?B/")


@dataclass(frozen=True, slots=True)
class Step:
    """The progress that a receiver printed: bytes that it has, and at the end the seconds since it began to
    fetch (None: since its start)."""

    done: int
    ended: bool = False
    seconds: float | None = None
    origin: int | None = None
    """Bytes that came from the origin, if the receiver knows."""


class Contender(ABC):
    """One engine that brings the file `path` from the origin to the receivers."""

    def __init__(self, lab: Lab, net: Net, path: Path) -> None:
        self.lab, self.net, self.path = lab, net, path
        self.size = path.stat().st_size

    @abstractmethod
    def publish(self, tracker: Host, origin: Host) -> None:
        """Start the tracker and the origin, and return when both are ready."""

    @abstractmethod
    def receive(self, host: Host, number: int, out: Path) -> subprocess.Popen[bytes]:
        """Start a receiver, which stays and serves when it is done."""

    @staticmethod
    @abstractmethod
    def step(line: str, size: int) -> Step | None:
        """The progress in a line that a receiver printed, if it has any. `size` is that of the file."""


class Enjambre(Contender):
    """Ours."""

    def publish(self, tracker: Host, origin: Host) -> None:
        state = str(self.lab.work / "state")
        argv: Argv = [
            sys.executable,
            ROOT / "bin/tracker",
            "--json",
            "--port",
            str(PORT),
            "--store",
            "memory",
            "--state",
            state,
        ]
        _event(self.net.popen(tracker, argv, stdout=subprocess.PIPE), "listening")
        self._tracker = f"{tracker.address}:{PORT}"
        argv = [sys.executable, ROOT / "bin/peer", "share", self.path, "--json", "--name", "origin"]
        argv += ["--tracker", self._tracker, "--state", state]
        sharing = self.net.popen(origin, argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._content = _event(sharing, "shared")["id"]

    def receive(self, host: Host, number: int, out: Path) -> subprocess.Popen[bytes]:
        argv: Argv = [
            sys.executable,
            ROOT / "bin/peer",
            "download",
            str(self._content),
            "--json",
            "--seed",
            "-o",
            out,
            "--name",
            f"peer{number}",
        ]
        argv += ["--tracker", self._tracker, "--state", out / "state"]
        return self.net.popen(host, argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    @staticmethod
    def step(line: str, _size: int) -> Step | None:
        said = json.loads(line)
        if said["event"] == "progress":
            return Step(said["bytes"])
        if said["event"] == "done":
            return Step(said["size"], True, said["seconds"], said["bytes_from"].get("origin", 0))
        return None


class Libtorrent(Contender):
    """libtorrent with its default settings, without DHT and local discovery."""

    mode = "default"

    def publish(self, tracker: Host, origin: Host) -> None:
        self._python = python_with("libtorrent")
        self._torrent = _opentracker(self.lab, self.net, tracker, self.path)
        argv: Argv = [
            self._python,
            _LIBTORRENT,
            "seed",
            self.path.parent,
            self._torrent,
            self.mode,
            origin.address,
        ]
        _event(self.net.popen(origin, argv, stdout=subprocess.PIPE), "listening")

    def receive(self, host: Host, number: int, out: Path) -> subprocess.Popen[bytes]:
        argv: Argv = [self._python, _LIBTORRENT, "leech", out, self._torrent, self.mode, host.address]
        return self.net.popen(host, argv, stdout=subprocess.PIPE)

    @staticmethod
    def step(line: str, _size: int) -> Step | None:
        said = json.loads(line)
        return Step(said["bytes"], said["event"] == "done", said.get("seconds"))


class SuperSeeding(Libtorrent):
    """libtorrent with a super-seeding origin."""

    mode = "super"


class Aria2(Contender):
    """aria2 with opentracker. It prints its progress once a second, so its times may be a second too long."""

    def publish(self, tracker: Host, origin: Host) -> None:
        self._torrent = _opentracker(self.lab, self.net, tracker, self.path)
        argv: Argv = [*self._common(self.path.parent), "--bt-seed-unverified=true", self._torrent]
        self.net.popen(origin, argv, stdout=subprocess.DEVNULL)

    def receive(self, host: Host, number: int, out: Path) -> subprocess.Popen[bytes]:
        return self.net.popen(
            host, [*self._common(out), self._torrent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    @staticmethod
    def step(line: str, size: int) -> Step | None:
        if "Download complete" in line or " SEED(" in line:  # which of the two depends on what it does next
            return Step(size, True)
        found = _ARIA_PROGRESS.search(line)
        if found is None:
            return None
        return Step(int(float(found[1]) * {"": 1, "K": 1024, "M": MIB, "G": 1024 * MIB}[found[2]]))

    def _common(self, folder: Path) -> list[str | Path]:
        quiet = [
            "--enable-dht=false",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--no-conf=true",
            "--async-dns=false",
        ]
        return [
            program("aria2c"),
            *quiet,
            "--file-allocation=none",
            "--summary-interval=1",
            "--seed-ratio=0",
            f"--dir={folder}",
        ]


CONTENDERS: Final[dict[str, type[Contender]]] = {
    "enjambre": Enjambre,
    "libtorrent, super-seeding": SuperSeeding,
    "libtorrent, default settings": Libtorrent,
    "aria2 with opentracker": Aria2,
}


def _event(process: subprocess.Popen[bytes], name: str) -> dict[str, object]:
    """The next event of that name. Raises `RuntimeError` when the process ends without it."""
    for line in process.stdout or ():
        found: dict[str, object] = json.loads(line)
        if found["event"] == name:
            return found
    raise RuntimeError(f"no event {name!r} came")


def _opentracker(lab: Lab, net: Net, host: Host, path: Path) -> Path:
    """Start an opentracker that knows the file's torrent; returns the torrent. Raises `Missing`."""
    made, info_hash = torrent(lab, path, f"http://{host.address}:{PORT}/announce", PIECE_LENGTH)
    work = lab.folder("opentracker")
    (work / "white").write_text(info_hash.hex() + "\n")
    (work / "conf").write_text(f"listen.tcp_udp {host.address}:{PORT}\naccess.whitelist {work}/white\n")
    lab.work.chmod(0o755)  # opentracker drops root for nobody
    argv: Argv = [program("opentracker"), "-f", work / "conf"]
    net.popen(host, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return made
