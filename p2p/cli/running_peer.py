"""A peer that runs as long as its command, and the printing of what it reports."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import transports
from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.events import event_of
from p2p.cli.render import count_text, size_text, time_text
from p2p.cli.run import Job, finished
from p2p.content.uri import Uri
from p2p.model import Address
from p2p.net.descriptors import raise_descriptor_limit
from p2p.peer.node import Node
from p2p.peer.reports import (
    Downloaded,
    Listening,
    ManifestKnown,
    Placed,
    Progress,
    Received,
    Replicated,
    Report,
    SessionChanged,
    Shared,
    Uploaded,
    Warned,
    Withdrawn,
)
from p2p.peer.settings import NodeSettings

DESCRIPTORS: Final = 4096
"""What a peer may have open: all connections that each transport admits, its own connections, and files."""


@asynccontextmanager
async def running_peer(
    job: Job[PeerConfig], settings: NodeSettings, link_tracker: Address | None = None
) -> AsyncIterator[Node]:
    """A peer, to be started by the command. At the end it leaves the directory and closes everything."""
    # gRPC's core writes each lost connection to standard error in its own words. We report those that matter.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    raise_descriptor_limit(DESCRIPTORS)
    reporter = Reporter(job.console, settings, link_tracker)
    node = Node(settings, transports.load, reporter, job.trace, job.swarm_trace)
    try:
        yield node
    finally:
        await finished(node.stop())


class Reporter:
    """Prints what a peer reports, each report once."""

    def __init__(self, console: Console, settings: NodeSettings, link_tracker: Address | None = None) -> None:
        """`link_tracker` is the tracker that links name.

        It is None where sharing is not what the command is for. Then less is printed for people: they did not
        ask for a peer.
        """
        self._console = console
        self._settings = settings
        self._link_tracker = link_tracker

    def __call__(self, report: Report) -> None:
        console = self._console
        match report:
            case Progress():
                console.progress(report)
            case Warned():
                console.warning(report.message)
            case Downloaded() | Uploaded():
                pass  # the command itself prints how it ended
            case Shared():
                console.end_progress()
                self._print_shared(report)
            case _:
                console.event(event_of(report))
                self._print_text(report)

    def _print_shared(self, report: Shared) -> None:
        event = event_of(report)
        if self._link_tracker is None:
            self._console.event(event)
            return
        uri = str(Uri(report.id, self._link_tracker, report.name))
        self._console.event({**event, "link": uri})
        # Shells take the ? and & of a link for their own. It never holds a quote itself.
        self._console.text(
            f"shared {report.name} ({size_text(report.size)})",
            f'  get it with: {_program()} download "{uri}"',
        )

    def _print_text(self, report: Report) -> None:
        console, settings = self._console, self._settings
        match report:
            case SessionChanged(state="resumed"):
                console.note(f"tracker {settings.tracker} is back")
            case Placed():
                console.text(f"{report.peer} takes a copy")
            case Replicated():
                console.text(f"{report.peer} has verified its copy after {time_text(report.seconds)}")
            case _ if self._link_tracker is None:
                pass
            case Listening():
                ports = ", ".join(f"{name} {port}" for name, port in sorted(report.transports.items()))
                console.text(
                    f"{settings.name} listens on {report.address} ({ports}), tracker {settings.tracker}"
                )
            case Withdrawn():
                console.text(f"no longer shared: {report.name}  {report.id}")
            case Received():
                console.text(
                    f"received {report.name} ({size_text(report.size)}) from {report.peer}  {report.id}"
                )
            case ManifestKnown():
                console.text(
                    f"{report.name}: {size_text(report.size)} in {count_text(report.pieces, 'piece')}"
                )


def _program() -> str:
    """Return what a person types to start a peer: the installed command, or the script of a checkout."""
    name = Path(sys.argv[0]).name
    return name if name == "p2p-peer" else "bin/peer"
