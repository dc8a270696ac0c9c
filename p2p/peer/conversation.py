"""Serves one connection to a peer until it ends: requests for blocks go to the source, all else to control.

The same for connections that came in and those that this side dialled. Every shell of this project has four
steps: receive, handle the event, write what is due, ask whether to close. Here the handler of an event writes
its own answer, since the files of a block are open only while it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial as bind

from p2p.errors import EnjambreError, ProtocolError, Refused
from p2p.model import BlockSpan, client_id
from p2p.net.limits import Limits, Timeouts
from p2p.net.wire import Wire
from p2p.peer.transport import BlockSource, Control
from p2p.protocol.peer_messages import Read, ReadAnswer
from p2p.protocol.session import Asked, BadRequest, Ended, Event

log = logging.getLogger(__name__)


def converse(
    wire: Wire,
    source: BlockSource,
    control: Control | None,
    timeouts: Timeouts,
    limits: Limits,
    on_active: Callable[[], None] = lambda: None,
) -> asyncio.Task[None]:
    """Serve one connection until it ends, in a task. `on_active` is called at its first whole message.

    The task closes the connection at its end, also when it is cancelled before its first step. It raises
    nothing that comes from the network or the other side.
    """

    def on_end(_: asyncio.Task[None]) -> None:
        wire.close()
        if control is not None:
            control.on_closed(wire)

    conversation = _Conversation(wire, source, control, timeouts, limits, on_active)
    task = asyncio.get_running_loop().create_task(conversation.run())
    task.add_done_callback(on_end)
    return task


class _Conversation:
    """The loop around one `Wire`. `_ahead` holds events that came together with the one being handled."""

    def __init__(
        self,
        wire: Wire,
        source: BlockSource,
        control: Control | None,
        timeouts: Timeouts,
        limits: Limits,
        on_active: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._source = source
        self._control = control
        self._timeouts = timeouts
        self._limits = limits
        self._on_active = on_active
        self._ahead: deque[Event] = deque()
        self._received = 0
        self._over = False

    async def run(self) -> None:
        try:
            while not self._over and not self._wire.closed:
                event = await self._receive()
                await self._handle(event)
        except (OSError, EnjambreError) as error:
            log.debug("connection with %s ended: %s", self._wire.remote, error)

    async def _receive(self) -> Event:
        """The next event. Lets others have their turn after some of this connection."""
        self._received += 1
        if self._received % self._limits.events_in_turn == 0:
            await asyncio.sleep(0)
        if self._ahead:
            return self._ahead.popleft()
        if self._received > 1:
            return await self._wire.next_event(self._timeouts.idle_s)
        event = await self._wire.next_event(self._timeouts.line_s)
        self._on_active()
        return event

    async def _handle(self, event: Event) -> None:
        match event:
            case Asked(Read()):
                await self._serve(self._take_reads(event))
            case BadRequest(error, seq):
                await self._refuse(error, seq)
                self._over = error.fatal
            case Ended():
                self._over = True
            case _ if self._control is not None:
                await self._control.on_event(self._wire, event)
            case Asked(request, seq):
                await self._refuse(Refused("unsupported", f"op: no {request.OP} here"), seq)
            case _:
                self._over = True

    async def _refuse(self, error: Refused | ProtocolError, seq: int | None) -> None:
        await self._wire.send([self._wire.session.refuse(error, seq)])

    def _take_reads(self, first: Asked) -> list[tuple[Read, int | None]]:
        """The requests for blocks of one content that are here already: `first` and those right behind it.
        The event after them is put ahead."""
        reads: list[tuple[Read, int | None]] = []
        event: Event | None = first
        while isinstance(event, Asked) and isinstance(event.request, Read):
            if reads and event.request.id != reads[0][0].id:
                break
            reads.append((event.request, event.seq))
            if len(reads) == self._limits.reads:
                return reads
            event = self._ahead.popleft() if self._ahead else self._wire.session.next_event()
        if event is not None:
            self._ahead.appendleft(event)
        return reads

    async def _serve(self, reads: list[tuple[Read, int | None]]) -> None:
        """Send as many of the blocks as the source gives in one turn. The others are put ahead again."""
        wire, served = self._wire, 1
        client = client_id(wire.peer, wire.remote.host)
        spans = [BlockSpan(read.piece, read.offset, read.length) for read, _ in reads]
        try:
            async with self._source.blocks(client, reads[0][0].id, spans) as opened:
                answers = [
                    wire.session.answer(ReadAnswer(), seq, files)
                    for (_, seq), files in zip(reads, opened, strict=False)
                ]
                served = len(opened)
                await wire.send(
                    [chunk for answer in answers for chunk in answer],
                    bind(self._source.throttle, client=client),
                )
        except Refused as refused:
            served = 1
            await self._refuse(refused, reads[0][1])
            if refused.code == "bad_range":
                raise ProtocolError("bad_range", str(refused), fatal=True) from None
        self._ahead.extendleft(Asked(read, seq) for read, seq in reversed(reads[served:]))
