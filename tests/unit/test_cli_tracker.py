"""p2p/cli/tracker.py: how the store is opened while the loop goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from p2p.cli import tracker
from p2p.errors import UsageError
from p2p.tracker import store as stores
from p2p.tracker.store.memory import MemoryStore
from p2p.tracker.store.sqlite import SqliteStore
from tests.kit.leaks import contained
from tests.kit.waiting import until


def test_a_store_is_opened_beside_the_loop_and_what_is_wrong_with_it_is_raised_here(tmp_path: Path) -> None:
    async def work() -> None:
        store = await tracker._open(f"sqlite:{tmp_path / 'tracker.db'}", 0.0)
        assert isinstance(store, SqliteStore)
        with pytest.raises(UsageError, match="another tracker uses the store"):
            await tracker._open(f"sqlite:{tmp_path / 'tracker.db'}", 0.0)
        store.close()
        with pytest.raises(UsageError, match="not known"):
            await tracker._open("pigeon", 0.0)

    contained(work)


def test_case_62_a_store_is_opened_also_when_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert isinstance(asyncio.run(tracker._open("memory", 0.0)), MemoryStore)


def test_a_store_that_is_open_only_after_nobody_wants_it_any_more_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, goes_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def close(self) -> None:
            closed.set()

    def open_slowly(spec: str, now: float) -> MemoryStore:
        begun.set()
        assert goes_on.wait(20)
        return Slow()

    monkeypatch.setattr(stores, "open_store", open_slowly)

    async def work() -> None:
        opening = asyncio.ensure_future(tracker._open("sqlite:x", 0.0))
        await until(begun.is_set)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        goes_on.set()
        await until(closed.is_set)

    contained(work)
