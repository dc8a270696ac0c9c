"""Run benchmarks side by side with whatever comparators are here, and write what was measured.

    python3 bench/run.py                      all of them
    python3 bench/run.py one-to-one startup   these
    python3 bench/run.py --list               what there is, which comparators are here, and how to get the
    others

Each figure is printed as a table with the median, least and most of alternating runs and the ratio to each
comparator, and written as JSON and as an SVG into a folder. Nothing is installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.lab import Lab  # noqa: E402 (a script is started from anywhere)
from bench.plot import svg  # noqa: E402
from bench.rivals.tools import Missing, survey  # noqa: E402

BENCHMARKS: Final = {
    "one-to-one": (
        "bench.one_to_one",
        "1 GiB from one peer to another, against nginx and curl, libtorrent, aria2 and a floor",
    ),
    "transports": ("bench.transports", "the same over TCP and gRPC, against raw grpcio streaming"),
    "many": ("bench.many", "one seed to eight leeches, and eight seeds to one leech, against one to one"),
    "sharing": ("bench.sharing", "hashing 1 GiB, against b2sum; sharing it again"),
    "small-files": ("bench.small_files", "10,000 files of 4 KiB, against an rsync daemon"),
    "large": (
        "bench.large",
        "memory for 10 GiB and 1 GiB; the event loop while 100 GiB are shared and their manifest is parsed",
    ),
    "tracker": (
        "bench.tracker",
        "announces, lookups and searches a second, against opentracker; latency; memory of an entry",
    ),
    "startup": (
        "bench.startup",
        "the time of --help, against a bare interpreter; from `download` to the first byte",
    ),
    "limits": ("bench.limits", "how well --limit and --limit-up hold"),
}
"""Name, module and what it measures. Each module has `measure(lab, say)`, which yields figures."""


def size(text: str) -> int:
    """MiB from `512M`, `1G` or a number of MiB. Raises `argparse.ArgumentTypeError`."""
    number, factor = text.upper().removesuffix("IB"), 1
    if number[-1:] in "MG" and number:
        number, factor = number[:-1], 1024 if number[-1] == "G" else 1
    if not number.isdigit() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; say 256M or 1G")
    return int(number) * factor


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for. Returns 1 when a benchmark could not run at all."""
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
        help="where the files lie (default: in memory, where the system has a folder for that)",
    )
    parser.add_argument(
        "--out",
        default=str(ROOT / "bench/results"),
        metavar="DIR",
        help="where JSON and SVG go (default bench/results)",
    )
    parser.add_argument(
        "--list", action="store_true", help="tell what there is to run and to compare with, and run nothing"
    )
    args = parser.parse_args(argv)
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
    """Run one benchmark, print and write its figures; returns whether it could run."""
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
    for number, figure in enumerate(figures, 1):
        (out / f"{name}-{number}.svg").write_text(svg(figure))
    print(f"\nwritten: {out}/{name}.json and {len(figures)} plots\n", flush=True)
    return True


def machine() -> str:
    """What it was measured on, in a line."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        models = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return f"{os.cpu_count()} cores of {cpu}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
