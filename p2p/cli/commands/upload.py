"""The command `upload PATH`."""

from __future__ import annotations

from p2p.cli.config import PeerConfig
from p2p.cli.events import event_of
from p2p.cli.paths import named_path
from p2p.cli.render import count_text, time_text
from p2p.cli.run import Job
from p2p.cli.running_peer import Reporter, running_peer
from p2p.peer import operations
from p2p.peer.reports import Progress


async def upload(job: Job[PeerConfig]) -> int:
    """Run `upload`.

    Raises `UsageError` for a path that is not there, `NotFound` when too few peers accept, `Unreachable`.
    """
    path = named_path(job.words.path)
    settings, console = job.config.node, job.console
    async with running_peer(job, settings) as node:
        console.progress(Progress("connecting"))
        await node.start(require_tracker=True)
        done = await operations.upload(node, path, job.config.copies, Reporter(console, settings))
        console.end_progress()
        console.event(event_of(done))
        copies = count_text(done.copies, "copy", "copies")
        console.text(
            f"{copies} of {path.name} verified in {time_text(done.seconds)}; "
            f"{done.origin_copies:.2f} of its size was sent from here",
            f"  id {done.id}",
        )
    return 0
