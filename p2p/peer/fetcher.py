"""The fetching of one content's pieces: carries out the scheduler's wishes until all is here, or nobody gives
what is missing.

What to fetch from whom is the scheduler's decision alone; here are the tasks and buffers that its wishes
need.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from random import Random
from typing import Any, Final

from p2p.errors import EnjambreError, IntegrityError, NotFound, ProtocolError, Refused, Unreachable
from p2p.model import KIB, BlockSpan, ContentId, PeerKey, peer_of
from p2p.peer.control import ControlConnection, ControlConnections
from p2p.peer.data import DataPool
from p2p.peer.finder import Finder
from p2p.peer.hedging import SearchLimits
from p2p.peer.local_content import LocalContent
from p2p.peer.reports import Report
from p2p.peer.swarm_trace import swarm_event
from p2p.peer.trace import SwarmEvent
from p2p.storage.buffers import BufferPool
from p2p.storage.hashing import HashPool, PieceChecker, Verdict
from p2p.swarm.events import (
    BlockArrived,
    BlockFailed,
    Cancel,
    Drop,
    Effect,
    Event,
    Failure,
    Fetch,
    Finished,
    GiveUp,
    Listed,
    PeerLeft,
    PieceCorrupt,
    PieceVerified,
    SendHave,
    Tick,
)
from p2p.swarm.peer_stats import Policy
from p2p.swarm.rate_limit import TokenBucket
from p2p.swarm.scheduler import Scheduler
from p2p.swarm.topology import EAGER_BELOW
from p2p.value import frozen

REPORT_TIME: Final = 0.5
"""Seconds between two reports of progress."""
QUIET_TIME: Final = 5.0
"""Seconds without a byte after which the phase is called waiting."""
SLOWEST: Final = 16 * KIB
"""Bytes a second at which one peer may send to us before it counts as stalled: a block of 1 MiB may take a
minute, as from a seed whose thin link is shared by several receivers. To give up such a block would throw
away what came of it, again and again."""
DROPS_TOLD: Final = 4
"""Peers of which an error tells why they were given up."""
SPARE_BUFFERS: Final = 8
"""Buffers for blocks that are being hashed and written, besides those that are being received."""


@frozen
class Tools:
    """What every download of one peer shares."""

    links: ControlConnections
    lanes: DataPool
    pool: HashPool
    finder: Callable[[ContentId, Callable[[PeerKey], bool]], Finder]
    register: Callable[[LocalContent], None]
    """Told of the holding as soon as its manifest is known, so that others are served from the first piece
    on."""
    unregister: Callable[[LocalContent], None]
    changed: Callable[[LocalContent], None]
    """Told when a holding has become complete."""
    grown: Callable[[LocalContent], None]
    """Told often of a holding that may have more than before."""
    announced: Callable[[], Awaitable[None]]
    """Returns when the tracker knows what this peer has, or is out of reach."""
    report: Callable[[Report], None]
    rng: Random
    note: Callable[[SwarmEvent], None] | None
    """Told what happens in the swarm, when somebody watches."""
    pace: TokenBucket
    """The download rate of all downloads together."""
    policy: Policy
    search_limits: SearchLimits


class Fetcher:
    """What a holding lacks, fetched from all who have it."""

    def __init__(
        self,
        holding: LocalContent,
        checker: PieceChecker,
        finder: Finder,
        tools: Tools,
        progress: Callable[[str, int, float], None],
    ) -> None:
        """`progress` is told the phase, the bytes that are here, and bytes a second."""
        self._holding = holding
        self._checker = checker
        self._finder = finder
        self._tools = tools
        self._progress = progress
        self.bytes_from: dict[str, int] = {}
        """By the name of the peer."""
        self.bytes_by: dict[str, int] = {}
        """By the name of the transport."""
        loop = asyncio.get_running_loop()
        length = holding.geometry.block_length
        policy = _policy_for(tools, length)
        room = policy.in_flight(length)
        self._buffers = BufferPool(length, room + SPARE_BUFFERS)
        self._room = asyncio.Semaphore(room + SPARE_BUFFERS)
        self._scheduler = Scheduler(holding.geometry, holding.have, tools.rng, loop.time(), policy)
        self._fetches: dict[tuple[PeerKey, BlockSpan], asyncio.Task[None]] = {}
        self._chores: set[asyncio.Task[None]] = set()
        """Every task that fetches; `_fetches` are those that may still be called off."""
        self._queue: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = loop.create_future()
        self._arrived = 0
        self._moved_at = loop.time()
        self._dropped: dict[str, None] = {}
        """What was wrong with whom, each once, in the order in which it was last found."""
        self._said: dict[PeerKey, str] = {}
        """What a peer said when it last refused a block for a reason of its own."""
        self._corrupt = False

    @property
    def sources(self) -> int:
        """How many peers are asked for something now."""
        return self._scheduler.sources

    def banned(self, peer: PeerKey) -> bool:
        """Whether this peer was dropped for good."""
        return self._scheduler.banned(peer)

    async def run(self) -> None:
        """Fetch it all. Raises `NotFound`, `Unreachable`, `IntegrityError`, `DiskError`."""
        holding = self._holding
        holding.news = self._tell
        self._tools.register(holding)
        reporting = asyncio.create_task(self._report_often())
        finding = asyncio.create_task(self._find())
        try:
            for link in self._tools.links.all():
                holding.introduce(link)
            self._tell(Listed(self._finder.listed))
            await self._over
        finally:
            holding.news = None
            if self._timer is not None:
                self._timer.cancel()
            tasks = [reporting, finding, *self._chores]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._progress("downloading", holding.bytes_here, 0.0)

    def _tell(self, news: Event) -> None:
        """Tell the scheduler, and carry out its wishes; news that a wish brings waits its turn."""
        self._queue.append(news)
        if isinstance(news, PeerLeft):
            self._call_off(news.peer)
        if self._handling:
            return
        self._handling = True
        try:
            loop = asyncio.get_running_loop()
            while self._queue and not self._over.done():
                happened = self._queue.popleft()
                self._note(happened)
                for wish in self._scheduler.handle(happened, loop.time()):
                    self._note(wish)
                    self._carry_out(wish)
            self._wake_at(None if self._over.done() else self._scheduler.next_wakeup())
        finally:
            self._handling = False

    def _wake_at(self, when: float | None) -> None:
        """Tick at `when` at the latest. A timer that is too early does no harm, and most news only makes it
        later."""
        if (
            when is not None
            and self._timer is not None
            and self._timer.when() <= when
            and not self._timer.cancelled()
        ):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else asyncio.get_running_loop().call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._tell(Tick())

    def _note(self, happened: Event | Effect) -> None:
        if self._tools.note is not None:
            event = swarm_event(self._tools.links.me.peer, self._holding.id, happened)
            if event is not None:
                self._tools.note(event)

    async def _find(self) -> None:
        await self._tools.announced()
        await self._finder.run(
            members=lambda: self._holding.members,
            eager=lambda: self._scheduler.sources < EAGER_BELOW,
            on_named=self._on_named,
            on_listed=lambda listed: self._tell(Listed(listed)),
        )

    def _on_named(self, connection: ControlConnection) -> None:
        if self._holding.member(connection.key) is not connection:
            self._holding.introduce(connection)

    def _carry_out(self, wish: Effect) -> None:
        match wish:
            case Fetch(peer, block):
                self._fetches[peer, block] = self._chore(self._fetch(peer, block))
            case Cancel(peer, block):
                task = self._fetches.pop((peer, block), None)
                if task is not None:
                    task.cancel()
            case SendHave(piece):
                self._holding.verified(piece)
            case Drop(peer, why, corrupt):
                self._drop(peer, why, corrupt=corrupt)
            case Finished():
                self._end(None)
            case GiveUp(missing):
                self._end(self._given_up(missing))

    async def _fetch(self, peer: PeerKey, block: BlockSpan) -> None:
        """Bring one block, and see what it makes of its piece."""
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        link = self._holding.member(peer)
        if link is None:
            self._failed(peer, block, Failure.BROKEN)
            return
        try:
            delay = self._tools.pace.take(block.length, loop.time())
            if delay:
                await asyncio.sleep(delay)
            async with self._room:
                lease = self._buffers.borrow()
                if lease is None:
                    self._failed(peer, block, Failure.BUSY)
                    return
                view = lease.window(block.length)
                try:
                    if not await self._receive(link, block, view):
                        return
                    verdict = await self._checker.take(block, view)
                finally:
                    lease.release()
            if verdict is not Verdict.PENDING:
                self._tell(
                    PieceVerified(block.piece) if verdict is Verdict.VERIFIED else PieceCorrupt(block.piece)
                )
        except EnjambreError as error:
            self._end(error)
        finally:
            if self._fetches.get((peer, block)) is me:
                del self._fetches[peer, block]

    async def _receive(self, link: ControlConnection, block: BlockSpan, view: memoryview) -> bool:
        """Receive one block; tells the scheduler how it went, and returns whether it is here."""
        try:
            transport = await self._tools.lanes.fetch(link, self._holding.id, block, view)
        except Refused as refused:
            lacks = refused.code in ("not_found", "bad_range")
            busy = refused.code in ("busy", "unavailable", "quota")
            if not lacks and not busy:
                self._said[link.key] = f"; it says: {refused}"
            self._failed(
                link.key, block, Failure.LACKS if lacks else Failure.BUSY if busy else Failure.BROKEN
            )
            return False
        except (Unreachable, ProtocolError):
            self._failed(link.key, block, Failure.BROKEN)
            return False
        # From here on the block is being checked and written: a cancel would come too late, so this fetch is
        # not known any more.
        self._fetches.pop((link.key, block), None)
        self._arrived += block.length
        self._moved_at = asyncio.get_running_loop().time()
        self.bytes_from[link.name] = self.bytes_from.get(link.name, 0) + block.length
        self.bytes_by[transport] = self.bytes_by.get(transport, 0) + block.length
        self._tell(BlockArrived(link.key, block))
        return True

    def _failed(self, peer: PeerKey, block: BlockSpan, failure: Failure) -> None:
        self._fetches.pop((peer, block), None)
        self._tell(BlockFailed(peer, block, failure))

    # -- peers that go
    # -------------------------------------------------------------------------------------------------------------

    def _drop(self, peer: PeerKey, why: str, *, corrupt: bool) -> None:
        link = self._tools.links.get(peer)
        self._call_off(peer)
        told = f"{link.name if link else peer_of(peer)[:8]}: {why}{self._said.pop(peer, '')}"
        self._dropped.pop(told, None)
        self._dropped[told] = None
        if len(self._dropped) > DROPS_TOLD:
            del self._dropped[next(iter(self._dropped))]
        self._corrupt = self._corrupt or corrupt
        self._chore(self._tools.lanes.close(peer))
        if link is not None:
            link.close()

    def _call_off(self, peer: PeerKey) -> None:
        """Stop what is under way at a peer that the scheduler has nothing more to do with: what still came
        would count as another's."""
        for key in [key for key in self._fetches if key[0] == peer]:
            self._fetches.pop(key).cancel()

    def _chore(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """A task has ended. A fault of ours ends the download, which would otherwise wait for what never
        comes."""
        self._chores.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None and not self._over.done():
            self._over.set_exception(fault)

    # -- the end
    # -------------------------------------------------------------------------------------------------------------------

    def _end(self, error: EnjambreError | None) -> None:
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    def _given_up(self, missing: tuple[int, ...]) -> EnjambreError:
        told = "; ".join(self._dropped)
        if self._corrupt:
            return IntegrityError(
                f"what came does not match the id, and no other peer has it ({told}); what was verified is kept"
            )
        if missing:
            shown = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
            return NotFound(
                f"nobody has all of it: {len(missing)} pieces are missing ({shown}){'; ' + told if told else ''}; what came is kept"
            )
        reasons = "; ".join([*[*self._dropped][-2:], *self._finder.reasons()[:2]])
        return Unreachable(
            f"no peer gives what is missing{': ' + reasons if reasons else ''}; what came is kept"
        )

    # -- progress
    # ------------------------------------------------------------------------------------------------------------------

    async def _report_often(self) -> None:
        loop = asyncio.get_running_loop()
        seen: deque[tuple[float, int]] = deque(maxlen=8)
        while True:
            now = loop.time()
            seen.append((now, self._arrived))
            since, before = seen[0]
            rate = (self._arrived - before) / (now - since) if now > since else 0.0
            phase = (
                "waiting"
                if now - self._moved_at > QUIET_TIME
                else "downloading"
                if self._arrived
                else "connecting"
            )
            self._progress(phase, self._holding.bytes_here, rate)
            self._tools.grown(self._holding)
            await asyncio.sleep(REPORT_TIME)


def _policy_for(tools: Tools, block_length: int) -> Policy:
    """Wait for a block as long as the slowest may take. With a rate to keep, ask for no more at once than
    comes in two seconds."""
    policy, rate = tools.policy, tools.pace.rate
    timeout = max(policy.block_timeout, block_length / SLOWEST)
    memory = policy.memory
    if rate:
        timeout += 2 * math.ceil(block_length / rate)
        memory = max(block_length, min(memory, 2 * rate))
    return replace(policy, memory=memory, block_timeout=timeout, patience=max(policy.patience, 1.5 * timeout))
