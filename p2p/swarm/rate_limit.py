"""Keep a rate: a bucket that fills with time and says how long to wait."""

from __future__ import annotations


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
