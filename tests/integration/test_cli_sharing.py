"""`serve`, `share`, `upload` and `bin/tracker`: what lasts until it is stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.kit.commands import POSIX, SIZE, error_of, peer_line
from tests.kit.processes import (
    Running,
    clean_environment,
    command,
    held_port,
    old_file,
    run,
    run_peer,
    start_peer,
    start_tracker,
)


def test_share_prints_a_link_for_people_too(tmp_path: Path, tracker: Running) -> None:
    path = old_file(tmp_path / "one.bin", b"1")
    words = peer_line("share", str(path), tracker=tracker.address)
    with Running(words, clean_environment(tmp_path / "state-me")) as origin:
        assert "listens on" in origin.line()
        assert origin.line() == "shared one.bin (1 B)\n"
        assert re.fullmatch(
            r'  get it with: bin/peer download "p2p:[0-9a-f]{64}\?tracker=\S+&name=one\.bin"\n', origin.line()
        )
        assert "until you press Ctrl-C" in origin.line()


@POSIX
def test_a_symbolic_link_is_shared_as_its_target(tmp_path: Path, tracker: Running) -> None:
    old_file(tmp_path / "image-7.bin", b"7")
    (tmp_path / "latest").symlink_to("image-7.bin")
    with start_peer(
        tmp_path, "share", str(tmp_path / "latest"), tracker=tracker.address, name="origin"
    ) as origin:
        shared = origin.event("shared")
    assert (shared["name"], shared["size"]) == ("image-7.bin", 1)


def test_serve_reports_files_that_are_added_and_removed(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    old_file(tmp_path / "shared" / "second.bin", b"2")
    assert seed.event("shared", name="second.bin")["size"] == 1
    (tmp_path / "shared" / "second.bin").unlink()
    assert seed.event("withdrawn")["name"] == "second.bin"


def test_upload_returns_when_other_peers_have_verified(tmp_path: Path, tracker: Running) -> None:
    (tmp_path / "kept").mkdir()
    path = old_file(tmp_path / "result.tar", os.urandom(SIZE))
    with start_peer(
        tmp_path,
        "serve",
        str(tmp_path / "kept"),
        "--accept-uploads",
        "1M",
        tracker=tracker.address,
        name="mirror",
    ) as mirror:
        mirror.event("listening")
        done = run_peer(
            tmp_path, "upload", str(path), "--copies", "1", "--port", "0", tracker=tracker.address
        )
        assert done.code == 0, done.err
        assert done.event("placed")["peer"] == "mirror"
        assert done.event("replicated")["peer"] == "mirror"
        assert (done.event("done")["copies"], done.event("done")["origin_copies"]) == (1, 1.0)
        assert mirror.event("received")["name"] == "result.tar"
    assert (tmp_path / "kept" / "result.tar").read_bytes() == path.read_bytes()


def test_an_upload_that_no_peer_accepts_fails_and_says_so(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    path = old_file(tmp_path / "result.tar", b"x")
    assert "accepts" in error_of(
        run_peer(tmp_path, "upload", str(path), "--port", "0", tracker=tracker.address), 3
    )


def test_a_serving_peer_waits_for_a_tracker_and_says_so(tmp_path: Path) -> None:
    old_file(tmp_path / "shared" / "lab.img", b"x")
    with (
        held_port() as port,
        start_peer(
            tmp_path, "serve", str(tmp_path / "shared"), tracker=f"127.0.0.1:{port}", name="origin"
        ) as origin,
    ):
        origin.event("session", state="lost")
        origin.event("shared", name="lab.img")
        with start_tracker(tmp_path, port=port) as tracker:
            origin.event("session", state="resumed")
            assert run_peer(tmp_path, "list", tracker=tracker.address).event("content")["name"] == "lab.img"


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path, tracker: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["download", "x", "--host", "127.0.0.1", "--port", str(port)]
        assert str(port) in error_of(run_peer(tmp_path, *words, tracker=tracker.address), 2)
        words = [
            *command("tracker"),
            "--json",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--store",
            "memory",
        ]
        done = run(words, clean_environment(tmp_path / "state"))
        assert done.code != 0
        assert str(port) in done.event("error")["message"]


def test_a_second_tracker_on_a_machine_is_told_what_to_do(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'tracker.db'}"
    with start_tracker(tmp_path, store=store) as first:
        start = [*command("tracker"), "--json", "--host", "127.0.0.1"]
        for words in (["--store", store, "--port", "0"], ["--store", "memory", "--port", str(first.port)]):
            done = run([*start, *words], clean_environment(tmp_path / "state"))
            assert done.code == 2
            assert done.err.count("\n") == 1
            message = done.event("error")["message"]
            assert "use it, or give this one another --" in message
            assert words[1].removeprefix("sqlite:") in message or words[3] in message


def test_a_free_port_is_used_when_the_default_one_is_taken(tmp_path: Path, tracker: Running) -> None:
    (tmp_path / "shared").mkdir()
    words = [
        *command("peer"),
        "serve",
        str(tmp_path / "shared"),
        "--json",
        "--host",
        "127.0.0.1",
        "--tracker",
        tracker.address,
    ]
    with (
        Running(words, clean_environment(tmp_path / "s1")) as one,
        Running(words, clean_environment(tmp_path / "s2")) as two,
    ):
        ports = {one.event("listening")["port"], two.event("listening")["port"]}
    assert len(ports) == 2


@POSIX
def test_a_store_in_the_home_of_an_unknown_user_is_wrong_usage_of_store(tmp_path: Path) -> None:
    done = run(
        [*command("tracker"), "--port", "0", "--store", "sqlite:~no-such-user/t.db"],
        clean_environment(tmp_path / "state"),
    )
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("tracker: error: --store: ")
    assert done.err.count("\n") == 1


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_case_51_a_stopped_peer_ends_in_time_and_leaves_the_directory(
    tmp_path: Path, tracker: Running, seed: Running, number: signal.Signals, code: int
) -> None:
    exit_code, _ = seed.stop(number)
    assert (exit_code, seed.err) == (code, "")
    assert run_peer(tmp_path, "peers", tracker=tracker.address).events == []


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_case_51_a_stopped_tracker_ends_in_time(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with start_tracker(tmp_path, store=f"sqlite:{tmp_path / 'tracker.db'}") as tracker:
        exit_code, _ = tracker.stop(number)
    assert (exit_code, tracker.err) == (code, "")
