"""The shell of the upload queue: futures for requests, a timer, a rate limit, and counters for threads."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from p2p.errors import Refused
from p2p.peer.uploads import Uploads
from p2p.swarm.events import Abort, Grant, Refuse, Ticket
from p2p.swarm.upload_queue import UploadLimits
from tests.kit.virtual_time import in_virtual_time
from tests.kit.waiting import HANG_S

ONE_SLOT = UploadLimits(slots=1)


def make(limits: UploadLimits | None = None) -> Uploads:
    return Uploads(asyncio.get_running_loop().time, limits=limits)


def ask(uploads: Uploads, client: str, ticket: Ticket) -> asyncio.Future[int]:
    """Request a block as a content does; if it is granted, it begins at once."""
    granted = uploads.expect(ticket)
    now = asyncio.get_running_loop().time()
    for effect in uploads.queue.ask(client, ticket, now):
        uploads.carry_out(effect)
    if granted.done():
        uploads.queue.on_begun(ticket, now)
    uploads.schedule()
    return granted


def test_a_grant_tells_the_bytes_of_the_turn() -> None:
    async def work() -> None:
        uploads = make()
        granted = uploads.expect("ticket")
        assert not granted.done()
        uploads.carry_out(Grant("ticket", 4096))
        assert await granted == 4096

    in_virtual_time(work)


def test_a_refusal_is_raised_where_the_grant_is_awaited() -> None:
    async def work() -> None:
        uploads = make()
        granted = uploads.expect("ticket")
        uploads.carry_out(Refuse("ticket", "busy", "not now"))
        with pytest.raises(Refused, match="not now") as refused:
            await granted
        assert refused.value.code == "busy"

    in_virtual_time(work)


def test_an_abort_cancels_the_sender_once() -> None:
    """A second cancel would break into the end of the first, while a thread still reads the block's files."""

    async def work() -> None:
        uploads, cancels, never = make(), 0, asyncio.Event()

        async def send() -> None:
            nonlocal cancels
            uploads.on_sending("ticket")
            while cancels < 2:
                try:
                    await never.wait()
                except asyncio.CancelledError:
                    cancels += 1

        task = asyncio.create_task(send())
        await asyncio.sleep(0)
        for _ in range(3):
            uploads.carry_out(Abort("ticket"))
            await asyncio.sleep(1)
        assert cancels == 1
        task.cancel()
        await task

    in_virtual_time(work)


def test_effects_for_a_ticket_that_is_over_do_nothing() -> None:
    async def work() -> None:
        uploads = make()
        uploads.expect("over")
        uploads.on_sending("over")
        uploads.forget("over")
        cancelled = uploads.expect("cancelled")
        cancelled.cancel()
        for ticket in ("over", "cancelled", "unknown"):
            for effect in (Grant(ticket, 0), Refuse(ticket, "busy", "no"), Abort(ticket)):
                uploads.carry_out(effect)
        await asyncio.sleep(0)

    in_virtual_time(work)


def test_a_waiting_request_is_granted_by_the_timer_when_a_receiver_stalls() -> None:
    async def work() -> None:
        uploads = make(ONE_SLOT)
        await ask(uploads, "stalled", 1)
        began = asyncio.get_running_loop().time()
        assert await ask(uploads, "honest", 2) == 0
        waited = asyncio.get_running_loop().time() - began
        assert ONE_SLOT.silence <= waited <= ONE_SLOT.silence + 2 * ONE_SLOT.look
        uploads.close()

    in_virtual_time(work)


def test_a_receiver_that_takes_bytes_keeps_its_slot() -> None:
    async def work() -> None:
        uploads = make(ONE_SLOT)
        await ask(uploads, "receiver", 1)
        waiting = ask(uploads, "waiting", 2)
        for _ in range(100):
            uploads.throttle(int(ONE_SLOT.min_rate), "receiver")
            await asyncio.sleep(0.5)
        assert not waiting.done()
        uploads.throttle(10**9, "another")
        assert await waiting == 0, "it takes no more, and what others take does not count for it"
        uploads.close()

    in_virtual_time(work)


def test_nothing_wakes_the_queue_of_a_peer_that_stops() -> None:
    async def work() -> None:
        uploads = make(ONE_SLOT)
        await ask(uploads, "stalled", 1)
        waiting = ask(uploads, "waiting", 2)
        uploads.close()
        await asyncio.sleep(3600)
        assert not waiting.done()

    in_virtual_time(work)


@contextmanager
def busy_threads() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_bytes_that_threads_count_at_once_are_reported_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, reported = Uploads(time.monotonic), Counter[str]()
    monkeypatch.setattr(
        uploads.queue, "on_taken", lambda client, count, now: reported.update({client: count})
    )

    def send() -> None:
        for _ in range(30_000):
            uploads.throttle(1, "client")

    threads = [threading.Thread(target=send) for _ in range(3)]
    with busy_threads():
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            uploads.report_taken()
    uploads.report_taken()
    assert reported == {"client": 3 * 30_000}


def test_a_rate_limit_is_kept_by_all_threads_together_and_close_wakes_them() -> None:
    uploads = Uploads(time.monotonic, rate_limit=1_000_000)

    def send() -> None:
        for _ in range(5):
            uploads.throttle(10_000)

    began = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 0.1
    sleeper = threading.Thread(target=uploads.throttle, args=(100_000_000_000,))
    sleeper.start()
    uploads.close()
    sleeper.join(HANG_S)
    assert not sleeper.is_alive()


def test_without_a_rate_limit_no_thread_waits() -> None:
    uploads = Uploads(time.monotonic)
    for _ in range(1000):
        uploads.throttle(10**12)
