"""Commits a store's changes in groups: one worker thread writes to the disk, and the loop goes on answering.

An answer that promises a change takes a ticket and waits until the commit of that number is through. When a
commit fails, all answers that wait are refused, also those of changes that came while it ran: nothing waits
longer than one commit may take. What was not written stays with the store, and is tried again until it is.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from p2p.errors import Refused
from p2p.net.threads import in_thread
from p2p.tracker.store.interface import TrackerStore

log: Final = logging.getLogger(__name__)


class CommitObserver(Protocol):
    """Has answers that wait for a commit."""

    def on_committed(self, upto: int) -> None:
        """All changes of tickets up to this number are on disk. To wait for more takes another ticket."""

    def on_commit_failed(self) -> None:
        """A commit failed: no answer may wait any longer."""


class Committer:
    """Carries a store's changes to its disk, for a loop that never waits for a disk. `retry_s` is the pause
    between a commit that failed and the next try, in seconds."""

    def __init__(self, store: TrackerStore, retry_s: float) -> None:
        self._store = store
        self._retry_s = retry_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracker-store")
        self._task: asyncio.Task[None] | None = None
        self._observers: dict[CommitObserver, None] = {}
        self._next = 1
        self._failing = False

    def take_ticket(self, observer: CommitObserver) -> int:
        """The number of the commit that will carry all changes made so far; 0 when everything is on disk.
        `observer` is called when that commit ends."""
        if not self._store.unsaved:
            return 0
        self._observers[observer] = None
        self.start()
        return self._next

    def forget(self, observer: CommitObserver) -> None:
        """Do not tell this observer any more."""
        self._observers.pop(observer, None)

    def start(self) -> None:
        """Begin to commit soon if anything is unsaved and no commit is under way. Changes made in this turn
        of the loop still get in."""
        if self._store.unsaved and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._store.unsaved:
            ticket, self._next = self._next, self._next + 1
            written = await self._commit()
            observers, self._observers = self._observers, {}
            # With nothing unsaved all tickets are good, also those taken while only this commit was under
            # way.
            upto = self._next if not self._store.unsaved else ticket
            for observer in observers:
                if written:
                    observer.on_committed(upto)
                else:
                    observer.on_commit_failed()
            if not written:
                await asyncio.sleep(self._retry_s)

    async def _commit(self) -> bool:
        changes = self._store.take_pending()
        written = False
        try:
            await in_thread(self._pool, partial(self._store.commit, changes))
            written = True
        except Refused as error:
            # Logged once a stall, not once a try.
            if not self._failing:
                log.warning("the store cannot be written, will try again: %s", error.__cause__ or error)
        except Exception:
            log.exception("the store failed")
        finally:
            self._store.settle(changes, written=written)
        self._failing = not written
        return written

    async def stop(self, timeout_s: float) -> None:
        """Write what is left for at most `timeout_s` seconds, then give up and end the thread."""
        self.start()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=timeout_s)
            self._store.interrupt()
            # Not cancelled while the thread writes: the store may be closed only after it.
            await asyncio.wait([self._task], timeout=self._retry_s)
            self._task.cancel()
            await asyncio.wait([self._task], timeout=self._retry_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
