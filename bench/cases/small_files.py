"""A folder of many small files from one process to another, against an rsync daemon.

Both are the wall time of the whole receiving command. rsync compares sizes and times and copies; ours
verifies every byte by a hash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import Lab, timed
from bench.rivals import servers
from bench.rivals.tools import Missing, program

OURS, RSYNC = "enjambre, verified", "rsync daemon"
FILES = 10_000
KIB = 1024


def measure(lab: Lab, say: Callable[[str], None]) -> Iterator[Figure]:
    """10,000 files of 4 KiB, a hundred in each of a hundred folders."""
    tree = lab.folder("tree")
    for number in range(FILES):
        place = tree / f"{number // 100:03}"
        place.mkdir(exist_ok=True)
        (place / f"{number:05}.bin").write_bytes(os.urandom(4 * KIB))
    out = lab.work / "out"
    tracker, _ = lab.tracker()
    content, _ = lab.seed(tracker, tree)

    def run(argv: list[str]) -> Callable[[], float]:
        def once() -> float:
            lab.folder("out")
            return timed(argv).seconds

        return once

    contenders = {OURS: run(lab.download(tracker, content, out))}
    sticks = []
    try:
        contenders[RSYNC] = run([program("rsync"), "-a", servers.rsync(lab, tree), str(out / "tree")])
        sticks.append(Yardstick(RSYNC, most=1.0, aim=0.5))
    except Missing as missing:
        say(str(missing))
    samples = alternate(lab.runs, contenders)
    yield Figure(f"{FILES:,} files of 4 KiB", "s", samples, OURS, tuple(sticks), (lab.place,))
