"""p2p/cli/tracker.py: how the store is opened while the loop goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from p2p.cli import tracker
from p2p.errors import UsageError
from p2p.tracker.store import open_store
from p2p.tracker.store.memory import MemoryStore
from p2p.tracker.store.sqlite import SqliteStore
from tests.kit.leaks import contained
from tests.kit.waiting import HANG_S, until


def test_a_store_is_opened_in_a_thread_and_its_errors_are_raised_in_the_loop(tmp_path: Path) -> None:
    async def work() -> None:
        spec = f"sqlite:{tmp_path / 'tracker.db'}"
        store = await tracker.open_in_thread(lambda: open_store(spec, 0.0))
        assert isinstance(store, SqliteStore)
        with pytest.raises(UsageError, match="another tracker uses the store"):
            await tracker.open_in_thread(lambda: open_store(spec, 0.0))
        store.close()
        with pytest.raises(UsageError, match="not known"):
            await tracker.open_in_thread(lambda: open_store("pigeon", 0.0))

    contained(work)


def test_case_62_a_store_is_opened_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert isinstance(asyncio.run(tracker.open_in_thread(MemoryStore)), MemoryStore)


def test_a_store_that_is_opened_after_the_tracker_was_stopped_is_closed() -> None:
    begun, goes_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def close(self) -> None:
            closed.set()

    def open_slowly() -> MemoryStore:
        begun.set()
        assert goes_on.wait(HANG_S)
        return Slow()

    async def work() -> None:
        opening = asyncio.ensure_future(tracker.open_in_thread(open_slowly))
        await until(begun.is_set)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        goes_on.set()
        await until(closed.is_set)

    contained(work)
