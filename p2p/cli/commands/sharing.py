"""The commands that serve until they are stopped: `serve DIR`, `share PATH…`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.link_tracker import tracker_for_others
from p2p.cli.paths import named_path, served_folder
from p2p.cli.run import Job
from p2p.cli.running_peer import running_peer
from p2p.peer.node import Node


async def serve(job: Job[PeerConfig]) -> int:
    """Run `serve DIR`. Where others may put copies, a missing folder is made.

    Raises `UsageError` when there is no such folder, `DiskError` when it cannot be made, and the reason when
    the session was ended from outside.
    """
    console, settings = job.console, job.config.node
    console.endless()
    folder = served_folder(job.words.dir, make=settings.accept_uploads > 0)
    console.phase("connecting")
    link_tracker = await tracker_for_others(settings.tracker, lambda _: None)
    async with running_peer(job, replace(settings, folder=folder), link_tracker) as node:
        await node.start()
        console.end_progress()
        await until_ended(node, node.watch(folder, _say_once(console)))
    return 0


async def share(job: Job[PeerConfig]) -> int:
    """Run `share PATH…`.

    Raises `UsageError` for a path that is not there, and the reason when the session was ended from outside.
    """
    console, settings = job.console, job.config.node
    console.endless()
    paths = [named_path(text) for text in job.words.paths]
    console.phase("connecting")
    # This command is there to print links, so it warns when they are of no use to other machines.
    link_tracker = await tracker_for_others(settings.tracker, console.warning)
    async with running_peer(job, settings, link_tracker) as node:
        await node.start()
        console.end_progress()
        await until_ended(node, node.watch_paths(paths, _say_once(console)))
    return 0


def _say_once(console: Console) -> Callable[[], None]:
    """Return what to call after each look at the folder: it says after the first that there is no end."""
    lines = ["sharing until you press Ctrl-C"]

    def say() -> None:
        if lines:
            console.text(lines.pop())

    return say


async def until_ended(node: Node, watching: Coroutine[Any, Any, None]) -> None:
    """Do `watching`, which ends only by an error, until the session is ended from outside. Raises why."""
    tasks = asyncio.ensure_future(watching), asyncio.ensure_future(node.ended())
    watch, ended = tasks
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
        if ended.done():
            raise ended.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
