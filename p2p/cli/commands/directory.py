"""The commands that list what the tracker knows: `list`, `search`, `peers`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.events import content_event, peer_event
from p2p.cli.parse import parse_words
from p2p.cli.render import size_text, table, time_text
from p2p.cli.run import Job
from p2p.model import Address
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.peer_messages import PAGE
from p2p.protocol.tracker_messages import HitRow, HitsAnswer, List, PeerRow, Peers, PeersAnswer, Search


@asynccontextmanager
async def open_tracker(job: Job[PeerConfig]) -> AsyncIterator[TrackerClient]:
    """A client of the tracker, closed at the end."""
    client = TrackerClient(job.config.node.tracker, job.trace)
    job.console.phase("connecting")
    try:
        yield client
    finally:
        job.console.end_progress()
        await client.close()


async def list_contents(job: Job[PeerConfig]) -> int:
    """Run `list`: all contents, a page at a time. Raises `Unreachable`, `Refused`."""
    return await _contents(job, lambda offset: List(offset=offset, limit=PAGE), "nothing is shared")


async def search(job: Job[PeerConfig]) -> int:
    """Run `search`: contents whose names hold all words. Raises `UsageError`, `Unreachable`, `Refused`."""
    text = parse_words(" ".join(job.words.text), "TEXT")
    return await _contents(
        job, lambda offset: Search(text=text, offset=offset, limit=PAGE), "nothing matches"
    )


async def _contents(job: Job[PeerConfig], request: Callable[[int], List | Search], nothing_found: str) -> int:
    console = job.console
    headers = ("NAME", "SIZE", "SEEDS", "PEERS", "ID")
    async with open_tracker(job) as client:
        async for offset, page in client.pages(request, HitsAnswer):
            for hit in page.hits:
                console.event(content_event(hit))
            _show_page(console, table(headers, [_content_row(hit) for hit in page.hits], " rrr"), offset)
    if not page.total:
        console.note(f"{nothing_found} at tracker {job.config.node.tracker}")
    return 0


async def peers(job: Job[PeerConfig]) -> int:
    """Run `peers`: all peers, a page at a time. Raises `Unreachable`, `Refused`."""
    console = job.console
    headers = ("NAME", "ADDRESS", "TRANSPORTS", "CONTENTS", "HEARTBEAT", "ACCEPTS", "USER")
    async with open_tracker(job) as client:
        async for offset, page in client.pages(lambda offset: Peers(offset=offset, limit=PAGE), PeersAnswer):
            for row in page.peers:
                console.event(peer_event(row))
            _show_page(console, table(headers, [_peer_row(row) for row in page.peers], "   rrr"), offset)
    if not page.total:
        console.note(f"no peer is at tracker {job.config.node.tracker}")
    return 0


def _show_page(console: Console, lines: list[str], offset: int) -> None:
    """Print a page. The first one has the headers; more may be to come."""
    if offset == 0:
        console.phase("searching")
    if len(lines) > 1:
        console.text(*(lines if offset == 0 else lines[1:]))


def _content_row(hit: HitRow) -> tuple[str, ...]:
    return hit.name, size_text(hit.size), str(hit.seeds), str(hit.peers), hit.id


def _peer_row(row: PeerRow) -> tuple[str, ...]:
    address = str(Address(row.host, row.listen["tcp"])) if "tcp" in row.listen else row.host
    transports = " ".join(f"{name}:{port}" for name, port in sorted(row.listen.items()))
    room = size_text(row.room) if row.room else "-"
    return row.name, address, transports, str(row.contents), f"{time_text(row.age)} ago", room, row.user
