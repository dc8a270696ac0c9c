"""The time before anything happens: `--help`, and the download of a single byte."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import ROOT, Lab, timed

HELP, BARE = "bin/peer --help", "python3 -c 'import asyncio, json, argparse'"
BYTE, BOUND = "enjambre download of one byte", "0.3 s"


def measure(lab: Lab, _say: Callable[[str], None]) -> Iterator[Figure]:
    """Four times as many rounds as asked for, because each is short."""
    rounds = 4 * lab.runs
    help_, bare = (
        [sys.executable, str(ROOT / "bin/peer"), "--help"],
        [sys.executable, "-c", "import asyncio, json, argparse"],
    )
    samples = alternate(rounds, {HELP: lambda: timed(help_).seconds, BARE: lambda: timed(bare).seconds})
    yield Figure("Asking for help, whole process", "s", samples, HELP, (Yardstick(BARE, most=1.5, aim=1.2),))

    path = lab.folder("src") / "byte"
    path.write_bytes(b"1")
    tracker, _ = lab.tracker()
    content, _ = lab.seed(tracker, path)
    argv = lab.download(tracker, content, lab.work / "out")

    def once() -> float:
        lab.folder("out")
        return timed(argv).seconds

    samples = alternate(rounds, {BYTE: once, BOUND: lambda: 0.3})
    note = "The whole command, from its start to its end: an upper bound of the time to the first byte."
    yield Figure(
        "From `download` to the first byte", "s", samples, BYTE, (Yardstick(BOUND, most=1.0),), (note,)
    )
