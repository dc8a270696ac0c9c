"""What one simulated peer is and does: its links, when it comes and goes, and its conduct."""

from __future__ import annotations

from p2p.swarm.events import Failure
from p2p.value import frozen


@frozen
class Plan:
    """One peer. Rates in bytes a second, times in seconds since the beginning."""

    name: str
    up: float
    down: float
    seed: bool = False
    """Whether it has everything from the start, and only serves."""
    has: int = 0
    """Pieces that it has from the start, as bits."""
    serves_only: bool = False
    """Whether it fetches nothing and serves what it has."""
    joins: float = 0.0
    leaves: float | None = None
    """When it is gone, without a word: killed, or its cable pulled."""
    stays: float | None = None
    """How long it serves after it has everything; None is to the end."""
    corrupts: float = 0.0
    """Share of the blocks it sends that are altered."""
    stalls_after: int | None = None
    """Blocks that it sends before it falls silent."""
    rides: bool = False
    """A free-rider: says nothing of what it has, so nobody asks it."""
    refuses: Failure | None = None
    """How it answers requests instead of sending, in this share of the cases:"""
    refuses_share: float = 1.0
    claims: int = 0
    """Pieces that it says it has besides those it has."""
    babbles: bool = False
    """Suggests pieces by chance, also such as it does not have."""

    @property
    def fetches(self) -> bool:
        """Whether it fetches what it lacks."""
        return not self.seed and not self.serves_only

    @property
    def fair(self) -> bool:
        """Whether it gives as it takes, so that others have no reason to drop it."""
        bad = self.corrupts or self.rides or self.refuses or self.claims or self.babbles
        return not bad and self.stalls_after is None
