"""The life of one connection to a peer: reads go to the source, all else to control; the same for those that
came and those we dialled."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial as bind
from typing import Final

from p2p.errors import EnjambreError, ProtocolError, Refused
from p2p.model import BlockSpan, client_id
from p2p.net.wire import LINE_TIME, Wire
from p2p.peer.transport import BlockSource, Control
from p2p.protocol.peer_messages import Read, ReadAnswer
from p2p.protocol.session import Asked, BadRequest, Ended, Event

IDLE_TIME: Final = 90.0
"""Seconds of silence after which a connection is given up; links ping more often than that (Syncthing: 90
s)."""

READS: Final = 64
"""Requests for blocks that are looked at together."""
IN_A_ROW: Final = 16
"""Events of one connection that are dealt with before others have their turn: bytes that are here already
come without a wait."""

log = logging.getLogger(__name__)


def converse(
    wire: Wire, source: BlockSource, control: Control | None, *, first_line: float = LINE_TIME
) -> asyncio.Task[None]:
    """Serve one connection until it ends; closes it then, also when the task is cancelled before its first
    step.

    The task raises nothing that comes from the network or the other side.
    """

    def over(_: asyncio.Task[None]) -> None:
        wire.close()
        if control is not None:
            control.on_closed(wire)

    task = asyncio.get_running_loop().create_task(_converse(wire, source, control, first_line))
    task.add_done_callback(over)
    return task


async def _converse(wire: Wire, source: BlockSource, control: Control | None, first_line: float) -> None:
    idle = first_line
    on_event = 0
    ahead: deque[Event] = deque()
    """Events that came with the one before them."""
    try:
        while not wire.closed:
            event = ahead.popleft() if ahead else await wire.next_event(idle)
            idle = IDLE_TIME
            on_event += 1
            if on_event % IN_A_ROW == 0:
                await asyncio.sleep(0)
            match event:
                case Asked(Read()):
                    await _serve(wire, source, _reads(wire, event, ahead), ahead)
                case BadRequest(error, seq):
                    await wire.send([wire.session.refuse(error, seq)])
                    if error.fatal:
                        return
                case Ended():
                    return
                case _ if control is not None:
                    await control.on_event(wire, event)
                case Asked(request, seq):
                    await wire.send(
                        [wire.session.refuse(Refused("unsupported", f"op: no {request.OP} here"), seq)]
                    )
                case _:
                    return
    except (OSError, EnjambreError) as error:
        log.debug("connection with %s ended: %s", wire.remote, error)


def _reads(wire: Wire, first: Asked, ahead: deque[Event]) -> list[tuple[Read, int | None]]:
    """The reads of one content that are here already, `first` and those right behind it; what comes after
    them goes `ahead`."""
    reads: list[tuple[Read, int | None]] = []
    event: Event | None = first
    while isinstance(event, Asked) and isinstance(event.request, Read):
        if reads and event.request.id != reads[0][0].id:
            break
        reads.append((event.request, event.seq))
        if len(reads) == READS:
            return reads
        event = ahead.popleft() if ahead else wire.session.next_event()
    if event is not None:
        ahead.appendleft(event)
    return reads


async def _serve(
    wire: Wire, source: BlockSource, reads: list[tuple[Read, int | None]], ahead: deque[Event]
) -> None:
    """Send as many of the blocks as the source gives in one turn; the others are asked for again, `ahead` of
    what came later."""
    client = client_id(wire.peer, wire.remote.host)
    spans = [BlockSpan(read.piece, read.offset, read.length) for read, _ in reads]
    try:
        async with source.blocks(client, reads[0][0].id, spans) as opened:
            answers = [
                wire.session.answer(ReadAnswer(), seq, files)
                for (_, seq), files in zip(reads, opened, strict=False)
            ]
            await wire.send(
                [chunk for answer in answers for chunk in answer], bind(source.throttle, client=client)
            )
        ahead.extendleft(Asked(read, seq) for read, seq in reversed(reads[len(opened) :]))
    except Refused as refused:
        await wire.send([wire.session.refuse(refused, reads[0][1])])
        if refused.code == "bad_range":
            raise ProtocolError("bad_range", str(refused), fatal=True) from None
        ahead.extendleft(Asked(read, seq) for read, seq in reversed(reads[1:]))
