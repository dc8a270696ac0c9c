"""Work in threads, awaited in the loop: when the wait is over, so is the work, and its buffers, files and sockets are the caller's again.

What `loop.run_in_executor` and `asyncio.shield` do with three futures and three turns of the loop is done here with one future and one
turn, since there is such a wait for every block that is sent or received.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from functools import partial as bind
from typing import Generic, TypeVar

from p2p.errors import Refused

T = TypeVar("T")


async def in_thread(threads: Executor, work: Callable[[], T], cancelled: Callable[[], None] | None = None) -> T:
    """Do `work` in one of the `threads`; returns what it returns, and raises what it raises.

    Even when cancelled it comes back only after the work has ended or was never begun. `cancelled` is called then, to hasten its end.
    Raises `Refused("unavailable")` if no thread can be started, or the threads are being stopped.
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


async def _end(future: Future[T]) -> None:
    """Call `future` off if it has not begun, and else wait for its end, however often the wait is cancelled."""
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
