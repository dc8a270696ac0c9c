"""Asks the tracker: one connection, opened when it is needed and opened again when it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, TypeVar

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address
from p2p.net.channel import RequestChannel
from p2p.net.dial import dial
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.wire import Wire, WireTrace, broken
from p2p.protocol.peer_messages import VERSION, Answer, Hello, Request
from p2p.protocol.tracker_messages import HitsAnswer, PeersAnswer

A = TypeVar("A", bound=Answer)
P = TypeVar("P", HitsAnswer, PeersAnswer)


class ListRows:
    """What has come of a list. Where it changes between two pages, a row may come again."""

    def __init__(self, remembered: int) -> None:
        self.count = 0
        """Rows that came, each once."""
        self._remembered = remembered
        self._seen: dict[str, None] = {}

    def __len__(self) -> int:
        """Rows that are remembered."""
        return len(self._seen)

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
        if len(self._seen) > self._remembered:
            del self._seen[next(iter(self._seen))]
        self.count += 1
        return True


class TrackerClient:
    """A conversation with one tracker over one connection, which is opened when it is first needed and again
    after it broke. Several questions may be under way at once."""

    def __init__(
        self,
        address: Address,
        trace: WireTrace | None = None,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        self.address = address
        self._session: str | None = None
        self._on_broken: Callable[[Unreachable], None] = lambda _: None
        self._trace = trace
        self._timeouts = timeouts
        self._limits = limits
        self._channel: RequestChannel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, request: Request) -> Answer:
        """Return the tracker's answer. Raises `Refused` with its code, or `Unreachable` naming the
        address."""
        seconds = self._timeouts.tracker_s
        try:
            async with asyncio.timeout(seconds):
                channel = await self._connected()
                return (await channel.ask(request)).answer
        except Refused as refused:
            if refused.code == "unsupported":
                raise Unreachable(f"what answers at {self.address} is no tracker ({refused})") from refused
            raise
        except TimeoutError as error:
            fault = Unreachable(f"tracker {self.address} does not answer within {seconds:g} s")
            # A connection on which no answer comes may be dead without a sign; the next question has a new
            # one.
            self._drop(fault)
            raise fault from error

    def use_session(self, token: str | None) -> None:
        """Show this session, or none, at the start of each connection that is opened from now on."""
        self._session = token

    def watch(self, on_broken: Callable[[Unreachable], None]) -> None:
        """From now on, call `on_broken` when a connection ended that this side did not end, also while
        nothing was asked."""
        self._on_broken = on_broken

    async def expect(self, request: Request, kind: type[A]) -> A:
        """Return the tracker's answer, which is of this kind. Raises as `ask` does."""
        answer = await self.ask(request)
        if not isinstance(answer, kind):
            raise Unreachable(f"tracker {self.address} answers {request.OP} with something else")
        return answer

    async def pages(
        self, ask: Callable[[int], Request], kind: type[P]
    ) -> AsyncGenerator[tuple[int, P], None]:
        """Yield each page of a list with its offset, without the rows that a page before had. Raises as
        `ask`.

        A page whose `next` leads back, or past its own total, is the last. A list that does not end is an
        error: soon when its pages bring nothing new, and at the latest when it is longer than any can be.
        """
        offset = barren = 0
        rows, limits = ListRows(self._limits.remembered_rows), self._limits
        while barren <= limits.barren_pages and rows.count <= limits.list_rows:
            page, before = await self.expect(ask(offset), kind), rows.count
            yield offset, rows.fresh(page)
            if page.next is None or not offset < page.next <= page.total:
                return
            offset = page.next
            barren += rows.count == before
        raise Unreachable(
            f"the list of tracker {self.address} does not end; {rows.count} rows came,"
            f" and nothing on {barren} pages"
        )

    async def close(self) -> None:
        """Hang up; what is under way raises `Unreachable`."""
        reader = self._reader
        self._drop(Unreachable(f"connection to tracker {self.address} was closed"))
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _connected(self) -> RequestChannel:
        """The open channel, or a new one."""
        async with self._connecting:
            if self._channel is None:
                sock = await dial(self.address, "tracker", timeouts=self._timeouts, limits=self._limits)
                try:
                    wire = Wire(sock, {}, timeouts=self._timeouts, trace=self._trace)
                except OSError as error:
                    raise broken(error, f"tracker {self.address}") from error
                self._channel = channel = RequestChannel(
                    wire, f"tracker {self.address}", timeouts=self._timeouts, limits=self._limits
                )
                self._reader = asyncio.create_task(self._read(channel))
                if self._session is not None:
                    try:
                        await channel.ask(Hello(version=VERSION, session=self._session))
                    except BaseException:
                        self._drop(Unreachable(f"tracker {self.address} did not resume the session"))
                        raise
            return self._channel

    async def _read(self, channel: RequestChannel) -> None:
        """Read answers until the connection ends, and tell why it did unless this side ended it."""
        fault: BaseException = Unreachable(f"tracker {self.address} hung up")
        try:
            await channel.read_answers()
        except Refused as refused:
            fault = Unreachable(f"tracker {self.address} ended the connection: {refused}")
        except (OSError, ProtocolError) as error:
            fault = error
        finally:
            end = broken(fault, channel.name)
            if self._channel is channel:
                self._drop(end)
                self._on_broken(end)
            channel.end(end)

    def _drop(self, error: Unreachable) -> None:
        """End the connection, if there is one; the next question opens another."""
        channel, self._channel, self._reader = self._channel, None, None
        if channel is not None:
            channel.end(error)
