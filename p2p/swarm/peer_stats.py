"""What a download knows of one peer it fetches from: its pieces, how fast it is, how well it behaved."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p.model import MIB, PeerKey
from p2p.value import frozen


@frozen
class Policy:
    """The numbers a scheduler decides with; times in seconds."""

    window_least: int = 2
    """Blocks asked of one peer at once where few peers are known: one coming, one to follow, so that its link
    never waits for us."""
    few: int = 3
    """Where more peers than this are known, a slow one is asked for one block at once: what waits in its
    queue was chosen too early."""
    window_most: int = 16
    window_time: float = 0.05
    """A fast peer is asked for as much ahead as it sends in this time."""
    trial: int = 4
    """A peer of which no piece has verified yet may have so many pieces begun: what a liar costs before it is
    known for one."""
    block_timeout: float = 20.0
    """A block that has not come by then is asked elsewhere (libtorrent waits 20 s for a piece)."""
    suggestion_patience: float = 1.0
    """A peer that suggests is asked for nothing of our own choice until it was silent for this long."""
    busy_pause: float = 0.5
    """A peer that said "busy" is left alone for this long, and for twice as long each time that it says so
    again, with nothing between."""
    busy_most: float = 4.0
    """And at most for this long."""
    strikes: int = 3
    """A peer is dropped after so many timeouts or broken answers in a row, or corrupt pieces it took part
    in."""
    tail_patience: float = 1.0
    """At the tail, a block that is not here after this time is asked of a second peer too."""
    duplicates: int = 2
    duplicates_most: int = 8
    """At the tail, one block is asked of so many peers at once; of one more for each time that it was late,
    up to the second number."""
    patience: float = 60.0
    """The download gives up when peers are here and nothing came for this long."""
    patience_alone: float = 10.0
    """The same when no peer is here, the tracker knows of none, and none has brought anything yet."""
    patience_offline: float = 900.0
    """The same when no peer is here, and there may be some behind a network that is down. Whatever comes and
    goes, no piece that verifies for this long is the end, but for where two pieces at the slowest rate take
    longer."""
    memory: int = 24 * MIB
    """Bytes that may be under way from all peers together; what bounds a peer's memory."""

    def in_flight(self, block_length: int) -> int:
        """How many blocks may be under way from all peers together."""
        return max(1, min(self.memory // block_length, 256))


@dataclass(slots=True)
class PeerStats:
    """One peer as a source."""

    peer: PeerKey
    has: int = 0
    suggested: dict[int, None] = field(default_factory=dict)
    suggests: bool = False
    suggested_at: float = 0.0
    paused_until: float = 0.0
    rate: float = 0.0
    """Bytes a second, smoothed over the last blocks."""
    last_arrival: float = 0.0
    asked_at: float = float("-inf")
    """When it was last asked for something."""
    failures: int = 0
    busy: float = 0.0
    """For how long it was left alone when it last said "busy"; 0 since it brought or suggested something."""
    useful: bool = False
    """Whether it has brought anything."""
    proven: bool = False
    """Whether a piece that it took part in has verified."""
    corrupt: int = 0
    """Corrupt pieces it took part in, since it last sent a good one alone."""

    def arrived(self, length: int, asked: float, now: float) -> None:
        """Learn from a block of `length` bytes that came: blocks overlap, so its time runs from the block
        before it."""
        took = max(now - max(asked, self.last_arrival), 1e-6)
        self.last_arrival = now
        sample = length / took
        self.rate = sample if not self.rate else 0.8 * self.rate + 0.2 * sample
        self.failures = 0
        self.busy = 0.0
        self.useful = True

    def silent_at(self, policy: Policy) -> float:
        """From when on a peer that suggests, and of which nothing is under way, counts as silent."""
        return max(self.suggested_at, self.last_arrival) + policy.suggestion_patience

    def window(self, policy: Policy, block_length: int, *, few: bool = True) -> int:
        """How many blocks may be under way at this peer, one of `few` or of many."""
        ahead = (policy.window_least if few else 1) + int(self.rate * policy.window_time) // block_length
        return 1 if self.failures else min(ahead, policy.window_most)
