"""`bin/demo`: a whole swarm on this machine. All its peers fetch one file, and every byte is compared.

This file has the command line; `demo_swarm.py` runs the processes, `demo_report.py` says how it went.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Final

from p2p.cli.config import DemoConfig
from p2p.cli.options import Parser, add_version
from p2p.cli.run import Job, Program, run
from p2p.errors import IntegrityError

EXAMPLES: Final = """\
examples:
  bin/demo                       64 MiB from one peer to four others
  bin/demo lab.img --peers 9     a file of yours to eight others
  bin/demo --transport grpc      the same over gRPC (an extra)

It needs no installation and no network; what it made is removed at the end.
"""


def build_parser() -> ArgumentParser:
    """Return the command line of the demo."""
    parser = Parser(
        prog="demo",
        description="Starts a tracker and some peers on this machine, lets all fetch a file from one, "
        "and compares every copy.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="file or folder to share (default: a generated file)"
    )
    add_version(parser)
    DemoConfig.add_options(parser)
    return parser


async def work(job: Job[DemoConfig]) -> int:
    """Run the demo; return the exit code.

    Raises `UsageError`, `DiskError`, `ChildFailed`, and `IntegrityError` when a copy differs.
    """
    import time

    from p2p.cli.demo_report import report, result_event
    from p2p.cli.demo_swarm import run_demo

    console, began = job.console, time.monotonic()
    outcome = await run_demo(job, time.monotonic)
    seconds = time.monotonic() - began
    console.event(result_event(outcome, seconds))
    console.text(*report(outcome, seconds))
    if not outcome.identical:
        different = ", ".join(one.peer for one in outcome.receivers if not one.identical)
        raise IntegrityError(f"{different}: the copy differs from the original")
    console.text("", "Every copy is identical to the original, byte by byte.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with `argv`; return the exit code."""
    return run(Program("demo", build_parser, DemoConfig, work), argv)
