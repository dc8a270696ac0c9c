"""Work in threads, awaited in the loop: over when the wait is over, whatever happens to the one who waits."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from p2p.errors import Refused
from p2p.workers import in_thread


def test_what_the_work_returns_or_raises_is_what_the_waiter_gets() -> None:
    def fail() -> None:
        raise LookupError("no such piece")

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            assert await in_thread(threads, threading.get_ident) != threading.get_ident()
            with pytest.raises(LookupError, match="no such piece"):
                await in_thread(threads, fail)

    asyncio.run(run())


def test_a_cancelled_waiter_comes_back_only_when_the_work_has_ended_however_often_it_is_cancelled() -> None:
    begun, hastened, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        hastened.wait(20)
        ended.set()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        with ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(1) as others:
            task = asyncio.create_task(in_thread(threads, work, lambda: told.append("cancelled")))
            await loop.run_in_executor(others, begun.wait, 20)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
                assert not task.done(), "the work still uses what belongs to the waiter"
            assert told == ["cancelled"]
            hastened.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()

    asyncio.run(run())


def test_work_that_has_not_begun_when_its_waiter_is_cancelled_is_never_done() -> None:
    free, done = threading.Event(), threading.Event()

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(free.wait, 20)
            task = asyncio.create_task(in_thread(threads, done.set))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            free.set()
        assert not done.is_set()

    asyncio.run(run())


def test_work_is_refused_while_the_threads_are_being_stopped_also_what_waits_already() -> None:
    free = threading.Event()

    async def run() -> None:
        threads = ThreadPoolExecutor(1)
        threads.submit(free.wait, 20)
        task = asyncio.create_task(in_thread(threads, lambda: 1))
        await asyncio.sleep(0)
        threads.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(Refused, match="stopping"):
            await task
        with pytest.raises(Refused, match="cannot start another thread"):
            await in_thread(threads, lambda: 1)
        free.set()

    asyncio.run(run())
