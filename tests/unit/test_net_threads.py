"""Tests of p2p/net/threads.py: work in threads has ended when the wait for it ends, also by a cancel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest

from p2p.errors import Refused
from p2p.net.threads import ThreadBatch, in_thread
from tests.kit.waiting import hang_guard

T = TypeVar("T")


class CountingThreads(ThreadPoolExecutor):
    """Threads that count what they are given."""

    jobs = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.jobs += 1
        return super().submit(fn, *args, **kwargs)


def test_the_caller_gets_what_the_work_returns_or_raises() -> None:
    def fail() -> None:
        raise LookupError("no such piece")

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            assert await in_thread(threads, threading.get_ident) != threading.get_ident()
            with pytest.raises(LookupError, match="no such piece"):
                await in_thread(threads, fail)

    asyncio.run(run())


def test_a_cancelled_caller_waits_for_the_end_of_the_work() -> None:
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
                assert not task.done(), "the work still uses what belongs to the caller"
            assert told == ["cancelled"]
            hastened.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()

    asyncio.run(run())


def test_work_that_has_not_begun_is_never_done_after_a_cancel() -> None:
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


def test_work_is_refused_while_the_threads_are_being_stopped() -> None:
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


def test_jobs_that_wait_are_done_in_one_batch_and_each_has_its_result() -> None:
    free, log = threading.Event(), list[int]()

    def work(number: int) -> int:
        log.append(number)
        if number == 5:
            raise LookupError("five")
        return number

    async def run() -> None:
        with CountingThreads(1) as threads:
            batch = ThreadBatch(threads, workers=1, batch_size=8)
            first = asyncio.create_task(batch.run(lambda: free.wait(20)))
            await asyncio.sleep(0)
            tasks = [asyncio.create_task(batch.run(partial(work, number))) for number in range(10)]
            await asyncio.sleep(0)
            free.set()
            found = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert [found[1:6], found[7:]] == [[0, 1, 2, 3, 4], [6, 7, 8, 9]]
            assert isinstance(found[6], LookupError)
            assert log == list(range(10))
            assert threads.jobs == 3, "the first alone, then eight, then two"

    asyncio.run(run())


def test_a_job_that_comes_just_when_the_last_has_ended_is_done() -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            batch = ThreadBatch(threads, workers=1, batch_size=8)
            async with hang_guard():
                assert [await batch.run(partial(abs, -number)) for number in range(100)] == list(range(100))

    asyncio.run(run())


def test_a_cancelled_job_is_dropped_while_it_waits_and_awaited_once_begun() -> None:
    begun, free, done = threading.Event(), threading.Event(), list[str]()

    def long() -> None:
        begun.set()
        free.wait(20)
        done.append("long")

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(1) as others:
            batch = ThreadBatch(threads, workers=1, batch_size=8)
            under_way = asyncio.create_task(batch.run(long))
            await asyncio.get_running_loop().run_in_executor(others, begun.wait, 20)
            waiting = asyncio.create_task(batch.run(partial(done.append, "waiting")))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for _ in range(3):
                under_way.cancel()
                await asyncio.sleep(0)
                assert not under_way.done(), "the work still uses what belongs to the caller"
            free.set()
            with pytest.raises(asyncio.CancelledError):
                await under_way
            assert done == ["long"]
            assert await batch.run(lambda: "more") == "more"

    asyncio.run(run())


def test_a_job_is_refused_when_the_threads_have_stopped() -> None:
    async def run() -> None:
        threads = ThreadPoolExecutor(1)
        threads.shutdown()
        batch = ThreadBatch(threads, workers=2, batch_size=8)
        found = await asyncio.gather(*(batch.run(lambda: 1) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [Refused] * 3

    asyncio.run(run())
