"""The shell of the upload queue: wakes uploads that were granted a slot, counts what receivers take.

What is sent, to whom and when is decided by `swarm/upload_queue.py`. Here are a future for each ticket, one
timer, the upload rate limit, and the counters that sender threads add to.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from p2p.errors import Refused
from p2p.swarm.events import Abort, Grant, Refuse, Ticket, UploadEffect
from p2p.swarm.rate_limit import TokenBucket
from p2p.swarm.upload_queue import UploadLimits, UploadQueue


class Uploads:
    """All uploads of this peer. Methods are for the event loop, but for `throttle`."""

    def __init__(
        self, clock: Callable[[], float], rate_limit: int = 0, limits: UploadLimits | None = None
    ) -> None:
        """`clock` gives seconds, also in threads; `rate_limit` is bytes a second for all uploads together,
        0 for none."""
        self.queue = UploadQueue(limits, rate_limit)
        self._clock = clock
        self._bucket = TokenBucket(rate_limit)
        self._bucket_lock = threading.Lock()
        self._stopping = threading.Event()
        self._granted: dict[Ticket, asyncio.Future[int]] = {}
        self._senders: dict[Ticket, asyncio.Task[object]] = {}
        self._taken: deque[tuple[str, int]] = deque()
        """Clients and the bytes that they took, not reported to the queue yet. Sender threads append to it
        for every few KiB, so it needs no lock: a lock there cost a sender of small files a fifth of its
        time."""
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, ticket: Ticket) -> asyncio.Future[int]:
        """The bytes that the turn of this ticket may have, once the queue grants it; or `Refused`."""
        granted = self._granted[ticket] = asyncio.get_running_loop().create_future()
        return granted

    def on_sending(self, ticket: Ticket) -> None:
        """The current task sends for this ticket from now on; an `Abort` cancels it."""
        task = asyncio.current_task()
        if task is not None:
            self._senders[ticket] = task

    def forget(self, ticket: Ticket) -> None:
        """This ticket is over."""
        self._granted.pop(ticket, None)
        self._senders.pop(ticket, None)

    def carry_out(self, effect: UploadEffect) -> None:
        """Do what the queue decided."""
        match effect:
            case Grant(ticket, turn):
                granted = self._granted.get(ticket)
                if granted is not None and not granted.done():
                    granted.set_result(turn)
            case Refuse(ticket, code, message):
                granted = self._granted.get(ticket)
                if granted is not None and not granted.done():
                    granted.set_exception(Refused(code, message))
            case Abort(ticket):
                sender = self._senders.pop(ticket, None)
                if sender is not None:
                    sender.cancel()

    def schedule(self) -> None:
        """Wake the queue when it wants to be woken. A timer that is too early does no harm."""
        if self._timer is not None:
            return
        wakeup = self.queue.next_wakeup()
        if wakeup is not None:
            delay = max(0.0, wakeup - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def report_taken(self) -> None:
        """Tell the queue what receivers took."""
        now, taken = self._clock(), self._taken
        for _ in range(len(taken)):
            client, count = taken.popleft()
            self.queue.on_taken(client, count, now)

    def throttle(self, count: int, client: str = "") -> None:
        """Called in sender threads: `client` took `count` bytes. Sleeps to keep the rate limit."""
        self._taken.append((client, count))
        if not self._bucket.rate:
            return
        with self._bucket_lock:
            wait = self._bucket.take(count, self._clock())
        self._stopping.wait(wait)

    def close(self) -> None:
        """Let no sender sleep any more: this peer is stopping."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        self._timer = None
        self.report_taken()
        for effect in self.queue.tick(self._clock()):
            self.carry_out(effect)
        self.schedule()
