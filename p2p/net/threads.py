"""Work in threads, awaited in the loop: when the wait is over, so is the work, and its buffers, files and
sockets are the caller's again.

What `loop.run_in_executor` and `asyncio.shield` do with three futures and three turns of the loop is done
here with one future and one turn, since there is such a wait for every block that is sent or received.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from functools import partial as bind
from typing import Any, Generic, TypeVar

from p2p.errors import Refused

T = TypeVar("T")


async def in_thread(
    threads: Executor, work: Callable[[], T], cancelled: Callable[[], None] | None = None
) -> T:
    """Do `work` in one of the `threads`; returns what it returns, and raises what it raises.

    Even when cancelled it comes back only after the work has ended or was never begun. `cancelled` is called
    then, to hasten its end. Raises `Refused("unavailable")` if no thread can be started, or the threads are
    being stopped.
    """
    job = _Job(work)
    try:
        future = threads.submit(job)
    except RuntimeError as error:
        job.dropped = True  # the executor may have queued it before it failed
        raise Refused("unavailable", "this side cannot start another thread now; try again later") from error
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(bind(_tell, loop, ended))
    try:
        await ended
        return future.result()
    except CancelledError:
        raise Refused("unavailable", "this side is stopping") from None
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled()
        await _end(future)
        raise


class Together:
    """Short works of one loop, done in threads: what has to wait for a thread is done together, so that a
    thread is woken once for all.

    For blocks of 64 KiB the waking, and the wait for the interpreter's lock, cost more than to hash and write
    one.
    """

    def __init__(self, threads: Executor, at_once: int, most: int) -> None:
        """In `at_once` of the `threads` at most, and `most` works together."""
        self._threads = threads
        self._at_once = at_once
        self._most = most
        self._waiting: deque[_Short] = deque()
        self._going: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """As `in_thread`."""
        loop = asyncio.get_running_loop()
        one = _Short(work, loop.create_future())
        self._waiting.append(one)
        if len(self._going) < self._at_once:
            self._going.add(loop.create_task(self._go()))
        try:
            found: T = await one.result
        except asyncio.CancelledError:
            if one in self._waiting:
                self._waiting.remove(one)
            while one.begun is not None and not one.begun.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([one.begun])
            raise
        return found

    async def _go(self) -> None:
        try:
            while self._waiting:
                await self._do([self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))])
        finally:
            # Here and not when the task is over: whoever comes between would wait for a task that looks for
            # work no more.
            self._going = {task for task in self._going if task is not asyncio.current_task()}

    async def _do(self, works: Sequence[_Short]) -> None:
        begun = asyncio.get_running_loop().create_future()
        for one in works:
            one.begun = begun
        try:
            await in_thread(self._threads, bind(_do_all, works))
        except Refused as refused:
            for one in works:
                one.fault = refused
        finally:
            begun.set_result(None)
        for one in works:
            one.tell()


class _Short:
    """One work of many: what came of it, who waits for it, and (once it has begun) until when it is under
    way."""

    __slots__ = ("begun", "fault", "found", "result", "work")

    def __init__(self, work: Callable[[], Any], result: asyncio.Future[Any]) -> None:
        self.work = work
        self.result = result
        self.begun: asyncio.Future[None] | None = None
        self.found: Any = None
        self.fault: Exception | None = None

    def tell(self) -> None:
        """Wake who waits; one that was cancelled wants to know nothing."""
        if self.result.done():
            return
        if self.fault is not None:
            self.result.set_exception(self.fault)
        else:
            self.result.set_result(self.found)


def _do_all(works: Sequence[_Short]) -> None:
    """In a thread."""
    for one in works:
        try:
            one.found = one.work()
        except Exception as error:  # noqa: BLE001 (it is raised to who waits for this work)
            one.fault = error


async def _end(future: Future[T]) -> None:
    """Call `future` off if it has not begun, and else wait for its end, however often the wait is
    cancelled."""
    waiting = asyncio.wrap_future(future)
    while not future.cancel():
        if waiting.done():
            waiting.exception()  # seen, so that nobody is told of it later
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting])


class _Job(Generic[T]):
    """Work that can still be called off after it was queued."""

    __slots__ = ("_work", "dropped")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.dropped = False

    def __call__(self) -> T:
        if self.dropped:
            raise RuntimeError("this work was called off")
        return self._work()


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None], _future: Future[T]) -> None:
    """Called in the thread in which the work ended."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        loop.call_soon_threadsafe(_wake, ended)


def _wake(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
