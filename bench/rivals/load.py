"""Build and run the load generator and its sink, write its plans, and run `wrk` against an HTTP tracker."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.lib.lab import ROOT, Lab, free_port, pinned
from bench.rivals.tools import program

CONNECTIONS: Final = 16
SECONDS: Final = 2.0
TRACKER_CPU, LOAD_CPU = 0, 1

_WRK: Final = """
local number = 0
local path = "/announce?info_hash=INFO_HASH&peer_id=%020d&port=%d&left=0&compact=1&numwant=30"
request = function()
  number = number + 1
  return wrk.format("GET", string.format(path, number, 1024 + number % 60000))
end
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """The result of a run: answers a second, and the 50th and 99th percentile of their latency in seconds."""

    rate: float
    p50: float
    p99: float


class Generator:
    """The generator, compiled into a lab. Raises `Missing` without a C compiler."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._binary = str(lab.work / "load")
        source = str(ROOT / "bench/rivals/load.c")
        subprocess.run([program("cc"), "-O2", "-Wall", "-Wextra", "-o", self._binary, source], check=True)

    def run(self, port: int, plan: Path, window: int = 1, seconds: float = SECONDS) -> Rate:
        """Load a server by a plan, with `window` open requests on each connection. Raises `RuntimeError` if
        one was refused."""
        argv = [self._binary, "127.0.0.1", str(port), str(window), str(seconds), str(plan)]
        done = subprocess.run(pinned(argv, LOAD_CPU), capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        if found["refused"]:
            raise RuntimeError(
                f"{plan.name}: {found['refused']} requests were refused; {done.stderr.strip()}"
            )
        return Rate(found["requests"] / found["seconds"], found["p50"], found["p99"])

    def sink(self) -> int:
        """Start a server that only counts lines and answers each. Returns its port."""
        port = free_port()
        self._lab.start(pinned([self._binary, "sink", str(port)], TRACKER_CPU))
        self._lab.wait_for_port(port)
        return port


def write_plan(path: Path, blocks: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> Path:
    """Write a plan: for each connection its first request, and the requests that it repeats."""
    with path.open("w") as file:
        for first, asked in blocks:
            file.write(f"!{_line(first)}")
            file.writelines(map(_line, asked))
            file.write("\n")
    return path


def _line(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":")) + "\n"


def wrk(lab: Lab, port: int, info_hash: bytes, seconds: float = SECONDS) -> Rate:
    """Announce to an HTTP tracker, one connection a request, as BitTorrent clients do. Raises `Missing`."""
    script = lab.work / "announce.lua"
    script.write_text(_WRK.replace("INFO_HASH", "".join(f"%%{byte:02x}" for byte in info_hash)))
    argv = [
        program("wrk"),
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds:g}s",
        "--latency",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}/",
    ]
    said = subprocess.run(pinned(argv, LOAD_CPU), capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if rate is None or "Non-2xx" in said:
        raise RuntimeError(f"wrk said: {said[-500:]}")
    return Rate(float(rate[1]), _seconds(said, "50"), _seconds(said, "99"))


def _seconds(said: str, percent: str) -> float:
    found = re.search(rf"\s{percent}%\s+([\d.]+)(us|ms|s)", said)
    if found is None:
        raise RuntimeError(f"wrk said nothing of {percent}%: {said[-500:]}")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]
