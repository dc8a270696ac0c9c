"""Group commit: one worker thread writes to the store's disk, many changes at a time, while the loop goes on
answering.

An answer that promises something takes a ticket and waits until the commit of that number is through. When a
commit fails, all that wait are told so, also those that came while it ran: nobody waits longer than one
commit may take. What was not written stays with the store, and is tried again until it is.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from p2p.errors import Refused
from p2p.net.threads import in_thread
from p2p.tracker.store.base import TrackerStore

RETRY_DELAY: Final = 0.5
"""Seconds between a commit that failed and the next try."""

log: Final = logging.getLogger(__name__)


class Waiter(Protocol):
    """Somebody with answers that wait."""

    def committed(self, upto: int) -> None:
        """All changes of tickets up to this number are on disk. Who waits for more takes a ticket again."""

    def commit_failed(self) -> None:
        """A commit failed: no answer may wait any longer."""


class Committer:
    """Carries a store's changes to its disk, for a loop that never waits for a disk."""

    def __init__(self, store: TrackerStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracker-store")
        self._task: asyncio.Task[None] | None = None
        self._waiters: dict[Waiter, None] = {}
        self._next = 1
        self._failing = False

    def ticket(self, waiter: Waiter) -> int:
        """The number of the commit that will carry all changes made so far; `waiter` is told of its end.

        To be taken only while the store has something unsaved.
        """
        self._waiters[waiter] = None
        self.kick()
        return self._next

    def forget(self, waiter: Waiter) -> None:
        """`waiter` is no longer interested."""
        self._waiters.pop(waiter, None)

    def kick(self) -> None:
        """Start committing soon if anything is unsaved and nobody does yet. What is changed in this turn of
        the loop still gets in."""
        if self._store.unsaved and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._store.unsaved:
            ticket, self._next = self._next, self._next + 1
            written = await self._commit()
            waiters, self._waiters = self._waiters, {}
            # With nothing unsaved all tickets are good, also those taken while only this commit was under
            # way.
            upto = self._next if not self._store.unsaved else ticket
            for waiter in waiters:
                if written:
                    waiter.committed(upto)
                else:
                    waiter.commit_failed()
            if not written:
                await asyncio.sleep(RETRY_DELAY)

    async def _commit(self) -> bool:
        changes = self._store.take_pending()
        written = False
        try:
            await in_thread(self._pool, partial(self._store.commit, changes))
            written = True
        except Refused as error:
            # Once a stall, not once a try.
            if not self._failing:
                log.warning("the store cannot be written, will try again: %s", error.__cause__ or error)
        except Exception:
            log.exception("the store failed")
        finally:
            self._store.settle(changes, written=written)
        self._failing = not written
        return written

    async def stop(self, patience: float) -> None:
        """Write what is left, for at most `patience` seconds, then give up and end the thread."""
        self.kick()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=patience)
            self._store.interrupt()
            # Not cancelled while the thread writes: the store may be closed only after it.
            await asyncio.wait([self._task], timeout=RETRY_DELAY)
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RETRY_DELAY)
        self._pool.shutdown(wait=False, cancel_futures=True)
