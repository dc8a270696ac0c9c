"""All decisions of one download: one piece of news in, wishes out, and when to be woken next.

The policy, in the order in which a peer with room in its window is given work:
1. go on with a piece that this peer began, or that lost the peer that began it;
2. a piece that this peer suggested (a seed knows what it has sent least);
3. nothing yet, if this peer suggests and was not silent for long;
4. the rarest piece that it has, chance deciding between equals;
5. at the tail, when all that is left is under way: a block that another peer is slow to bring.

Guarantees, which `tests/property` checks: no peer is asked for what it lacks; the download ends if the peers
together hold all of it.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import BlockSpan, PeerKey
from p2p.swarm.availability import Availability
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
    PeerGained,
    PeerHas,
    PeerJoined,
    PeerLeft,
    PieceCorrupt,
    PieceVerified,
    SendHave,
    Suggested,
    Tick,
)
from p2p.swarm.peer_stats import PeerStats, Policy
from p2p.swarm.picker import as_bits, numbers, pick
from p2p.swarm.pieces_in_progress import Piece, PiecesInProgress
from p2p.swarm.requests import Requests
from p2p.swarm.stall_timeout import StallTimeout

LEAST_UNDER_WAY: Final = 4
"""Blocks that may always be under way: of fewer, the peers are to blame when none comes, and not our own
link."""


class Scheduler:
    """Decides for one content. `have` are the pieces already verified; it is kept up to date here, and
    belongs to the scheduler."""

    def __init__(
        self, geometry: Geometry, have: Bitmap, rng: Random, now: float, policy: Policy | None = None
    ) -> None:
        self.have = have
        self._geometry = geometry
        self._rng = rng
        self._policy = policy or Policy()
        self._most = self._policy.in_flight(geometry.block_length)
        """Blocks under way from all peers together, at most. Fewer where all that was under way came too
        late: the own link is thin, and shared by so many that none is done in time."""
        self._arrived_at = now
        self._sources: dict[PeerKey, PeerStats] = {}
        self._availability = Availability(geometry.pieces)
        self._ledger = Requests()
        self._begun = PiecesInProgress(geometry, have)
        self._resting: dict[PeerKey, PeerStats] = {}
        """Sources that are paused or that suggest: those that may be asked again only because time has
        passed."""
        self._banned: set[PeerKey] = set()
        self._now = now
        self._patience = StallTimeout(self._policy, now, len(geometry.blocks(0)) if geometry.pieces else 1)
        self._off_trial: list[PeerStats] = []
        """Peers that the last piece has proven good."""
        self._due: float | None = None
        """The next wake-up, where it is known."""
        self._wishes: list[Effect] = []
        self._over = False

    # -- the interface
    # -------------------------------------------------------------------------------------------------------------

    def handle(self, news: Event, now: float) -> list[Effect]:
        """Take one piece of news; return what is wished for, in order."""
        self._now = now
        if self._due is not None and now < self._due and type(news) is PeerGained and self._only_gained(news):
            return []
        self._due = None
        self._apply(news, now)
        if not self._over:
            timed_out = self._time_out(now)
            self._ask(self._sources.values() if timed_out else self._concerned(news), now)
            self._conclude(now)
        wishes, self._wishes = self._wishes, []
        return wishes

    def next_wakeup(self) -> float | None:
        """When to send a `Tick` at the latest; None when there is nothing to wait for."""
        if self._over:
            return None
        if self._due is None or self._due <= self._now:
            self._due = self._next_wakeup()
        return self._due

    def _next_wakeup(self) -> float:
        times = [self._patience.until(alone=not self._sources)]
        overdue = self._ledger.earliest()
        if overdue is not None:
            times.append(overdue)
        if self._is_tail():
            times += [entry.asked + self._policy.tail_patience for entry in self._ledger.entries()]
        for source in list(self._resting.values()):
            times.append(source.paused_until)
            if source.suggests:
                if not self._ledger.count(source.peer):
                    times.append(source.silent_at(self._policy))
            elif source.paused_until <= self._now:
                del self._resting[source.peer]
        return min(time for time in times if time > self._now)

    @property
    def sources(self) -> int:
        """How many peers are asked for something now."""
        return sum(1 for peer in self._sources if self._ledger.count(peer))

    def banned(self, peer: PeerKey) -> bool:
        """Whether this peer was dropped for good."""
        return peer in self._banned

    def unobtainable(self) -> tuple[int, ...]:
        """Pieces that we lack and no peer we know has."""
        return numbers(self._availability.nobody(self.have.missing().bits))

    # -- news
    # ----------------------------------------------------------------------------------------------------------------------

    def _apply(self, news: Event, now: float) -> None:
        match news:
            case PeerJoined(peer):
                if peer not in self._banned:
                    self._joined(peer, now)
            case PeerLeft(peer):
                self._forget(peer)
            case PeerHas(peer, bits):
                self._has(peer, bits)
            case PeerGained(peer, pieces):
                source = self._sources.get(peer)
                if source is not None:
                    self._has(peer, source.has | as_bits(pieces))
            case Suggested(peer, pieces):
                self._suggested(peer, pieces, now)
            case BlockArrived(peer, block):
                self._arrived(peer, block, now)
            case BlockFailed(peer, block, failure):
                self._failed(peer, block, failure, now)
            case PieceVerified(piece):
                self._verified(piece, now)
            case PieceCorrupt(piece):
                self._corrupt(piece)
            case Listed(peers):
                self._patience.listed(peers, now)
            case Tick():
                pass

    def _only_gained(self, news: PeerGained) -> bool:
        """Note what a peer gained, if nothing follows from it: we want none of it, or may ask that peer for
        no more. Most news is so."""
        source = self._sources.get(news.peer)
        if source is None:
            return True
        gained = as_bits(news.pieces) & ~source.has
        if gained & self._begun.unbegun or any(map(self._begun.wants, news.pieces)):
            room = source.window(
                self._policy, self._geometry.block_length, few=self._few
            ) - self._ledger.count(news.peer)
            if room > 0 and len(self._ledger) < self._most:
                return False
        self._on_gain(source, gained)
        return True

    def _on_gain(self, source: PeerStats, gained: int) -> None:
        """Count new holders, of what we lack only: how rare a piece is that is here matters no more."""
        source.has |= gained
        lacked = gained & ~self.have.bits
        if lacked:
            self._availability.add(lacked)

    @property
    def _few(self) -> bool:
        return len(self._sources) <= self._policy.few

    def _joined(self, peer: PeerKey, now: float) -> None:
        if not self._sources:
            self._patience.joined(peer, now)
        self._sources.setdefault(peer, PeerStats(peer, suggested_at=now))

    def _has(self, peer: PeerKey, bits: int) -> None:
        source = self._sources.get(peer)
        if source is None:
            return
        lost = source.has & ~bits
        self._on_gain(source, bits & ~source.has)
        if not lost:
            return
        source.has = bits
        self._availability.remove(lost)
        self._begun.leave(peer, lambda piece: bits >> piece & 1)

    def _suggested(self, peer: PeerKey, pieces: tuple[int, ...], now: float) -> None:
        source = self._sources.get(peer)
        if source is None:
            return
        source.suggests = True
        source.suggested_at = now
        if not source.failures:
            source.paused_until = now  # it was busy, and has a turn for us now
        source.busy = 0.0
        self._resting[peer] = source
        for piece in pieces:
            if piece not in self.have and source.has >> piece & 1:
                source.suggested[piece] = None

    def _arrived(self, peer: PeerKey, block: BlockSpan, now: float) -> None:
        entry = self._ledger.close(peer, block)
        if entry is None:
            return
        self._patience.arrived(now)
        self._arrived_at = now
        self._most = min(self._most + 1, self._policy.in_flight(self._geometry.block_length))
        source = self._sources.get(peer)
        if source is not None:
            source.arrived(block.length, entry.asked, now)
        self._begun.arrived(peer, block)
        self._cancel(block)

    def _cancel(self, block: BlockSpan) -> None:
        for other in self._ledger.asked(block):
            self._ledger.close(other, block)
            self._wishes.append(Cancel(other, block))

    def _failed(self, peer: PeerKey, block: BlockSpan, failure: Failure, now: float) -> None:
        if self._ledger.close(peer, block) is None:
            return
        self._give_back(block)
        source = self._sources.get(peer)
        if source is None:
            return
        if failure is Failure.LACKS:
            self._has(peer, source.has & ~(1 << block.piece))
        elif failure is Failure.BUSY:
            if now >= source.paused_until:  # all that it refuses together is one refusal
                source.busy = min(source.busy * 2 or self._policy.busy_pause, self._policy.busy_most)
                source.paused_until = now + source.busy
                self._resting[peer] = source
        else:
            self._strike(source, now, "its answers are broken")

    def _verified(self, piece: int, now: float) -> None:
        self.have.add(piece)
        self._patience.verified(now)
        begun = self._end(self._begun.verified(piece))
        senders = (
            [self._sources[peer] for peer in sorted(begun.senders & self._sources.keys())]
            if begun is not None
            else []
        )
        self._off_trial = [source for source in senders if not source.proven]
        for source in senders:
            source.proven = True
        if len(senders) == 1 and begun is not None and len(begun.senders) == 1:
            senders[0].corrupt = 0
        for source in self._sources.values():
            source.suggested.pop(piece, None)
        self._wishes.append(SendHave(piece))

    def _corrupt(self, piece: int) -> None:
        begun = self._end(self._begun.corrupt(piece))
        if begun is None:
            return
        for peer in sorted(begun.senders & self._sources.keys()):
            source = self._sources[peer]
            source.corrupt += 1
            if len(begun.senders) == 1:
                self._drop(peer, f"piece {piece} from it does not match its hash", corrupt=True)
            elif source.corrupt >= self._policy.strikes:
                self._drop(
                    peer,
                    f"it took part in {source.corrupt} pieces that do not match their hash",
                    corrupt=False,
                )

    def _end(self, begun: Piece | None) -> Piece | None:
        """Call off whatever may still be under way of a piece that is done with."""
        if begun is not None:
            for block in sorted(begun.missing):
                self._cancel(block)
        return begun

    # -- peers that fail
    # -----------------------------------------------------------------------------------------------------------

    def _time_out(self, now: float) -> bool:
        """Take back what is overdue; return whether anything was."""
        earliest = self._ledger.earliest()
        if earliest is None or earliest > now:
            return False
        if self._arrived_at + self._policy.block_timeout <= now:
            self._most = min(self._most, max(LEAST_UNDER_WAY, len(self._ledger) // 2))
        for entry in self._ledger.overdue(now):
            if self._ledger.close(entry.peer, entry.block) is None:
                continue
            self._give_back(entry.block)
            begun = self._begun.get(entry.block.piece)
            if begun is not None:
                begun.late += 1
            self._wishes.append(Cancel(entry.peer, entry.block))
            source = self._sources.get(entry.peer)
            if source is not None:
                self._strike(source, now, "it stalls")
        return True

    def _strike(self, source: PeerStats, now: float, why: str) -> None:
        if now < source.paused_until:
            return  # what breaks a connection breaks all that is under way on it: one fault, one strike
        source.failures += 1
        source.paused_until = now + self._policy.busy_pause * source.failures
        self._resting[source.peer] = source
        if source.failures >= self._policy.strikes:
            self._drop(source.peer, why, corrupt=False)

    def _drop(self, peer: PeerKey, why: str, *, corrupt: bool) -> None:
        if corrupt:
            self._banned.add(peer)
        self._forget(peer)
        self._wishes.append(Drop(peer, why, corrupt))

    def _forget(self, peer: PeerKey) -> None:
        source = self._sources.pop(peer, None)
        if source is None:
            return
        self._resting.pop(peer, None)
        self._patience.left(peer, self._now, useful=source.useful, last=not self._sources)
        self._availability.remove(source.has)
        for entry in self._ledger.of(peer):
            self._ledger.close(peer, entry.block)
            self._give_back(entry.block)
        self._begun.leave(peer)

    def _give_back(self, block: BlockSpan) -> None:
        if not self._ledger.asked(block):
            self._begun.give_back(block)

    # -- asking
    # --------------------------------------------------------------------------------------------------------------------

    def _concerned(self, news: Event) -> Collection[PeerStats]:
        """Who may be asked for something after this news that could not be asked before. Most news by far is
        that a peer gained a piece."""
        match news:
            case PeerGained(peer, _) | Suggested(peer, _):
                return [self._sources[peer]] if peer in self._sources else []
            case PieceVerified():
                return self._off_trial
            case BlockArrived(peer, _) if not self._wishes and len(self._ledger) + 1 < self._most:
                return [self._sources[peer]] if peer in self._sources else []
            case _:
                return self._sources.values()

    def _ask(self, sources: Collection[PeerStats], now: float) -> None:
        policy, ledger, length = self._policy, self._ledger, self._geometry.block_length
        few = self._few
        # Who failed last comes last.
        for source in sorted(
            sources, key=lambda source: (source.failures, ledger.count(source.peer), source.asked_at)
        ):
            if source.paused_until > now:
                continue
            room = min(
                source.window(policy, length, few=few) - ledger.count(source.peer), self._most - len(ledger)
            )
            while room > 0:
                block = self._choose(source, now)
                if block is None:
                    break
                ledger.open(source.peer, block, now, now + policy.block_timeout)
                source.asked_at = now
                self._wishes.append(Fetch(source.peer, block))
                room -= 1

    def _choose(self, source: PeerStats, now: float) -> BlockSpan | None:
        begun = self._begun
        block = begun.go_on(source.peer, source.has)
        if block is not None:
            return block
        left = begun.unbegun & source.has
        if not left:
            return self._at_the_tail(source, now)
        if not source.proven and begun.count(source.peer) >= self._policy.trial:
            return None
        piece = self._suggestion(source)
        if piece is None and not self._waits_for_suggestion(source, now):
            piece = pick(left, self._availability, self._geometry.pieces, self._rng)
        return None if piece is None else begun.begin(piece, source.peer)

    def _suggestion(self, source: PeerStats) -> int | None:
        while source.suggested:
            piece = next(iter(source.suggested))
            del source.suggested[piece]
            if self._begun.unbegun & source.has & (1 << piece):
                return piece
        return None

    def _waits_for_suggestion(self, source: PeerStats, now: float) -> bool:
        if not source.suggests:
            return False
        if self._ledger.count(source.peer) or now < source.silent_at(self._policy):
            return True
        source.suggests = False
        return False

    def _at_the_tail(self, source: PeerStats, now: float) -> BlockSpan | None:
        """A block that another peer is slow to bring, and from then on its piece. Sooner would send bytes
        twice for nothing."""
        if self._ledger.count(source.peer) >= self._policy.window_least or not self._is_tail():
            return None
        for entry in self._ledger.entries():
            block = entry.block
            if entry.asked + self._policy.tail_patience > now or not source.has >> block.piece & 1:
                continue
            begun = self._begun.get(block.piece)
            if begun is None or not self._begun.shareable(block.piece):
                continue
            asked = self._ledger.asked(block)
            # Where several stall, two at a time would each have the block for a whole timeout before the one
            # that would bring it.
            most = min(self._policy.duplicates + begun.late, self._policy.duplicates_most)
            if source.peer not in asked and len(asked) < most:
                begun.owner = source.peer
                return block
        return None

    def _is_tail(self) -> bool:
        """Whether every piece that anybody has was begun."""
        return self._availability.nobody(self._begun.unbegun) == self._begun.unbegun

    # -- the end
    # -------------------------------------------------------------------------------------------------------------------

    def _conclude(self, now: float) -> None:
        if self.have.full:
            self._over = True
            self._wishes.append(Finished())
        elif now >= self._patience.until(alone=not self._sources):
            self._over = True
            self._wishes.append(GiveUp(self.unobtainable()))
