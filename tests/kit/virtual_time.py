"""An event loop whose clock jumps to the next timer instead of waiting for it, so that tests of minutes take
milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Never waits: tells how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("everybody waits, and nobody for a timer: this would hang for ever")
            self.passed += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.passed

    def pass_time(self, seconds: float) -> None:
        """Let time pass at once, as a call does that takes so long."""
        self._jumping.passed += seconds


def in_virtual_time(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work` in such a loop. No threads, no sockets."""
    loop = _VirtualLoop()
    try:
        return loop.run_until_complete(work())
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
