"""How long a download waits for what does not come: longer where there is hope, and never without end."""

from __future__ import annotations

from typing import Final

from p2p.model import PeerKey
from p2p.swarm.peer_stats import Policy

PIECES: Final = 2
"""However little patience there is, it lasts for so many pieces, each as slow as one may be: only what has
verified is progress."""
IDLERS: Final = 1024
"""Peers that left with nothing brought and are remembered; where there are more, nobody who comes or goes
gives time any more."""


class StallTimeout:
    """The wait of one download. A wait begins with each block, and anew when peers come or go or the
    tracker's list changes.

    Whatever comes and goes, it ends when for long no piece has verified: blocks that turn out corrupt cost
    others nothing, and ids neither.
    """

    def __init__(self, policy: Policy, now: float, blocks: int = 1) -> None:
        """A piece has so many `blocks`."""
        self._policy = policy
        self._longest = max(policy.patience, policy.patience_offline, PIECES * blocks * policy.block_timeout)
        self._progress_at = now
        self._since = now
        self._came = False
        self._listed: int | None = None
        self._idlers: set[PeerKey] = set()
        """Peers that left without having brought anything: that they come and go again is no news."""

    def arrived(self, now: float) -> None:
        """A block came; nobody knows yet what it is worth."""
        self._since = now
        self._came = True

    def verified(self, now: float) -> None:
        """A piece is here."""
        self._progress_at = self._since = now

    def listed(self, peers: int | None, now: float) -> None:
        """The tracker named so many peers; None when it could not be asked."""
        if peers != self._listed:
            self._since = now
        self._listed = peers

    def joined(self, peer: PeerKey, now: float) -> None:
        """The first peer is here, where none was."""
        if self._is_news(peer):
            self._since = now

    def left(self, peer: PeerKey, now: float, *, useful: bool, last: bool) -> None:
        """A peer is gone, the last of them perhaps."""
        if last and self._is_news(peer):
            self._since = now
        if not useful and len(self._idlers) < IDLERS:
            self._idlers.add(peer)

    def until(self, *, alone: bool) -> float:
        """When to give up if nothing happens."""
        policy = self._policy
        if alone and self._listed != 0:
            patience = policy.patience_offline
        else:
            patience = policy.patience_alone if alone and not self._came else policy.patience
        return min(self._since + patience, self._progress_at + self._longest)

    def _is_news(self, peer: PeerKey) -> bool:
        return peer not in self._idlers and len(self._idlers) < IDLERS
