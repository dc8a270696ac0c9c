"""Commands that are killed at a chosen call that touches the disk.

with share(tmp_path, path) as swarm:
    words = swarm.words("image.bin", out)
    swarm.launch(words, out, log)                      # undisturbed: logs every call
    swarm.launch(words, out, log2, points_of(log)[3])  # killed at one of them
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2p.peer.fetcher import SPARE_BUFFERS
from p2p.swarm.peer_stats import Policy
from tests.kit.effort import times
from tests.kit.processes import Ended, Running, clean_environment, command, run, start_peer, start_tracker

LAUNCHER: Final = Path(__file__).with_name("crash_launcher.py")
BLOCK: Final = 64 << 10


def window(limit: int = 0) -> int:
    """The most blocks of 64 KiB that one kill may lose.

    Those under way are bounded by `Policy.buffer_bytes`, or with a rate limit by two seconds of it. Those
    that are being hashed and written are `SPARE_BUFFERS`.
    """
    memory = min(Policy().buffer_bytes, 2 * limit) if limit else Policy().buffer_bytes
    return min(memory // BLOCK, 256) + SPARE_BUFFERS


Tree = dict[str, bytes | None]


@dataclass(frozen=True)
class Point:
    """A call at which a command is killed."""

    kind: str
    nth: int
    when: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.nth}:{self.when}"


def points_of(log: Path) -> list[Point]:
    """Every point of the run that wrote this log."""
    counts = Counter(row["kind"] for row in rows_of(log) if "kind" in row)
    found = [
        Point(kind, nth, when)
        for kind, count in counts.items()
        for nth in range(1, count + 1)
        for when in ("before", "after")
    ]
    return found + [
        Point(kind, nth, "torn") for kind in ("write", "pwrite") for nth in range(1, counts[kind] + 1)
    ]


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The lines of a launcher's log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def chosen(points: Sequence[Point], most: int, rng: random.Random) -> list[Point]:
    """`most` random points, times `P2P_TEST_EXAMPLES`: one of each kind, then the rare kinds, then others."""
    shuffled = rng.sample(points, len(points))
    first = list({point.kind: point for point in shuffled}.values())
    rest = [point for point in shuffled if point not in first]
    rest.sort(key=lambda point: point.kind in ("pwrite", "open", "write"))
    return (first + rest)[: times(most)]


def tree_of(path: Path) -> Tree | None:
    """What is at a path: each file with its bytes, each folder with None; None if there is nothing."""
    if not os.path.lexists(path):
        return None
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        one.relative_to(path).as_posix(): one.read_bytes() if one.is_file() else None
        for one in sorted(path.rglob("*"))
    }


def pieces_asked(trace: Path) -> list[int]:
    """The pieces that a traced download requested, in order, without a line that the kill cut."""
    found = []
    for line in trace.read_text().splitlines() if trace.exists() else ():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event["event"] == "sent" and event.get("message", {}).get("op") == "read":
                found.append(event["message"]["piece"])
    return found


@dataclass(frozen=True)
class Swarm:
    """A tracker and a seed, and how to fetch from it."""

    folder: Path
    tracker: Running
    seed: Running
    ids: dict[str, str]

    def words(self, name: str, out: Path, *more: str) -> list[str]:
        """The arguments of a download."""
        place = ["--tracker", self.tracker.address, "--host", "127.0.0.1", "--port", "0", "--name", "leech"]
        return ["peer", "download", "--json", *place, self.ids[name], "-o", str(out), *more]

    def launch(
        self, words: Sequence[str], under: Path, log: Path, at: Point | None = None, save: Path | None = None
    ) -> Ended:
        """Run a command under the launcher, to its end or its death."""
        return run(launched(words), self.environment(under, log, at, save))

    def environment(
        self, under: Path, log: Path, at: Point | None = None, save: Path | None = None
    ) -> dict[str, str]:
        """The environment of a launched command."""
        return crash_environment(self.folder / "state-leech", under, log, at, save)

    def plain(self, words: Sequence[str]) -> Ended:
        """Run a command as a user does."""
        return run([*command(words[0]), *words[1:]], clean_environment(self.folder / "state-leech"))


def launched(words: Sequence[str]) -> list[str]:
    """The command line that runs `words` (`peer` or `tracker` first) under the launcher."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), *words]


def crash_environment(
    state: Path, under: Path, log: Path, at: Point | None = None, save: Path | None = None
) -> dict[str, str]:
    """The variables that tell the launcher where to die."""
    more = {
        "CRASH_UNDER": str(under),
        "CRASH_LOG": str(log),
        "CRASH_AT": str(at or ""),
        "CRASH_SAVE": str(save or ""),
    }
    return clean_environment(state, more)


@contextlib.contextmanager
def share(folder: Path, *paths: Path) -> Iterator[Swarm]:
    """A swarm of one seed that shares `paths`."""
    with (
        start_tracker(folder) as tracker,
        start_peer(folder, "share", *map(str, paths), tracker=tracker.address, name="origin") as seed,
    ):
        ids = {}
        for _ in paths:
            shared = seed.event("shared")
            ids[shared["name"]] = shared["id"]
        yield Swarm(folder, tracker, seed, ids)


def killed(ended: Ended) -> bool:
    """Whether a command died by SIGKILL."""
    return ended.code == -signal.SIGKILL
