"""Check that a test leaves descriptors, threads, tasks, child processes and temporary files as it found them.

`tests/conftest.py` applies this to every test. A snapshot is taken before and compared after. Threads and
sockets need a moment to end, so the comparison is repeated for `SETTLE_S` seconds before it fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from tests.kit.waiting import hang_guard

T = TypeVar("T")

SETTLE_S: Final = 5.0
"""Seconds within which everything must be back: the common rule of the hostile cases, and a bound on real
time."""
KEPT_BY_GRPC: Final = ("anon_inode:[eventpoll]", "anon_inode:[eventfd]")
"""Descriptors that gRPC's library keeps while the process lives. A test module that uses gRPC assigns this
to `KEPT`. In any other module such a descriptor belongs to an event loop that was not closed."""
GRPC_MODULE: Final = "grpc._cython.cygrpc"
_KEPT_ONCE_GRPC_IS_LOADED: Final = ("anon_inode:[eventfd]",)
"""The library's threads may open these in any later test of the same process. An unclosed loop is still
found: it has an eventpoll and two sockets, and no eventfd."""
_DESCRIPTORS: Final = Path("/proc/self/fd")


def open_descriptors() -> dict[int, str]:
    """The descriptors of this process and what each refers to; empty where there is no /proc."""
    found: dict[int, str] = {}
    if _DESCRIPTORS.is_dir():
        for name in os.listdir(_DESCRIPTORS):
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                found[int(name)] = os.readlink(_DESCRIPTORS / name)
    return found


def child_processes() -> frozenset[str]:
    """The children of this process, zombies included, as number and name; empty where there is no /proc."""
    found: set[str] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended since
            found.update(f"{pid} {_name_of(pid)}" for pid in listing.read_text().split())
    return frozenset(found)


def _name_of(pid: str) -> str:
    try:
        return Path("/proc", pid, "comm").read_text().strip()
    except OSError:
        return "(ended)"


@dataclass(frozen=True)
class Snapshot:
    """The resources of this process at one moment."""

    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]
    files: frozenset[str]
    children: frozenset[str]

    @classmethod
    def take(cls, temporary: Path | None = None) -> Snapshot:
        """The resources now. `temporary` is the folder for temporary files, if the test has one."""
        files = frozenset(os.listdir(temporary)) if temporary is not None else frozenset()
        return cls(open_descriptors(), frozenset(threading.enumerate()), files, child_processes())

    def surplus(self, before: Snapshot) -> list[str]:
        """What is here and was not there `before`, one text each."""
        old = before.descriptors
        return [
            *(f"descriptor {fd}: {what}" for fd, what in self.descriptors.items() if old.get(fd) != what),
            *(f"thread: {thread.name}" for thread in self.threads - before.threads),
            *(f"temporary file: {name}" for name in self.files - before.files),
            *(f"child process: {child}" for child in self.children - before.children),
        ]


def check_back_to(
    before: Snapshot, temporary: Path | None = None, kept: tuple[str, ...] = (), settle: float = SETTLE_S
) -> None:
    """Fail unless nothing is left that was not there `before`, at once or within `settle` seconds.

    Descriptors whose target begins with one of `kept` may stay.
    """
    if GRPC_MODULE in sys.modules:
        kept = (*kept, *_KEPT_ONCE_GRPC_IS_LOADED)

    def surplus() -> list[str]:
        found = Snapshot.take(temporary).surplus(before)
        return [what for what in found if not what.partition(": ")[2].startswith(kept)]

    end = time.monotonic() + settle
    while left := surplus():
        gc.collect()
        assert time.monotonic() < end, f"left behind: {'; '.join(left)}"
        time.sleep(0.02)


def contained(work: Callable[[], Coroutine[Any, Any, T]], kept: tuple[str, ...] = ()) -> T:
    """Run `work` in an event loop of its own and return its result.

    Fails if `work` hangs, leaves tasks, descriptors or threads, or loses an exception.
    `kept` is as in `check_back_to`.
    """
    before = Snapshot.take()
    lost: list[str] = []

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: lost.append(f"{context['message']}: {context.get('exception')!r}")
        )
        async with hang_guard():
            result = await work()
        await _check_no_tasks()
        return result

    result = asyncio.run(main())
    gc.collect()  # reports the exceptions of tasks that nobody awaited
    check_back_to(before, kept=kept)
    assert not lost, f"lost exceptions: {lost}"
    return result


@contextlib.contextmanager
def tasks_at_the_end_of_loops() -> Iterator[list[str]]:
    """The tasks that `asyncio.run` finds when its coroutine has ended. It cancels them without saying so."""
    found: list[str] = []
    cancel: Callable[[asyncio.AbstractEventLoop], None] = vars(asyncio.runners)["_cancel_all_tasks"]

    def note_and_cancel(loop: asyncio.AbstractEventLoop) -> None:
        # The loop itself makes tasks of this type, to close async generators.
        of_loop = "async_generator_athrow"
        tasks = (task for task in asyncio.all_tasks(loop) if type(task.get_coro()).__name__ != of_loop)
        found.extend(f"task: {task.get_name()} {task.get_coro()}" for task in tasks)
        cancel(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.runners, "_cancel_all_tasks", note_and_cancel)
        yield found


async def _check_no_tasks() -> None:
    """Fail if another task is still there after `SETTLE_S` seconds."""
    end = time.monotonic() + SETTLE_S
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        assert time.monotonic() < end, f"still running: {others}"
        await asyncio.wait(others, timeout=0.05)
