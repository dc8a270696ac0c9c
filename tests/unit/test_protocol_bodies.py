"""Tests of p2p/protocol/session.py: bodies, however they are cut, and how a conversation ends."""

from __future__ import annotations

import pytest

from p2p.model import ContentId
from p2p.protocol.codec import by_op, encode_answer, encode_request
from p2p.protocol.peer_messages import (
    MAX_MANIFEST,
    PEER_OPS,
    AskManifest,
    Ping,
    Read,
    ReadAnswer,
    Request,
)
from p2p.protocol.session import Answered, Asked, BadRequest, Ended, Event, Session, State

ID = ContentId("ab" * 32)
READ = Read(id=ID, piece=3, offset=0, length=10)


def a_peer() -> Session:
    return Session(by_op(PEER_OPS))


def events(session: Session, data: bytes | None = None) -> list[Event]:
    """All that happens once `data` came."""
    if data is not None:
        session.receive_data(data)
    return list(iter(session.next_event, None))


def fault(event: Event | None) -> tuple[str, bool, int | None]:
    """Code, whether it ends the conversation, and seq, of what must be a bad request."""
    assert isinstance(event, BadRequest)
    assert event.seq == event.error.seq
    return event.error.code, event.error.fatal, event.seq


def in_body(session: Session) -> bool:
    """Whether a body is being read."""
    return session.state is State.BODY


# -- bodies

MOST_IDS = ["read", "manifest", "ping"]
BODY = b'{"op":"ping"}\n\n\x00\xff'


@pytest.mark.parametrize("cut", range(len(BODY) + 1))
def test_a_body_may_be_cut_anywhere(cut: int) -> None:
    session = a_peer()
    seq, _line = session.ask(READ)
    head = encode_answer(ReadAnswer(), seq, len(BODY))
    assert events(session, head + BODY[:cut]) == [Answered(ReadAnswer(), seq, len(BODY))]
    assert in_body(session)
    assert session.take_body() == BODY[:cut]
    assert session.body_missing == len(BODY) - cut
    assert events(session) == []
    assert events(session, BODY[cut:] + encode_request(Ping(), 8)) == (
        [] if cut < len(BODY) else [Asked(Ping(), 8)]
    )
    assert session.take_body() == BODY[cut:]
    assert session.state is State.OPEN
    assert events(session) == ([Asked(Ping(), 8)] if cut < len(BODY) else [])


def test_a_body_may_be_taken_in_parts_and_read_past_the_session() -> None:
    session = a_peer()
    seq, _line = session.ask(READ)
    events(session, encode_answer(ReadAnswer(), seq, 10) + b"abcdef")
    assert session.take_body(2) == b"ab"
    assert session.take_body(100) == b"cdef"
    assert session.take_body() == b""
    assert session.body_missing == 4
    session.body_arrived(3)
    assert in_body(session)
    session.body_arrived(1)
    assert session.state is State.OPEN
    assert events(session, encode_request(Ping())) == [Asked(Ping(), None)]


def test_no_line_is_taken_for_body_when_none_is_due() -> None:
    session = a_peer()
    session.receive_data(encode_request(Ping()))
    assert session.take_body() == b""
    assert events(session) == [Asked(Ping(), None)]


def test_an_answer_without_body_leaves_the_conversation_open() -> None:
    session = a_peer()
    seq, _line = session.ask(READ)
    assert events(session, encode_answer(ReadAnswer(), seq, 0)) == [Answered(ReadAnswer(), seq, 0)]
    assert session.state is State.OPEN


@pytest.mark.parametrize(
    ("question", "most"), [(READ, 2**20), (AskManifest(id=ID), MAX_MANIFEST), (Ping(), 0)], ids=MOST_IDS
)
def test_case_31_a_body_larger_than_allowed_is_never_begun(question: Request, most: int) -> None:
    session = a_peer()
    seq, _line = session.ask(question)
    assert fault(events(session, b'{"ok":true,"seq":%d,"body":%d}\n' % (seq, most + 1))[0]) == (
        "bad_body",
        True,
        None,
    )
    assert session.body_missing == 0
    session = a_peer()
    seq, _line = session.ask(question)
    events(session, b'{"ok":true,"seq":%d,"body":%d}\n' % (seq, most))
    assert session.body_missing == most


# -- the end


@pytest.mark.parametrize(
    ("data", "clean"),
    [
        (b"", True),
        (b'{"op":"ping"}\n', True),
        (b'{"op":"pi', False),
        (b'{"op":"ping"}\n{', False),
        (b'{"op":"ping"}', False),
    ],
)
def test_case_9_the_end_is_clean_after_a_whole_line_and_cut_inside_one(data: bytes, clean: bool) -> None:
    """Half a request is no request."""
    session = a_peer()
    session.receive_data(data)
    session.receive_data(b"")
    found = events(session)
    assert found[-1] == Ended(clean)
    assert len(found) == 1 + data.count(b"\n")
    assert session.closed
    assert events(session, b"") == []


@pytest.mark.parametrize("came", [0, 1, 9])
def test_the_end_inside_a_body_is_never_clean_and_what_came_can_still_be_taken(came: int) -> None:
    session = a_peer()
    seq, _line = session.ask(READ)
    events(session, encode_answer(ReadAnswer(), seq, 10) + bytes(came))
    session.receive_data(b"")
    if came:
        assert session.next_event() is None
    assert session.take_body() == bytes(came)
    assert session.next_event() == Ended(clean=False)
    assert session.closed


def test_the_end_right_after_a_body_is_clean() -> None:
    session = a_peer()
    seq, _line = session.ask(READ)
    events(session, encode_answer(ReadAnswer(), seq, 10) + bytes(10))
    session.receive_data(b"")
    assert session.take_body() == bytes(10)
    assert session.next_event() == Ended(clean=True)


def test_case_1_a_closed_conversation_holds_nothing_of_what_still_comes() -> None:
    session = a_peer()
    events(session, b"no json\nrest")
    for _ in range(100):
        session.receive_data(b"x" * 10_000)
    assert len(session._lines) <= 4


def test_case_13_a_line_is_partial_until_its_end_and_a_body_never_is() -> None:
    """The deadline is for the whole line."""
    session = a_peer()
    assert not session.partial
    assert events(session, b'{"op":') == []
    assert session.partial
    assert events(session, b'"ping"}\n') == [Asked(Ping(), None)]
    assert not session.partial
    seq, _line = session.ask(READ)
    events(session, encode_answer(ReadAnswer(), seq, 10) + b"01234")
    assert not session.partial
    session.take_body()
    assert not session.partial
