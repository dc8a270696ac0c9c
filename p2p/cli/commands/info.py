"""The command `info NAME|ID|LINK`."""

from __future__ import annotations

from typing import Final

from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.events import manifest_events, source_event
from p2p.cli.link_tracker import target_of
from p2p.cli.render import count_text, percent, size_text, table
from p2p.cli.run import Job
from p2p.cli.running_peer import running_peer
from p2p.model import Address
from p2p.peer import operations
from p2p.peer.reports import Progress

FILES_SHOWN: Final = 1000
"""Most files that people are shown. Programs get them all."""


async def info(job: Job[PeerConfig]) -> int:
    """Run `info`. Raises `UsageError`, `NotFound`, `Unreachable`, `Refused`."""
    target, settings = target_of(job.words.target, job.config)
    console = job.console
    async with running_peer(job, settings) as node:
        console.progress(Progress("connecting"))
        await node.start(announce=False)
        console.progress(Progress("searching"))
        found = await operations.info(node, await operations.resolve(node.tracker, target))
    console.end_progress()
    for event in (*manifest_events(found.id, found.manifest), *map(source_event, found.sources)):
        console.event(event)
    _print_text(console, found)
    return 0


def _print_text(console: Console, found: operations.ContentInfo) -> None:
    manifest = found.manifest
    files = count_text(len(manifest.files), "file")
    pieces = f"{len(manifest.pieces)} of {size_text(manifest.piece_length)}, {manifest.hash_name}"
    console.text(
        f"{manifest.name} ({manifest.kind}): {size_text(manifest.size)}, {files}",
        f"  id      {found.id}",
        f"  pieces  {pieces}",
        "",
    )
    shown = manifest.files[:FILES_SHOWN]
    console.text(*table(("SIZE", "FILE"), [(size_text(entry.size), entry.path) for entry in shown], "r"))
    if len(manifest.files) > FILES_SHOWN:
        console.text(f"and {len(manifest.files) - FILES_SHOWN} more")
    rows = [
        (
            source.name,
            str(Address(source.host, source.listen.get("tcp", 0))),
            f"{percent(source.have, manifest.size)}%",
        )
        for source in found.sources
    ]
    console.text("", *table(("PEER", "ADDRESS", "HAS"), rows, "  r"))
