"""Ask the tracker: one connection, opened when it is needed and opened again when it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address
from p2p.net.dial import dial
from p2p.net.wire import Wire, WireTrace, broken, let_go
from p2p.protocol.peer_messages import VERSION, Answer, Hello, Request
from p2p.protocol.session import Answered, BadRequest, Ended
from p2p.protocol.tracker_messages import HitsAnswer, PeersAnswer
from p2p.storage.disk_io import disk_io

A = TypeVar("A", bound=Answer)
P = TypeVar("P", HitsAnswer, PeersAnswer)

MOST_ROWS: Final = 6_000_000
"""Rows of a list that are taken: more than any tracker keeps. How many are on a page is the tracker's affair,
and may be one."""
MOST_BARREN: Final = 2_000
"""Pages in a list that may have nothing new on them. As many as 1,000 are honest: a hundred thousand peers
that we cannot reach."""


SEEN: Final = 100_000
"""Rows that are remembered, so that one which comes again is left out: a list that changes moves its rows by
a few places."""


class _Rows:
    """What has come of a list: where it changes between pages, a row may come again."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: dict[str, None] = {}

    def fresh(self, page: P) -> P:
        """A page without the rows that came before, or twice on it."""
        rows: dict[str, Any]
        if isinstance(page, HitsAnswer):
            rows = {"hits": tuple(hit for hit in page.hits if self._new(hit.id))}
        else:
            rows = {"peers": tuple(row for row in page.peers if self._new(row.peer))}
        return replace(page, **rows)

    def _new(self, id_: str) -> bool:
        if id_ in self._seen:
            return False
        self._seen[id_] = None
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]
        self.count += 1
        return True


class TrackerClient:
    """A conversation with one tracker. Several questions may be under way at once. `session` is shown at each
    new connection."""

    def __init__(self, address: Address, trace: WireTrace | None = None, timeout: float = 4.0) -> None:
        """`timeout` is for one question and its answer, in seconds."""
        self.address = address
        self.session: str | None = None
        self.on_broken: Callable[[Unreachable], None] = lambda _: None
        """Told when a connection ended that this side did not end, also while nothing was asked."""
        self._trace = trace
        self._timeout = timeout
        self._wire: Wire | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._connecting = asyncio.Lock()

    async def ask(self, request: Request) -> Answer:
        """Return the tracker's answer. Raises `Refused` with its code, or `Unreachable` naming the
        address."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._ask(await self._connected(), request)
        except Refused as refused:
            if refused.code == "unsupported":
                raise Unreachable(f"what answers at {self.address} is no tracker ({refused})") from refused
            raise
        except TimeoutError as error:
            fault = Unreachable(f"tracker {self.address} does not answer within {self._timeout:g} s")
            # A connection on which nothing comes back may be dead without our knowing; the next question has
            # a new one.
            self._lost(fault)
            raise fault from error

    async def expect(self, request: Request, kind: type[A]) -> A:
        """Return the tracker's answer, which is of this kind. Raises as `ask` does."""
        answer = await self.ask(request)
        if not isinstance(answer, kind):
            raise Unreachable(f"tracker {self.address} answers {request.OP} with something else")
        return answer

    async def pages(
        self, ask: Callable[[int], Request], kind: type[P]
    ) -> AsyncGenerator[tuple[int, P], None]:
        """Yield each page of a list with its offset, less the rows that a page before had. Raises as `ask`
        does.

        A page that sends us back, or past its own total, is the last. Each page shall bring something, so a
        list that never ends is an error: soon when it has nothing more to tell, and at the latest when it is
        longer than any can be.
        """
        offset = barren = 0
        rows = _Rows()
        while barren <= MOST_BARREN and rows.count <= MOST_ROWS:
            page, before = await self.expect(ask(offset), kind), rows.count
            yield offset, rows.fresh(page)
            if page.next is None or not offset < page.next <= page.total:
                return
            offset = page.next
            barren += rows.count == before
        raise Unreachable(
            f"the list of tracker {self.address} does not end; {rows.count} rows came, and nothing on {barren} pages"
        )

    async def close(self) -> None:
        """Hang up; what is under way raises `Unreachable`."""
        reader = self._reader
        self._lost(Unreachable(f"connection to tracker {self.address} was closed"))
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _connected(self) -> Wire:
        async with self._connecting:
            if self._wire is None:
                sock = await dial(self.address, "tracker")
                try:
                    self._wire = Wire(sock, {}, disk_io(), trace=self._trace)
                except OSError as error:
                    raise broken(error, f"tracker {self.address}") from error
                self._reader = asyncio.create_task(self._read(self._wire))
                if self.session is not None:
                    try:
                        await self._ask(self._wire, Hello(version=VERSION, session=self.session))
                    except BaseException:
                        self._lost(Unreachable(f"tracker {self.address} did not resume the session"))
                        raise
            return self._wire

    async def _ask(self, wire: Wire, request: Request) -> Answer:
        seq, line = wire.session.ask(request)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = answer
        try:
            await wire.send([line])
            return await answer
        except OSError as error:
            raise broken(error, f"tracker {self.address}") from error
        finally:
            self._waiting.pop(seq, None)
            let_go(answer)

    async def _read(self, wire: Wire) -> None:
        fault: BaseException = Unreachable(f"tracker {self.address} hung up")
        try:
            while True:
                match await wire.next_event():
                    case Answered(answer, seq, _) if seq is not None:
                        self._answered(seq, answer)
                    case Answered(Refused() as refused, _, _):
                        fault = Unreachable(f"tracker {self.address} ended the connection: {refused}")
                        return
                    case BadRequest(error, _):
                        fault = error
                        return
                    case Ended():
                        return
        except (OSError, ProtocolError) as error:
            fault = error
        finally:
            if self._wire is wire:
                end = broken(fault, f"tracker {self.address}")
                self._lost(end)
                self.on_broken(end)
            wire.close()

    def _answered(self, seq: int, answer: Answer | Refused) -> None:
        waiting = self._waiting.pop(seq, None)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Refused):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _lost(self, error: Unreachable) -> None:
        wire, self._wire, self._reader = self._wire, None, None
        if wire is not None:
            wire.close()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.done():
                one.set_exception(error)
