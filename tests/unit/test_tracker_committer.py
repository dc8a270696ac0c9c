"""Group commit: which answers wait for which commit, and what happens when the disk fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from p2p.errors import Refused
from p2p.tracker.committer import Committer
from p2p.tracker.store.memory import MemoryStore
from tests.kit.waiting import hang_guard

RETRY_S = 0.01


class SlowDisk(MemoryStore):
    """A store whose commits wait and fail as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: dict[str, int] = {}
        self.in_flight = 0
        self.written: list[dict[str, int]] = []
        self.may_go = threading.Event()
        self.started = threading.Event()
        self.failures: list[Exception] = []

    @property
    def unsaved(self) -> bool:  # type: ignore[override]  # a constant of the base, which has no disk
        return bool(self.pending) or self.in_flight > 0

    def take_pending(self) -> Mapping[Any, Any]:
        taken, self.pending = self.pending, {}
        self.in_flight += len(taken)
        return taken

    def commit(self, changes: Mapping[Any, Any]) -> None:
        self.started.set()
        if not self.may_go.wait(10):
            raise AssertionError("the test forgot to let the disk go")
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(dict(changes))

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        self.in_flight -= len(changes)
        if not written:
            self.pending = {**changes, **self.pending}

    def interrupt(self) -> None:
        self.failures.insert(0, Refused("unavailable", "interrupted"))
        self.may_go.set()


class Observer:
    """Has one answer that waits for a ticket."""

    def __init__(self) -> None:
        self.committer: Committer | None = None
        self.ticket = 0
        self.calls: asyncio.Queue[int] = asyncio.Queue()

    def on_committed(self, upto: int) -> None:
        self.calls.put_nowait(upto)
        if upto < self.ticket and self.committer is not None:
            self.committer.take_ticket(self)

    def on_commit_failed(self) -> None:
        self.calls.put_nowait(-1)

    async def next(self) -> int:
        return await self.calls.get()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(5000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not within 5 s")


def test_changes_of_one_turn_of_the_loop_share_a_commit() -> None:
    async def run() -> None:
        store = SlowDisk()
        store.may_go.set()
        committer = Committer(store, RETRY_S)
        observers = [Observer() for _ in range(3)]
        tickets = []
        for number, observer in enumerate(observers):
            store.pending[f"row {number}"] = 1
            tickets.append(committer.take_ticket(observer))
        assert all(
            [await observer.next() >= ticket for observer, ticket in zip(observers, tickets, strict=True)]
        )
        assert store.written == [{"row 0": 1, "row 1": 1, "row 2": 1}]
        await committer.stop(1)

    asyncio.run(run())


def test_a_change_made_during_a_commit_waits_for_the_next_one() -> None:
    async def run() -> None:
        store, first, second, forgotten = SlowDisk(), Observer(), Observer(), Observer()
        committer = Committer(store, RETRY_S)
        store.pending["a"] = 1
        one = committer.take_ticket(first)
        await until(store.started.is_set)
        store.pending["b"] = 1
        two = second.ticket = committer.take_ticket(second)
        second.committer = committer
        committer.take_ticket(forgotten)
        committer.forget(forgotten)
        assert two > one
        store.may_go.set()
        assert one <= await first.next() < two
        assert await second.next() < two  # the commit that was under way: it takes a ticket again
        assert await second.next() >= two
        await until(lambda: not store.unsaved)
        assert store.written == [{"a": 1}, {"b": 1}]
        assert forgotten.calls.empty()
        await committer.stop(1)

    asyncio.run(run())


@pytest.mark.parametrize(
    "failure", [Refused("unavailable", "locked"), RuntimeError("can't start new thread")]
)
def test_when_a_commit_fails_all_that_wait_are_told_and_it_is_tried_again(
    failure: Exception,
) -> None:
    async def run() -> None:
        store, first, second = SlowDisk(), Observer(), Observer()
        store.failures = [failure, Refused("unavailable", "still locked")]
        committer = Committer(store, RETRY_S)
        store.pending["a"] = 1
        committer.take_ticket(first)
        await until(store.started.is_set)
        committer.take_ticket(second)
        store.may_go.set()
        assert await first.next() == -1
        assert await second.next() == -1
        await until(lambda: not store.unsaved)
        assert store.written == [{"a": 1}]
        third = Observer()
        store.pending["b"] = 1
        ticket = committer.take_ticket(third)
        assert await third.next() >= ticket
        await committer.stop(1)

    asyncio.run(run())


def test_a_stop_writes_what_is_left_and_gives_up_a_disk_that_hangs() -> None:
    async def run() -> None:
        store = SlowDisk()
        store.may_go.set()
        committer = Committer(store, RETRY_S)
        store.pending["a"] = 1
        await committer.stop(1)
        assert store.written == [{"a": 1}]
        stuck, waits = SlowDisk(), Observer()
        committer = Committer(stuck, RETRY_S)
        stuck.pending["a"] = 1
        committer.take_ticket(waits)
        await until(stuck.started.is_set)
        began = asyncio.get_running_loop().time()
        await committer.stop(0.05)
        assert asyncio.get_running_loop().time() - began < 1.5
        assert await waits.next() == -1
        assert stuck.written == []

    asyncio.run(run())


def test_a_store_in_memory_never_starts_a_thread() -> None:
    async def run() -> None:
        before = threading.active_count()
        committer = Committer(MemoryStore(), RETRY_S)
        committer.start()
        await committer.stop(1)
        assert threading.active_count() == before

    asyncio.run(run())


def test_case_62_a_commit_without_a_thread_fails_and_is_made_once_there_is_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def work() -> None:
        disk = SlowDisk()
        disk.may_go.set()
        commits = Committer(disk, RETRY_S)
        disk.pending["a"] = 1
        with monkeypatch.context() as broken:
            broken.setattr(threading.Thread, "start", fail)
            commits.start()
            async with hang_guard():
                while "will try again" not in caplog.text:  # noqa: ASYNC110 (a few turns)
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
        disk.pending["b"] = 2
        async with hang_guard():
            while disk.unsaved:  # noqa: ASYNC110 (a few turns)
                await asyncio.sleep(0.01)
        assert disk.written == [{"a": 1, "b": 2}], "a commit that failed is not written later"
        await commits.stop(1)

    asyncio.run(work())
    assert "Traceback" not in caplog.text
    # In development mode asyncio complains too, of callbacks that are slow.
    assert len([record for record in caplog.records if record.name.startswith("p2p")]) == 1
