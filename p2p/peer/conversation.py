"""The life of one connection to a peer: reads go to the source, all else to control; the same for those that came and those we dialled."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from p2p.errors import EnjambreError, ProtocolError, Refused
from p2p.model import BlockSpan, caller
from p2p.peer.transport import Control, Source
from p2p.peer.wire import LINE_TIME, Wire
from p2p.protocol.messages import Read, ReadAnswer
from p2p.protocol.session import Asked, BadRequest, Ended

IDLE_TIME: Final = 90.0
"""Seconds of silence after which a connection is given up; links ping more often than that (Syncthing: 90 s)."""

IN_A_ROW: Final = 16
"""Events of one connection that are dealt with before others have their turn: bytes that are here already come without a wait."""

log = logging.getLogger(__name__)


def converse(wire: Wire, source: Source, control: Control | None, *, first_line: float = LINE_TIME) -> asyncio.Task[None]:
    """Serve one connection until it ends; closes it then, also when the task is cancelled before its first step.

    The task raises nothing that comes from the network or the other side.
    """

    def over(_: asyncio.Task[None]) -> None:
        wire.close()
        if control is not None:
            control.gone(wire)

    task = asyncio.get_running_loop().create_task(_converse(wire, source, control, first_line))
    task.add_done_callback(over)
    return task


async def _converse(wire: Wire, source: Source, control: Control | None, first_line: float) -> None:
    idle = first_line
    heard = 0
    try:
        while not wire.closed:
            event = await wire.next_event(idle)
            idle = IDLE_TIME
            heard += 1
            if heard % IN_A_ROW == 0:
                await asyncio.sleep(0)
            match event:
                case Asked(Read() as read, seq):
                    await _serve(wire, source, read, seq)
                case BadRequest(error, seq):
                    await wire.send([wire.session.refuse(error, seq)])
                    if error.fatal:
                        return
                case Ended():
                    return
                case _ if control is not None:
                    await control.heard(wire, event)
                case Asked(request, seq):
                    await wire.send([wire.session.refuse(Refused("unsupported", f"op: no {request.OP} here"), seq)])
                case _:
                    return
    except (OSError, EnjambreError) as error:
        log.debug("connection with %s ended: %s", wire.remote, error)


async def _serve(wire: Wire, source: Source, read: Read, seq: int | None) -> None:
    span = BlockSpan(read.piece, read.offset, read.length)
    who = caller(wire.peer, wire.remote.host)
    try:
        async with source.block(who, read.id, span) as files:
            await wire.send(wire.session.answer(ReadAnswer(), seq, files), source.pace)
    except Refused as refused:
        await wire.send([wire.session.refuse(refused, seq)])
        if refused.code == "bad_range":
            raise ProtocolError("bad_range", str(refused), fatal=True) from None
