"""What a download knows of one peer: its pieces, its rate, its failures; and the numbers of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p.model import MIB, PeerKey
from p2p.swarm.rate_limit import MIN_RATE
from p2p.value import frozen


@frozen
class Policy:
    """The numbers that a scheduler decides with; times in seconds."""

    min_window: int = 2
    """Requests open at one peer while few peers are known: one block is coming and one follows, so that the
    link never waits for us."""
    few_peers: int = 3
    """With more peers than this a slow one has a window of one: what waits in its queue was chosen too
    early."""
    max_window: int = 16
    window_seconds: float = 0.05
    """A fast peer's window holds what it sends in this time."""
    trial_pieces: int = 4
    """A peer of which no piece has verified yet may have so many pieces in progress: the price of finding out
    a liar."""
    block_timeout: float = 20.0
    """A block that did not come by then is requested elsewhere (libtorrent waits 20 s for a piece)."""
    min_rate: float = MIN_RATE
    """Bytes a second. A block may take as long as it takes at this rate, if that is longer."""
    suggestion_timeout: float = 1.0
    """A peer that suggests is asked for nothing else until it was silent for so long."""
    busy_pause: float = 0.5
    """A peer that answered "busy" is left alone for so long, and twice as long each time in a row, up to"""
    max_busy_pause: float = 4.0
    strikes: int = 3
    """A peer is dropped after so many late blocks or broken answers in a row, or corrupt pieces that it sent
    a part of."""
    hedge_after: float = 1.0
    """In the end-game a block that has not come after this time is requested from a second peer."""
    max_asked: int = 2
    max_asked_late: int = 8
    """Peers from which one block is requested at once in the end-game: one more each time that it was late,
    up to the second number."""
    stall_timeout: float = 60.0
    """The download gives up when peers are connected and nothing came for so long."""
    alone_timeout: float = 10.0
    """The same when no peer is connected, the tracker names none, and nothing has come yet."""
    offline_timeout: float = 900.0
    """The same when no peer is connected, and there may be some behind a network that is down. When no piece
    verifies for so long, whatever else happens, the download gives up."""
    buffer_bytes: int = 24 * MIB
    """Bytes that may be on their way from all peers together. It bounds a peer's memory."""

    def max_requests(self, block_length: int) -> int:
        """How many requests may be open at all peers together."""
        return max(1, min(self.buffer_bytes // block_length, 256))


@dataclass(slots=True)
class PeerStats:
    """One peer that we fetch from."""

    peer: PeerKey
    has: int = 0
    """Its pieces, as bits."""
    suggested: dict[int, None] = field(default_factory=dict)
    """Pieces that it suggested and that were not requested yet, in its order."""
    suggests: bool = False
    suggested_at: float = 0.0
    paused_until: float = 0.0
    rate: float = 0.0
    """Bytes a second, smoothed over the last blocks."""
    last_arrival: float = 0.0
    asked_at: float = float("-inf")
    """When something was last requested from it."""
    failures: int = 0
    """Late blocks and broken answers in a row."""
    busy: float = 0.0
    """The pause after its last "busy"; 0 since it sent or suggested something."""
    useful: bool = False
    """Whether a block came from it."""
    proven: bool = False
    """Whether a piece verified that it sent a part of."""
    corrupt: int = 0
    """Corrupt pieces that it sent a part of, since it last sent a good one alone."""

    def on_arrived(self, length: int, asked: float, now: float) -> None:
        """A block of `length` bytes came that was requested at `asked`. Blocks overlap, so its time runs from
        the block before it."""
        took = max(now - max(asked, self.last_arrival), 1e-6)
        self.last_arrival = now
        sample = length / took
        self.rate = sample if not self.rate else 0.8 * self.rate + 0.2 * sample
        self.failures = 0
        self.busy = 0.0
        self.useful = True

    def silent_at(self, policy: Policy) -> float:
        """From when on a peer that suggests, and at which no request is open, counts as silent."""
        return max(self.suggested_at, self.last_arrival) + policy.suggestion_timeout

    def window(self, policy: Policy, block_length: int, *, few_peers: bool = True) -> int:
        """How many blocks may be under way at this peer, one of `few_peers` or of many."""
        ahead = (policy.min_window if few_peers else 1) + int(
            self.rate * policy.window_seconds
        ) // block_length
        return 1 if self.failures else min(ahead, policy.max_window)
