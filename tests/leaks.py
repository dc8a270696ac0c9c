"""What a test must leave behind as it found it: open descriptors, threads, tasks, temporary files, and no exception that nobody saw."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

SETTLE: Final = 5.0
"""Seconds within which everything must be back (the common rule of the hostile cases)."""
_FDS: Final = Path("/proc/self/fd")


def open_descriptors() -> dict[int, str]:
    """The descriptors of this process and what each is; empty where the system does not tell."""
    found: dict[int, str] = {}
    if _FDS.is_dir():
        for name in os.listdir(_FDS):
            try:
                found[int(name)] = os.readlink(_FDS / name)
            except OSError:
                continue  # the descriptor of this very listing
    return found


@dataclass(frozen=True)
class Snapshot:
    """How things stand at one moment."""

    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]
    files: frozenset[str]

    @classmethod
    def take(cls, temporary: Path | None = None) -> Snapshot:
        """Look now; `temporary` is the folder for temporary files, if the test has one."""
        files = frozenset(os.listdir(temporary)) if temporary is not None else frozenset()
        return cls(open_descriptors(), frozenset(threading.enumerate()), files)

    def surplus(self, before: Snapshot) -> list[str]:
        """What is here and was not before."""
        return [
            *(f"descriptor {fd}: {what}" for fd, what in self.descriptors.items() if before.descriptors.get(fd) != what),
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"temporary file {name}" for name in self.files - before.files),
        ]


def check_back_to(before: Snapshot, temporary: Path | None = None, kept: tuple[str, ...] = ()) -> None:
    """Fail unless everything is as it was, or becomes so within `SETTLE` seconds. `kept`: beginnings of what may stay."""
    until = time.monotonic() + SETTLE
    while True:
        gc.collect()
        surplus = [what for what in Snapshot.take(temporary).surplus(before) if not what.partition(": ")[2].startswith(kept or "\0")]
        if not surplus:
            return
        assert time.monotonic() < until, f"left behind: {'; '.join(surplus)}"
        time.sleep(0.02)


def contained(work: Callable[[], Coroutine[Any, Any, T]], seconds: float = 30.0, kept: tuple[str, ...] = ()) -> T:
    """Run `work` in a loop of its own, for at most so long; fail if it leaves tasks, descriptors or threads, or an exception nobody saw.

    Descriptors of what begins with one of `kept` may stay.
    """
    before = Snapshot.take()
    unseen: list[str] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unseen.append(f"{context['message']}: {context.get('exception')!r}"))
        async with asyncio.timeout(seconds):
            result = await work()
        await _no_tasks()
        return result

    result = asyncio.run(main())
    check_back_to(before, kept=kept)
    assert not unseen, f"nobody saw: {unseen}"
    return result


async def _no_tasks() -> None:
    """Fail if a task other than this one is still there after a while."""
    until = time.monotonic() + SETTLE
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        assert time.monotonic() < until, f"still running: {others}"
        await asyncio.wait(others, timeout=0.05)
