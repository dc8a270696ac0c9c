"""Work in threads, awaited in the loop: over when the wait is over, whatever happens to the one who waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest

from p2p.errors import Refused
from p2p.net.threads import Together, in_thread

T = TypeVar("T")


class CountingThreads(ThreadPoolExecutor):
    """Threads that count what they are given."""

    jobs = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.jobs += 1
        return super().submit(fn, *args, **kwargs)


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


def test_short_works_that_wait_are_done_together_in_order_and_each_gets_its_own_end() -> None:
    free, log = threading.Event(), list[int]()

    def work(number: int) -> int:
        log.append(number)
        if number == 5:
            raise LookupError("five")
        return number

    async def run() -> None:
        with CountingThreads(1) as threads:
            together = Together(threads, at_once=1, most=8)
            first = asyncio.create_task(together.run(lambda: free.wait(20)))
            await asyncio.sleep(0)
            tasks = [asyncio.create_task(together.run(partial(work, number))) for number in range(10)]
            await asyncio.sleep(0)
            free.set()
            found = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert [found[1:6], found[7:]] == [[0, 1, 2, 3, 4], [6, 7, 8, 9]]
            assert isinstance(found[6], LookupError)
            assert log == list(range(10))
            assert threads.jobs == 3, "the first alone, then eight, then two"

    asyncio.run(run())


def test_a_short_work_that_comes_just_when_the_last_has_ended_is_not_forgotten() -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            together = Together(threads, at_once=1, most=8)
            async with asyncio.timeout(20):
                assert [await together.run(partial(abs, -number)) for number in range(100)] == list(
                    range(100)
                )

    asyncio.run(run())


def test_a_cancelled_short_work_is_never_done_if_it_waits_and_waited_for_if_it_has_begun() -> None:
    begun, free, done = threading.Event(), threading.Event(), list[str]()

    def long() -> None:
        begun.set()
        free.wait(20)
        done.append("long")

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(1) as others:
            together = Together(threads, at_once=1, most=8)
            under_way = asyncio.create_task(together.run(long))
            await asyncio.get_running_loop().run_in_executor(others, begun.wait, 20)
            waiting = asyncio.create_task(together.run(partial(done.append, "waiting")))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for _ in range(3):
                under_way.cancel()
                await asyncio.sleep(0)
                assert not under_way.done(), "the work still uses what belongs to the waiter"
            free.set()
            with pytest.raises(asyncio.CancelledError):
                await under_way
            assert done == ["long"]
            assert await together.run(lambda: "more") == "more"

    asyncio.run(run())


def test_short_work_is_refused_when_the_threads_have_stopped() -> None:
    async def run() -> None:
        threads = ThreadPoolExecutor(1)
        threads.shutdown()
        together = Together(threads, at_once=2, most=8)
        found = await asyncio.gather(*(together.run(lambda: 1) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [Refused] * 3

    asyncio.run(run())
