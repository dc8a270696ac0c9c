"""How well `--limit` and `--limit-up` hold: the rate over eleven seconds, against the rate asked for.

The rate is the size over the command's time, minus the time of the same command for one byte, which is its
start and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import Lab, timed

SECONDS = 11
RATES = (2, 50)
"""MiB a second."""


def measure(lab: Lab, _say: Callable[[str], None]) -> Iterator[Figure]:
    """Each rate, at the receiver and at the sender, in at most three rounds."""
    byte = lab.folder("src") / "byte"
    byte.write_bytes(b"1")
    tracker, _ = lab.tracker()
    small, _ = lab.seed(tracker, byte)
    runs = min(lab.runs, 3)
    for rate in RATES:
        path = lab.random_file(lab.work / f"src/{rate}.bin", rate * SECONDS)
        free, _ = lab.tracker()
        content, _ = lab.seed(free, path)
        held, _ = lab.tracker()
        lab.seed(held, path, "--limit-up", f"{rate}M")
        down = lab.download(free, content, lab.work / "out", "--limit", f"{rate}M")
        up = lab.download(held, content, lab.work / "out")
        start = lab.download(tracker, small, lab.work / "out")

        def once(argv: list[str], rate: int = rate, start: list[str] = start) -> float:
            lab.folder("out")
            nothing = timed(start).seconds
            lab.folder("out")
            return rate * SECONDS / (timed(argv).seconds - nothing)

        asked = f"asked for {rate} MiB/s"
        for name, argv in (("--limit of who receives", down), ("--limit-up of who sends", up)):
            samples = alternate(runs, {name: partial(once, argv), asked: partial(float, rate)})
            sticks = (Yardstick(asked, most=1.05, least=0.95),)
            yield Figure(f"{name}: {rate} MiB/s for {SECONDS} s", "MiB/s", samples, name, sticks)
