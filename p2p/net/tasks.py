"""Tasks that end with their owner."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """The tasks of one object, each kept until it has ended.

    An `asyncio.TaskGroup` would cancel all when one fails, and wants an `async with` around the life of its
    owner. A listener must go on when one of its connections fails, and is opened and closed by two calls.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task of its own."""
        return self.add(asyncio.get_running_loop().create_task(work))

    def add(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Keep a task."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
