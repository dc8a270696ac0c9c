"""One connection to the tracker: bytes in, to the session, to the service; answers out, in order; and what a
connection may not do.

Every shell does the same four steps: receive, handle events, write what is due, ask whether to close. Here
three things may hold the flow up, and each stops the reading too, so that memory stays bounded: a turn that
got long, answers that wait for a commit, and an other side that does not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from p2p.errors import ProtocolError, Refused
from p2p.model import Address, canonical_host
from p2p.protocol.peer_messages import Answer
from p2p.protocol.session import Asked, BadRequest, Session
from p2p.tracker.service import WRITES, Client

if TYPE_CHECKING:
    from p2p.tracker.server import TrackerServer

READ_SIZE: Final = 65_536
"""Most bytes taken from the socket at once."""
TURN: Final = 0.003
TURN_LEAST: Final = 0.0002
"""Seconds for one connection before others have their turn; what it began, it ends. Where several have more
to say, they share it: of 50 that ask without end, a newcomer would wait for 0.1 s and more at each of the few
turns that its first question takes."""
MAX_HELD: Final = 2048
"""Answers that may wait for a commit on one connection."""
HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait to be read by the other side."""
LINGER: Final = 0.2
"""Seconds between the last error line and the end, so that the line is not overtaken by the reset that unread
bytes cause."""


class _Held(NamedTuple):
    """An answer that waits: for the commit with this number, itself if it `promises`, otherwise because it
    comes after one that does."""

    ticket: int
    answer: Answer | Exception
    seq: int | None
    promises: bool


class Connection(asyncio.BufferedProtocol):
    """The shell around one `Session`."""

    __slots__ = (
        "_address",
        "_admitted",
        "_blocked_since",
        "_buffer",
        "_ended",
        "_fresh",
        "_goes_on",
        "_heard",
        "_held",
        "_last_step",
        "_line_since",
        "_server",
        "_session",
        "_transport",
        "asker",
        "opened",
    )

    def __init__(self, server: TrackerServer) -> None:
        self._server = server
        self._admitted = False
        self._fresh = True  # nothing has come yet
        self._goes_on = False  # it has another turn coming
        self._held: deque[_Held] = deque()
        self.opened = server.now()
        self._heard: float | None = None
        self._line_since: float | None = None
        self._blocked_since: float | None = None
        self._ended: float | None = None
        self._last_step: Callable[[], None] | None = None

    # -- the life of a connection
    # --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or say `busy` and end it."""
        self._transport = cast(asyncio.Transport, transport)
        remote = transport.get_extra_info("peername") or ("", 0)
        local = transport.get_extra_info("sockname") or ("", 0)
        self._address = Address(canonical_host(str(remote[0])), int(remote[1]))
        self.asker = Client(self._address.host, canonical_host(str(local[0])))
        trace = self._server.trace
        self._session = Session(
            self._server.ops, None if trace is None else partial(_traced, trace, str(self._address))
        )
        self._buffer = self._server.read_buffer()
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._admitted = self._server.admit(self)
        if self._admitted:
            _keep_alive(transport.get_extra_info("socket"))
        else:
            self._fail(Refused("busy", "too many connections; try again later"))

    @property
    def host(self) -> str:
        """The other side's address, canonical."""
        return self._address.host

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is over."""
        self._ended = self._server.now()
        self._held.clear()
        self._server.committer.forget(self)
        self._server.release(self, admitted=self._admitted)

    def close(self) -> None:
        """End it once what was written has left."""
        self._ended = self._ended or self._server.now()
        self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        self._ended = self._ended or self._server.now()
        self._transport.abort()

    def check(self, now: float) -> None:
        """End it if a deadline has passed; called about once a second."""
        limits = self._server.config
        message_since = self.opened if self._heard is None else self._line_since
        stuck_since = self._blocked_since if self._ended is None else self._ended
        if stuck_since is not None:
            if now - stuck_since > limits.write_timeout:
                self.abort()
        elif self._held:
            return
        elif message_since is not None:
            if now - message_since > limits.message_timeout:
                self.close()
        elif now - (self._heard or now) > self._server.idle_timeout and not self._server.service.has_session(
            self.asker
        ):
            self.close()

    # -- in
    # ------------------------------------------------------------------------------------------------------------------------

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Where the loop puts what it reads."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if self._ended is not None:
            return
        data = bytes(memoryview(self._buffer)[:nbytes])
        if self._fresh:
            # HTTP, TLS, SSH and others are known by their first byte; there may never be an end of line to
            # wait for.
            first = data.lstrip(b" \t\r")[:1]
            if first and first not in b"{\n":
                self._fail(ProtocolError("bad_json", "a line must be one JSON object", fatal=True))
                return
            self._fresh = not first
        if data.endswith(b"\n"):
            self._line_since = None
        elif self._line_since is None or b"\n" in data:
            self._line_since = self._server.now()
        self._session.receive_data(data)
        self._pump()

    def eof_received(self) -> bool:
        """Answer what was asked before the other side ended its direction, then close."""
        self._session.receive_data(b"")
        self._pump()
        return True

    def _pump(self) -> None:
        """Handle what has come, for one turn."""
        if self._goes_on:
            return
        now = self._server.now()
        turn = max(TURN / (1 + self._server.busy), TURN_LEAST)
        out: list[bytes] = []
        while self._server.now() - now < turn:
            if self._ended is not None or self._stuffed:
                break
            event = self._session.next_event()
            if event is None:
                self._transport.resume_reading()
                break
            if self._heard is None:
                self._server.heard(self)
            self._heard = now
            if isinstance(event, Asked):
                self._handle(event, now, out)
            elif isinstance(event, BadRequest):
                self._answer(_Held(0, event.error, event.seq, promises=False), out)
                if event.error.fatal:
                    self._server.note_fault(self._address, event.error.code)
                    self._end(self._linger)
            else:  # the end of input, or an answer though nothing was asked
                self._end(self.close)
        else:
            self._goes_on = True
            self._server.busy += 1
            asyncio.get_running_loop().call_soon(self._go_on)
            self._transport.pause_reading()
        if self._stuffed:
            self._transport.pause_reading()
        self._write(out)

    def _go_on(self) -> None:
        self._goes_on = False
        self._server.busy -= 1
        self._pump()

    @property
    def _stuffed(self) -> bool:
        return self._blocked_since is not None or len(self._held) >= MAX_HELD

    def _handle(self, asked: Asked, now: float, out: list[bytes]) -> None:
        answer: Answer | Exception
        try:
            answer = self._server.service.handle(asked.request, self.asker, now)
        except (Refused, ProtocolError) as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - a fault of ours is told as `internal`, logged, and ends nothing
            self._server.note_bug(error)
            answer = error
        ticket = 0
        if (
            type(asked.request) in WRITES
            and self._server.service.store.unsaved
            and isinstance(answer, Answer)
        ):
            ticket = self._server.committer.ticket(self)
        self._answer(_Held(ticket, answer, asked.seq, promises=ticket > 0), out)

    # -- out
    # -----------------------------------------------------------------------------------------------------------------------

    def _answer(self, held: _Held, out: list[bytes]) -> None:
        """Write an answer, or hold it when it must wait for a commit or comes after one that does."""
        if self._held:
            self._held.append(held._replace(ticket=max(held.ticket, self._held[-1].ticket)))
        elif held.promises:
            self._held.append(held)
        else:
            out.append(self._line(held.answer, held.seq))

    def _line(self, answer: Answer | Exception, seq: int | None) -> bytes:
        if isinstance(answer, Exception):
            return self._session.refuse(answer, seq)
        return b"".join(cast(list[bytes], self._session.answer(answer, seq)))

    def _write(self, out: list[bytes]) -> None:
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))
        if self._last_step is not None and not self._held:
            step, self._last_step = self._last_step, None
            step()

    def committed(self, upto: int) -> None:
        """Send what waited for commits up to this number."""
        out: list[bytes] = []
        while self._held and self._held[0].ticket <= upto:
            held = self._held.popleft()
            out.append(self._line(held.answer, held.seq))
        if self._held:
            self._server.committer.ticket(self)
        self._write(out)
        self._pump()

    def commit_failed(self) -> None:
        """Answer `unavailable` where something was promised. It was done in memory and will be written, but
        nobody may count on it yet."""
        refused = Refused("unavailable", "the tracker cannot write its store now; ask again later")
        out = [self._line(refused if held.promises else held.answer, held.seq) for held in self._held]
        self._held.clear()
        self._write(out)
        self._pump()

    def pause_writing(self) -> None:
        """The other side does not read as fast as it asks."""
        self._blocked_since = self._server.now()

    def resume_writing(self) -> None:
        """It has read."""
        self._blocked_since = None
        self._pump()

    # -- the end
    # -------------------------------------------------------------------------------------------------------------------

    def _end(self, step: Callable[[], None]) -> None:
        """Handle nothing more; take this last step when all answers have been written."""
        self._ended = self._server.now()
        self._last_step = step

    def _fail(self, error: ProtocolError | Refused) -> None:
        """Say one error and end."""
        self._server.note_fault(self._address, error.code)
        self._end(self._linger)
        self._write([self._session.refuse(error, None)])

    def _linger(self) -> None:
        self._transport.pause_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER, self._transport.close)


def _traced(trace: Callable[[str, str, bytes], None], other: str, direction: str, line: bytes) -> None:
    trace(direction, other, line)


def _keep_alive(sock: socket.socket | None) -> None:
    """Let the system find out that the other machine has vanished, within about two minutes where it can be
    told so."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
