"""The source of a listening transport: a block asked for becomes open file spans, or a refusal; few are sent
at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from p2p.errors import WIRE_CODES, DiskError, Refused
from p2p.model import KIB, BlockSpan, ContentId, FileSpan, is_loopback
from p2p.net.descriptors import out_of_descriptors
from p2p.net.threads import in_thread
from p2p.peer.local_content import LocalContent
from p2p.storage.file_set import MAX_SPANS
from p2p.swarm.rate_limit import TokenBucket
from p2p.swarm.upload_queue import SLOTS, Ticket, UploadQueue, host_of, least_rate

DEAF_TIME: Final = 1.0
"""Seconds without a byte sent to anybody, while others wait, after which those being served give their slots
away."""
SLOW_TIME: Final = 2.5
"""Seconds of which it is looked how much somebody took, while others wait. Less would take a slow receiver
for a deaf one: where a kernel holds much of what is sent, it takes more only when a third of that has
gone."""
DEAF_MOST: Final = 64
"""Sends that may go on beside the slots; each has a thread. Over it, of those who take next to nothing the
oldest is given up."""
DEAF_OF_ONE: Final = 4
"""The same of one host, however many ids it says, before it is refused more; loopback, where many peers share
a host, is not bounded so."""
RENAME_TIME: Final = 5.0
"""Seconds that a request may wait while a finished download gets its final name."""
_PACED: Final = 64 * KIB
"""With an upload limit, the time that so many bytes take in each slot is the least of which it is looked how
much somebody took."""


class _Taker:
    """A caller that is being sent something: how many sends it has under way, and the bytes that it took by
    all of them."""

    __slots__ = ("sends", "taken")

    def __init__(self) -> None:
        self.sends = 0
        self.taken = 0


class _Send:
    """One turn, from the request on: whose it is, and how much its caller had taken at the last look."""

    __slots__ = ("before", "client", "deaf", "gathering", "looked_at", "taker")

    def __init__(self, client: str) -> None:
        self.client = client
        self.taker: _Taker | None = None
        self.looked_at = 0.0
        self.before = 0
        self.deaf = False
        """Whether it takes next to nothing."""
        self.gathering = False
        """Whether its block is still being gathered from many files: that it takes nothing is then not its
        own fault."""


class BlockServer:
    """All contents of this peer as a `Source`. `limit` is bytes a second for all uploads together; 0 is
    none."""

    def __init__(self, changed: Callable[[LocalContent], None], limit: int = 0) -> None:
        """`changed` is told of a content whose files are not what they were; it is not served any more."""
        self.holdings: dict[ContentId, LocalContent] = {}
        self._changed = changed
        self._uploads = UploadQueue()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._takers: dict[str, _Taker] = {}
        self._sending: dict[_Send, None] = {}
        """What is being sent in a slot."""
        self._deaf: dict[_Send, None] = {}
        """What is sent on beside the slots, to who takes too little; it gets nothing else until that has
        ended."""
        self._tasks: dict[_Send, asyncio.Task[object]] = {}
        """In which task each of them is sent, as long as it was not given up."""
        self._moved_at = 0.0
        self._looking: asyncio.TimerHandle | None = None
        self._pace = TokenBucket(limit)
        self._pacing = threading.Lock()
        self._closing = threading.Event()
        self._gatherers = ThreadPoolExecutor(SLOTS, thread_name_prefix="gather")
        """Threads for blocks that lie in many files; each starts when needed."""

    def get(self, content: ContentId) -> LocalContent:
        """The holding of an id. Raises `Refused("not_found")`, the same for what does not exist and what is
        not shared."""
        holding = self.holdings.get(content)
        if holding is None:
            raise Refused("not_found", "this content is not shared here")
        return holding

    @asynccontextmanager
    async def blocks(
        self, client: str, content: ContentId, spans: Sequence[BlockSpan]
    ) -> AsyncIterator[list[list[FileSpan]]]:
        """Admit a request, and open the files of its first blocks while they are sent. Raises `Refused` for
        the first."""
        holding = self.get(content)
        self._check_here(holding, spans[0])
        self._check_hears(client)
        if not holding.admits(client, spans[0].piece, crowded=self._uploads.crowded):
            raise Refused(
                "busy", "while it has pieces that nobody has, and many ask, this seed sends what it suggests"
            )
        ticket = _Send(client)
        began: float | None = None
        sent = 0
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._admit(self._uploads.ask(client, ticket))
            self._look_soon()
            await turn
            self._check_hears(client)
            self._begin(ticket)
            me = asyncio.current_task()
            if me is not None:
                self._tasks[ticket] = me
            began = self._moved_at = ticket.looked_at = time.monotonic()
            with ExitStack() as stack:
                opened = [await self._open(holding, spans[0], ticket, stack)]
                opened += self._open_more(
                    holding, spans[1:], opened, self._uploads.turn(client) - spans[0].length, stack
                )
                yield opened
            for span in spans[: len(opened)]:
                holding.served(client, span)
                sent += span.length
        finally:
            if began is not None:
                self._uploads.took(client, time.monotonic() - began, sent)
            self._end(ticket)
            del self._turns[ticket]
            self._tasks.pop(ticket, None)
            self._deaf.pop(ticket, None)
            if ticket in self._sending:  # who only waited has moved nothing
                del self._sending[ticket]
                self._moved_at = time.monotonic()
            self._admit(self._uploads.done(ticket))

    def throttle(self, count: int, client: str = "") -> None:
        """Note that `client` took so many bytes, and keep the upload rate; called in the worker threads that
        send."""
        now = self._moved_at = time.monotonic()
        taker = self._takers.get(client)
        if taker is not None:
            taker.taken += (
                count  # two threads at once for one caller may lose a few: too little is noted, for once
            )
        if not self._pace.rate:
            return
        with self._pacing:
            wait = self._pace.take(count, now)
        self._moved_at = now + wait
        self._closing.wait(wait)

    def close(self) -> None:
        """Let nobody wait any more to keep a rate: this peer is stopping."""
        self._closing.set()
        self._gatherers.shutdown(wait=False, cancel_futures=True)
        if self._looking is not None:
            self._looking.cancel()

    def _begin(self, send: _Send) -> None:
        taker = self._takers.get(send.client)
        if taker is None:
            taker = self._takers[send.client] = _Taker()
        taker.sends += 1
        send.taker = taker
        send.before = taker.taken
        self._sending[send] = None

    def _end(self, send: _Send) -> None:
        if send.taker is not None:
            send.taker.sends -= 1
            if not send.taker.sends:
                del self._takers[send.client]

    def _check_hears(self, client: str) -> None:
        """Raise `Refused("busy")` for who does not take what is being sent to it already, or for one more of
        a host with several deaf."""
        host = host_of(client)
        of_one = (
            0
            if is_loopback(host)
            else sum(1 for send in self._deaf if send.deaf and host_of(send.client) == host)
        )
        if of_one >= DEAF_OF_ONE or any(send.client == client for send in self._deaf):
            raise Refused("busy", "you do not take what is being sent to you")

    def _look_soon(self) -> None:
        if self._looking is None and self._uploads.waiting:
            self._looking = asyncio.get_running_loop().call_later(DEAF_TIME / 4, self._look)

    def _look(self) -> None:
        """Let those who wait go first where nothing moves, and past who takes too little: a few must not keep
        everybody from theirs."""
        self._looking = None
        now = time.monotonic()
        if self._uploads.waiting:
            if now - self._moved_at > DEAF_TIME:
                self._moved_at = now
                for send in self._sending:
                    send.deaf = not send.gathering
                stuck = list(self._sending)
            else:
                stuck = self._slow(now)
            self._pass_by(stuck)
        self._look_soon()

    def _slow(self, now: float) -> list[_Send]:
        """What goes too slowly in a slot, by what was taken since the last look at each. Finds out, too, who
        beside them is deaf by now."""
        time_looked = max(SLOW_TIME, SLOTS * _PACED / self._pace.rate) if self._pace.rate else SLOW_TIME
        found: list[_Send] = []
        for send in [*self._deaf, *self._sending]:
            seconds = now - send.looked_at
            if send.taker is None or send.gathering or seconds < time_looked:
                continue
            rate = (send.taker.taken - send.before) / send.taker.sends / seconds
            send.looked_at, send.before = now, send.taker.taken
            host = host_of(send.client)
            others = len(
                [other for other in (*self._deaf, *found) if other.deaf and host_of(other.client) != host]
            )
            send.deaf = rate < least_rate(others, self._pace.rate)
            if send not in self._sending:
                continue
            if send.deaf or (not found and len(self._deaf) < DEAF_MOST and self._uploads.outpaced(rate)):
                found.append(send)
        return found

    def _pass_by(self, stuck: list[_Send]) -> None:
        """Go on with these beside the slots. Of too many who take next to nothing, the oldest are given
        up."""
        for send in stuck:
            del self._sending[send]
            self._deaf[send] = None
        going_on = [send for send in self._deaf if send in self._tasks]
        deaf = [send for send in going_on if send.deaf]
        for send in deaf[: max(0, len(going_on) - DEAF_MOST)]:
            self._tasks.pop(send).cancel()
        for send in stuck:
            self._admit(self._uploads.done(send))

    def _admit(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            turn = self._turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(None)

    @staticmethod
    def _check_here(holding: LocalContent, span: BlockSpan) -> None:
        holding.geometry.check(span)
        if span.piece not in holding.have:
            raise Refused("not_found", "this piece is not here yet")

    def _open_more(
        self,
        holding: LocalContent,
        spans: Sequence[BlockSpan],
        opened: list[list[FileSpan]],
        most: int,
        stack: ExitStack,
    ) -> Iterator[list[FileSpan]]:
        """Open as many blocks as `most` bytes allow, of no more files together than one block may have: files
        that are open are dear.

        One that must be refused is so when it comes first in its turn, and one that lies in many files is
        gathered then.
        """
        files = len(opened[0])
        for span in spans:
            most -= span.length
            if most < 0:
                return
            with ExitStack() as one:
                try:
                    self._check_here(holding, span)
                except Refused:
                    return
                if holding.storage.scattered(span):
                    return
                try:
                    found = self._enter(holding, span, one)
                except Refused as refused:
                    self._note_changed(holding, refused)
                    return
                files += len(found)
                if files > MAX_SPANS:
                    return
                stack.push(one.pop_all())
                yield found

    async def _open(
        self, holding: LocalContent, span: BlockSpan, send: _Send, stack: ExitStack
    ) -> list[FileSpan]:
        """Open a block's files. While a download gets its final name, which may take as long as a slow disk,
        the asker waits."""
        try:
            return await self._gather(holding, span, send, stack)
        except Refused as refused:
            if refused.code != "unavailable":
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENAME_TIME):
                    await holding.whole.wait()
            return await self._gather(holding, span, send, stack)

    async def _gather(
        self, holding: LocalContent, span: BlockSpan, send: _Send, stack: ExitStack
    ) -> list[FileSpan]:
        """Open a block's files: in a thread if they are many, for the loop would stand still for as long as
        it takes to read them."""
        try:
            if not holding.storage.scattered(span):
                return self._enter(holding, span, stack)
            send.gathering = True
            try:
                return await in_thread(self._gatherers, lambda: self._enter(holding, span, stack))
            finally:
                send.gathering = False
                send.looked_at = self._moved_at = time.monotonic()
        except Refused as refused:
            self._note_changed(holding, refused)
            raise

    @staticmethod
    def _enter(holding: LocalContent, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        try:
            return stack.enter_context(holding.storage.opened(span))
        except DiskError as error:
            if out_of_descriptors(error):
                raise Refused("busy", "this side has too many open files now; ask again later") from error
            raise Refused("disk", WIRE_CODES["disk"]) from error

    def _note_changed(self, holding: LocalContent, refused: Refused) -> None:
        if refused.code == "not_found":
            self._changed(holding)
