"""`bin/peer`: the command line of its commands, and the function that does each."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, Final

from p2p.cli.config import PeerConfig
from p2p.cli.options import Parser, add_version
from p2p.cli.run import Job, Program, run
from p2p.value import frozen

EXAMPLES: Final = """\
examples:
  bin/peer share lab.img                        share a file; prints the link to give to others
  bin/peer download 'p2p:5f0c...?tracker=...'   fetch it with that link, from all who have it
  bin/peer --tracker 10.0.0.5:6969 list         what a tracker knows

'bin/peer COMMAND --help' tells more about each command.
Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not found, 4 refused, 5 integrity, 6 unreachable, \
7 disk; 130, 143 and 129 stopped.
"""


@frozen
class Word:
    """A positional word of a command line; `repeats` is None for one, `+` for one or more."""

    name: str
    metavar: str
    about: str
    repeats: str | None = None


@frozen
class Command:
    """One command: the function that does it (`module:function` below `p2p.cli.commands`), and its help."""

    does: str
    about: str
    examples: str
    words: tuple[Word, ...] = ()


TARGET: Final = Word("target", "NAME|ID|LINK", "a name, a content id, or a link in quotes")

COMMANDS: Final[dict[str, Command]] = {
    "serve": Command(
        "sharing:serve",
        "share what is in a folder, until stopped",
        "bin/peer serve ~/shared\nbin/peer serve /srv/images --port 6970 --accept-uploads 100G",
        (Word("dir", "DIR", "each file and folder directly in it is shared"),),
    ),
    "share": Command(
        "sharing:share",
        "share files and folders, until stopped, and print a link for each",
        "bin/peer share lab.img\nbin/peer share lab.img datasets/2024 --limit-up 20M",
        (Word("paths", "PATH", "a file or a folder", "+"),),
    ),
    "list": Command(
        "directory:list_contents",
        "all contents that the tracker knows",
        "bin/peer list\nbin/peer list --json",
    ),
    "search": Command(
        "directory:search",
        "contents by words of their names",
        "bin/peer search linux iso",
        (Word("text", "TEXT", "words; all must occur, in any order and any case", "+"),),
    ),
    "peers": Command("directory:peers", "all peers that the tracker knows", "bin/peer peers"),
    "info": Command(
        "info:info",
        "what a content is made of, and who has how much of it",
        "bin/peer info lab.img",
        (TARGET,),
    ),
    "download": Command(
        "download:download",
        "fetch a content from all peers at once, verified; goes on where it was stopped",
        "bin/peer download lab.img\nbin/peer download lab.img -o /data --seed --limit 50M",
        (TARGET,),
    ),
    "upload": Command(
        "upload:upload",
        "put copies on other peers, and return when they have verified them",
        "bin/peer upload results.tar --copies 2",
        (Word("path", "PATH", "a file or a folder"),),
    ),
    "login": Command(
        "session:login",
        "open a session with the tracker that lasts until logout",
        "bin/peer login alice",
        (Word("user", "USER", "your name"),),
    ),
    "logout": Command(
        "session:logout",
        "end the session; its peers and contents leave the directory at once",
        "bin/peer logout",
    ),
    "status": Command(
        "session:status", "the tracker's figures and this user's session", "bin/peer status --json"
    ),
}


def build_parser() -> ArgumentParser:
    """Return the command line of the peer. Options for all commands may stand before the command too."""
    parser = Parser(
        prog="peer",
        description="Shares files and folders, and fetches them from all who have them.",
        epilog=EXAMPLES,
    )
    add_version(parser)
    PeerConfig.add_options(parser, "list")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        examples = "\n".join(f"  {line}" for line in command.examples.split("\n"))
        one = commands.add_parser(
            name,
            help=command.about,
            description=f"{command.about[0].upper()}{command.about[1:]}.",
            epilog=f"examples:\n{examples}",
        )
        for word in command.words:
            one.add_argument(word.name, metavar=word.metavar, nargs=word.repeats, help=word.about)
        add_version(one)
        PeerConfig.add_options(one, name)
    return parser


async def work(job: Job[PeerConfig]) -> int:
    """Do the command that was parsed; return the exit code."""
    from importlib import import_module

    module, _, function = COMMANDS[job.words.command].does.partition(":")
    done: Any = await getattr(import_module(f"p2p.cli.commands.{module}"), function)(job)
    return int(done)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the peer with `argv`; return the exit code."""
    return run(Program("peer", build_parser, PeerConfig, work), argv)
