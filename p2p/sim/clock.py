"""Virtual time: what is to happen, in order; nothing sleeps, and equal times keep the order in which they
were set."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Time in seconds since the beginning, and the events to come."""

    __slots__ = ("_heap", "_number", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    @property
    def events(self) -> int:
        """How many events were set so far."""
        return self._number

    @property
    def due(self) -> float:
        """When the next event happens; infinity when there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def after(self, seconds: float, what: Callable[..., None], *about: Any) -> None:
        """Call `what(*about)` so many seconds from now."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + seconds, self._number, what, about))

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        if not self._heap:
            return False
        self.now, _, what, about = heapq.heappop(self._heap)
        what(*about)
        return True
