"""Many peers on one machine: one seed to eight leeches, and eight seeds to one leech, beside one to one.

Throughput is all bytes received over the time from the first command's start to the last one's end.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from functools import partial

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import Lab, timed

ONE, OUT, IN = "one seed to one leech", "one seed to 8 leeches", "8 seeds to one leech"
PEERS = 8


def measure(lab: Lab, _say: Callable[[str], None]) -> Iterator[Figure]:
    """Aggregate throughput of each arrangement. Eight leeches need nine times the size in memory."""
    path = lab.random_file(lab.folder("src") / "data.bin", lab.size)
    alone, _ = lab.tracker()
    content, _ = lab.seed(alone, path)
    crowded, _ = lab.tracker()
    for number in range(PEERS):
        lab.seed(crowded, path, "--name", f"seed-{number}")

    def rate(tracker: str, leeches: int) -> float:
        outs = [lab.folder(f"out/{number}") for number in range(leeches)]
        lab.warm((leeches + 1) * lab.size)
        commands = [lab.download(tracker, content, out) for out in outs]
        with concurrent.futures.ThreadPoolExecutor(leeches) as pool:
            seconds = max(used.seconds for used in pool.map(timed, commands))
        lab.folder("out")
        return leeches * lab.size / seconds

    for name, tracker, leeches in ((OUT, alone, PEERS), (IN, crowded, 1)):
        contenders = {name: partial(rate, tracker, leeches), ONE: partial(rate, alone, 1)}
        samples = alternate(lab.runs, contenders)
        yield Figure(
            f"{name}, {lab.size} MiB each, all together",
            "MiB/s",
            samples,
            name,
            (Yardstick(ONE, least=0.9),),
            (lab.place,),
        )
