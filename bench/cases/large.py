"""Large contents: memory of both peers for 10 GiB and 1 GiB, and pauses of the event loop for 100 GiB.

Files are sparse where they are read and not where they are written, so 11 GiB must be free.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.lib.figures import Figure, Yardstick
from bench.lib.lab import ROOT, Lab, event, memory_of, timed

GIB = 1 << 30
SMALL, LARGE, HUGE = 1, 10, 100
"""GiB."""


def measure(lab: Lab, say: Callable[[str], None]) -> Iterator[Figure]:
    """One run for the memory, which hardly varies, and two for the pauses."""
    if shutil.disk_usage(lab.work).free > 1.1 * LARGE * GIB:
        yield from memory(lab)
    else:
        say(
            f"memory for {LARGE} GiB is not measured: {lab.work} has less than {1.1 * LARGE:.0f} GiB free; "
            "--folder names another place"
        )
    tracker, _ = lab.tracker()
    path = sparse(lab.folder("src") / "huge.img", HUGE)
    argv = [sys.executable, str(ROOT / "bench/lib/pauses.py"), tracker, str(lab.work / "state")]
    pauses: dict[str, list[float]] = {"share": [], "manifest": []}
    sizes = ""
    for _ in range(min(lab.runs, 2)):
        process = lab.start([*argv, "share", str(path)])
        shared = event(process, "shared")
        found = event(lab.start([*argv, "manifest", str(shared["id"])]), "manifest")
        pauses["share"].append(1000 * shared["pause"])
        pauses["manifest"].append(1000 * found["pause"])
        sizes = f"The manifest has {found['bytes']:,} bytes."
        process.terminate()
        process.wait()
    samples = {
        "while sharing": pauses["share"],
        "while the manifest comes": pauses["manifest"],
        "100 ms": [100.0] * len(pauses["share"]),
    }
    for ours in ("while sharing", "while the manifest comes"):
        one = {ours: samples[ours], "100 ms": samples["100 ms"]}
        yield Figure(
            f"{HUGE} GiB: longest pause of the event loop {ours}",
            "ms",
            one,
            ours,
            (Yardstick("100 ms", most=1.0),),
            (sizes,),
        )


def memory(lab: Lab) -> Iterator[Figure]:
    """Largest resident memory of receiver and sender."""
    got: dict[str, list[float]] = {}
    for gib in (LARGE, SMALL):
        tracker, _ = lab.tracker()
        content, pid = lab.seed(tracker, sparse(lab.folder("src") / f"{gib}.img", gib))
        got[f"enjambre download, {gib} GiB"] = [
            timed(lab.download(tracker, content, lab.folder("out"))).memory
        ]
        got[f"enjambre share, {gib} GiB"] = [memory_of(pid)[1]]
        lab.folder("out")
    large, small, bound = f"enjambre download, {LARGE} GiB", f"enjambre download, {SMALL} GiB", "120 MiB"
    sticks = (Yardstick(bound, most=1.0, aim=80 / 120), Yardstick(small, most=1 + 10 / got[small][0]))
    yield Figure("Largest resident memory", "MiB", {**got, bound: [120.0]}, large, sticks, (lab.place,))


def sparse(path: Path, gib: int) -> Path:
    """A file of `gib` GiB that is one hole."""
    with path.open("wb") as file:
        file.truncate(gib * GIB)
    return path
