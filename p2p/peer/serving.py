"""The source of a listening transport: a block asked for becomes open file spans, or a refusal; few are sent at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from p2p.content.fileset import MAX_SPANS
from p2p.errors import WIRE_CODES, DiskError, Refused
from p2p.model import BlockSpan, ContentId, FileSpan, is_loopback
from p2p.peer.holding import Holding
from p2p.swarm.pace import Pace
from p2p.swarm.uploads import Ticket, Uploads
from p2p.system import no_room

DEAF_TIME: Final = 1.0
"""Seconds without a byte sent to anybody, while others wait, after which those being served give their slots away."""
DEAF_MOST: Final = 64
"""Sends that may go on beside the slots; each has a thread of its own. Over it, the oldest is given up."""
DEAF_OF_ONE: Final = 4
"""The same of one host, however many ids it says, before it is refused more; loopback, where many peers share a host, is not bounded so."""
RENAME_TIME: Final = 5.0
"""Seconds that a request may wait while a finished download gets its final name."""


class Serving:
    """All contents of this peer as a `Source`. `limit` is bytes a second for all uploads together; 0 is none."""

    def __init__(self, changed: Callable[[Holding], None], limit: int = 0) -> None:
        """`changed` is told of a content whose files are not what they were; it is not served any more."""
        self.holdings: dict[ContentId, Holding] = {}
        self._changed = changed
        self._uploads = Uploads()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._sending: dict[Ticket, str] = {}
        """Who is being sent something, in a slot."""
        self._deaf: dict[Ticket, str] = {}
        """Who takes no bytes: it is sent on beside the slots, and gets nothing else until that has ended."""
        self._tasks: dict[Ticket, asyncio.Task[object]] = {}
        """In which task each of them is sent, as long as it was not given up."""
        self._moved_at = 0.0
        self._looking: asyncio.TimerHandle | None = None
        self._pace = Pace(limit)
        self._pacing = threading.Lock()
        self._closing = threading.Event()

    def get(self, content: ContentId) -> Holding:
        """The holding of an id. Raises `Refused("not_found")`, the same for what does not exist and what is not shared."""
        holding = self.holdings.get(content)
        if holding is None:
            raise Refused("not_found", "this content is not shared here")
        return holding

    @asynccontextmanager
    async def blocks(self, who: str, content: ContentId, spans: Sequence[BlockSpan]) -> AsyncIterator[list[list[FileSpan]]]:
        """Admit a request, and open the files of its first blocks while they are sent. Raises `Refused` for the first."""
        holding = self.get(content)
        self._check_here(holding, spans[0])
        self._check_hears(who)
        if not holding.admits(who, spans[0].piece, crowded=self._uploads.crowded):
            raise Refused("busy", "while it has pieces that nobody has, and many ask, this seed sends what it suggests")
        ticket = object()
        began: float | None = None
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._admit(self._uploads.ask(who, ticket))
            self._look_soon()
            await turn
            self._check_hears(who)
            self._sending[ticket] = who
            me = asyncio.current_task()
            if me is not None:
                self._tasks[ticket] = me
            began = self._moved_at = time.monotonic()
            with ExitStack() as stack:
                opened = [await self._open(holding, spans[0], stack)]
                opened += self._open_more(holding, spans[1:], opened, self._uploads.turn(who) - spans[0].length, stack)
                yield opened
            for span in spans[: len(opened)]:
                holding.served(who, span)
        finally:
            if began is not None:
                self._uploads.took(who, time.monotonic() - began)
            del self._turns[ticket]
            self._tasks.pop(ticket, None)
            self._deaf.pop(ticket, None)
            if self._sending.pop(ticket, None) is not None:  # who only waited has moved nothing
                self._moved_at = time.monotonic()
            self._admit(self._uploads.done(ticket))

    def pace(self, count: int) -> None:
        """Keep the upload rate; called in the worker threads that send."""
        now = self._moved_at = time.monotonic()
        if not self._pace.rate:
            return
        with self._pacing:
            wait = self._pace.take(count, now)
        self._moved_at = now + wait
        self._closing.wait(wait)

    def close(self) -> None:
        """Let nobody wait any more to keep a rate: this peer is stopping."""
        self._closing.set()
        if self._looking is not None:
            self._looking.cancel()

    def _check_hears(self, who: str) -> None:
        """Raise `Refused("busy")` for who takes no bytes of what is being sent to it already."""
        host = who.rpartition("@")[2]
        deaf = list(self._deaf.values())
        of_one = 0 if is_loopback(host) else sum(1 for other in deaf if other.rpartition("@")[2] == host)
        if who in deaf or of_one >= DEAF_OF_ONE:
            raise Refused("busy", "you do not take what is being sent to you")

    def _look_soon(self) -> None:
        if self._looking is None and self._uploads.waiting:
            self._looking = asyncio.get_running_loop().call_later(DEAF_TIME / 4, self._look)

    def _look(self) -> None:
        """Let those who wait go first where nothing moves: a few who take no bytes must not keep everybody from theirs."""
        self._looking = None
        now = time.monotonic()
        if self._uploads.waiting and now - self._moved_at > DEAF_TIME:
            self._moved_at = now
            self._deaf.update(self._sending)
            going_on = [ticket for ticket in self._deaf if ticket in self._tasks]
            for ticket in going_on[: max(0, len(going_on) - DEAF_MOST)]:
                self._tasks.pop(ticket).cancel()
            stuck, self._sending = list(self._sending), {}
            for ticket in stuck:
                self._admit(self._uploads.done(ticket))
        self._look_soon()

    def _admit(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            turn = self._turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(None)

    @staticmethod
    def _check_here(holding: Holding, span: BlockSpan) -> None:
        holding.geometry.check(span)
        if span.piece not in holding.have:
            raise Refused("not_found", "this piece is not here yet")

    def _open_more(
        self, holding: Holding, spans: Sequence[BlockSpan], opened: list[list[FileSpan]], most: int, stack: ExitStack
    ) -> Iterator[list[FileSpan]]:
        """Open as many blocks as `most` bytes allow, of no more files together than one block may have: files that are open are dear.

        One that must be refused is so when it comes first in its turn.
        """
        files = len(opened[0])
        for span in spans:
            most -= span.length
            if most < 0:
                return
            with ExitStack() as one:
                try:
                    self._check_here(holding, span)
                    found = self._enter(holding, span, one)
                except Refused:
                    return
                files += len(found)
                if files > MAX_SPANS:
                    return
                stack.push(one.pop_all())
                yield found

    async def _open(self, holding: Holding, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        """Open a block's files. While a download gets its final name, which may take as long as a slow disk, the asker waits."""
        try:
            return self._enter(holding, span, stack)
        except Refused as refused:
            if refused.code != "unavailable":
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENAME_TIME):
                    await holding.whole.wait()
            return self._enter(holding, span, stack)

    def _enter(self, holding: Holding, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        try:
            return stack.enter_context(holding.storage.opened(span))
        except Refused as refused:
            if refused.code == "not_found":
                self._changed(holding)
            raise
        except DiskError as error:
            if no_room(error):
                raise Refused("busy", "this side has too many open files now; ask again later") from error
            raise Refused("disk", WIRE_CODES["disk"]) from error
