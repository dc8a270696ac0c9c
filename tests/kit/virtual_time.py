"""An event loop with a virtual clock: when every task waits, the clock jumps to the next timer.

A test of minutes takes milliseconds, and a busy machine cannot break it. The loop does not wait for threads,
sockets or processes: code under test gets memory transports and a clock as arguments.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

START_S: Final = 1000.0
"""What the clock shows first. It is not 0, so that code which takes 0 for "never" fails here."""


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that returns at once and adds the timeout to `elapsed`."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("deadlock: every task waits, and none of them for a timer")
            self.elapsed += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return START_S + self._jumping.elapsed

    def pass_time(self, seconds: float) -> None:
        """Move the clock at once, as a blocking call of that length would."""
        self._jumping.elapsed += seconds


def in_virtual_time(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work` in such a loop, cancel the tasks that it left, and return its result."""
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
