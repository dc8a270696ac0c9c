"""Load a tracker and a serving peer as the hostile cases say, and print what it cost; one scenario a case.

    python3 tests/load/soak.py                          all, in full size; the last one takes an hour
    python3 tests/load/soak.py --short                  small enough for every day
    python3 tests/load/soak.py --scenario herd --json   one; figures as JSON
    python3 tests/load/soak.py --scenario mixed --minutes 480
    python3 tests/load/soak.py --save                   also write docs/reliability/soak.json

Exit code 0 when all bounds hold, else 1. Linux only: it reads /proc. `tests/integration/test_soak.py` runs
the short sizes without the bounds on time, which are for a machine that does nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from bench.lib.lab import Lab, machine  # noqa: E402 (a script is started from anywhere)
from tests.load import connections, swarms  # noqa: E402
from tests.load.report import Outcome, table  # noqa: E402
from tests.load.rig import Scale, many_descriptors  # noqa: E402

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
    """Run one scenario in a lab of its own."""
    found: list[Outcome] = []
    with many_descriptors(), Lab.open(folder, 1, 1) as lab:
        async for outcome in SCENARIOS[name](lab, scale):
            found.append(outcome)
            say(f"{outcome.scenario}, {outcome.target}: {'pass' if outcome.passed else 'FAIL'}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tests/load/soak.py", description="load a tracker and a peer, and measure"
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
        help=f"also write {SAVED.relative_to(ROOT)}, and keep its other scenarios",
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where the files are (default: in memory, if the system has such a folder)",
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
    """Write the outcomes to the file, in place of those of the same scenarios and targets."""
    old = json.loads(SAVED.read_text(encoding="utf-8")) if SAVED.exists() else []
    fresh = {(one["scenario"], one["target"]) for one in written}
    kept = [one for one in old if (one["scenario"], one["target"]) not in fresh]
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    SAVED.write_text(json.dumps([*kept, *written], indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
