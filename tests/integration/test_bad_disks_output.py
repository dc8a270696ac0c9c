"""State, trace and standard output of a peer on disks that are full or read-only (cases 46, 47)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.disks import OBEYS_MODES, disk_message, fill_up, modest_end, needs_disks, peer_words, tmpfs
from tests.kit.processes import (
    Running,
    clean_environment,
    command,
    old_file,
    run,
    run_peer,
    start_peer,
    start_tracker,
)
from tests.kit.waiting import HANG_S

pytestmark = needs_disks

MIB = 1 << 20


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Running]:
    with start_tracker(tmp_path) as running:
        yield running


def test_case_46_a_login_on_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path, tracker: Running) -> None:
    with tmpfs(tmp_path / "disk", MIB) as disk:
        state = disk / "state"
        other = fill_up(disk)
        said = disk_message(run(peer_words(tracker, "login", "alice"), clean_environment(state)))
        assert "disk full" in said
        assert str(state) in said
        assert not state.exists() or list(state.iterdir()) == []
        other.unlink()
        assert run(peer_words(tracker, "login", "alice"), clean_environment(state)).code == 0
        fill_up(disk)
        assert run(peer_words(tracker, "logout"), clean_environment(state)).code == 0


@pytest.mark.parametrize("how", ["full", "closed"])
def test_case_47_sharing_and_fetching_work_without_a_state_folder(
    tmp_path: Path, tracker: Running, how: str
) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(100_000))
    with tmpfs(tmp_path / "disk", MIB) as disk:
        state = disk / "state"
        state.mkdir()
        if how == "full":
            fill_up(disk)
        else:
            state.chmod(0o500)
        with Running(
            [*OBEYS_MODES, *peer_words(tracker, "share", str(path))], clean_environment(state)
        ) as peer:
            content = peer.event("shared")["id"]
            assert "it will be hashed again next time" in peer.out
            assert str(state) in peer.out
            done = modest_end(
                tmp_path, tracker, "download", content, "-o", str(tmp_path / "out"), state=state
            )
            assert done.code == 0, done.err
            said = disk_message(modest_end(tmp_path, tracker, "login", "alice", state=state))
            assert str(state) in said


def test_case_47_a_state_folder_that_cannot_be_read_is_named(tmp_path: Path, tracker: Running) -> None:
    state = tmp_path / "state"
    assert modest_end(tmp_path, tracker, "login", "alice", state=state).code == 0
    state.chmod(0)
    for words in (["status"], ["logout"], ["login", "bob"]):
        assert str(state) in disk_message(modest_end(tmp_path, tracker, *words, state=state))
    state.chmod(0o700)


@pytest.mark.parametrize("where", ["disk", "/dev/full"])
def test_case_46_a_trace_that_finds_no_room_is_told_of_and_the_download_finishes(
    tmp_path: Path, tracker: Running, where: str
) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(2_000_000))
    with (
        tmpfs(tmp_path / "disk", 64 * 1024) as disk,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
    ):
        content = peer.event("shared")["id"]
        fill_up(disk, leave=8192)
        trace = where if where != "disk" else str(disk / "trace")
        done = run_peer(
            tmp_path,
            "download",
            content,
            "-o",
            str(tmp_path / "out"),
            "--trace",
            trace,
            tracker=tracker.address,
        )
        assert done.code == 0, done.err
        said = done.event("warning")["message"]
        assert said.startswith("the trace is cut short: disk full: have ")
        assert said.endswith(f"; cannot write '{trace}'")
        assert "Traceback" not in done.err
        assert (tmp_path / "out" / "a.bin").read_bytes() == path.read_bytes()


def test_case_47_a_trace_that_cannot_be_begun_ends_the_command_at_once(
    tmp_path: Path, tracker: Running
) -> None:
    for where in (tmp_path / "none" / "trace", tmp_path):
        said = disk_message(modest_end(tmp_path, tracker, "list", "--trace", str(where)))
        assert str(where) in said


@pytest.mark.parametrize(
    ("verb", "target"),
    [
        *(
            (verb, target)
            for verb in ("download", "share", "upload", "tracker")
            for target in ("> /dev/full", "| true")
        ),
        ("download", ">&-"),  # a service without an output runs on
        ("upload", ">&-"),
    ],
)
@pytest.mark.parametrize("json_output", [True, False], ids=["json", "text"])
def test_case_46_standard_output_that_is_full_closed_or_unread_shows_no_traceback(
    tmp_path: Path, tracker: Running, verb: str, target: str, json_output: bool
) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(100_000))
    with (
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
        start_peer(
            tmp_path,
            "serve",
            str(tmp_path / "kept"),
            "--accept-uploads",
            "1G",
            tracker=tracker.address,
            name="server",
        ) as server,
    ):
        server.event("listening")
        content = peer.event("shared")["id"]
        more = old_file(tmp_path / "b.bin", b"b")
        words = {
            "download": ["download", content, "-o", str(tmp_path / "out"), "--quiet"],
            "share": ["share", str(more)],
            "upload": ["upload", str(more), "--quiet"],
        }.get(verb)
        line = (
            peer_words(tracker, *words)
            if words
            else [*command("tracker"), "--json", "--port", "0", "--store", "memory"]
        )
        if not json_output:
            line.remove("--json")
        done = run(
            ["bash", "-c", f"set -o pipefail; {shlex.join(line)} {target}"],
            clean_environment(tmp_path / "s"),
            timeout=HANG_S,
        )
        assert "Traceback" not in done.err
        assert "Exception" not in done.err
        told = [row for row in done.err.splitlines() if "links work on this machine only" not in row]
        if target == "> /dev/full":
            assert done.code == 7
            assert [row.partition(": error: ")[2] for row in told] == [
                "cannot write standard output: no space left on device"
            ]
        else:
            assert done.code in (0, 1)
            assert told == []
