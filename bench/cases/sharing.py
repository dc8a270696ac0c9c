"""The time to share a file, first with hashing and then without, against `b2sum` of the same file.

Ours is the wall time from the command's start to its event that the file is shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import Lab, event, peer, running, timed
from bench.rivals.tools import program

FIRST, AGAIN, B2SUM = "enjambre share --rehash", "enjambre share, unchanged", "b2sum -l 256"
SHA256, SHA256SUM = "enjambre share --rehash --hash sha256", "sha256sum"
TREE = 10_000


def measure(lab: Lab, _say: Callable[[str], None]) -> Iterator[Figure]:
    """One large file, and then a folder of many small ones. Raises `Missing` without `b2sum`."""
    tracker, _ = lab.tracker()
    path = lab.random_file(lab.folder("src") / "data.bin", lab.size)
    b2sum = [program("b2sum"), "-l", "256"]

    def share(path: Path, *more: str) -> Callable[[], float]:
        argv = [*peer("share", str(path)), "--json", "--tracker", tracker, *lab.state, *more]

        def once() -> float:
            began = time.perf_counter()
            with running(argv) as process:
                event(process, "shared")
                return time.perf_counter() - began

        return once

    contenders = {
        FIRST: share(path, "--rehash"),
        AGAIN: share(path),
        B2SUM: lambda: timed([*b2sum, str(path)]).seconds,
        SHA256: share(path, "--rehash", "--hash", "sha256"),
        SHA256SUM: lambda: timed([program("sha256sum"), str(path)]).seconds,
    }
    sticks = (Yardstick(B2SUM, most=0.65, aim=0.55),)
    yield Figure(f"Sharing {lab.size} MiB", "s", alternate(lab.runs, contenders), FIRST, sticks, (lab.place,))

    folder = lab.folder("tree")
    for number in range(TREE):
        lab.random_file(folder / f"{number:05}", 0).write_bytes(number.to_bytes(4, "big") * 1024)
    samples = alternate(lab.runs, {AGAIN: share(folder), FIRST: share(folder, "--rehash")})
    yield Figure(f"Sharing a folder of {TREE:,} files of 4 KiB", "s", samples, AGAIN)
