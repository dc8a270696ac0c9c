"""Rates: a token bucket that says how long to wait, and the one rate below which a transfer is stalled."""

from __future__ import annotations

from typing import Final

from p2p.model import KIB

MIN_RATE: Final = 16 * KIB
"""Bytes a second. An uploader expects a receiver to take so much while others wait, and a downloader waits
for a block as long as it takes at this rate: a block of 1 MiB may take a minute, as from a seed whose thin
uplink several receivers share. The same number on both sides, so that neither gives up what the other
allows."""


class TokenBucket:
    """At most `rate` bytes a second, in bursts of at most `burst` seconds' worth. A rate of 0 is no limit."""

    __slots__ = ("_ready_at", "burst", "rate")

    def __init__(self, rate: int, burst: float = 0.05) -> None:
        self.rate = rate
        self.burst = burst
        self._ready_at = float("-inf")

    def take(self, count: int, now: float) -> float:
        """Note that `count` bytes move now; return the seconds to wait before more may."""
        if not self.rate:
            return 0.0
        self._ready_at = max(self._ready_at, now - self.burst) + count / self.rate
        return max(0.0, self._ready_at - now)
