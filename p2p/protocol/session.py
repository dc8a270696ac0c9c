"""One conversation as a value machine: bytes in, events out; messages in, chunks out; no socket in sight.

Every shell around a session takes the same four steps:

1. Receive: give what came to `receive_data`, and ask `next_event` until it is None.
2. Handle each event.
3. Write the chunks that `ask`, `answer`, `refuse` and `notify` return.
4. Stop when `closed`.

After an event with a body, take the bytes that are already here with `take_body`. Read the other
`body_missing` bytes straight from the socket into their buffer, and report them with `body_arrived`.

The conversation is one table, `TRANSITIONS`. The picture in the README is drawn from it:

    fresh ── hello, line ──▶ open ── answer with a body ──▶ body ── its last byte ──▶ open

The end of input, or a fatal fault, leads to `closed` from every state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from p2p.errors import ProtocolError, Refused
from p2p.model import FileSpan, PeerId
from p2p.protocol.codec import (
    DecodedLine,
    decode_answer,
    decode_line,
    decode_refusal,
    decode_request,
    encode_answer,
    encode_error,
    encode_request,
)
from p2p.protocol.framing import LineBuffer
from p2p.protocol.peer_messages import VERSION, Answer, Hello, HelloAnswer, Request
from p2p.value import frozen

Chunk = bytes | FileSpan
"""What is to be written: bytes, or a part of a file that the I/O layer sends without looking at it."""

Trace = Callable[[str, bytes], None]
"""Called with each control line: `sent` or `received`, and the line."""


class State(Enum):
    """Where a conversation stands, as seen by the side that listens."""

    FRESH = "fresh"
    OPEN = "open"
    BODY = "body"
    CLOSED = "closed"


class Step(Enum):
    """What can happen to it."""

    HELLO = "hello"
    LINE = "line"
    BODY_BEGINS = "body begins"
    BODY_ENDS = "body ends"
    EOF = "eof"
    FAULT = "fault"


TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = {
    (State.FRESH, Step.HELLO): State.OPEN,
    (State.FRESH, Step.LINE): State.OPEN,
    (State.OPEN, Step.LINE): State.OPEN,
    (State.OPEN, Step.BODY_BEGINS): State.BODY,
    (State.BODY, Step.BODY_ENDS): State.OPEN,
    (State.FRESH, Step.EOF): State.CLOSED,
    (State.OPEN, Step.EOF): State.CLOSED,
    (State.BODY, Step.EOF): State.CLOSED,
    (State.FRESH, Step.FAULT): State.CLOSED,
    (State.OPEN, Step.FAULT): State.CLOSED,
    (State.BODY, Step.FAULT): State.CLOSED,
    (State.CLOSED, Step.EOF): State.CLOSED,
    (State.CLOSED, Step.FAULT): State.CLOSED,
}
"""All that may happen. What is not here is a fault of the other side, as a `hello` after the first line."""


@frozen
class Asked:
    """The other side asks; answer with `answer` or `refuse`, giving back this `seq`."""

    request: Request
    seq: int | None


@frozen
class BadRequest:
    """The other side asked something wrong; `refuse` it. The conversation goes on unless `error.fatal`."""

    error: ProtocolError
    seq: int | None


@frozen
class Answered:
    """The answer to our request `seq`; `body` bytes follow it. A refusal has none. `seq` None refuses the
    connection itself."""

    answer: Answer | Refused
    seq: int | None
    body: int


@frozen
class Ended:
    """Nothing more comes: `clean` at a line's end, or cut in the middle of a line or body."""

    clean: bool


Event = Asked | BadRequest | Answered | Ended

MAX_PENDING: Final = 4096
"""Requests of ours that may wait for an answer on one connection."""


class Session:
    """One side of one connection.

    `ops` are the requests that this side understands; a side that only asks gives none. Nothing that comes
    from the network raises: faults of the other side are events.
    """

    def __init__(self, ops: Mapping[str, type[Request]], trace: Trace | None = None) -> None:
        self._ops = ops
        self._trace = trace
        self._lines = LineBuffer()
        self._pending: dict[int, type[Request]] = {}
        self._next_seq = 1
        self._eof = False
        self.state = State.FRESH
        self.body_missing = 0
        """Bytes of the body that follows the last event and have not come yet."""
        self.peer: PeerId | None = None
        """The id that the other side gave in its hello; None is nobody."""

    @property
    def closed(self) -> bool:
        """Whether nothing more will be read from this conversation."""
        return self.state is State.CLOSED

    @property
    def partial(self) -> bool:
        """Whether bytes of a line are here whose end has not come."""
        return self.state is not State.BODY and len(self._lines) > 0

    # -- in

    def receive_data(self, data: bytes) -> None:
        """Take what came from the socket; `b""` says that the other side has ended its direction."""
        if not data:
            self._eof = True
        elif self.state is not State.CLOSED:
            self._lines.feed(data)

    def next_event(self) -> Event | None:
        """Return what happened next, or None when more bytes are needed (or a body is being read, or all is
        over)."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.BODY:
            return self._end(clean=False) if self._eof and not len(self._lines) else None
        try:
            line = self._lines.next_line()
            if line is None:
                return self._end(clean=not len(self._lines)) if self._eof else None
            if self._trace is not None:
                self._trace("received", line)
            return self._on_line(decode_line(line))
        except ProtocolError as error:
            if error.fatal:
                self._step(Step.FAULT)
            return BadRequest(error, error.seq)

    def take_body(self, most: int | None = None) -> bytes:
        """Hand over body bytes that are already here, at most `most`; they count as arrived."""
        wanted = self.body_missing if most is None else min(most, self.body_missing)
        part = self._lines.take(wanted)
        self.body_arrived(len(part))
        return part

    def body_arrived(self, count: int) -> None:
        """Note that `count` bytes of the body were read from the socket straight into their buffer."""
        self.body_missing -= count
        if self.state is State.BODY and self.body_missing == 0:
            self._step(Step.BODY_ENDS)

    # -- out

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Return the `seq` given to a request, and its line. Raises `Refused("busy")` when too many wait for
        an answer."""
        if len(self._pending) >= MAX_PENDING:
            raise Refused("busy", f"{MAX_PENDING} requests already wait for an answer")
        seq = self._next_seq
        self._next_seq += 1
        self._pending[seq] = type(request)
        return seq, self._sent(encode_request(request, seq))

    def notify(self, request: Request) -> bytes:
        """Return the line of a request that has no answer."""
        return self._sent(encode_request(request))

    def answer(self, answer: Answer, seq: int | None, body: list[FileSpan] | bytes = b"") -> list[Chunk]:
        """Return the chunks of an answer and its body."""
        size = len(body) if isinstance(body, bytes) else sum(span.length for span in body)
        chunks: list[Chunk] = [self._sent(encode_answer(answer, seq, size))]
        if isinstance(body, bytes):
            return [*chunks, body] if body else chunks
        return [*chunks, *body]

    def refuse(self, error: Exception, seq: int | None) -> bytes:
        """Return the line that says no."""
        return self._sent(encode_error(error, seq))

    # -- inside

    def _on_line(self, decoded: DecodedLine) -> Event:
        if decoded.is_request:
            self._step(Step.HELLO if decoded.data["op"] == Hello.OP else Step.LINE, decoded.seq)
            request = decode_request(decoded, self._ops)
            if isinstance(request, Hello) and request.version == VERSION:
                self.peer = request.peer
            return Asked(request, decoded.seq)
        self._step(Step.LINE)
        try:
            return self._on_answer(decoded)
        except ProtocolError as error:
            # Without a seq, since the other side counts its own questions and may wait for an answer with the
            # same number.
            raise ProtocolError(error.code, str(error), fatal=True) from None

    def _on_answer(self, decoded: DecodedLine) -> Answered:
        seq = decoded.seq
        asked = self._pending.pop(seq, None) if seq is not None else None
        if seq is None or asked is None:
            if seq is None and decoded.data.get("ok") is False:
                return Answered(decode_refusal(decoded), None, 0)
            raise ProtocolError("bad_field", "seq: answers nothing that was asked", fatal=True)
        answer = decode_answer(decoded, asked)
        if isinstance(answer, HelloAnswer):
            self.peer = answer.peer
        elif isinstance(answer, Answer) and not answer.final:
            self._pending[seq] = asked
        if decoded.body:
            self.body_missing = decoded.body
            self._step(Step.BODY_BEGINS)
        return Answered(answer, seq, decoded.body)

    def _step(self, step: Step, seq: int | None = None) -> None:
        state = TRANSITIONS.get((self.state, step))
        if state is None:
            why = f"op: {step.value} may not come here; it is the first line or is left out"
            raise ProtocolError("bad_field", why, fatal=True, seq=seq)
        self.state = state

    def _end(self, *, clean: bool) -> Ended:
        self._step(Step.EOF)
        return Ended(clean)

    def _sent(self, line: bytes) -> bytes:
        if self._trace is not None:
            self._trace("sent", line[:-1])
        return line
