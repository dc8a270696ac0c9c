"""p2p/peer/trace.py: lines without secrets, without control characters, bounded, and written at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2p.model import ContentId
from p2p.peer.trace import Completed, Corrupt, Joined, Trace, json_line, message, plain, without_secrets

TOKEN = "9c" * 16


class Written(list[str]):
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self]


def test_a_control_message_is_one_line_with_its_other_side() -> None:
    lines = Written()
    Trace(lines.append, lambda: 12.5).message("sent", "10.0.0.1:6969", b'{"op":"ping","seq":1}')
    assert lines == ['{"event":"sent","time":12.5,"with":"10.0.0.1:6969","message":{"op":"ping","seq":1}}\n']


@pytest.mark.parametrize(
    "line",
    [
        f'{{"op":"hello","version":1,"session":"{TOKEN}"}}',
        f'{{"ok":true,"session":"{TOKEN}","ttl":30}}',
        f'{{"a":[{{"token":"{TOKEN}"}}],"b":{{"password":"{TOKEN}"}}}}',
        f'{{"op":"hello","session":"{TOKEN}"',
        f'"{TOKEN}"',
        f'["{TOKEN}"]',
    ],
)
def test_no_session_token_reaches_a_trace_not_even_in_a_broken_line(line: str) -> None:
    assert TOKEN not in json_line(message("received", "h:1", line.encode(), 0.0))


def test_a_secret_is_replaced_and_the_rest_is_kept() -> None:
    assert without_secrets({"session": "x", "sessions": 4, "rows": [{"session": "y", "n": 1}]}) == {
        "session": "<secret>",
        "sessions": 4,
        "rows": [{"session": "<secret>", "n": 1}],
    }


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"GET / HTTP/1.1\r", b"[" * 60_000, b"null", b"7", b"1" * 5000]
)
def test_a_line_that_is_no_object_is_only_measured(line: bytes) -> None:
    assert message("received", "h:1", line, 0.0) == {
        "event": "received",
        "time": 0.0,
        "with": "h:1",
        "unreadable": len(line),
    }


@pytest.mark.parametrize("depth", [32, 450, 700, 950])
def test_case_4_an_object_that_is_deeper_than_any_message_is_only_measured(depth: int) -> None:
    """A line is traced before it is checked, and Python's parser alone goes deeper than what works on its
    result."""
    line = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    lines = Written()
    Trace(lines.append, lambda: 1.0).message("received", "h:1", line)
    assert lines.events()[0]["unreadable"] == len(line)
    just = b'{"a":' + b"[" * 31 + b"]" * 31 + b"}"
    assert message("received", "h:1", just, 0.0)["message"] == json.loads(just)


@pytest.mark.parametrize(
    "line",
    [b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":"\\ud800"}', '{"a":"\x7f\u202e\x9b"}'.encode()],
)
def test_every_line_is_plain_ascii_json(line: bytes) -> None:
    text = json_line(message("received", "h:1", line, 0.0))
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert all(" " <= char < "\x7f" for char in text[:-1])


def test_a_trace_ends_when_it_has_reached_its_bound_and_says_so() -> None:
    lines = Written()
    trace = Trace(lines.append, lambda: 1.0, most=200)
    for _ in range(50):
        trace.message("sent", "h:1", b'{"op":"ping"}')
    assert sum(map(len, lines)) < 400
    assert json.loads("".join(lines).splitlines()[-1]) == {"event": "full", "time": 1.0}


def test_a_trace_whose_disk_is_full_ends_and_keeps_the_reason() -> None:
    calls = []

    def write(line: str) -> None:
        calls.append(line)
        raise OSError(28, "No space left on device")

    trace = Trace(write, lambda: 1.0)
    trace.message("sent", "h:1", b"{}")
    trace.message("sent", "h:1", b"{}")
    assert len(calls) == 1
    assert trace.failed is not None


def test_swarm_events_are_lines_of_the_same_form() -> None:
    lines = Written()
    trace = Trace(lines.append, lambda: 2.0)
    trace.swarm(Joined("p1", ContentId("ab")))
    trace.swarm(Corrupt("p1", 3))
    assert lines.events() == [
        {"event": "joined", "time": 2.0, "peer": "p1", "id": "ab"},
        {"event": "corrupt", "time": 2.0, "peer": "p1", "piece": 3},
    ]
    assert plain(Completed("p1", ContentId("ab")), 1 / 3)["time"] == 0.333333
