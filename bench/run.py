"""Run benchmarks beside the comparators that are installed, and write what was measured.

    python3 bench/run.py                      all of them
    python3 bench/run.py one-to-one startup   these
    python3 bench/run.py --list               the benchmarks, the comparators found, and how to get the others
    python3 bench/run.py swarm --help         one to many behind shaped links, which has options of its own

Each figure is a table: the median, minimum and maximum of alternating runs, and the ratio to each comparator.
It is printed, and written as JSON into a folder, from which `bench/lib/page.py` makes docs/performance.md.
Nothing is installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.lib.lab import Lab, machine, size  # noqa: E402 (a script is started from anywhere)
from bench.rivals.tools import Missing, survey  # noqa: E402

BENCHMARKS: Final = {
    "one-to-one": (
        "bench.cases.one_to_one",
        "1 GiB from one peer to another, against nginx and curl, libtorrent, aria2 and a floor",
    ),
    "transports": ("bench.cases.transports", "the same over TCP and gRPC, against raw grpcio streaming"),
    "many": (
        "bench.cases.many",
        "one seed to eight leeches, and eight seeds to one leech, against one to one",
    ),
    "sharing": ("bench.cases.sharing", "hashing 1 GiB, against b2sum; sharing it again"),
    "small-files": ("bench.cases.small_files", "10,000 files of 4 KiB, against an rsync daemon"),
    "large": (
        "bench.cases.large",
        "memory for 10 GiB and 1 GiB; the event loop while 100 GiB are shared and their manifest is parsed",
    ),
    "tracker": (
        "bench.cases.tracker",
        "announces, lookups and searches a second, against opentracker; latency; memory of an entry",
    ),
    "startup": (
        "bench.cases.startup",
        "the time of --help, against a bare interpreter; from `download` to the first byte",
    ),
    "limits": ("bench.cases.limits", "how well --limit and --limit-up hold"),
}
"""Name, module and what it measures. A module has `measure(lab, say)`, which yields figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks asked for. Returns 1 when one could not run at all."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["swarm"]:
        return int(importlib.import_module("bench.cases.swarm").main(words[1:]))
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description="measure Enjambre beside others on this machine"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument(
        "--runs", type=int, default=5, help="rounds that count (default 5; one more goes first)"
    )
    parser.add_argument(
        "--size", type=size, default=1024, metavar="SIZE", help="what is sent, as 256M or 1G (default 1G)"
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where the files are (default: in memory, if the system has such a folder)",
    )
    parser.add_argument(
        "--out",
        default=str(ROOT / "bench/results"),
        metavar="DIR",
        help="where the JSON goes (default bench/results)",
    )
    parser.add_argument(
        "--list", action="store_true", help="list benchmarks and comparators, and run nothing"
    )
    args = parser.parse_args(words)
    if args.list:
        print("\n".join([*(f"{name:12} {what}" for name, (_, what) in BENCHMARKS.items()), "", *survey()]))
        return 0
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown or args.runs < 1:
        parser.error(
            f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}"
            if unknown
            else "--runs must be at least 1"
        )
    failed = [name for name in args.names or BENCHMARKS if not run(name, args)]
    return 1 if failed else 0


def run(name: str, args: argparse.Namespace) -> bool:
    """Run one benchmark, and print and write its figures. Returns whether it could run."""
    print(f"== {name}: {BENCHMARKS[name][1]}", flush=True)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        print(text, file=sys.stderr, flush=True)

    figures = []
    try:
        with Lab.open(args.folder, args.runs, args.size) as lab:
            for figure in importlib.import_module(BENCHMARKS[name][0]).measure(lab, say):
                figures.append(figure)
                print(f"\n{figure.text()}", flush=True)
    except (Missing, RuntimeError) as error:  # the others are measured all the same
        say(f"{name} could not be measured: {error}")
        return False
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    written = {
        "name": name,
        "machine": machine(),
        "missing": said,
        "figures": [figure.to_json() for figure in figures],
    }
    (out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"\nwritten: {out}/{name}.json\n", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
