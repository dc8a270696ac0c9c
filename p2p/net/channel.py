"""Requests and their answers on one connection: which request waits for which answer, what waits to be
written, and whether the other side still lives.

A channel is the half of a conversation in which this side asks. Control connections, the tracker client and
TCP data connections are each built with one:

- *Requests to answers.* A request carries a `seq`, its answer the same. `ask` waits for the answer; `fetch`
  receives the answer's body straight into the caller's buffer. An answer that is not waited for any more is
  read and dropped.
- *Outbox.* Lines are written by one task, in order, together with what else waits by then. So many requests
  of one turn of the loop cost one system call. The outbox is bounded: a peer that does not read is
  disconnected.
- *Heartbeat.* `keep_alive` pings, and closes a connection on which nothing comes.
- *End.* `end` closes the connection and fails everything that waits, once.

The reading is done by one task. For a side that only asks that is `read_answers`; a side that is asked too
has a loop of its own, which calls `on_answered` for each answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from p2p.errors import EnjambreError, ProtocolError, Refused, Unreachable
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.wire import Wire, broken
from p2p.protocol.peer_messages import Answer, Ping, Request
from p2p.protocol.session import Answered, BadRequest, Ended


class Reply(NamedTuple):
    """An answer that says yes, and its body when that was not received into a buffer."""

    answer: Answer
    body: bytes


class _Pending:
    """A request whose last answer has not come yet."""

    __slots__ = ("deadline", "done", "into", "on_progress", "progressed")

    def __init__(
        self,
        done: asyncio.Future[Reply],
        into: memoryview | None = None,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        self.done = done
        self.into = into
        """Where the body goes; None: into memory of its own."""
        self.on_progress = on_progress
        """Called at an answer that is not the last."""
        self.progressed = False
        """Whether such an answer has come."""
        self.deadline: asyncio.Timeout | None = None
        """Until when the first answer must come."""


class RequestChannel:
    """The requests that this side has made on one wire. It is open until `end` is called."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        *,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
        closed: Callable[[str], Unreachable] = Unreachable,
    ) -> None:
        """`name` is what errors call the other side. `closed` makes the error for what waits when this side
        closes the channel, and for what is asked of it later."""
        self.wire = wire
        self.name = name
        self.opened_at = asyncio.get_running_loop().time()
        self._timeouts = timeouts
        self._limits = limits
        self._closed = closed
        self._pending: dict[int, _Pending] = {}
        self._receiving: _Pending | None = None
        """The request whose body is being received."""
        self._outbox = bytearray()
        self._batch: asyncio.Future[None] | None = None
        """Done when what is in the outbox now has been written; made when it is first waited for."""
        self._writer: asyncio.Task[None] | None = None
        self._write_error: OSError | None = None
        self._fault: EnjambreError | None = None

    @property
    def fault(self) -> EnjambreError | None:
        """Why the channel has ended; None while it is open."""
        return self._fault

    @property
    def waiting(self) -> int:
        """Requests that wait for an answer."""
        return len(self._pending)

    @property
    def outbox_bytes(self) -> int:
        """Bytes that wait to be written."""
        return len(self._outbox)

    # -- asking

    async def ask(
        self, request: Request, answer_s: float | None = None, on_progress: Callable[[], None] | None = None
    ) -> Reply:
        """Return the last answer to a request.

        The first answer must come within `answer_s` seconds after the request has been written. A request
        may have to wait behind a manifest, and that is not the other side's fault. `on_progress` is called at
        an answer that another will follow. Raises `Refused`, and `Unreachable` when the connection breaks or
        no answer comes.
        """
        seq, pending = self._begin(request, None, on_progress)
        try:
            await self._written()
            async with asyncio.timeout(None if pending.progressed else answer_s) as pending.deadline:
                return await pending.done
        except TimeoutError as error:
            raise Unreachable(f"{self.name} does not answer") from error
        finally:
            self._forget(seq, pending)

    async def fetch(self, request: Request, into: memoryview) -> None:
        """Fill `into` with the body of the answer, which must be exactly as long.

        Raises as `ask`, and `ProtocolError` when the body has another length. A cancel while the body is
        being received closes the channel, because more of it would follow into a buffer that is the caller's
        again. Then the task that reads must be awaited before the buffer is used.
        """
        seq, pending = self._begin(request, into, None)
        try:
            await pending.done
        except asyncio.CancelledError:
            if pending is self._receiving:
                self.close()
            raise
        finally:
            self._forget(seq, pending)

    def post(self, line: bytes) -> None:
        """Write a line soon, in order. Closes the connection when too much waits to be written."""
        if self.wire.closed:
            return
        self._outbox += line
        if len(self._outbox) > self._limits.outbox_bytes:
            self.wire.close()
        elif self._writer is None:
            self._writer = asyncio.create_task(self._write())

    def _begin(
        self, request: Request, into: memoryview | None, on_progress: Callable[[], None] | None
    ) -> tuple[int, _Pending]:
        if self._fault is not None:
            raise self._closed(str(self._fault))
        seq, line = self.wire.session.ask(request)
        pending = _Pending(asyncio.get_running_loop().create_future(), into, on_progress)
        self._pending[seq] = pending
        self.post(line)
        return seq, pending

    def _forget(self, seq: int, pending: _Pending) -> None:
        """This answer is not waited for any more. An error in its place counts as seen, so that the loop does
        not log it."""
        self._pending.pop(seq, None)
        if not pending.done.done():
            pending.done.cancel()
        elif not pending.done.cancelled():
            pending.done.exception()

    # -- writing

    async def _written(self) -> None:
        """Wait until what is in the outbox now has been written, or cannot be."""
        if self._writer is None:
            return
        if self._batch is None:
            self._batch = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._batch])  # others wait for it too, so a cancel must not reach it

    async def _write(self) -> None:
        try:
            while self._outbox:
                lines, batch = bytes(self._outbox), self._batch
                self._outbox.clear()
                self._batch = None
                try:
                    await self.wire.send([lines])
                finally:
                    if batch is not None:
                        batch.set_result(None)
        except OSError as error:
            # The wire is closed now, and the task that reads ends the channel. What the other side said
            # before it hung up, above all that it is busy, says more than that a write failed.
            self._write_error = error
        finally:
            self._writer = None
            if self._batch is not None:
                self._batch.set_result(None)
                self._batch = None

    # -- reading

    async def read_answers(self) -> None:
        """Hand each answer to its request until the other side hangs up; the reader of a side that only asks.

        Raises `Refused` when the other side refuses the connection itself, `OSError`, `ProtocolError`.
        """
        while True:
            event = await self.wire.next_event()
            if isinstance(event, Answered):
                if event.seq is None and isinstance(event.answer, Refused):
                    raise event.answer
                await self.on_answered(event)
            elif isinstance(event, BadRequest):
                raise event.error
            elif isinstance(event, Ended):
                return

    async def on_answered(self, event: Answered) -> None:
        """Hand an answer to its request, after its body has been read. Raises `OSError`, `ProtocolError`."""
        pending = self._pending.get(event.seq) if event.seq is not None else None
        if pending is None:
            await self.wire.skip_body()
        elif isinstance(event.answer, Refused):
            _settle(pending.done, event.answer)
        elif event.answer.final:
            body = await self._receive(pending, event.body)
            _settle(pending.done, Reply(event.answer, body))
        else:
            pending.progressed = True
            if pending.deadline is not None and not pending.deadline.expired():
                pending.deadline.reschedule(None)
            if pending.on_progress is not None:
                pending.on_progress()

    async def _receive(self, pending: _Pending, size: int) -> bytes:
        if pending.into is None:
            return await self.wire.read_body() if size else b""
        if size != len(pending.into):
            error = ProtocolError(
                "bad_body", f"body: {len(pending.into)} bytes were asked for, {size} announced", fatal=True
            )
            _settle(pending.done, error)
            raise error
        self._receiving = pending
        try:
            await self.wire.read_body_into(pending.into)
        except OSError as error:
            _settle(pending.done, broken(error, self.name))
            raise
        finally:
            self._receiving = None
            if self._fault is not None:
                _settle(pending.done, self._fault)
        return b""

    # -- alive or over

    async def keep_alive(self) -> None:
        """Ping, until the connection is closed; close it when no sign of life comes.

        The answer to a ping may be long behind a manifest, in either direction. So any byte that comes is a
        sign of life, if only the other side's own ping.
        """
        loop, timeouts = asyncio.get_running_loop(), self._timeouts
        pause = timeouts.ping_s
        with contextlib.suppress(EnjambreError):
            while True:
                await asyncio.sleep(pause)
                pause = timeouts.ping_s
                try:
                    await self.ask(Ping(), timeouts.answer_s)
                except Unreachable:
                    silent = loop.time() - max(self.opened_at, self.wire.moved_at)
                    if self.wire.closed or silent > timeouts.ping_s + timeouts.answer_s / 2:
                        raise
                    pause -= timeouts.answer_s
        self.wire.close()

    def close(self) -> None:
        """Hang up; no peer is to blame."""
        self.end(self._closed(f"connection to {self.name} was closed"))

    def end(self, error: EnjambreError | None = None) -> None:
        """Close the connection, and fail all that waits with `error`, or with why it broke. Only the first
        call counts."""
        if self._fault is not None:
            return
        if error is None and self._write_error is not None:
            error = broken(self._write_error, self.name)
        self._fault = error or Unreachable(f"connection to {self.name} broke")
        self.wire.close()
        for pending in self._pending.values():
            if pending is not self._receiving:  # that one is told when its buffer is written to no more
                _settle(pending.done, self._fault)


def _settle(done: asyncio.Future[Any], outcome: Reply | Exception) -> None:
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
