"""What must hold at one simulated peer in every swarm, whatever it and the others do.

The shell calls these while it carries out effects. A check that fails raises through `must`, with the
sentence that does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import BlockSpan, PeerKey
from p2p.swarm.events import BlockArrived, BlockFailed, Event, Failure
from p2p.swarm.participant import Participant
from p2p.swarm.peer_stats import Policy
from p2p.swarm.picker import numbers

OpenRequests = Collection[tuple[PeerKey, BlockSpan]]
Must = Callable[[bool, str], None]
"""Raises with the sentence unless it holds."""


class PeerChecks:
    """The checks of one peer, which has the pieces `have`."""

    def __init__(self, must: Must, geometry: Geometry, policy: Policy, have: Bitmap) -> None:
        self._must = must
        self._geometry = geometry
        self._policy = policy
        self._have = have

    def fetch(
        self,
        peer: PeerKey,
        block: BlockSpan,
        told: int,
        requests: OpenRequests,
        arrived: Collection[BlockSpan],
        now: float,
    ) -> None:
        """A block may be requested from a peer. `told`: what that peer said it has, as bits; `requests`:
        those that are open; `arrived`: the blocks of the same piece that are here."""
        must, policy = self._must, self._policy
        must(bool(told >> block.piece & 1), "no peer is asked for what it lacks")
        must(block.piece not in self._have, "nothing is asked for that is here already")
        must(block in self._geometry.blocks(block.piece), "blocks are as the geometry cuts them")
        must(block not in arrived, "a block that came is not asked for again")
        must((peer, block) not in requests, "no peer is asked twice at once for one block")
        at_peer = sum(1 for key, _ in requests if key == peer)
        must(at_peer < policy.max_window, "no more is under way than the window allows")
        copies = sum(1 for _, asked in requests if asked == block)
        late = now >= policy.block_timeout  # before, no block can have been late
        most = policy.max_asked_late if late else policy.max_asked
        must(copies < most, "no block is asked for more often at once than the policy says")

    def requests(self, participant: Participant, requests: OpenRequests) -> None:
        """The participant's open requests are what is under way, and fit the buffers."""
        self._must(participant.requests == set(requests), "open requests are what is under way")
        total = sum(block.length for _, block in requests)
        most = max(self._policy.buffer_bytes, self._geometry.block_length)
        self._must(total <= most, "no more is under way than the buffers hold")

    def late(self, participant: Participant, key: tuple[PeerKey, BlockSpan], now: float) -> None:
        """What a careless shell would say of a block that came late changes nothing."""
        late: list[Event] = [BlockArrived(*key), *(BlockFailed(*key, failure) for failure in Failure)]
        for event in late:
            before = participant.requests, participant.next_wakeup()
            self._must(not participant.handle(event, now), "late events have no effect")
            after = participant.requests, participant.next_wakeup()
            self._must(before == after, "late events change nothing")

    def gave_up(self, missing: tuple[int, ...], told: Mapping[PeerKey, int]) -> None:
        """A download ends without the pieces that no connected peer has."""
        anywhere = 0
        for bits in told.values():
            anywhere |= bits
        lacking = numbers(self._have.missing().bits & ~anywhere)
        self._must(missing == lacking, "what is missing is what no connected peer has")
