"""The command `download NAME|ID|LINK`."""

from __future__ import annotations

import asyncio

from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.events import event_of
from p2p.cli.link_tracker import target_of
from p2p.cli.render import amount_from, count_text, rate_text, size_text, time_text
from p2p.cli.run import Job
from p2p.cli.running_peer import running_peer
from p2p.peer.node import Node
from p2p.peer.operations import resolve
from p2p.peer.reports import Downloaded, Progress


async def download(job: Job[PeerConfig]) -> int:
    """Run `download`. Raises `UsageError`, `NotFound`, `IntegrityError`, `Unreachable`, `Refused`,
    `DiskError`."""
    target, settings = target_of(job.words.target, job.config)
    async with running_peer(job, settings) as node:
        try:
            done = await fetch(node, target, job)
        except asyncio.CancelledError:
            if job.console.broken is None:  # the reader of the output would have heard it, and has left
                job.console.note("stopped; the same command goes on from here")
            raise
        print_done(job.console, done)
        if job.config.seed:
            job.console.text("serving it to others until you press Ctrl-C")
            job.console.endless()
            raise await node.ended()
    return 0


async def fetch(node: Node, target: str, job: Job[PeerConfig]) -> Downloaded:
    """Start the peer, find the content, fetch it. Raises as `download`."""
    config, console = job.config, job.console
    console.progress(Progress("connecting"))
    await node.start(require_tracker=True)
    console.progress(Progress("searching"))
    content = await resolve(node.tracker, target)
    return await node.download(content, config.output, overwrite=config.overwrite, keep=config.seed)


def print_done(console: Console, done: Downloaded) -> None:
    """Print how a download ended. What was on the disk before does not count as fetched."""
    fetched = sum(done.bytes_from.values())
    rate = fetched / done.seconds if done.seconds > 0 else 0.0
    console.end_progress()
    console.event(event_of(Progress("downloading", done.size, done.size, rate, len(done.bytes_from))))
    console.event(event_of(done))
    pace = f", {rate_text(rate)}" if fetched else ""
    console.text(f"saved {done.path}: {size_text(done.size)} in {time_text(done.seconds)}{pace}")
    if fetched < done.size:
        console.text(f"  {size_text(fetched)} fetched, {size_text(done.size - fetched)} were here")
    if done.bytes_from:
        console.text(f"  from {count_text(len(done.bytes_from), 'peer')}: {amount_from(done.bytes_from)}")
