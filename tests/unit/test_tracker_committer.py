"""Group commit: who waits for what, and what they are told when the disk fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from p2p.errors import Refused
from p2p.tracker import committer
from p2p.tracker.committer import Committer
from p2p.tracker.store.directory import Directory


class SlowDisk(Directory):
    """A store whose commits do what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: dict[str, int] = {}
        self.in_flight = 0
        self.written: list[dict[str, int]] = []
        self.may_go = threading.Event()
        self.started = threading.Event()
        self.failures: list[Exception] = []

    @property
    def unsaved(self) -> bool:
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


class Waits:
    """Somebody with one answer that waits for a ticket."""

    def __init__(self) -> None:
        self.group: Committer | None = None
        self.ticket = 0
        self.heard: asyncio.Queue[int] = asyncio.Queue()

    def committed(self, upto: int) -> None:
        self.heard.put_nowait(upto)
        if upto < self.ticket and self.group is not None:
            self.group.ticket(self)

    def commit_failed(self) -> None:
        self.heard.put_nowait(-1)

    async def hears(self) -> int:
        return await asyncio.wait_for(self.heard.get(), 5)


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
        group = Committer(store)
        waiters = [Waits() for _ in range(3)]
        tickets = []
        for number, waiter in enumerate(waiters):
            store.pending[f"row {number}"] = 1
            tickets.append(group.ticket(waiter))
        assert all([await waiter.hears() >= ticket for waiter, ticket in zip(waiters, tickets, strict=True)])
        assert store.written == [{"row 0": 1, "row 1": 1, "row 2": 1}]
        await group.stop(1)

    asyncio.run(run())


def test_what_comes_while_a_commit_runs_waits_for_the_next_one() -> None:
    async def run() -> None:
        store, first, second, gone = SlowDisk(), Waits(), Waits(), Waits()
        group = Committer(store)
        store.pending["a"] = 1
        one = group.ticket(first)
        await until(store.started.is_set)
        store.pending["b"] = 1
        two = second.ticket = group.ticket(second)
        second.group = group
        group.ticket(gone)
        group.forget(gone)
        assert two > one
        store.may_go.set()
        assert one <= await first.hears() < two
        assert await second.hears() < two  # told of the commit that was under way, it asks again
        assert await second.hears() >= two
        await until(lambda: not store.unsaved)
        assert store.written == [{"a": 1}, {"b": 1}]
        assert gone.heard.empty()
        await group.stop(1)

    asyncio.run(run())


@pytest.mark.parametrize(
    "failure", [Refused("unavailable", "locked"), RuntimeError("can't start new thread")]
)
def test_when_a_commit_fails_all_are_told_and_it_is_tried_again(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "RETRY_DELAY", 0.01)

    async def run() -> None:
        store, first, second = SlowDisk(), Waits(), Waits()
        store.failures = [failure, Refused("unavailable", "still locked")]
        group = Committer(store)
        store.pending["a"] = 1
        group.ticket(first)
        await until(store.started.is_set)
        group.ticket(second)
        store.may_go.set()
        assert await first.hears() == -1
        assert await second.hears() == -1
        await until(lambda: not store.unsaved)
        assert store.written == [{"a": 1}]
        third = Waits()
        store.pending["b"] = 1
        ticket = group.ticket(third)
        assert await third.hears() >= ticket
        await group.stop(1)

    asyncio.run(run())


def test_a_stop_writes_what_is_left_but_waits_for_no_disk_that_hangs() -> None:
    async def run() -> None:
        store = SlowDisk()
        store.may_go.set()
        group = Committer(store)
        store.pending["a"] = 1
        await group.stop(1)
        assert store.written == [{"a": 1}]
        stuck, waits = SlowDisk(), Waits()
        group = Committer(stuck)
        stuck.pending["a"] = 1
        group.ticket(waits)
        await until(stuck.started.is_set)
        began = asyncio.get_running_loop().time()
        await group.stop(0.05)
        assert asyncio.get_running_loop().time() - began < 1.5
        assert await waits.hears() == -1
        assert stuck.written == []

    asyncio.run(run())


def test_a_store_in_memory_never_starts_a_thread() -> None:
    async def run() -> None:
        before = threading.active_count()
        group = Committer(Directory())
        group.kick()
        await group.stop(1)
        assert threading.active_count() == before

    asyncio.run(run())


def test_case_62_without_a_thread_a_commit_fails_as_unavailable_and_is_made_once_when_there_is_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(committer, "RETRY_DELAY", 0.01)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def work() -> None:
        disk = SlowDisk()
        disk.may_go.set()
        commits = Committer(disk)
        disk.pending["a"] = 1
        with monkeypatch.context() as broken:
            broken.setattr(threading.Thread, "start", fail)
            commits.kick()
            async with asyncio.timeout(5):
                while not commits._failing:  # noqa: ASYNC110 (a few turns)
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
        disk.pending["b"] = 2
        async with asyncio.timeout(5):
            while disk.unsaved:  # noqa: ASYNC110 (a few turns)
                await asyncio.sleep(0.01)
        assert disk.written == [{"a": 1, "b": 2}], "what was called off is not written behind our back"
        await commits.stop(1)

    asyncio.run(work())
    assert "Traceback" not in caplog.text
    # In development mode asyncio complains too, of callbacks that are slow.
    assert len([record for record in caplog.records if record.name.startswith("p2p")]) == 1
