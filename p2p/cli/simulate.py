"""`bin/simulate`: plays a swarm of any size in virtual time, with the decisions of the real one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Final

from p2p.cli.config import SimConfig
from p2p.cli.options import Parser, add_version
from p2p.cli.run import Job, Program, run

EXAMPLES: Final = """\
examples:
  bin/simulate                              16 receivers, 64 MiB, links of 20 Mbit/s
  bin/simulate killed --svg killed.svg      a quarter of them is killed half way; draw it
  bin/simulate --peers 1000 --pieces 250 --piece 256K --links 8
  bin/simulate --list                       which scenarios there are
  bin/simulate churn --json                 samples and peers as JSON lines

Nothing is sent anywhere. The same scenario, options and seed give the same trace, whose hash is printed.
"""
STEP_EVENTS: Final = 500
"""Events between two looks for a stop signal. 5,000 took half a second of the processor with 2,000 peers."""


def build_parser() -> ArgumentParser:
    """Return the command line of the simulator."""
    parser = Parser(
        prog="simulate",
        description="Plays a swarm in virtual time, with the decisions of the real one.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "scenario",
        metavar="SCENARIO",
        nargs="?",
        default="equal",
        help="what happens (default: equal; see --list)",
    )
    add_version(parser)
    SimConfig.add_options(parser)
    return parser


async def work(job: Job[SimConfig]) -> int:
    """Run the simulation; return the exit code. Raises `UsageError`, `DiskError`, `SimulationFault`."""
    import asyncio
    import dataclasses
    from pathlib import Path

    from p2p.errors import DiskError
    from p2p.sim.report import figures, rows, svg, table
    from p2p.sim.scenarios import SCENARIOS, Setup, make

    config, console, scenario = job.config, job.console, job.words.scenario
    if config.listing:
        for name, (_, sentence) in SCENARIOS.items():
            console.event({"event": "scenario", "name": name, "about": sentence})
            console.text(f"{name:10}{sentence}")
        return 0
    rate, delay = config.rate * 1e6 / 8, config.delay / 1000
    setup = Setup(config.peers, config.pieces, config.piece, rate, delay, config.links, config.rng_seed)
    world = make(scenario, setup)
    while world.advance(STEP_EVENTS):  # noqa: ASYNC110  nothing is waited for: a signal may come in between
        await asyncio.sleep(0)
    found = figures(world)
    for row in rows(world):
        console.event(row)
    console.event(
        {"event": "done", "scenario": scenario, "seed": config.rng_seed, **dataclasses.asdict(found)}
    )
    console.text(*table(found))
    if config.svg:
        title = f"{scenario}: {config.peers} receivers, {config.pieces} pieces, {config.rate} Mbit/s"
        try:
            Path(config.svg).write_text(svg(title, world.samples, setup.ideal), encoding="utf-8")
        except OSError as error:
            raise DiskError(f"{config.svg} cannot be written: {error.strerror}") from error
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulator with `argv`; return the exit code."""
    return run(Program("simulate", build_parser, SimConfig, work), argv)
