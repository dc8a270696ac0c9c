"""What to fetch from whom: how many blocks each peer is asked for, and what follows when one does not come.

The scheduler is pure. `handle(event, now)` takes one event and returns effects; `next_wakeup()` says when to
feed a `Tick`. Which block a peer is asked for is decided in `block_choice.py`.

**Two windows.** Each peer has a window: one or two blocks, more for a fast peer, one after a failure. All
requests together have a congestion window: it begins at what the buffers hold, is halved when nothing came
for a whole block timeout (our own downlink is thin, and shared by so many blocks that none is in time), and
grows by one with each block that comes.

**Failures.** A late block is requested elsewhere and is a strike for its peer; so is a broken answer. Three
in a row drop the peer. "Busy" is no strike: the peer is left alone, twice as long each time. A corrupt piece
from a single peer bans it; one from several peers is fetched again from a single peer, so that the next fault
has a name.

Guarantees, which `tests/property` checks: no peer is asked for what it lacks; the download ends if the peers
together have all of it.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from operator import itemgetter
from random import Random
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import BlockSpan, PeerKey
from p2p.swarm.availability import Availability
from p2p.swarm.block_choice import BlockChoice
from p2p.swarm.events import (
    BlockArrived,
    BlockFailed,
    Cancel,
    Drop,
    Failure,
    Fetch,
    FetchEffect,
    Finished,
    GiveUp,
    Listed,
    MemberJoined,
    MemberLeft,
    PeerGained,
    PeerHas,
    PieceCorrupt,
    PieceVerified,
    SchedulerEvent,
    Suggested,
    Tick,
)
from p2p.swarm.peer_stats import PeerStats, Policy
from p2p.swarm.picker import numbers
from p2p.swarm.pieces_in_progress import PieceInProgress, PiecesInProgress
from p2p.swarm.requests import Requests
from p2p.swarm.stall_timeout import StallTimeout

MIN_CONGESTION_WINDOW: Final = 4
"""Requests that may always be open: with fewer, the peers are to blame when nothing comes, and not our own
downlink."""


class Scheduler:
    """Decides for one content. `have` are the verified pieces; the scheduler adds to it."""

    def __init__(
        self, geometry: Geometry, have: Bitmap, rng: Random, now: float, policy: Policy | None = None
    ) -> None:
        self.have = have
        self._geometry = geometry
        self._policy = policy or Policy()
        self._congestion_window = self._policy.max_requests(geometry.block_length)
        """Requests that may be open at all peers together."""
        self._arrived_at = now
        self._sources: dict[PeerKey, PeerStats] = {}
        self._availability = Availability(geometry.pieces)
        self._requests = Requests()
        self._in_progress = PiecesInProgress(geometry, have)
        self._choice = BlockChoice(
            geometry, self._policy, rng, self._requests, self._in_progress, self._availability
        )
        self._resting: dict[PeerKey, PeerStats] = {}
        """Peers that are paused or that suggest: time alone may make them askable again."""
        self._banned: set[PeerKey] = set()
        self._now = now
        self._stall_timeout = StallTimeout(
            self._policy, now, len(geometry.blocks(0)) if geometry.pieces else 1
        )
        self._newly_proven: list[PeerStats] = []
        """Peers of which the last piece is the first that verified."""
        self._due: float | None = None
        """The next wake-up, where it is known."""
        self._effects: list[FetchEffect] = []
        self._done = False

    def handle(self, event: SchedulerEvent, now: float) -> list[FetchEffect]:
        """Take one event; return the effects in order."""
        self._now = now
        if (
            self._due is not None
            and now < self._due
            and type(event) is PeerGained
            and self._only_gained(event)
        ):
            return []
        self._due = None
        self._apply(event, now)
        if not self._done:
            timed_out = self._time_out(now)
            self._ask(self._sources.values() if timed_out else self._askable(event), now)
            self._finish(now)
        effects, self._effects = self._effects, []
        return effects

    def next_wakeup(self) -> float | None:
        """When to feed a `Tick` at the latest; None when the download is over."""
        if self._done:
            return None
        if self._due is None or self._due <= self._now:
            self._due = self._next_wakeup()
        return self._due

    def _next_wakeup(self) -> float:
        times = [self._stall_timeout.until(alone=not self._sources)]
        oldest = self._requests.oldest()
        if oldest is not None:
            times.append(oldest.until)
        if self._choice.end_game:
            hedges = (request.asked + self._policy.hedge_after for request in self._requests.entries())
            times += islice((time for time in hedges if time > self._now), 1)
        for source in list(self._resting.values()):
            times.append(source.paused_until)
            if source.suggests:
                if not self._requests.count(source.peer):
                    times.append(source.silent_at(self._policy))
            elif source.paused_until <= self._now:
                del self._resting[source.peer]
        return min(time for time in times if time > self._now)

    @property
    def sources(self) -> int:
        """From how many peers something is requested now."""
        return sum(1 for peer in self._sources if self._requests.count(peer))

    @property
    def requests(self) -> frozenset[tuple[PeerKey, BlockSpan]]:
        """The open requests."""
        return frozenset((request.peer, request.block) for request in self._requests.entries())

    def banned(self, peer: PeerKey) -> bool:
        """Whether this peer was dropped for good, for a corrupt piece."""
        return peer in self._banned

    def unobtainable(self) -> tuple[int, ...]:
        """Pieces that we lack and no known peer has."""
        return numbers(self._availability.nobody(self.have.missing().bits))

    # -- events

    def _apply(self, event: SchedulerEvent, now: float) -> None:
        match event:
            case MemberJoined(peer):
                if peer not in self._banned:
                    self._on_joined(peer, now)
            case MemberLeft(peer):
                self._remove(peer)
            case PeerHas(peer, bits):
                self._on_has(peer, bits)
            case PeerGained(peer, bits):
                source = self._sources.get(peer)
                if source is not None:
                    self._on_gained(source, bits & ~source.has)
            case Suggested(peer, pieces):
                self._on_suggested(peer, pieces, now)
            case BlockArrived(peer, block):
                self._on_arrived(peer, block, now)
            case BlockFailed(peer, block, failure):
                self._on_failed(peer, block, failure, now)
            case PieceVerified(piece):
                self._on_verified(piece, now)
            case PieceCorrupt(piece):
                self._on_corrupt(piece)
            case Listed(peers):
                self._stall_timeout.on_listed(peers, now)
            case Tick():
                pass

    def _only_gained(self, event: PeerGained) -> bool:
        """Count new pieces of a peer, if nothing follows from them: we want none of them, or may ask that
        peer for no more. Most events of a swarm are so, hence this short cut."""
        source = self._sources.get(event.peer)
        if source is None:
            return True
        gained = event.bits & ~source.has
        if gained & (self._in_progress.unstarted | self._in_progress.unrequested):
            free = self._window(source) - self._requests.count(event.peer)
            if free > 0 and len(self._requests) < self._congestion_window:
                return False
        self._on_gained(source, gained)
        return True

    def _on_gained(self, source: PeerStats, gained: int) -> None:
        """Count new pieces of a peer, of those that we lack: how rare the others are does not matter."""
        source.has |= gained
        lacked = gained & ~self.have.bits
        if lacked:
            self._availability.add(lacked)

    def _window(self, source: PeerStats) -> int:
        """How many requests may be open at this peer."""
        return source.window(self._policy, self._geometry.block_length, few_peers=self._few_peers)

    @property
    def _few_peers(self) -> bool:
        return len(self._sources) <= self._policy.few_peers

    def _on_joined(self, peer: PeerKey, now: float) -> None:
        if not self._sources:
            self._stall_timeout.on_joined(peer, now)
        self._sources.setdefault(peer, PeerStats(peer, suggested_at=now))

    def _on_has(self, peer: PeerKey, bits: int) -> None:
        source = self._sources.get(peer)
        if source is None:
            return
        lost = source.has & ~bits
        self._on_gained(source, bits & ~source.has)
        if not lost:
            return
        source.has = bits
        self._availability.remove(lost)
        self._in_progress.on_left(peer, lambda piece: bits >> piece & 1)

    def _on_suggested(self, peer: PeerKey, pieces: tuple[int, ...], now: float) -> None:
        source = self._sources.get(peer)
        if source is None:
            return
        source.suggests = True
        source.suggested_at = now
        if not source.failures:
            source.paused_until = now  # it was busy, and has a slot for us now
        source.busy = 0.0
        self._resting[peer] = source
        for piece in pieces:
            if piece not in self.have and source.has >> piece & 1:
                source.suggested[piece] = None

    def _on_arrived(self, peer: PeerKey, block: BlockSpan, now: float) -> None:
        request = self._requests.close(peer, block)
        if request is None:
            return
        self._stall_timeout.on_arrived(now)
        self._arrived_at = now
        self._congestion_window = min(
            self._congestion_window + 1, self._policy.max_requests(self._geometry.block_length)
        )
        source = self._sources.get(peer)
        if source is not None:
            source.on_arrived(block.length, request.asked, now)
        self._in_progress.on_arrived(peer, block)
        self._cancel(block)

    def _cancel(self, block: BlockSpan) -> None:
        for other in self._requests.asked(block):
            self._requests.close(other, block)
            self._effects.append(Cancel(other, block))

    def _on_failed(self, peer: PeerKey, block: BlockSpan, failure: Failure, now: float) -> None:
        if self._requests.close(peer, block) is None:
            return
        self._return_block(block)
        source = self._sources.get(peer)
        if source is None:
            return
        if failure is Failure.LACKS:
            self._on_has(peer, source.has & ~(1 << block.piece))
        elif failure is Failure.BUSY:
            if now >= source.paused_until:  # several requests refused at once are one refusal
                source.busy = min(source.busy * 2 or self._policy.busy_pause, self._policy.max_busy_pause)
                source.paused_until = now + source.busy
                self._resting[peer] = source
        else:
            self._strike(source, now, "its answers are broken")

    def _on_verified(self, piece: int, now: float) -> None:
        self.have.add(piece)
        self._stall_timeout.on_verified(now)
        in_progress = self._end(self._in_progress.on_verified(piece))
        senders = (
            [self._sources[peer] for peer in sorted(in_progress.senders & self._sources.keys())]
            if in_progress is not None
            else []
        )
        self._newly_proven = [source for source in senders if not source.proven]
        for source in senders:
            source.proven = True
        if len(senders) == 1 and in_progress is not None and len(in_progress.senders) == 1:
            senders[0].corrupt = 0
        for source in self._sources.values():
            source.suggested.pop(piece, None)

    def _on_corrupt(self, piece: int) -> None:
        in_progress = self._end(self._in_progress.on_corrupt(piece))
        if in_progress is None:
            return
        for peer in sorted(in_progress.senders & self._sources.keys()):
            source = self._sources[peer]
            source.corrupt += 1
            if len(in_progress.senders) == 1:
                self._drop(peer, f"piece {piece} from it does not match its hash", corrupt=True)
            elif source.corrupt >= self._policy.strikes:
                self._drop(
                    peer,
                    f"it took part in {source.corrupt} pieces that do not match their hash",
                    corrupt=False,
                )

    def _end(self, in_progress: PieceInProgress | None) -> PieceInProgress | None:
        """Cancel the open requests of a piece that is whole."""
        if in_progress is not None:
            for block in sorted(in_progress.missing):
                self._cancel(block)
        return in_progress

    # -- peers that fail

    def _time_out(self, now: float) -> bool:
        """Take overdue requests back; return whether there were any."""
        oldest = self._requests.oldest()
        if oldest is None or oldest.until > now:
            return False
        if self._arrived_at + self._policy.block_timeout <= now:
            self._congestion_window = min(
                self._congestion_window, max(MIN_CONGESTION_WINDOW, len(self._requests) // 2)
            )
        for request in self._requests.overdue(now):
            if self._requests.close(request.peer, request.block) is None:
                continue
            self._return_block(request.block)
            in_progress = self._in_progress.get(request.block.piece)
            if in_progress is not None:
                in_progress.late += 1
            self._effects.append(Cancel(request.peer, request.block))
            source = self._sources.get(request.peer)
            if source is not None:
                self._strike(source, now, "it stalls")
        return True

    def _strike(self, source: PeerStats, now: float, why: str) -> None:
        if now < source.paused_until:
            return  # a broken connection breaks every request on it: one fault, one strike
        source.failures += 1
        source.paused_until = now + self._policy.busy_pause * source.failures
        self._resting[source.peer] = source
        if source.failures >= self._policy.strikes:
            self._drop(source.peer, why, corrupt=False)

    def _drop(self, peer: PeerKey, why: str, *, corrupt: bool) -> None:
        if corrupt:
            self._banned.add(peer)
        self._remove(peer)
        self._effects.append(Drop(peer, why, corrupt))

    def _remove(self, peer: PeerKey) -> None:
        source = self._sources.pop(peer, None)
        if source is None:
            return
        self._resting.pop(peer, None)
        self._stall_timeout.on_left(peer, self._now, useful=source.useful, last=not self._sources)
        self._availability.remove(source.has)
        for request in self._requests.of(peer):
            self._requests.close(peer, request.block)
            self._effects.append(Cancel(peer, request.block))
            self._return_block(request.block)
        self._in_progress.on_left(peer)

    def _return_block(self, block: BlockSpan) -> None:
        if not self._requests.asked(block):
            self._in_progress.return_block(block)

    # -- asking

    def _askable(self, event: SchedulerEvent) -> Collection[PeerStats]:
        """Peers that may have become askable by this event."""
        match event:
            case PeerGained(peer, _) | Suggested(peer, _):
                return [self._sources[peer]] if peer in self._sources else []
            case PieceVerified():
                return self._newly_proven
            case BlockArrived(peer, _) if (
                not self._effects and len(self._requests) + 1 < self._congestion_window
            ):
                return [self._sources[peer]] if peer in self._sources else []
            case _:
                return self._sources.values()

    def _ask(self, sources: Collection[PeerStats], now: float) -> None:
        requests = self._requests
        if len(requests) >= self._congestion_window:
            return
        wanted = self._choice.wanted(now)
        ready: list[tuple[tuple[int, int, float], int, PeerStats]] = []
        for source in sources:
            if source.has & wanted and source.paused_until <= now:
                count = requests.count(source.peer)
                free = self._window(source) - count
                if free > 0:
                    # Peers with failures come last.
                    ready.append(((source.failures, count, source.asked_at), free, source))
        ready.sort(key=itemgetter(0))
        for _, free, source in ready:
            for _ in range(min(free, self._congestion_window - len(requests))):
                block = self._choice.next_block(source, now)
                if block is None:
                    break
                requests.open(source.peer, block, now, now + self._policy.block_timeout)
                source.asked_at = now
                self._effects.append(Fetch(source.peer, block))

    # -- the end

    def _finish(self, now: float) -> None:
        if self.have.full:
            self._done = True
            self._effects.append(Finished())
        elif now >= self._stall_timeout.until(alone=not self._sources):
            self._done = True
            self._effects.append(GiveUp(self.unobtainable()))
