"""The fetching of one content's pieces: carries out what a download wants until all is here, or it gives up.

What to fetch from whom is decided by the content's `Participant`. Here are the tasks, buffers and verdicts
that its effects need:

    Fetch(peer, block)  →  a task takes a buffer, receives the block into it over a data connection,
                           and hands it to the piece checker, which hashes and writes it in a thread
                        →  BlockArrived, then PieceVerified or PieceCorrupt, or BlockFailed
    Cancel(peer, block) →  the task is cancelled, unless the block is being written already
    Drop(peer)          →  its data and control connections are closed
    Finished, GiveUp    →  `run` returns, or raises the reason
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.errors import EnjambreError, IntegrityError, NotFound, ProtocolError, Refused, Unreachable
from p2p.model import BlockSpan, ContentId, PeerKey, peer_of
from p2p.peer.control import ControlConnection
from p2p.peer.finder import Finder
from p2p.peer.local_content import LocalContent
from p2p.peer.manifest_search import Found
from p2p.peer.reports import Progress
from p2p.peer.services import Services
from p2p.peer.swarm_trace import swarm_event
from p2p.storage.buffers import BufferPool
from p2p.storage.hashing import PieceChecker, Verdict
from p2p.storage.part_file import PartFile
from p2p.swarm.events import (
    BlockArrived,
    BlockFailed,
    Cancel,
    Drop,
    Effect,
    Event,
    Failure,
    Fetch,
    FetchEffect,
    Finished,
    GiveUp,
    Listed,
    PieceCorrupt,
    PieceVerified,
)
from p2p.swarm.participant import Participant
from p2p.swarm.peer_stats import Policy
from p2p.swarm.topology import EAGER_BELOW

REPORT_INTERVAL_S: Final = 0.5
"""Seconds between two reports of progress."""
QUIET_TIME_S: Final = 5.0
"""Seconds without a byte after which the phase is called waiting."""
DROPS_TOLD: Final = 4
"""Peers of which an error says why they were dropped."""
SPARE_BUFFERS: Final = 8
"""Buffers for blocks that are being hashed and written, besides those that are being received."""


class Fetcher:
    """Fetches what a part file lacks. `local` is the content as the library has it meanwhile."""

    def __init__(
        self,
        content: ContentId,
        found: Found,
        part: PartFile,
        have: Bitmap,
        path: Path,
        finder: Finder,
        services: Services,
    ) -> None:
        """`have` are the pieces that are in the part file and verified; `path` is the final name."""
        manifest = found.manifest
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._finder = finder
        self._services = services
        self._checker = PieceChecker(services.hashing, part, have)
        self.bytes_from: dict[str, int] = {}
        """Bytes received from each peer, by its name."""
        self.bytes_by: dict[str, int] = {}
        """Bytes received over each transport."""
        geometry = Geometry(manifest.size, manifest.piece_length)
        policy = policy_for(services.policy, services.rate_limit.rate, geometry.block_length)
        room = policy.max_requests(geometry.block_length) + SPARE_BUFFERS
        self._buffers = BufferPool(geometry.block_length, room)
        self._room = asyncio.Semaphore(room)
        participant = Participant(
            geometry,
            have,
            services.uploads.queue,
            services.rng,
            loop.time(),
            fetching=True,
            policy=policy,
        )
        self.local = LocalContent(
            content,
            manifest,
            found.data,
            part,
            path,
            participant,
            services.uploads,
            on_fetch=self._carry_out,
            note=self._note if services.note is not None else None,
        )
        self._fetches: dict[tuple[PeerKey, BlockSpan], asyncio.Task[None]] = {}
        """Fetches that may still be cancelled."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] = loop.create_future()
        self._arrived = 0
        self._arrived_at = loop.time()
        self._dropped: dict[str, None] = {}
        """Why peers were dropped, each reason once, in the order in which it was last found."""
        self._refusals: dict[PeerKey, str] = {}
        """What a peer said when it last refused a block for a reason of its own."""
        self._corrupt = False

    async def run(self) -> None:
        """Fetch it all. Raises `NotFound`, `Unreachable`, `IntegrityError`, `DiskError`."""
        local, services = self.local, self._services
        if local.have.full:
            return
        services.library.publish(local)
        reporting = asyncio.create_task(self._report_often())
        finding = asyncio.create_task(self._find())
        try:
            for connection in services.controls.all():
                local.introduce(connection)
            local.handle(Listed(self._finder.listed))
            await self._over
        finally:
            if not self._over.done():
                self._over.cancel()
            tasks = [reporting, finding, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._report("downloading", 0.0)

    async def _find(self) -> None:
        await self._services.library.announced()
        await self._finder.run(
            members=lambda: len(self.local.participant.members),
            eager=lambda: self.local.participant.sources < EAGER_BELOW,
            on_named=self._on_named,
            on_listed=lambda listed: self.local.handle(Listed(listed)),
        )

    def _on_named(self, connection: ControlConnection) -> None:
        """The tracker names a connected peer: it may have the content only since it connected, or again."""
        if self.local.connection(connection.key) is not connection:
            self.local.introduce(connection)

    def _note(self, happened: Event | Effect) -> None:
        services = self._services
        event = swarm_event(services.controls.me.peer, self.local.id, happened)
        if event is not None and services.note is not None:
            services.note(event)

    # -- effects

    def _carry_out(self, effect: FetchEffect) -> None:
        if self._over.done():
            return
        match effect:
            case Fetch(peer, block):
                self._fetches[peer, block] = self._start(self._fetch(peer, block))
            case Cancel(peer, block):
                task = self._fetches.pop((peer, block), None)
                if task is not None:
                    task.cancel()
            case Drop():
                self._drop(effect)
            case Finished():
                self._over.set_result(None)
            case GiveUp(missing):
                self._over.set_exception(self._given_up(missing))

    async def _fetch(self, peer: PeerKey, block: BlockSpan) -> None:
        """Receive one block, and see what it makes of its piece."""
        connection = self.local.connection(peer)
        if connection is None:
            self._failed(peer, block, Failure.BROKEN)
            return
        try:
            delay = self._services.rate_limit.take(block.length, self._loop.time())
            if delay:
                await asyncio.sleep(delay)
            async with self._room:
                buffer = self._buffers.borrow()
                if buffer is None:
                    self._failed(peer, block, Failure.BUSY)
                    return
                view = buffer.window(block.length)
                try:
                    if not await self._receive(connection, block, view):
                        return
                    verdict = await self._checker.take(block, view)
                finally:
                    buffer.release()
            if verdict is Verdict.VERIFIED:
                self.local.handle(PieceVerified(block.piece))
            elif verdict is Verdict.CORRUPT:
                self.local.handle(PieceCorrupt(block.piece))
        except EnjambreError as error:
            if not self._over.done():
                self._over.set_exception(error)
        finally:
            if self._fetches.get((peer, block)) is asyncio.current_task():
                del self._fetches[peer, block]

    async def _receive(self, connection: ControlConnection, block: BlockSpan, view: memoryview) -> bool:
        """Receive one block into `view`; reports how it went, and returns whether it is here."""
        peer = connection.key
        try:
            transport = await self._services.data.fetch(connection, self.local.id, block, view)
        except Refused as refused:
            lacks = refused.code in ("not_found", "bad_range")
            busy = refused.code in ("busy", "unavailable", "quota")
            if not lacks and not busy:
                self._refusals[peer] = f"; it says: {refused}"
            self._failed(peer, block, Failure.LACKS if lacks else Failure.BUSY if busy else Failure.BROKEN)
            return False
        except (Unreachable, ProtocolError):
            self._failed(peer, block, Failure.BROKEN)
            return False
        # From here on the block is hashed and written, and a cancel would come too late.
        self._fetches.pop((peer, block), None)
        self._arrived += block.length
        self._arrived_at = self._loop.time()
        self.bytes_from[connection.name] = self.bytes_from.get(connection.name, 0) + block.length
        self.bytes_by[transport] = self.bytes_by.get(transport, 0) + block.length
        self.local.handle(BlockArrived(peer, block))
        return True

    def _failed(self, peer: PeerKey, block: BlockSpan, failure: Failure) -> None:
        self._fetches.pop((peer, block), None)
        self.local.handle(BlockFailed(peer, block, failure))

    def _drop(self, drop: Drop) -> None:
        connection = self._services.controls.get(drop.peer)
        name = connection.name if connection else peer_of(drop.peer)[:8]
        why = f"{name}: {drop.why}{self._refusals.pop(drop.peer, '')}"
        self._dropped.pop(why, None)
        self._dropped[why] = None
        if len(self._dropped) > DROPS_TOLD:
            del self._dropped[next(iter(self._dropped))]
        self._corrupt = self._corrupt or drop.corrupt
        self._start(self._services.data.close(drop.peer))
        if connection is not None:
            connection.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """A bug in a task ends the download, which would otherwise wait for what never comes."""
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None and not self._over.done():
            self._over.set_exception(fault)

    # -- what it says

    def _given_up(self, missing: tuple[int, ...]) -> EnjambreError:
        dropped = "; ".join(self._dropped)
        if self._corrupt:
            return IntegrityError(
                f"what came does not match the id, and no other peer has it ({dropped}); "
                "what was verified is kept"
            )
        if missing:
            shown = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
            return NotFound(
                f"nobody has all of it: {len(missing)} pieces are missing ({shown})"
                f"{'; ' + dropped if dropped else ''}; what came is kept"
            )
        reasons = "; ".join([*[*self._dropped][-2:], *self._finder.reasons()[:2]])
        return Unreachable(
            f"no peer gives what is missing{': ' + reasons if reasons else ''}; what came is kept"
        )

    async def _report_often(self) -> None:
        seen: deque[tuple[float, int]] = deque(maxlen=8)
        while True:
            now = self._loop.time()
            seen.append((now, self._arrived))
            since, before = seen[0]
            rate = (self._arrived - before) / (now - since) if now > since else 0.0
            quiet = now - self._arrived_at > QUIET_TIME_S
            self._report("waiting" if quiet else "downloading" if self._arrived else "connecting", rate)
            self._services.library.on_grown(self.local)
            await asyncio.sleep(REPORT_INTERVAL_S)

    def _report(self, phase: str, rate: float) -> None:
        local = self.local
        size, peers = local.manifest.size, local.participant.sources
        self._services.report(Progress(phase, local.bytes_here, size, rate, peers))


def policy_for(policy: Policy, rate_limit: int, block_length: int) -> Policy:
    """The policy for blocks of this length: wait for a block as long as it takes at the minimum rate. With a
    rate limit in bytes a second, request no more at once than comes in two seconds."""
    timeout = max(policy.block_timeout, block_length / policy.min_rate)
    buffer_bytes = policy.buffer_bytes
    if rate_limit:
        timeout += 2 * math.ceil(block_length / rate_limit)
        buffer_bytes = max(block_length, min(buffer_bytes, 2 * rate_limit))
    stall_timeout = max(policy.stall_timeout, 1.5 * timeout)
    return replace(policy, buffer_bytes=buffer_bytes, block_timeout=timeout, stall_timeout=stall_timeout)
