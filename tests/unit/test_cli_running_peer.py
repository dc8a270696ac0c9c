"""p2p/cli/running_peer.py: what is printed of a peer's reports."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from p2p.cli.running_peer import Reporter
from p2p.content.uri import Uri, parse_link
from p2p.peer.reports import Downloaded, Listening, Placed, Progress, Received, SessionChanged, Shared, Warned
from tests.kit.cli_output import HERE, ID, LAB, SETTINGS, Output


def reporter(output: Output, *, shares: bool = True) -> Reporter:
    return Reporter(output.console, SETTINGS, LAB if shares else None)


def test_a_shared_content_is_printed_with_its_link() -> None:
    output, events = Output(), Output(as_json=True)
    for one in (output, events):
        reporter(one)(Shared("n", ID, 7, Path("/s/n")))
    link = events.events[0]["link"]
    assert parse_link(link) == Uri(ID, LAB, "n")
    assert output.out.splitlines()[0] == "shared n (7 B)"
    assert output.out.splitlines()[1] == f'  get it with: bin/peer download "{link}"'


@pytest.mark.parametrize("name", ["a'b c&d.img", "$(id) `id`\n", "\u202e\\"])
def test_a_shell_reads_the_printed_command_as_it_was_meant(name: str) -> None:
    output = Output()
    reporter(output)(Shared(name, ID, 7, Path("/s/n")))
    words = shlex.split(output.out.splitlines()[-1].partition(":")[2])
    assert words[:2] == ["bin/peer", "download"]
    assert parse_link(words[2]) == Uri(ID, LAB, name)
    assert len(words) == 3


def test_a_command_that_only_fetches_does_not_print_that_it_is_a_peer() -> None:
    output = Output()
    tell = reporter(output, shares=False)
    for report in (Listening(HERE, {"tcp": 1}), Shared("n", ID, 7, Path("/s")), Received("n", ID, 7, "p")):
        tell(report)
    assert output.out == ""
    tell(Placed("lab-1"))
    tell(SessionChanged("resumed", "me"))
    assert "lab-1" in output.out
    assert "127.0.0.1:6969" in output.err


def test_each_report_is_one_event_and_the_end_is_left_to_the_command() -> None:
    output = Output(as_json=True)
    tell = reporter(output)
    for report in (
        Listening(HERE, {"tcp": 1}),
        Warned("w"),
        Progress("hashing", 0, 1, 0.0, 0),
        Downloaded(Path("/d"), ID, 7, 1.0),
    ):
        tell(report)
    assert [event["event"] for event in output.events] == ["listening", "warning", "progress"]


def test_a_hostile_name_of_a_peer_is_escaped() -> None:
    output = Output()
    reporter(output)(Received("\x1b[2Jn", ID, 7, "p\u202e"))
    assert "\\x1b[2Jn" in output.out
    assert "p\\u202e" in output.out
