"""Which block to request next from one peer of a download.

A peer with room in its window is given the first of these that there is:

1. the next block of a piece that this peer began, or whose peer is gone;
2. a piece that this peer suggested (a super-seeding peer knows what it has sent least);
3. nothing, if this peer suggests and was not silent for long;
4. the rarest piece that it has, chance deciding between equals;
5. in the end-game, when every piece has begun: a block that another peer is slow to send (a hedged request).
"""

from __future__ import annotations

from random import Random

from p2p.content.geometry import Geometry
from p2p.model import BlockSpan
from p2p.swarm.availability import Availability
from p2p.swarm.peer_stats import PeerStats, Policy
from p2p.swarm.picker import pick
from p2p.swarm.pieces_in_progress import PiecesInProgress
from p2p.swarm.requests import BlockRequest, Requests


class BlockChoice:
    """Chooses from what its scheduler keeps up to date: the open requests, the pieces in progress, and how
    many peers have each piece. What it chooses, it notes as started."""

    __slots__ = ("_availability", "_geometry", "_in_progress", "_policy", "_requests", "_rng")

    def __init__(
        self,
        geometry: Geometry,
        policy: Policy,
        rng: Random,
        requests: Requests,
        in_progress: PiecesInProgress,
        availability: Availability,
    ) -> None:
        self._geometry = geometry
        self._policy = policy
        self._rng = rng
        self._requests = requests
        self._in_progress = in_progress
        self._availability = availability

    @property
    def end_game(self) -> bool:
        """Whether every piece that anybody has was started."""
        unstarted = self._in_progress.unstarted
        return self._availability.nobody(unstarted) == unstarted

    def wanted(self, now: float) -> int:
        """The pieces, as bits, of which `next_block` may choose a block. It is -1, all pieces, when an open
        request is old enough to hedge."""
        if self._is_slow(self._requests.oldest(), now):
            return -1
        return self._in_progress.unstarted | self._in_progress.unrequested

    def _is_slow(self, request: BlockRequest | None, now: float) -> bool:
        return request is not None and request.asked + self._policy.hedge_after <= now

    def next_block(self, source: PeerStats, now: float) -> BlockSpan | None:
        """The block to request from this peer; None if it has none for us now."""
        in_progress = self._in_progress
        block = in_progress.next_block(source.peer, source.has)
        if block is not None:
            return block
        left = in_progress.unstarted & source.has
        if not left:
            return self._hedge(source, now)
        if not source.proven and in_progress.count(source.peer) >= self._policy.trial_pieces:
            return None
        piece = self._suggestion(source)
        if piece is None and not self._awaits_suggestion(source, now):
            piece = pick(left, self._availability, self._geometry.pieces, self._rng)
        return None if piece is None else in_progress.start(piece, source.peer)

    def _suggestion(self, source: PeerStats) -> int | None:
        while source.suggested:
            piece = next(iter(source.suggested))
            del source.suggested[piece]
            if self._in_progress.unstarted & source.has & (1 << piece):
                return piece
        return None

    def _awaits_suggestion(self, source: PeerStats, now: float) -> bool:
        if not source.suggests:
            return False
        if self._requests.count(source.peer) or now < source.silent_at(self._policy):
            return True
        source.suggests = False
        return False

    def _hedge(self, source: PeerStats, now: float) -> BlockSpan | None:
        """A block that another peer is slow to send, and from then on its piece. To hedge sooner would send
        bytes twice for nothing."""
        requests, policy = self._requests, self._policy
        if requests.count(source.peer) >= policy.min_window or not self.end_game:
            return None
        for request in requests.entries():
            block = request.block
            if not self._is_slow(request, now):
                break
            if not source.has >> block.piece & 1:
                continue
            in_progress = self._in_progress.get(block.piece)
            if in_progress is None or not self._in_progress.may_hedge(block.piece):
                continue
            asked = requests.asked(block)
            # Each time that a block was late, one peer more may be asked for it: where several peers stall,
            # two at a time would each hold the block for a whole timeout.
            most = min(policy.max_asked + in_progress.late, policy.max_asked_late)
            if source.peer not in asked and len(asked) < most:
                in_progress.owner = source.peer
                return block
        return None
