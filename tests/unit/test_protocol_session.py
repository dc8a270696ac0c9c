"""Tests of p2p/protocol/session.py: one conversation, from its first byte to its end, whichever way it
goes."""

from __future__ import annotations

from itertools import product

import pytest

from p2p.errors import ProtocolError, Refused
from p2p.model import ContentId, FileSpan, PeerId
from p2p.protocol.codec import by_op, encode_answer, encode_error, encode_request
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.peer_messages import (
    PEER_OPS,
    AskManifest,
    Have,
    Hello,
    HelloAnswer,
    ManifestAnswer,
    Ping,
    PingAnswer,
    Read,
    ReadAnswer,
    Replicate,
    ReplicateAnswer,
    Request,
)
from p2p.protocol.session import (
    MAX_PENDING,
    TRANSITIONS,
    Answered,
    Asked,
    BadRequest,
    Event,
    Session,
    State,
    Step,
)

ID = ContentId("ab" * 32)
READ = Read(id=ID, piece=3, offset=0, length=10)
HELLO = Hello(version=1, peer=PeerId("5f" * 16), name="lab-07", listen={"tcp": 6970})
COPY = Replicate(id=ID, name="lab.img", size=7)


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


def in_state(state: State) -> Session:
    """A session that came to `state` by what a shell can do and hear."""
    session = a_peer()
    if state is State.FRESH:
        return session
    events(session, encode_request(Ping()))
    if state is State.BODY:
        seq, _line = session.ask(READ)
        events(session, encode_answer(ReadAnswer(), seq, 10))
    if state is State.CLOSED:
        events(session, b"no json\n")
    assert session.state is state
    return session


# -- the table


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)), ids=lambda value: value.value)
def test_each_step_goes_where_the_table_says_and_any_other_is_a_fault(state: State, step: Step) -> None:
    session = in_state(state)
    if (state, step) in TRANSITIONS:
        session._step(step)
        assert session.state is TRANSITIONS[state, step]
    else:
        with pytest.raises(ProtocolError) as caught:
            session._step(step)
        assert caught.value.fatal
        assert session.state is state


def test_every_state_can_be_left_for_closed_and_nothing_leads_out_of_it() -> None:
    assert all(TRANSITIONS[state, step] is State.CLOSED for state in State for step in (Step.EOF, Step.FAULT))
    assert {after for (before, _step), after in TRANSITIONS.items() if before is State.CLOSED} == {
        State.CLOSED
    }


# -- hello


def test_a_hello_may_come_first() -> None:
    session = a_peer()
    assert events(session, encode_request(HELLO, 1)) == [Asked(HELLO, 1)]
    assert session.state is State.OPEN


def test_a_hello_may_be_left_out() -> None:
    session = a_peer()
    assert events(session, b'{"op":"ping"}\n') == [Asked(Ping(), None)]
    assert session.state is State.OPEN


def test_a_hello_that_comes_late_ends_the_conversation_and_its_seq_is_echoed() -> None:
    session = a_peer()
    asked, late = events(
        session, encode_request(Ping(), 1) + encode_request(HELLO, 2) + encode_request(Ping(), 3)
    )
    assert asked == Asked(Ping(), 1)
    assert fault(late) == ("bad_field", True, 2)
    assert session.closed


def test_a_second_hello_ends_the_conversation() -> None:
    session = a_peer()
    first, second = events(session, encode_request(HELLO) * 2)
    assert first == Asked(HELLO, None)
    assert fault(second) == ("bad_field", True, None)


def test_a_hello_from_the_other_side_may_follow_our_own() -> None:
    session = a_peer()
    seq, line = session.ask(HELLO)
    assert line == encode_request(HELLO, seq)
    answer = HelloAnswer(version=1, role="peer", name="lab-08")
    assert events(session, encode_answer(answer, seq)) == [Answered(answer, seq, 0)]


# -- requests


def test_cases_6_7_a_bad_request_among_others_harms_none_of_them() -> None:
    session = a_peer()
    bad = b'{"op":"steal","seq":2}\r\n{"op":"read","seq":3}\n{"op":"ping","seq":-4}\n'
    found = events(session, b'{"op":"ping","seq":1}\n' + bad + b'{"op":"ping","seq":5}\n')
    assert found[0] == Asked(Ping(), 1)
    assert fault(found[1]) == ("unsupported", False, 2)
    assert fault(found[2]) == ("bad_field", False, 3)
    assert fault(found[3]) == ("bad_field", False, None)
    assert found[4:] == [Asked(Ping(), 5)]
    assert not session.closed


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"x" * 100_000, "line_too_long", id="1: no newline"),
        pytest.param(b'{"op":"ping","x":"' + b"x" * MAX_LINE + b'"}\n', "line_too_long", id="2: a long line"),
        pytest.param(b"\n", "bad_json", id="3: empty line"),
        pytest.param(b"   \n", "bad_json", id="3: spaces"),
        pytest.param(b"null\n", "bad_json", id="3: null"),
        pytest.param(b"[]\n", "bad_json", id="3: list"),
        pytest.param(b"1\n", "bad_json", id="3: number"),
        pytest.param(b'"x"\n', "bad_json", id="3: string"),
        pytest.param(b"true\n", "bad_json", id="3: true"),
        pytest.param(b'{"op":' + b"[" * 33 + b"]" * 33 + b"}\n", "bad_json", id="4: nested 34 deep"),
        pytest.param(b"[" * 60_000 + b"\n", "bad_json", id="4: nested 60,000 deep"),
        pytest.param(b"[" * 500_000 + b"\n", "line_too_long", id="4: nested 500,000 deep"),
        pytest.param(b'{"op":"ping","op":"hello"}\n', "bad_json", id="5: duplicate key"),
        pytest.param(b'{"op":"read","x":{"a":1,"a":1}}\n', "bad_json", id="5: duplicate key inside"),
        pytest.param(b'{"op":"ping","x":NaN}\n', "bad_json", id="NaN"),
        pytest.param(b'{"op":"ping","x":-Infinity}\n', "bad_json", id="Infinity"),
        pytest.param(b'{"op":"ping","x":1e999}\n', "bad_json", id="1e999"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "bad_json", id="8: HTTP"),
        pytest.param(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\n", "bad_json", id="8: TLS"
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "bad_json", id="8: SSH"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "bad_json", id="8: gRPC preface"),
        pytest.param(b'\xff\xfe{"op":"ping"}\n', "bad_json", id="no UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"op":"ping"}\n', "bad_json", id="byte order mark"),
        pytest.param(b'{"op":"ping","body":5}\nhello', "bad_body", id="a body on a request"),
        pytest.param(b'{"op":"ping","body":-5}\n', "bad_body", id="a body of less than nothing"),
        pytest.param(
            b'{"op":"ping","seq":null,"body":14}\n{"op":"ping"}\n',
            "bad_field",
            id="a body hidden behind a wrong seq",
        ),
        pytest.param(b'{"ok":true,"seq":9}\n', "bad_field", id="an answer to nothing"),
        pytest.param(b'{"ok":true}\n', "bad_field", id="an answer without seq"),
        pytest.param(b'{"ok":false,"error":"busy","seq":9}\n', "bad_field", id="a refusal of nothing"),
        pytest.param(b'{"ok":false}\n', "bad_field", id="a refusal without a code"),
        pytest.param(b'{"ok":true,"seq":null}\n', "bad_field", id="an answer with a wrong seq"),
        pytest.param(b"{}\n", "bad_field", id="neither request nor answer"),
    ],
)
def test_cases_1_2_3_4_5_8_a_gross_fault_ends_all_with_one_clean_error(data: bytes, code: str) -> None:
    """The number before each name is the case."""
    session = a_peer()
    found = events(session, encode_request(Ping(), 1) + data)
    assert found[0] == Asked(Ping(), 1)
    assert fault(found[1]) == (code, True, None)
    assert len(found) == 2
    assert session.closed
    assert events(session, encode_request(Ping(), 2)) == []
    bad = found[1]
    assert isinstance(bad, BadRequest)
    line = session.refuse(bad.error, bad.seq)
    assert line.startswith(f'{{"ok":false,"error":"{code}"'.encode())
    assert b"HTTP" not in line
    assert b"SSH" not in line
    assert len(line) < 1024


def test_a_line_may_be_nested_to_the_limit_of_depth() -> None:
    text = b'{"op":"ping","x":' + b"[" * 31 + b"]" * 31 + b"}\n"
    assert events(a_peer(), text) == [Asked(Ping(), None)]


def test_brackets_inside_a_string_are_not_nesting() -> None:
    assert events(a_peer(), b'{"op":"ping","x":"' + b"[{" * 1000 + b'\\"["}\n') == [Asked(Ping(), None)]


@pytest.mark.parametrize("size", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(
    "ours", [Ping(), READ, HELLO, COPY, Have(id=ID, add=(1, 2)), AskManifest(id=ID)], ids=lambda ours: ours.OP
)
def test_case_2_every_request_may_fill_a_line_to_its_last_byte(
    ours: Request, newline: bytes, size: int
) -> None:
    """Spaces are JSON too."""
    text = encode_request(ours)[:-1]
    found = events(a_peer(), text + b" " * (size - len(text) - len(newline)) + newline)
    if size <= MAX_LINE:
        assert found == [Asked(ours, None)]
    else:
        assert fault(found[0]) == ("line_too_long", True, None)


def test_a_side_that_only_asks_supports_no_request() -> None:
    session = Session({})
    assert fault(events(session, encode_request(Ping(), 1))[0]) == ("unsupported", False, 1)
    assert not session.closed


# -- answers


def test_answers_may_come_in_any_order_and_are_read_as_answers_to_their_own_question() -> None:
    session = Session({})
    ping, _line = session.ask(Ping())
    read, _line = session.ask(READ)
    hello, _line = session.ask(HELLO)
    assert len({ping, read, hello}) == 3
    answer = HelloAnswer(version=1, role="tracker", name="t")
    data = (
        encode_answer(answer, hello)
        + encode_error(Refused("busy", "later"), read)
        + encode_answer(PingAnswer(), ping)
    )
    first, second, third = events(session, data)
    assert (first, third) == (Answered(answer, hello, 0), Answered(PingAnswer(), ping, 0))
    assert isinstance(second, Answered)
    assert isinstance(second.answer, Refused)
    assert (second.answer.code, str(second.answer), second.seq, second.body) == ("busy", "later", read, 0)
    assert not session.closed


def test_an_answer_that_comes_twice_ends_the_conversation() -> None:
    session = Session({})
    seq, _line = session.ask(Ping())
    first, second = events(session, encode_answer(PingAnswer(), seq) * 2)
    assert first == Answered(PingAnswer(), seq, 0)
    assert fault(second) == ("bad_field", True, None)


def test_a_fault_in_an_answer_is_told_without_a_seq() -> None:
    """Both sides of a link count their own questions, so the other may well wait for an answer with the same
    number."""
    for body in (2**20 + 1, -1):
        session = a_peer()
        seq, _line = session.ask(READ)
        (found,) = events(session, b'{"ok":true,"seq":%d,"body":%d}\n' % (seq, body))
        assert fault(found) == ("bad_body", True, None)


def test_a_refusal_without_seq_refuses_the_connection_itself() -> None:
    session = Session({})
    session.ask(Ping())
    (found,) = events(session, encode_error(Refused("busy", "too many connections")))
    assert isinstance(found, Answered)
    assert isinstance(found.answer, Refused)
    assert (found.answer.code, found.seq, found.body) == ("busy", None, 0)


def test_a_refusal_without_seq_that_is_wrong_itself_ends_the_conversation() -> None:
    """Were it answered by an error, two sides could tell each other errors for ever."""
    assert fault(events(Session({}), b'{"ok":false,"error":7}\n')[0]) == ("bad_field", True, None)


def test_the_second_answer_to_replicate_comes_with_the_same_seq() -> None:
    session = a_peer()
    seq, _line = session.ask(COPY)
    session.receive_data(
        encode_answer(ReplicateAnswer(state="accepted"), seq)
        + encode_answer(ReplicateAnswer(state="verified"), seq)
    )
    assert session.next_event() == Answered(ReplicateAnswer(state="accepted"), seq, 0)
    assert session.next_event() == Answered(ReplicateAnswer(state="verified"), seq, 0)
    assert fault(events(session, encode_answer(ReplicateAnswer(state="verified"), seq))[0]) == (
        "bad_field",
        True,
        None,
    )


def test_a_replicate_that_was_accepted_may_still_fail() -> None:
    session = a_peer()
    seq, _line = session.ask(COPY)
    events(session, encode_answer(ReplicateAnswer(state="accepted"), seq))
    (found,) = events(session, encode_error(Refused("disk", "full"), seq))
    assert isinstance(found, Answered)
    assert isinstance(found.answer, Refused)
    assert found.answer.code == "disk"


def test_no_more_questions_than_the_limit_may_wait_for_their_answers() -> None:
    session = Session({})
    for _ in range(MAX_PENDING):
        session.ask(Ping())
    with pytest.raises(Refused) as caught:
        session.ask(Ping())
    assert caught.value.code == "busy"
    assert events(session, encode_answer(PingAnswer(), 1)) == [Answered(PingAnswer(), 1, 0)]
    assert session.ask(Ping())[0] == MAX_PENDING + 1


# -- going out


def test_an_answer_and_its_body_are_chunks_to_write_in_order() -> None:
    session = a_peer()
    assert session.answer(PingAnswer(), 1) == [b'{"ok":true,"seq":1}\n']
    assert session.answer(ManifestAnswer(), 2, b"{}") == [b'{"ok":true,"body":2,"seq":2}\n', b"{}"]
    spans = [FileSpan(3, 0, 60_000), FileSpan(4, 100, 5_536)]
    assert session.answer(ReadAnswer(), 3, spans) == [b'{"ok":true,"body":65536,"seq":3}\n', *spans]


def test_what_is_told_expects_no_answer() -> None:
    session = a_peer()
    assert session.notify(Have(id=ID, all=True)) == b'{"op":"have","id":"%b","all":true}\n' % ID.encode()
    assert fault(events(session, b'{"ok":true,"seq":1}\n')[0]) == ("bad_field", True, None)


def test_a_trace_is_told_of_every_control_line_and_of_no_body() -> None:
    seen: list[tuple[str, bytes]] = []
    session = Session(by_op(PEER_OPS), lambda direction, line: seen.append((direction, line)))
    seq, _line = session.ask(READ)
    events(session, encode_answer(ReadAnswer(), seq, 10) + b"0123456789" + b'{"op":"ping"}\nno json\n')
    session.take_body()
    events(session)
    session.answer(PingAnswer(), None, b"")
    session.notify(Have(id=ID, none=True))
    session.refuse(Refused("busy", "later"), 4)
    have = b'{"op":"have","id":"%b","none":true}' % ID.encode()
    assert seen == [
        ("sent", encode_request(READ, 1)[:-1]),
        ("received", b'{"ok":true,"body":10,"seq":1}'),
        ("received", b'{"op":"ping"}'),
        ("received", b"no json"),
        ("sent", b'{"ok":true}'),
        ("sent", have),
        ("sent", b'{"ok":false,"error":"busy","message":"later","seq":4}'),
    ]


def test_two_sides_of_a_link_speak_to_each_other() -> None:
    here, there = a_peer(), a_peer()
    seq, line = here.ask(HELLO)
    assert events(there, line) == [Asked(HELLO, seq)]
    answer = HelloAnswer(version=1, role="peer", name="lab-08", peer=PeerId("77" * 16), listen={"tcp": 6970})
    reply = b"".join(chunk for chunk in there.answer(answer, seq) if isinstance(chunk, bytes))
    told = there.notify(Have(id=ID, pieces=b"\xf0", suggest=(2,)))
    asked, question = there.ask(READ)
    assert events(here, reply + told + question) == [
        Answered(answer, seq, 0),
        Asked(Have(id=ID, pieces=b"\xf0", suggest=(2,)), None),
        Asked(READ, asked),
    ]
    block = b"".join(
        chunk for chunk in here.answer(ReadAnswer(), asked, b"0123456789") if isinstance(chunk, bytes)
    )
    assert events(there, block) == [Answered(ReadAnswer(), asked, 10)]
    assert there.take_body() == b"0123456789"
    assert here.state is there.state is State.OPEN
