"""A swarm in one process: a real tracker and real peers on free ports of loopback, and their reports.

async with Swarm(tmp_path) as swarm:
    seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
    shared = await seed.share(old_file(tmp_path / "image.bin", data))
    done = await leech.download(shared.id, tmp_path / "out")
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from p2p.errors import Refused
from p2p.model import MIB, Address, ContentId
from p2p.net.limits import LIMITS, TIMEOUTS, Limits
from p2p.net.limits import Timeouts as PeerTimeouts
from p2p.peer.node import Node
from p2p.peer.reports import Report
from p2p.peer.settings import NodeSettings
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import Contact, HitRow, HitsAnswer, List, Lookup, LookupAnswer
from p2p.swarm.peer_stats import Policy
from p2p.tracker.limits import TrackerTimeouts
from p2p.tracker.server import TrackerServer
from p2p.tracker.service import TrackerService
from p2p.tracker.store import open_store
from transports import load

R = TypeVar("R", bound=Report)


@contextmanager
def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder in memory, or `otherwise` where there is no such disk with room.

    For tests that sync: a sync of a real disk waits for the gigabytes that other tests write to it.
    """
    place = Path("/dev/shm")
    if not place.is_dir() or shutil.disk_usage(place).free < 40 * MIB or not os.access(place, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="enjambre-test-", dir=place) as folder:
        yield Path(folder)


def old_file(path: Path, data: bytes) -> Path:
    """Write a file that was last changed in 1970, so that a peer shares it at the first scan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1, 1))
    return path


class Swarm:
    """A tracker and its peers. Leaving the `async with` block stops them all."""

    def __init__(self, folder: Path, *, ttl: int = 30) -> None:
        self.folder = folder
        self.ttl = ttl
        self.address = Address("127.0.0.1", 1)
        self.nodes: dict[str, Node] = {}
        self.reports: dict[str, list[Report]] = {}
        self._server: TrackerServer | None = None

    async def __aenter__(self) -> Swarm:
        await self.start_tracker()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))
        await self.stop_tracker()

    async def start_tracker(self) -> None:
        """Start an empty tracker, at the same port as the one before if there was one."""
        now = asyncio.get_running_loop().time()
        store = open_store("memory", now)
        service = TrackerService(
            store.directory, Random(1), lambda: secrets.token_hex(16), ttl=self.ttl, started=now
        )
        port = self.address.port if self.address.port > 1 else 0
        self._server = TrackerServer(service, store, timeouts=TrackerTimeouts(tick_s=0.1))
        self.address = (await self._server.start("127.0.0.1", port))[0]

    async def stop_tracker(self) -> None:
        """Stop the tracker, if it runs."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def peer(
        self,
        name: str,
        *,
        announce: bool = True,
        require_tracker: bool = True,
        policy: Policy | None = None,
        timeouts: PeerTimeouts = TIMEOUTS,
        limits: Limits = LIMITS,
        **settings: Any,
    ) -> Node:
        """Start a peer whose reports go to `reports[name]`, with another `policy` if one is given."""
        reports = self.reports[name] = []
        node = Node(
            NodeSettings(
                **{
                    "name": name,
                    "tracker": self.address,
                    "state": self.folder / "state" / name,
                    "host": "127.0.0.1",
                    "port": 0,
                    **settings,
                }
            ),
            load,
            reports.append,
            rng=Random(name),
            policy=policy,
            timeouts=timeouts,
            limits=limits,
        )
        self.nodes[name] = node
        await node.start(announce=announce, require_tracker=require_tracker and announce)
        return node

    async def stop(self, name: str) -> None:
        """Stop one peer."""
        await self.nodes.pop(name).stop()

    def told(self, name: str, kind: type[R]) -> list[R]:
        """The reports of a peer of one kind."""
        return [report for report in self.reports[name] if isinstance(report, kind)]

    async def listed(self) -> list[HitRow]:
        """All contents that the tracker lists."""
        client = TrackerClient(self.address)
        try:
            hits: list[HitRow] = []
            offset: int | None = 0
            while offset is not None:
                page = await client.expect(List(offset=offset, limit=100), HitsAnswer)
                hits += page.hits
                offset = page.next
            return hits
        finally:
            await client.close()

    async def sources(self, content: ContentId) -> list[Contact]:
        """Who has a content, as the tracker says now."""
        client = TrackerClient(self.address)
        try:
            return list((await client.expect(Lookup(id=content), LookupAnswer)).sources)
        except Refused as refused:
            if refused.code != "not_found":
                raise
            return []
        finally:
            await client.close()
