"""What a test must leave as it found it: descriptors, threads, tasks, children, temporary files; and no
exception that nobody saw."""

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

T = TypeVar("T")

SETTLE: Final = 5.0
"""Seconds within which everything must be back (the common rule of the hostile cases)."""
_FDS: Final = Path("/proc/self/fd")
KEPT_BY_GRPC: Final = ("anon_inode:[eventpoll]", "anon_inode:[eventfd]")
"""gRPC's library keeps a few event descriptors for as long as the process lives. A module whose tests use it
says so as its `KEPT`; elsewhere such a descriptor is a loop that nobody closed."""
_GRPC: Final = "grpc._cython.cygrpc"
_KEPT_AT_ANY_TIME: Final = ("anon_inode:[eventfd]",)
"""What the threads of that library may open whenever they like, once a test before has loaded it. A loop that
nobody closed is seen all the same: it has an eventpoll and two sockets, and no eventfd."""


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


def child_processes() -> frozenset[str]:
    """Each child of this process, ended ones that nobody waited for too, as number and name; empty where the
    system does not tell."""
    found: set[str] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended since
            found.update(f"{pid} {_name_of(pid)}" for pid in listing.read_text().split())
    return frozenset(found)


def _name_of(pid: str) -> str:
    try:
        return Path("/proc", pid, "comm").read_text().strip()
    except OSError:
        return "(gone)"


@dataclass(frozen=True)
class Snapshot:
    """How things stand at one moment."""

    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]
    files: frozenset[str]
    children: frozenset[str]

    @classmethod
    def take(cls, temporary: Path | None = None) -> Snapshot:
        """Look now; `temporary` is the folder for temporary files, if the test has one."""
        files = frozenset(os.listdir(temporary)) if temporary is not None else frozenset()
        return cls(open_descriptors(), frozenset(threading.enumerate()), files, child_processes())

    def surplus(self, before: Snapshot) -> list[str]:
        """What is here and was not before."""
        return [
            *(
                f"descriptor {fd}: {what}"
                for fd, what in self.descriptors.items()
                if before.descriptors.get(fd) != what
            ),
            *(f"thread: {thread.name}" for thread in self.threads - before.threads),
            *(f"temporary file: {name}" for name in self.files - before.files),
            *(f"child process: {child}" for child in self.children - before.children),
        ]


def check_back_to(before: Snapshot, temporary: Path | None = None, kept: tuple[str, ...] = ()) -> None:
    """Fail unless everything is as it was, or becomes so within `SETTLE` seconds. `kept`: beginnings of what
    may stay."""
    until = time.monotonic() + SETTLE
    if _GRPC in sys.modules:
        kept = (*kept, *_KEPT_AT_ANY_TIME)
    while surplus := [
        what
        for what in Snapshot.take(temporary).surplus(before)
        if not what.partition(": ")[2].startswith(kept or "\0")
    ]:
        gc.collect()
        assert time.monotonic() < until, f"left behind: {'; '.join(surplus)}"
        time.sleep(0.02)


def contained(
    work: Callable[[], Coroutine[Any, Any, T]], seconds: float = 30.0, kept: tuple[str, ...] = ()
) -> T:
    """Run `work` in a loop of its own, for at most so long; fail if it leaves tasks, descriptors or threads,
    or an exception nobody saw.

    Descriptors of what begins with one of `kept` may stay.
    """
    before = Snapshot.take()
    unseen: list[str] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: unseen.append(f"{context['message']}: {context.get('exception')!r}")
        )
        async with asyncio.timeout(seconds):
            result = await work()
        await _no_tasks()
        return result

    result = asyncio.run(main())
    gc.collect()  # so that what nobody saw is told now
    check_back_to(before, kept=kept)
    assert not unseen, f"nobody saw: {unseen}"
    return result


@contextlib.contextmanager
def tasks_at_the_end_of_loops() -> Iterator[list[str]]:
    """What tasks were still there when `asyncio.run` was through with its own; it would end them without a
    word."""
    found: list[str] = []
    cancel: Callable[[asyncio.AbstractEventLoop], None] = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def note_and_cancel(loop: asyncio.AbstractEventLoop) -> None:
        # Those of this type are the loop's own, for generators that nobody ended.
        tasks = (
            task
            for task in asyncio.all_tasks(loop)
            if type(task.get_coro()).__name__ != "async_generator_athrow"
        )
        found.extend(f"task: {task.get_name()} {task.get_coro()}" for task in tasks)
        cancel(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.runners, "_cancel_all_tasks", note_and_cancel)
        yield found


async def _no_tasks() -> None:
    """Fail if a task other than this one is still there after a while."""
    until = time.monotonic() + SETTLE
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        assert time.monotonic() < until, f"still running: {others}"
        await asyncio.wait(others, timeout=0.05)
