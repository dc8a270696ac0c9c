"""`bin/demo`: a whole swarm on this machine, in separate processes; all fetch one file, and every byte is
compared."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Final

from p2p.cli.common import Job, Parser, Program, add_version, run
from p2p.cli.config import DemoConfig

EXAMPLES: Final = """\
examples:
  bin/demo                       64 MiB from one peer to four others
  bin/demo lab.img --peers 9     a file of yours to eight others
  bin/demo --transport grpc      the same over gRPC (an extra)

It needs no installation and no network; what it made is removed at the end.
"""


def build_parser() -> ArgumentParser:
    """The command line of the demo."""
    parser = Parser(
        prog="demo",
        description="Starts a tracker and some peers on this machine, lets all fetch a file from one, and compares every copy.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="file or folder to share (default: a generated file)"
    )
    add_version(parser)
    DemoConfig.add_options(parser)
    return parser


async def work(job: Job[DemoConfig]) -> int:
    """Run the demo; returns the exit code."""
    from p2p.cli.demo_run import demo

    return await demo(job)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with `argv`; returns the exit code."""
    return run(Program("demo", build_parser, DemoConfig, work), argv)
