"""Run a peer in this process, and print the longest pause of its event loop.

    pauses.py TRACKER STATE share PATH     prints {"event":"shared","id":…,"pause":S}, and serves
    pauses.py TRACKER STATE manifest ID    fetches, checks and parses the manifest, and prints
                                           {"event":"manifest","bytes":N,"pause":S}

A task wakes every millisecond. The pause is its longest delay, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import transports
from p2p.model import Address, ContentId
from p2p.peer.node import Node
from p2p.peer.reports import Report, Shared
from p2p.peer.settings import NodeSettings

TICK: Final = 0.001


class Ticker:
    """The longest pause so far, in seconds."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(TICK)
            self.worst = max(self.worst, loop.time() - began - TICK)


async def main(tracker: str, state: str, what: str, target: str) -> None:
    """Share or fetch a manifest, as `what` says."""
    host, _, port = tracker.rpartition(":")
    settings = NodeSettings(
        name=f"pauses-{what}", host="127.0.0.1", port=0, tracker=Address(host, int(port)), state=Path(state)
    )
    ticker = Ticker()
    shared: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def report(one: Report) -> None:
        if isinstance(one, Shared) and not shared.done():
            shared.set_result(str(one.id))

    node = Node(settings, transports.load, report)
    await node.start(require_tracker=True)
    ticking = asyncio.create_task(ticker.run())
    try:
        if what == "share":
            watching = asyncio.create_task(node.watch_paths([Path(target)]))
            content = await shared
            print(json.dumps({"event": "shared", "id": content, "pause": ticker.worst}), flush=True)
            await watching
        else:
            data = await node.manifest_of(ContentId(target))
            print(json.dumps({"event": "manifest", "bytes": len(data), "pause": ticker.worst}), flush=True)
    finally:
        ticking.cancel()
        await node.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
