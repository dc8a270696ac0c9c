"""What a `Session` makes of a stream of bytes, as values that tests can compare."""

from __future__ import annotations

from collections.abc import Sequence

from p2p.errors import Refused
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.session import Answered, Asked, BadRequest, Ended, Event, Session, State

Plain = tuple[object, ...]


def plain(event: Event) -> Plain:
    """An event as a value that can be compared: exceptions are equal when they say the same."""
    match event:
        case Asked(request, seq):
            return "asked", request, seq
        case BadRequest(error, seq):
            return "bad", error.code, str(error), error.fatal, seq
        case Answered(Refused() as refusal, seq, body):
            return "refused", refusal.code, str(refusal), seq, body
        case Answered(answer, seq, body):
            return "answered", answer, seq, body
        case Ended(clean):
            return "ended", clean
    raise AssertionError(event)


def run(session: Session, parts: Sequence[bytes]) -> list[Plain]:
    """Feed the parts as a shell would; bodies come out whole. No more is ever held than one line and the part
    fed last."""
    found: list[Plain] = []
    body: list[bytes] = []
    fed = 0
    for part in parts:
        fed = len(part) if not session.closed else fed
        session.receive_data(part)
        while True:
            event = session.next_event()
            if event is not None:
                found.append(plain(event))
            elif session.state is State.BODY and len(session._lines):
                body.append(session.take_body())
                if not session.body_missing:
                    found.append(("body", b"".join(body)))
                    body.clear()
            else:
                break
        assert len(session._lines) <= len(session._lines._data) <= MAX_LINE + fed
    return found
