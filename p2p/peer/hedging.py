"""Decides which peers are asked for a manifest, how many at once, and which request is given up.

Pure. One peer is asked first. As long as the manifest is not here, one more is asked after each hedge time.
The limit is on the requests that send: several long manifests at once share our own link, and none would be
here in time. A request that sends nothing costs nothing and does not count.

The next peer is one of the host that was asked least often. So a machine with a few addresses delays the
others by a few hedges, however many connections it opens. Among equals, peers that we dialled come first,
since the tracker named them; then chance decides.

At the limit, and while others wait, the slowest sender has a turn of ten seconds before it is given up. The
sender that will be here first, and in time by its rate until now, is never given up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from p2p.model import PeerKey
from p2p.swarm.topology import EAGER_INTERVAL_S
from p2p.value import frozen


@frozen
class SearchLimits:
    """Limits of the search for a manifest. Times in seconds."""

    hedge: float = 0.5
    """Wait for an answer before another peer is asked too."""
    poll: float = 0.05
    """Time from one look at new connections to the next while no peer is asked."""
    whole: float = 60.0
    """A peer has this long to send all of the manifest."""
    turn: float = 10.0
    """The slowest sender has this long while others wait."""
    senders: int = 4
    """Peers that may send at once; a manifest may have 32 MiB."""
    senders_beside: int = 1
    """The same besides a peer whose manifest will be here in time."""
    tries: int = 3
    """How often all listed peers fail before the search does, where the tracker knows no more peers."""
    pause: float = EAGER_INTERVAL_S
    """Time from one lookup to the next."""


@frozen
class Offer:
    """A connected peer that can be asked."""

    peer: PeerKey
    host: str
    dialled: bool
    """Whether this side opened the connection."""


@dataclass(slots=True)
class _Request:
    asked_at: float
    missing: int = 0
    """Bytes of the body that have not come, at the last look; 0 before its header."""
    received: int = 0
    sending_since: float | None = None
    moved_at: float = 0.0

    def on_missing(self, missing: int, now: float) -> None:
        if missing == self.missing:
            return
        if self.sending_since is None:
            self.sending_since = now
        self.received += max(0, self.missing - missing)
        self.missing, self.moved_at = missing, now

    def ends_at(self, now: float, limits: SearchLimits) -> float:
        """When all of it will be here, at its rate until now; infinity if nothing comes."""
        if self.sending_since is None or now - self.moved_at > limits.turn:
            return math.inf
        sending_for = now - self.sending_since
        if sending_for < limits.hedge:
            return self.asked_at + limits.whole  # too soon to tell: in time, and after those known to be
        return now + self.missing * sending_for / self.received if self.received else math.inf


class Hedging:
    """The requests for one manifest that are under way, and how often each host was asked."""

    def __init__(self, limits: SearchLimits, rng: Random) -> None:
        self._limits = limits
        self._rng = rng
        self._requests: dict[PeerKey, _Request] = {}
        self._asked_of: Counter[str] = Counter()
        self._next_at = float("-inf")
        """When one more may be asked; at once when a request has ended."""

    def on_missing(self, peer: PeerKey, missing: int, now: float) -> None:
        """Of the body that this peer sends so many bytes are missing; 0 if none is being sent."""
        self._requests[peer].on_missing(missing, now)

    def on_ended(self, peer: PeerKey) -> None:
        """The request to this peer has ended."""
        del self._requests[peer]
        self._next_at = float("-inf")

    def pause(self, now: float) -> float:
        """Return how long to wait before the next decision, in seconds, unless a request ends before."""
        if not self._requests:
            return self._limits.poll
        return self._next_at - now if now < self._next_at else self._limits.hedge

    def in_time(self, now: float) -> PeerKey | None:
        """Return the peer whose manifest will be here first, if that is in time by its rate until now."""
        ends_at, peer = min(
            ((self._ends_at(peer, now), peer) for peer in self._requests), default=(0.0, None)
        )
        late = peer is None or ends_at > self._requests[peer].asked_at + self._limits.whole
        return None if late else peer

    def next(self, waiting: Collection[Offer], now: float) -> Offer | None:
        """Return the peer to ask now, if one more may be asked; from now on it counts as asked."""
        if not waiting or now < self._next_at or len(self._senders(now)) >= self._limit(now):
            return None
        chosen = min(
            waiting, key=lambda offer: (self._asked_of[offer.host], not offer.dialled, self._rng.random())
        )
        self._asked_of[chosen.host] += 1
        self._requests[chosen.peer] = _Request(now)
        self._next_at = now + self._limits.hedge
        return chosen

    def to_give_up(self, now: float, *, others_wait: bool) -> list[PeerKey]:
        """Return the senders to hang up on: those beyond the limit, and at the limit one whose turn is
        over."""
        senders = self._senders(now)
        slowest = senders[self._limits.senders :]
        if slowest or not others_wait or len(senders) < self._limit(now) or senders[-1] == self.in_time(now):
            return slowest
        over = now - self._requests[senders[-1]].asked_at > self._limits.turn
        return senders[-1:] if over else []

    def _limit(self, now: float) -> int:
        return self._limits.senders if self.in_time(now) is None else 1 + self._limits.senders_beside

    def _senders(self, now: float) -> list[PeerKey]:
        """The peers that send, the fastest first."""
        sending = [peer for peer, request in self._requests.items() if request.sending_since is not None]
        return sorted(sending, key=lambda peer: self._ends_at(peer, now))

    def _ends_at(self, peer: PeerKey, now: float) -> float:
        return self._requests[peer].ends_at(now, self._limits)
