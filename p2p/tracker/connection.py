"""One connection to the tracker: bytes to requests, requests to the service, answers to bytes.

Every shell of this project does the same four steps: receive, handle events, write what is due, ask whether
to close. Three things may hold a connection up here: its turn is over, its answers wait for a commit, or its
client does not read. Each of them also stops the reading, so that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

from p2p.errors import ProtocolError, Refused
from p2p.model import Address, canonical_host
from p2p.net.admission import Admission
from p2p.protocol.peer_messages import Answer, Request
from p2p.protocol.session import Asked, BadRequest, Event, Session
from p2p.tracker.answers import AnswerQueue, Reply, Waiting
from p2p.tracker.committer import Committer
from p2p.tracker.deadlines import Deadlines
from p2p.tracker.fault_log import FaultLog
from p2p.tracker.limits import TrackerLimits, TrackerTimeouts
from p2p.tracker.service import WRITES, Client, TrackerService

READ_BYTES: Final = 65_536
"""Most bytes taken from the socket at once."""

Trace = Callable[[str, str, bytes], None]
"""Called with each line: `sent` or `received`, the client's address, the line without its end."""
Clock = Callable[[], float]
"""Seconds that never go back."""


@dataclass(slots=True, eq=False)
class Shared:
    """What all connections of a server share."""

    service: TrackerService
    committer: Committer
    ops: Mapping[str, type[Request]]
    limits: TrackerLimits
    timeouts: TrackerTimeouts
    clock: Clock
    log: FaultLog
    admission: Admission[Connection]
    trace: Trace | None = None
    buffer: bytearray | None = None
    """One buffer for all, where the loop reads only when bytes are there. A loop that starts reading ahead of
    that (Windows) needs one for each connection."""
    open: set[Connection] = field(default_factory=set)
    """All connections, also those that are being refused."""
    waiting_turns: int = 0
    """Connections that had more to ask than one turn allows, and wait for the next."""

    def turn_s(self) -> float:
        """How long one turn may last now."""
        return max(self.limits.turn_s / (1 + self.waiting_turns), self.limits.least_turn_s)

    def evict_idle(self) -> bool:
        """Abort the oldest idle connection, if there is one to evict."""
        evicted = self.admission.evict_idle(self.clock())
        if evicted is None:
            return False
        evicted.abort()
        return True


class Connection(asyncio.BufferedProtocol):
    """The shell around one `Session`."""

    __slots__ = (
        "_address",
        "_answers",
        "_buffer",
        "_client",
        "_deadlines",
        "_last_step",
        "_no_byte_yet",
        "_session",
        "_shared",
        "_transport",
        "_turn_waits",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._deadlines = Deadlines(
            shared.timeouts, float(shared.timeouts.idle_ttls * shared.service.ttl), shared.clock()
        )
        self._answers = AnswerQueue()
        self._no_byte_yet = True
        self._turn_waits = False
        self._last_step: Callable[[], None] | None = None

    # -- the life of a connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or answer `busy` and close it."""
        shared = self._shared
        self._transport = cast(asyncio.Transport, transport)
        remote = transport.get_extra_info("peername") or ("", 0)
        local = transport.get_extra_info("sockname") or ("", 0)
        self._address = Address(canonical_host(str(remote[0])), int(remote[1]))
        self._client = Client(self._address.host, canonical_host(str(local[0])))
        trace = None if shared.trace is None else partial(_traced, shared.trace, str(self._address))
        self._session = Session(shared.ops, trace)
        self._buffer = shared.buffer if shared.buffer is not None else bytearray(READ_BYTES)
        self._transport.set_write_buffer_limits(high=shared.limits.write_buffer_bytes)
        shared.open.add(self)
        verdict = shared.admission.admit(self, self._address.host, shared.clock())
        shared.service.connections = len(shared.admission)
        if verdict.evicted is not None:
            verdict.evicted.abort()
        if verdict.admitted:
            _keep_alive(transport.get_extra_info("socket"))
        else:
            self._fail(Refused("busy", "too many connections; try again later"))

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is over."""
        shared = self._shared
        self._deadlines.on_ended(shared.clock())
        self._answers.clear()
        shared.committer.forget(self)
        shared.open.discard(self)
        shared.admission.on_closed(self)
        shared.service.connections = len(shared.admission)

    def close(self) -> None:
        """Close it once what was written has left."""
        self._deadlines.on_ended(self._shared.clock())
        self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._deadlines.on_ended(self._shared.clock())
        self._transport.abort()

    def on_tick(self, now: float) -> None:
        """Close it if a deadline has passed."""
        if self._deadlines.write_overdue(now):
            self.abort()
        elif self._answers:
            pass  # It waits for the disk, and not for the client.
        elif self._deadlines.line_overdue(now) or (
            self._deadlines.idle_overdue(now) and not self._shared.service.has_session(self._client)
        ):
            self.close()

    # -- receive

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Where the loop puts what it reads."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Receive bytes."""
        if self._deadlines.ended:
            return
        data = bytes(memoryview(self._buffer)[:nbytes])
        if self._no_byte_yet:
            # HTTP, TLS, SSH and others are known by their first byte. Their line may never end.
            first = data.lstrip(b" \t\r")[:1]
            if first and first not in b"{\n":
                self._fail(ProtocolError("bad_json", "a line must be one JSON object", fatal=True))
                return
            self._no_byte_yet = not first
        self._deadlines.on_data(data, self._shared.clock())
        self._session.receive_data(data)
        self._take_turn()

    def eof_received(self) -> bool:
        """Answer what the client asked before it ended its direction, then close."""
        self._session.receive_data(b"")
        self._take_turn()
        return True

    # -- handle events

    def _take_turn(self) -> None:
        """Handle what has come for as long as a turn lasts, and write the answers."""
        if self._turn_waits:
            return
        out: list[bytes] = []
        if not self._handle_events(out):
            self._turn_waits = True
            self._shared.waiting_turns += 1
            asyncio.get_running_loop().call_soon(self._on_turn)
            self._transport.pause_reading()
        self._write(out)
        if self._held_up:
            self._transport.pause_reading()

    def _on_turn(self) -> None:
        self._turn_waits = False
        self._shared.waiting_turns -= 1
        self._take_turn()

    def _handle_events(self, out: list[bytes]) -> bool:
        """Handle events until there are none or the connection is held up; False when its turn is over."""
        clock = self._shared.clock
        now = clock()
        end = now + self._shared.turn_s()
        while not self._deadlines.ended and not self._held_up:
            if clock() >= end:
                return False
            event = self._session.next_event()
            if event is None:
                self._transport.resume_reading()
                break
            if not self._deadlines.active:
                self._shared.admission.on_active(self)
            self._deadlines.on_message(now)
            self._handle(event, now, out)
        return True

    def _handle(self, event: Event, now: float, out: list[bytes]) -> None:
        if isinstance(event, Asked):
            answer = self._answer_to(event.request, now)
            promises = isinstance(answer, Answer) and type(event.request) in WRITES
            ticket = self._shared.committer.take_ticket(self) if promises else 0
            self._reply(answer, event.seq, ticket, out)
        elif isinstance(event, BadRequest):
            self._reply(event.error, event.seq, 0, out)
            if event.error.fatal:
                self._shared.log.on_fault(self._address, event.error.code)
                self._end(self._linger)
        else:  # the end of input, or an answer though nothing was asked
            self._end(self.close)

    def _answer_to(self, request: Request, now: float) -> Reply:
        try:
            return self._shared.service.handle(request, self._client, now)
        except (Refused, ProtocolError) as error:
            return error
        except Exception as error:  # noqa: BLE001 - a fault of ours is answered as `internal` and logged
            self._shared.log.on_bug(error)
            return error

    @property
    def _held_up(self) -> bool:
        return self._deadlines.blocked or len(self._answers) >= self._shared.limits.waiting_answers

    # -- write what is due

    def _reply(self, reply: Reply, seq: int | None, ticket: int, out: list[bytes]) -> None:
        """Write an answer, or queue it when it must wait for a commit or comes after one that does."""
        if ticket or self._answers:
            self._answers.add(reply, seq, ticket)
        else:
            out.append(self._line(reply, seq))

    def _line(self, reply: Reply, seq: int | None) -> bytes:
        if isinstance(reply, Exception):
            return self._session.refuse(reply, seq)
        return b"".join(cast(list[bytes], self._session.answer(reply, seq)))

    def _write(self, out: list[bytes]) -> None:
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))
        if self._last_step is not None and not self._answers:
            step, self._last_step = self._last_step, None
            step()

    def on_committed(self, upto: int) -> None:
        """Write the answers that waited for commits up to this number."""
        ready = self._answers.on_committed(upto)
        if self._answers:
            self._shared.committer.take_ticket(self)
        self._write_waiting(ready)

    def on_commit_failed(self) -> None:
        """Refuse what the waiting answers promised."""
        self._write_waiting(self._answers.on_commit_failed())

    def _write_waiting(self, ready: list[Waiting]) -> None:
        self._write([self._line(one.reply, one.seq) for one in ready])
        self._take_turn()

    def pause_writing(self) -> None:
        """The client does not read as fast as it asks."""
        self._deadlines.on_blocked(self._shared.clock())

    def resume_writing(self) -> None:
        """The client has read."""
        self._deadlines.on_unblocked()
        self._take_turn()

    # -- close

    def _end(self, step: Callable[[], None]) -> None:
        """Handle nothing more, and take this last step when all answers have been written."""
        self._deadlines.on_ended(self._shared.clock())
        self._last_step = step

    def _fail(self, error: ProtocolError | Refused) -> None:
        """Write one error line and end."""
        self._shared.log.on_fault(self._address, error.code)
        self._end(self._linger)
        self._write([self._session.refuse(error, None)])

    def _linger(self) -> None:
        self._transport.pause_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        asyncio.get_running_loop().call_later(self._shared.timeouts.linger_s, self._transport.close)


def _traced(trace: Trace, client: str, direction: str, line: bytes) -> None:
    trace(direction, client, line)


def _keep_alive(sock: socket.socket | None) -> None:
    """Let the system find out within about two minutes that the other machine has vanished, where it can."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
