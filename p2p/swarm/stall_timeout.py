"""When a download gives up: how long it waits for what does not come.

There are two clocks. The first starts anew with each block, and when the situation changes: the first peer
joins, the last one leaves, the tracker names another number of peers. It allows a short time when peers are
connected, a shorter one when there is nobody, and a long one when a network seems to be down.

The second clock starts anew only when a piece verifies. It is the long one, and ends downloads that corrupt
blocks, or peers that come and go under new ids, would keep alive for ever.
"""

from __future__ import annotations

from typing import Final

from p2p.model import PeerKey
from p2p.swarm.peer_stats import Policy

MIN_PIECES: Final = 2
"""The second clock allows at least so many pieces at the slowest rate, however short the timeouts are."""
MAX_USELESS: Final = 1024
"""Peers that are remembered as useless; with more, joining and leaving restarts no clock any more."""


class StallTimeout:
    """The two clocks of one download."""

    def __init__(self, policy: Policy, now: float, blocks_per_piece: int = 1) -> None:
        self._policy = policy
        slowest = MIN_PIECES * blocks_per_piece * policy.block_timeout
        self._longest = max(policy.stall_timeout, policy.offline_timeout, slowest)
        self._verified_at = now
        self._since = now
        self._arrived = False
        self._listed: int | None = None
        self._useless: set[PeerKey] = set()
        """Peers that left and had sent nothing: their coming and going changes nothing."""

    def on_arrived(self, now: float) -> None:
        """A block came; it is not verified yet."""
        self._since = now
        self._arrived = True

    def on_verified(self, now: float) -> None:
        """A piece verified."""
        self._verified_at = self._since = now

    def on_listed(self, peers: int | None, now: float) -> None:
        """The tracker named so many peers; None: it cannot be reached."""
        if peers != self._listed:
            self._since = now
        self._listed = peers

    def on_joined(self, peer: PeerKey, now: float) -> None:
        """The first peer joined."""
        if self._matters(peer):
            self._since = now

    def on_left(self, peer: PeerKey, now: float, *, useful: bool, last: bool) -> None:
        """A peer left; `useful`: it had sent something, `last`: no peer is connected any more."""
        if last and self._matters(peer):
            self._since = now
        if not useful and len(self._useless) < MAX_USELESS:
            self._useless.add(peer)

    def until(self, *, alone: bool) -> float:
        """When to give up if nothing happens; `alone`: no peer is connected."""
        policy = self._policy
        if alone and self._listed != 0:
            timeout = policy.offline_timeout
        elif alone and not self._arrived:
            timeout = policy.alone_timeout
        else:
            timeout = policy.stall_timeout
        return min(self._since + timeout, self._verified_at + self._longest)

    def _matters(self, peer: PeerKey) -> bool:
        return peer not in self._useless and len(self._useless) < MAX_USELESS
