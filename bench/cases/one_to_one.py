"""One file from one process to another over loopback, against nginx and curl, libtorrent, aria2 and the
floor.

Each figure is the wall time of the whole receiving command.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import ROOT, Lab, cpu_of, event, timed
from bench.rivals import servers
from bench.rivals.tools import Missing, program

OURS, SHA256 = "enjambre, verified", "enjambre, --hash sha256"
FLOOR = "floor: two blocking threads"
CURL, CAREFUL, TORRENT, ARIA = "nginx -> curl, unverified", "nginx -> curl, then b2sum", "libtorrent", "aria2"
_SKETCH = str(ROOT / "bench/rivals/sketch.py")


def measure(lab: Lab, say: Callable[[str], None]) -> Iterator[Figure]:
    """Wall time against all, and processor time against the floor."""
    path = lab.random_file(lab.folder("www") / "data.bin", lab.size)
    out = lab.work / "out"
    wall: dict[str, Callable[[], float]] = {}
    tracker, _ = lab.tracker()
    content, pid = lab.seed(tracker, path)
    other, _ = lab.seed(tracker, path, "--hash", "sha256", "--name", "sha256")
    floor = lab.start([sys.executable, _SKETCH, "seed", str(path)])
    ours, least = (
        lab.download(tracker, content, out),
        [sys.executable, _SKETCH, "leech", str(out / "data.bin")],
    )
    least.append(str(event(floor, "listening")["port"]))

    def both(argv: list[str], sender: int) -> float:
        fresh()
        before = cpu_of(sender)
        return timed(argv).cpu + cpu_of(sender) - before

    def fresh() -> None:
        lab.folder("out")
        lab.warm(2 * lab.size)

    def plain(*commands: list[str]) -> float:
        fresh()
        return sum(timed(argv).seconds for argv in commands)

    wall[OURS] = lambda: plain(ours)
    wall[FLOOR] = lambda: plain(least)
    wall[SHA256] = lambda: plain(lab.download(tracker, other, out))
    with _or_say(say):
        url = servers.nginx(lab, path.parent)
        curl = [program("curl"), "-s", "-o", str(out / path.name), f"{url}/{path.name}"]
        b2sum = [program("b2sum"), "-l", "256", str(out / path.name)]
        wall[CURL] = lambda: plain(curl)
        wall[CAREFUL] = lambda: plain(curl, b2sum)
    with _or_say(say):
        leech = servers.libtorrent(lab, path, out)
        wall[TORRENT] = lambda: plain(leech)
    with _or_say(say):
        aria = servers.aria2(lab, path, out)
        wall[ARIA] = lambda: plain(aria)
    seconds = alternate(lab.runs, wall)
    title = f"{lab.size} MiB, one sender, one receiver"
    yield Figure(
        title,
        "s",
        seconds,
        OURS,
        (Yardstick(CURL, most=2.0, aim=1.3), Yardstick(TORRENT, most=1 / 3, aim=1 / 4)),
        (lab.place,),
    )
    # These two alone, because the run before affects a run.
    used = alternate(2 * lab.runs, {OURS: lambda: both(ours, pid), FLOOR: lambda: both(least, floor.pid)})
    yield Figure(f"{title}: processor time of both", "s", used, OURS, (Yardstick(FLOOR, most=1.3),))


@contextlib.contextmanager
def _or_say(say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except Missing as missing:
        say(str(missing))
