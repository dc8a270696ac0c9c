"""Put a tracker and a serving peer under loads that they must survive, and print what it cost; each scenario
is a hostile case.

    python3 bench/soak.py                              all of them, as large as the cases say (the last one
    takes an hour) python3 bench/soak.py --short                      small enough for every day python3
    bench/soak.py --scenario herd --json       one; figures as JSON python3 bench/soak.py --scenario mixed
    --minutes 480 python3 bench/soak.py --save                       also write docs/reliability/soak.json

Exit code 0 when all bounds hold, else 1. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.lab import Lab  # noqa: E402 (a script is started from anywhere)
from bench.run import machine  # noqa: E402
from bench.soaking import connections, swarms  # noqa: E402
from bench.soaking.report import Outcome, table  # noqa: E402
from bench.soaking.rig import Scale, many_descriptors  # noqa: E402

SAVED: Final = ROOT / "docs/reliability/soak.json"
Scenario = Callable[[Lab, Scale], AsyncIterator[Outcome]]
SCENARIOS: Final[dict[str, Scenario]] = {
    "idle": connections.idle,
    "slow": connections.slow,
    "churn": connections.come_and_go,
    "descriptors": connections.descriptors,
    "log": connections.flood,
    "herd": swarms.herd,
    "memory": swarms.memory,
    "threads": swarms.threads,
    "mixed": swarms.mixed,
}


async def outcomes_of(
    name: str, scale: Scale, folder: str | None = None, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Run one scenario in a folder of its own."""
    found: list[Outcome] = []
    with many_descriptors(), Lab.open(folder, 1, 1) as lab:
        async for outcome in SCENARIOS[name](lab, scale):
            found.append(outcome)
            say(f"{outcome.scenario}, {outcome.target}: {'pass' if outcome.passed else 'FAIL'}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/soak.py", description="load a tracker and a peer until it hurts, and measure"
    )
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="which (default: all; may be given again)"
    )
    parser.add_argument("--short", action="store_true", help="small and quick")
    parser.add_argument(
        "--minutes", type=float, default=60.0, metavar="N", help="length of the mixed scenario (default 60)"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument(
        "--save",
        action="store_true",
        help=f"also write {SAVED.relative_to(ROOT)}; what was not run stays as it was there",
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where files lie (default: in memory, where the system has a folder for that)",
    )
    args = parser.parse_args(argv)
    if not sys.platform.startswith("linux"):
        parser.error("this reads /proc, which only Linux has")
    scale = Scale(args.short, args.minutes)
    found: list[Outcome] = []
    for name in args.scenario or SCENARIOS:
        found += asyncio.run(
            outcomes_of(name, scale, args.folder, lambda text: print(text, file=sys.stderr, flush=True))
        )
    written = [
        {**one.to_json(), "short": args.short, "machine": machine(), "when": time.strftime("%Y-%m-%d")}
        for one in found
    ]
    print(json.dumps(written, indent=1) if args.json else table(found))
    if args.save:
        save(written)
    return 0 if all(one.passed for one in found) else 1


def save(written: list[dict[str, Any]]) -> None:
    """Replace what the file has of the same scenarios and targets."""
    old = json.loads(SAVED.read_text(encoding="utf-8")) if SAVED.exists() else []
    fresh = {(one["scenario"], one["target"]) for one in written}
    kept = [one for one in old if (one["scenario"], one["target"]) not in fresh]
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    SAVED.write_text(json.dumps([*kept, *written], indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
