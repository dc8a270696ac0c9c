"""p2p/cli/sharing.py: which tracker a link leads to, which tracker links name, and what is printed of a
peer's reports."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2p.cli import sharing
from p2p.cli.common import Job, named_path
from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.sharing import Reporter
from p2p.content.uri import Uri, parse_link
from p2p.errors import DiskError, Refused, UsageError
from p2p.model import Address, ContentId
from p2p.peer.reports import Downloaded, Listening, Placed, Progress, Received, SessionChanged, Shared, Warned

ID = ContentId("ab" * 32)
HERE, LAB = Address("127.0.0.1", 6969), Address("10.0.0.5", 7000)


class Output:
    """A console on two strings."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.console = Console(
            "peer", json=as_json, environ={}, clock=lambda: 0.0, out=self._out, err=self._err
        )

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def err(self) -> str:
        return self._err.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def job(output: Output | None = None, *, tracker: Address = HERE, **words: object) -> Job[PeerConfig]:
    return Job(
        Namespace(**words), PeerConfig(tracker=tracker, name="me"), (output or Output()).console, None, None
    )


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P2P_TRACKER", raising=False)


def test_a_link_brings_its_own_tracker() -> None:
    aimed, target = sharing._aimed(job(target=str(Uri(ID, LAB, "n"))))
    assert (aimed.config.tracker, target) == (LAB, ID)


def test_a_tracker_that_was_named_wins_over_the_one_of_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    named = job(target=str(Uri(ID, LAB)), tracker_given=True)
    named.words.tracker = str(HERE)
    assert sharing._aimed(named)[0].config.tracker == HERE
    monkeypatch.setenv("P2P_TRACKER", str(HERE))
    assert sharing._aimed(job(target=str(Uri(ID, LAB))))[0].config.tracker == HERE


def test_a_link_without_tracker_an_id_and_a_name_leave_the_tracker_as_it_is() -> None:
    assert sharing._aimed(job(target=f"p2p:{ID}"))[1] == ID
    assert sharing._aimed(job(target=ID.upper()))[1] == ID
    aimed, target = sharing._aimed(job(target="lab.img"))
    assert (aimed.config.tracker, target) == (HERE, "lab.img")


@pytest.mark.parametrize("target", ["", "a\x1bb", "x" * 256, "p2p:abc", f"p2p:{ID}?tracker=x:0"])
def test_a_wrong_target_is_wrong_usage(target: str) -> None:
    with pytest.raises(UsageError):
        sharing._aimed(job(target=target))


def others(
    monkeypatch: pytest.MonkeyPatch, own: str | None, listening: set[Address], tracker: Address = HERE
) -> tuple[Address, str]:
    async def answers(address: Address) -> bool:
        return address in listening

    monkeypatch.setattr(sharing, "_own_host", lambda: own)
    monkeypatch.setattr(sharing, "_answers", answers)
    output = Output()
    assert asyncio.run(sharing._tracker_for_others(job(tracker=tracker), warn=False)) is not None
    return asyncio.run(sharing._tracker_for_others(job(output, tracker=tracker), warn=True)), output.err


def test_a_link_names_the_tracker_by_the_address_that_others_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Address("10.0.0.9", 6969)
    assert others(monkeypatch, "10.0.0.9", {HERE, outside}) == (outside, "")


def test_a_tracker_on_loopback_only_is_named_as_it_is_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, err = others(monkeypatch, "10.0.0.9", {HERE})
    assert tracker == HERE
    assert "this machine only" in err


def test_a_machine_without_network_names_loopback_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, err = others(monkeypatch, None, {HERE})
    assert tracker == HERE
    assert "this machine only" in err


def test_a_tracker_that_is_away_is_taken_to_listen_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert others(monkeypatch, "10.0.0.9", set()) == (Address("10.0.0.9", 6969), "")


def test_a_tracker_elsewhere_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert others(monkeypatch, "10.0.0.9", set(), LAB) == (LAB, "")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("LocalHost", True),
        ("10.0.0.1", False),
        ("lab", False),
    ],
)
def test_loopback_is_known_in_all_its_forms(host: str, loopback: bool) -> None:
    assert sharing._is_loopback(host) is loopback


def test_this_machine_finds_its_address_or_none_but_never_loopback() -> None:
    own = sharing._own_host()
    assert own is None or not sharing._is_loopback(own)


def reporter(output: Output, *, talks: bool = True) -> Reporter:
    return Reporter(output.console, PeerConfig(tracker=HERE, name="me"), LAB, talks=talks)


def test_what_is_shared_is_told_with_its_link() -> None:
    output, events = Output(), Output(as_json=True)
    for one in (output, events):
        reporter(one)(Shared("n", ID, 7, Path("/s/n")))
    link = events.events[0]["link"]
    assert parse_link(link) == Uri(ID, LAB, "n")
    assert output.out.splitlines()[0] == "shared n (7 B)"
    assert output.out.splitlines()[1] == f'  get it with: bin/peer download "{link}"'


@pytest.mark.parametrize("name", ["a'b c&d.img", "$(id) `id`\n", "\u202e\\"])
def test_the_command_that_is_printed_is_read_by_a_shell_as_it_was_meant(name: str) -> None:
    output = Output()
    reporter(output)(Shared(name, ID, 7, Path("/s/n")))
    words = shlex.split(output.out.splitlines()[-1].partition(":")[2])
    assert words[:2] == ["bin/peer", "download"]
    assert parse_link(words[2]) == Uri(ID, LAB, name)
    assert len(words) == 3


def test_a_command_that_only_fetches_does_not_talk_about_being_a_peer() -> None:
    output = Output()
    tell = reporter(output, talks=False)
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


class EndedNode:
    async def ended(self) -> Refused:
        return Refused("login_needed", "the session was ended by a logout")


def test_serving_ends_with_the_reason_when_the_session_was_ended() -> None:
    stopped = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    with pytest.raises(Refused, match=r"logout"):
        asyncio.run(sharing._until_ended(EndedNode(), for_ever()))  # type: ignore[arg-type]
    assert stopped == [True]


@pytest.mark.parametrize(
    ("bytes_from", "said"),
    [
        ({"a": 300 << 20}, ["saved /d/n: 300.0 MiB in 10 s, 30.0 MiB/s", "  from 1 peer: a 300.0 MiB"]),
        (
            {"a": 150 << 20, "b": 50 << 20},
            [
                "saved /d/n: 300.0 MiB in 10 s, 20.0 MiB/s",
                "  200.0 MiB fetched, 100.0 MiB were here",
                "  from 2 peers: a 150.0 MiB, b 50.0 MiB",
            ],
        ),
        ({}, ["saved /d/n: 300.0 MiB in 10 s", "  0 B fetched, 300.0 MiB were here"]),
    ],
)
def test_what_was_here_already_does_not_count_as_fetched(
    monkeypatch: pytest.MonkeyPatch, bytes_from: dict[str, int], said: list[str]
) -> None:
    class FakeNode:
        tracker = None

        async def start(self, **_: object) -> None:
            pass

        async def download(self, *_: object, **__: object) -> Downloaded:
            return Downloaded(Path("/d/n"), ID, 300 << 20, 10.0, bytes_from)

    @asynccontextmanager
    async def fake(_: object) -> AsyncIterator[FakeNode]:
        yield FakeNode()

    monkeypatch.setattr(sharing, "_peer", fake)
    output = Output()
    assert asyncio.run(sharing.download(job(output, target=ID))) == 0
    assert output.out.replace(str(Path("/d/n")), "/d/n").splitlines() == said


def test_a_path_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder"):
        named_path(str(tmp_path / "missing"))


@pytest.mark.skipif(os.name == "nt", reason="makes symbolic links")
def test_a_link_that_is_named_means_what_it_leads_to(tmp_path: Path) -> None:
    target = tmp_path.resolve() / "image-7.img"
    target.write_bytes(b"x")
    (tmp_path / "latest.img").symlink_to("image-7.img")
    assert named_path(str(tmp_path / "latest.img")) == target
    (tmp_path / "nowhere").symlink_to("missing")
    with pytest.raises(UsageError, match=r"nowhere: no such file or folder"):
        named_path(str(tmp_path / "nowhere"))


def served(path: Path, room: int = 0) -> Path:
    return sharing._folder(
        Job(
            Namespace(dir=str(path)), PeerConfig(name="me", accept_uploads=room), Output().console, None, None
        )
    )


def test_the_folder_that_takes_copies_is_made(tmp_path: Path) -> None:
    assert served(tmp_path / "a" / "b", 1000).is_dir()
    assert served(tmp_path) == tmp_path
    with pytest.raises(UsageError, match=r"no such folder"):
        served(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match=r"cannot make"):
        served(tmp_path / "file" / "below", 1000)


def test_to_serve_a_file_is_answered_with_the_command_for_it(tmp_path: Path) -> None:
    (tmp_path / "my file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"is a file; share it with: peer share '.*my file'"):
        served(tmp_path / "my file", 1000)
