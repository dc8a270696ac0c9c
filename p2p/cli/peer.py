"""`bin/peer`: the parser of its commands, and which function does each."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, Final

from p2p.cli.common import Job, Parser, Program, add_version, run
from p2p.cli.config import PeerConfig

EXAMPLES: Final = """\
examples:
  bin/peer share lab.img                        share a file; prints the link to give to others
  bin/peer download 'p2p:5f0c...?tracker=...'   fetch it with that link, from all who have it
  bin/peer --tracker 10.0.0.5:6969 list         what a tracker knows

'bin/peer COMMAND --help' tells more about each command.
Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not found, 4 refused, 5 integrity, 6 unreachable, 7
disk; 130, 143 and 129 stopped.
"""

TARGET: Final = ("target", "NAME|ID|LINK", None, "a name, a content id, or a link in quotes")

COMMANDS: Final[dict[str, tuple[str, str, str, tuple[tuple[str, str, str | None, str], ...]]]] = {
    "serve": (
        "sharing:serve",
        "share what is in a folder, until stopped",
        "bin/peer serve ~/shared\nbin/peer serve /srv/images --port 6970 --accept-uploads 100G",
        (("dir", "DIR", None, "each file and folder directly in it is shared"),),
    ),
    "share": (
        "sharing:share",
        "share files and folders, until stopped, and print a link for each",
        "bin/peer share lab.img\nbin/peer share lab.img datasets/2024 --limit-up 20M",
        (("paths", "PATH", "+", "a file or a folder"),),
    ),
    "list": (
        "directory:list_contents",
        "all contents that the tracker knows",
        "bin/peer list\nbin/peer list --json",
        (),
    ),
    "search": (
        "directory:search",
        "contents by words of their names",
        "bin/peer search linux iso",
        (("text", "TEXT", "+", "words; all must occur, in any order and any case"),),
    ),
    "peers": ("directory:peers", "all peers that the tracker knows", "bin/peer peers", ()),
    "info": (
        "sharing:info",
        "what a content is made of, and who has how much of it",
        "bin/peer info lab.img",
        (TARGET,),
    ),
    "download": (
        "sharing:download",
        "fetch a content from all peers at once, verified; goes on where it was stopped",
        "bin/peer download lab.img\nbin/peer download lab.img -o /data --seed --limit 50M",
        (TARGET,),
    ),
    "upload": (
        "sharing:upload",
        "put copies on other peers, and return when they have verified them",
        "bin/peer upload results.tar --copies 2",
        (("path", "PATH", None, "a file or a folder"),),
    ),
    "login": (
        "directory:login",
        "open a session with the tracker that lasts until logout",
        "bin/peer login alice",
        (("user", "USER", None, "your name"),),
    ),
    "logout": (
        "directory:logout",
        "end the session; its peers and contents leave the directory at once",
        "bin/peer logout",
        (),
    ),
    "status": (
        "directory:status",
        "the tracker's figures and this user's session",
        "bin/peer status --json",
        (),
    ),
}
"""Each command: the function that does it, one sentence, examples, and its words (name, how it is shown, how
many, one sentence)."""


def build_parser() -> ArgumentParser:
    """The command line of the peer. Options for all commands may stand before the command too."""
    parser = Parser(
        prog="peer",
        description="Shares files and folders, and fetches them from all who have them.",
        epilog=EXAMPLES,
    )
    add_version(parser)
    PeerConfig.add_options(parser, "list")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, (_, about, examples, words) in COMMANDS.items():
        shown = "\n".join(f"  {line}" for line in examples.split("\n"))
        command = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=f"examples:\n{shown}"
        )
        for word, metavar, how_many, sentence in words:
            command.add_argument(word, metavar=metavar, nargs=how_many, help=sentence)
        add_version(command)
        PeerConfig.add_options(command, name)
    return parser


async def work(job: Job[PeerConfig]) -> int:
    """Do the command that was parsed; returns the exit code."""
    from importlib import import_module

    module, _, function = COMMANDS[job.words.command][0].partition(":")
    done: Any = await getattr(import_module(f"p2p.cli.{module}"), function)(job)
    return int(done)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the peer with `argv`; returns the exit code."""
    return run(Program("peer", build_parser, PeerConfig, work), argv)
