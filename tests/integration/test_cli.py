"""Every command as a real process: what it prints, how it ends, and what never reaches a terminal."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.peer.tracker_session import SessionTimeouts
from tests.kit.processes import (
    ROOT,
    SLACK,
    Ended,
    Running,
    clean_environment,
    command,
    events_of,
    held_port,
    old_file,
    run,
    run_peer,
    start_peer,
    start_tracker,
)

pytestmark = pytest.mark.timeout(90)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
SIZE = 300_000


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Running]:
    with start_tracker(tmp_path) as running:
        yield running


@pytest.fixture
def seed(tmp_path: Path, tracker: Running) -> Iterator[Running]:
    """A peer that serves a folder with `lab.img`; its `shared` event has been read into `shared`."""
    old_file(tmp_path / "shared" / "lab.img", os.urandom(SIZE))
    with start_peer(
        tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin"
    ) as running:
        running.event("shared", name="lab.img")
        yield running


def error_of(done: Ended, code: int) -> str:
    """The message of a command that failed as it must: one line, one event, no traceback."""
    assert done.code == code, f"{done.code}: {done.out}{done.err}"
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("peer: error: ")
    event = done.event("error")
    assert set(event) == {"event", "code", "message"}
    assert not CONTROLS.search(done.out + done.err)
    return str(event["message"])


# -- what there is
# ---------------------------------------------------------------------------------------------------------------------


def test_list_search_peers_and_status_tell_what_there_is(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    def ask(*words: str) -> Ended:
        done = run_peer(tmp_path, *words, tracker=tracker.address)
        assert (done.code, done.err) == (0, "")
        return done

    row = ask("list").event("content")
    assert (row["name"], row["size"], row["seeds"], row["peers"]) == ("lab.img", SIZE, 1, 1)
    assert ask("search", "LAB", "img").event("content") == row
    assert ask("search", "nothing").events == []
    peer = ask("peers").event("peer")
    assert (peer["name"], peer["host"], peer["contents"]) == ("origin", "127.0.0.1", 1)
    assert set(peer["transports"]) == {"tcp"}
    assert ask("status").event("stats")["contents"] == 1


def test_people_get_tables(tmp_path: Path, tracker: Running, seed: Running) -> None:
    for words, head in (
        (["list"], "NAME"),
        (["search", "lab"], "NAME"),
        (["peers"], "NAME"),
        (["info", "lab.img"], "lab.img (file)"),
    ):
        done = run_peer(tmp_path, *words, tracker=tracker.address, text=True)
        assert done.code == 0, done.err
        assert done.out.startswith(head)
        assert "event" not in done.out
    assert "tracker 127.0.0.1" in run_peer(tmp_path, "status", tracker=tracker.address, text=True).out


def test_an_empty_directory_is_no_failure(tmp_path: Path, tracker: Running) -> None:
    done = run_peer(tmp_path, "list", tracker=tracker.address, text=True)
    assert (done.code, done.out) == (0, "")
    assert "nothing is shared" in done.err


def test_info_tells_the_files_and_who_has_them(tmp_path: Path, tracker: Running, seed: Running) -> None:
    done = run_peer(tmp_path, "info", "lab.img", tracker=tracker.address)
    assert done.code == 0, done.err
    assert done.event("content")["pieces"] == 5
    assert done.event("file") == {"event": "file", "path": "lab.img", "size": SIZE}
    assert done.event("peer")["have"] == SIZE


# -- fetching and giving
# ---------------------------------------------------------------------------------------------------------------


def test_download_brings_the_file_and_tells_it_as_the_contract_says(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    done = run_peer(
        tmp_path, "download", "lab.img", "-o", str(tmp_path / "out"), "--name", "me", tracker=tracker.address
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "lab.img").read_bytes() == (tmp_path / "shared" / "lab.img").read_bytes()
    manifest, end = done.event("manifest"), done.event("done")
    assert {"name", "id", "size", "pieces"} <= set(manifest)
    assert end["bytes_from"] == {"origin": SIZE}
    assert (end["id"], end["size"], end["path"]) == (manifest["id"], SIZE, str(tmp_path / "out" / "lab.img"))
    progress = [event for event in done.events if event["event"] == "progress"]
    assert all({"bytes", "size", "rate", "peers"} <= set(event) for event in progress)
    assert progress[-1]["bytes"] == SIZE


def test_a_link_needs_no_tracker_and_no_name(tmp_path: Path, tracker: Running) -> None:
    path = old_file(tmp_path / "a b.bin", os.urandom(1000))
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as origin:
        link = origin.event("shared")["link"]
        assert re.fullmatch(r"p2p:[0-9a-f]{64}\?tracker=\S+:\d+&name=a%20b\.bin", link)
        words = [*command("peer"), "download", "--json", link, "-o", str(tmp_path / "out")]
        done = run(words, clean_environment(tmp_path / "state-me"))
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "a b.bin").read_bytes() == path.read_bytes()


def test_share_prints_a_link_for_people_too(tmp_path: Path, tracker: Running) -> None:
    path = old_file(tmp_path / "one.bin", b"1")
    words = [*command("peer"), "share", str(path), "--tracker", tracker.address, "--port", "0"]
    with Running(words, clean_environment(tmp_path / "state-me")) as origin:
        assert "listens on" in origin.line()
        assert origin.line() == "shared one.bin (1 B)\n"
        assert re.fullmatch(
            r'  get it with: bin/peer download "p2p:[0-9a-f]{64}\?tracker=\S+&name=one\.bin"\n', origin.line()
        )
        assert "until you press Ctrl-C" in origin.line()


@POSIX
def test_a_link_in_the_file_system_is_shared_as_what_it_leads_to(tmp_path: Path, tracker: Running) -> None:
    old_file(tmp_path / "image-7.bin", b"7")
    (tmp_path / "latest").symlink_to("image-7.bin")
    with start_peer(
        tmp_path, "share", str(tmp_path / "latest"), tracker=tracker.address, name="origin"
    ) as origin:
        shared = origin.event("shared")
    assert (shared["name"], shared["size"]) == ("image-7.bin", 1)


def test_serve_tells_what_is_added_and_taken_away(tmp_path: Path, tracker: Running, seed: Running) -> None:
    old_file(tmp_path / "shared" / "second.bin", b"2")
    assert seed.event("shared", name="second.bin")["size"] == 1
    (tmp_path / "shared" / "second.bin").unlink()
    assert seed.event("withdrawn")["name"] == "second.bin"


def test_upload_returns_when_others_have_verified(tmp_path: Path, tracker: Running) -> None:
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


def test_a_download_can_go_on_as_a_seed(tmp_path: Path, tracker: Running, seed: Running) -> None:
    with start_peer(
        tmp_path,
        "download",
        "lab.img",
        "--seed",
        "-o",
        str(tmp_path / "out"),
        tracker=tracker.address,
        name="second",
    ) as second:
        second.event("done")
        assert run_peer(tmp_path, "list", tracker=tracker.address).event("content")["seeds"] == 2
        code, seconds = second.stop()
    assert code == 143
    assert seconds < 2.0 + SLACK
    assert run_peer(tmp_path, "list", tracker=tracker.address).event("content")["seeds"] == 1


# -- sessions
# --------------------------------------------------------------------------------------------------------------------------


def test_login_status_and_logout_keep_one_session(tmp_path: Path, tracker: Running) -> None:
    def ask(*words: str) -> Ended:
        return run_peer(tmp_path, *words, tracker=tracker.address)

    opened = ask("login", "alice")
    assert opened.event("session")["state"] == "opened"
    assert ask("status").event("stats")["user"] == "alice"
    assert ask("login", "alice").event("session")["state"] == "resumed"
    assert ask("status").event("stats")["sessions"] == 1
    (kept,) = (tmp_path / "state-run").iterdir()
    token = json.loads(kept.read_text())["token"]
    if os.name == "posix":
        assert kept.stat().st_mode & 0o777 == 0o600
    assert token not in opened.out + opened.err
    assert ask("logout").event("session")["state"] == "ended"
    assert ask("status").event("stats")["user"] is None
    assert "nothing to log out of" in error_of(ask("logout"), 4)


def test_a_login_of_somebody_else_ends_the_session_before_it(tmp_path: Path, tracker: Running) -> None:
    def ask(*words: str, text: bool = False) -> Ended:
        done = run_peer(tmp_path, *words, tracker=tracker.address, text=text)
        assert done.code == 0, done.err
        return done

    ask("login", "alice")
    states = [(event["user"], event["state"]) for event in ask("login", "bob").events]
    assert states == [("alice", "ended"), ("bob", "opened")]
    stats = ask("status").event("stats")
    assert (stats["user"], stats["sessions"]) == ("bob", 1)
    assert re.match(r"bob is logged out .*\nlogged in as carol ", ask("login", "carol", text=True).out)
    assert ask("logout").event("session")["user"] == "carol"


def test_a_session_that_the_tracker_forgot_is_over(tmp_path: Path) -> None:
    with held_port() as port:
        with start_tracker(tmp_path, port=port) as first:
            run_peer(tmp_path, "login", "alice", tracker=first.address)
        with start_tracker(tmp_path, port=port) as second:
            status = run_peer(tmp_path, "status", tracker=f"127.0.0.1:{port}", text=True)
            assert "is over" in status.out
            assert run_peer(tmp_path, "logout", tracker=f"127.0.0.1:{port}").code == 0
            assert second.port == port


def test_logout_takes_a_serving_peer_out_and_it_ends_saying_why(tmp_path: Path) -> None:
    old_file(tmp_path / "shared" / "lab.img", b"x")
    environ = {"P2P_STATE": str(tmp_path / "state-run")}
    with start_tracker(tmp_path, "--ttl", "6") as tracker:
        assert run_peer(tmp_path, "login", "alice", tracker=tracker.address).code == 0
        with start_peer(
            tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin", env=environ
        ) as origin:
            origin.event("shared")
            assert run_peer(tmp_path, "logout", tracker=tracker.address).event("session")["peers"] == 1
            assert run_peer(tmp_path, "list", tracker=tracker.address).events == []
            assert origin.event("error", timeout=30)["code"] == "login_needed"
            assert origin.wait() == 4


def test_a_user_who_is_named_is_who_logs_in_whatever_session_is_stored(
    tmp_path: Path, tracker: Running
) -> None:
    old_file(tmp_path / "shared" / "lab.img", b"x")
    environ = {"P2P_STATE": str(tmp_path / "state-run")}
    assert run_peer(tmp_path, "login", "alice", tracker=tracker.address).code == 0
    for words, more in ((["--user", "bob"], {}), ([], {"P2P_USER": "bob"}), ([], {})):
        serve = ["serve", str(tmp_path / "shared"), *words]
        with start_peer(
            tmp_path, *serve, tracker=tracker.address, name="origin", env={**environ, **more}
        ) as origin:
            origin.event("shared")
            user = run_peer(tmp_path, "peers", tracker=tracker.address).event("peer")["user"]
            assert user == ("bob" if words or more else "alice")
            origin.stop()
        assert run_peer(tmp_path, "peers", tracker=tracker.address).events == []
    assert run_peer(tmp_path, "status", tracker=tracker.address).event("stats")["user"] == "alice"


def test_a_login_of_somebody_else_takes_a_serving_peer_out_and_it_ends_saying_why(tmp_path: Path) -> None:
    old_file(tmp_path / "shared" / "lab.img", b"x")
    environ = {"P2P_STATE": str(tmp_path / "state-run")}
    with start_tracker(tmp_path, "--ttl", "6") as tracker:
        assert run_peer(tmp_path, "login", "alice", tracker=tracker.address).code == 0
        with start_peer(
            tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin", env=environ
        ) as origin:
            origin.event("shared")
            assert run_peer(tmp_path, "login", "bob", tracker=tracker.address).code == 0
            assert origin.event("error", timeout=30)["code"] == "login_needed"
            assert origin.wait() == 4
        assert run_peer(tmp_path, "list", tracker=tracker.address).events == []
        assert run_peer(tmp_path, "status", tracker=tracker.address).event("stats")["user"] == "bob"


@POSIX
def test_a_user_without_a_home_can_do_all_that_keeps_nothing(tmp_path: Path, tracker: Running) -> None:
    path, nowhere = (
        old_file(tmp_path / "shared" / "lab.img", os.urandom(SIZE)),
        {"P2P_STATE": "/dev/null/.local/state/enjambre"},
    )
    (tmp_path / "kept").mkdir()
    keep = ["serve", str(tmp_path / "kept"), "--accept-uploads", "1M"]
    with (
        start_peer(
            tmp_path, "share", str(path), tracker=tracker.address, name="origin", env=nowhere
        ) as origin,
        start_peer(tmp_path, *keep, tracker=tracker.address, name="mirror", env=nowhere) as mirror,
    ):
        origin.event("shared")
        mirror.event("listening")
        for words in (
            ["download", "lab.img", "-o", str(tmp_path / "out")],
            ["upload", str(path)],
            ["list"],
            ["status"],
        ):
            port = ["--port", "0"] if words[0] in ("download", "upload") else []
            done = run_peer(tmp_path, *words, *port, tracker=tracker.address, env=nowhere)
            assert done.code == 0, done.err
    message = error_of(run_peer(tmp_path, "login", "alice", tracker=tracker.address, env=nowhere), 7)
    assert "--state" in message


@POSIX
def test_a_tracker_whose_store_is_in_the_home_of_nobody_ends_with_2_and_names_the_option(
    tmp_path: Path,
) -> None:
    done = run(
        [*command("tracker"), "--port", "0", "--store", "sqlite:~no-such-user/t.db"],
        clean_environment(tmp_path / "state"),
    )
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("tracker: error: --store: ")
    assert done.err.count("\n") == 1


def test_no_secret_reaches_a_trace(tmp_path: Path, tracker: Running) -> None:
    trace = tmp_path / "trace.jsonl"
    run_peer(tmp_path, "login", "alice", "--trace", str(trace), tracker=tracker.address)
    run_peer(tmp_path, "status", "--trace", str(trace), tracker=tracker.address)
    (kept,) = (tmp_path / "state-run").glob("session-*.json")
    text = trace.read_text()
    assert json.loads(kept.read_text())["token"] not in text
    lines = events_of(text)
    assert {line["event"] for line in lines} == {"sent", "received"}
    assert all(line["with"] == tracker.address and "message" in line for line in lines)
    assert "<secret>" in text


# -- how commands fail
# -----------------------------------------------------------------------------------------------------------------


def test_what_nobody_shares_is_not_found(tmp_path: Path, tracker: Running) -> None:
    for target in ("nope", "ab" * 32, f"p2p:{'ab' * 32}"):
        error_of(
            run_peer(
                tmp_path, "download", target, "-o", str(tmp_path), "--port", "0", tracker=tracker.address
            ),
            3,
        )
        error_of(run_peer(tmp_path, "info", target, "--port", "0", tracker=tracker.address), 3)


def test_a_name_of_several_contents_is_refused_with_their_ids(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    old_file(tmp_path / "other" / "lab.img", b"another")
    with start_peer(
        tmp_path, "serve", str(tmp_path / "other"), tracker=tracker.address, name="second"
    ) as second:
        second.event("shared")
        done = run_peer(
            tmp_path, "download", "lab.img", "-o", str(tmp_path), "--port", "0", tracker=tracker.address
        )
        message = error_of(done, 3)
        assert len(re.findall(r"[0-9a-f]{64}", message)) == 2


def test_an_upload_that_nobody_accepts_fails_and_says_so(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    path = old_file(tmp_path / "result.tar", b"x")
    assert "accepts" in error_of(
        run_peer(tmp_path, "upload", str(path), "--port", "0", tracker=tracker.address), 3
    )


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["search", "x"],
        ["peers"],
        ["status"],
        ["login", "alice"],
        ["info", "x"],
        ["download", "x"],
        ["upload", __file__],
    ],
    ids=lambda words: words[0],
)
def test_case_40_without_a_tracker_every_command_fails_soon_with_its_address(
    tmp_path: Path, words: list[str]
) -> None:
    more = ["--port", "0"] if words[0] in ("info", "download", "upload") else []
    began = time.monotonic()
    message = error_of(run_peer(tmp_path, *words, *more, tracker="127.0.0.1:1"), 6)
    assert "127.0.0.1:1" in message
    assert time.monotonic() - began < 5


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
            origin.event("session", state="resumed", timeout=30)
            assert run_peer(tmp_path, "list", tracker=tracker.address).event("content")["name"] == "lab.img"


def test_an_existing_file_is_never_replaced_unasked(tmp_path: Path, tracker: Running, seed: Running) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lab.img").write_bytes(b"mine")
    words = ["download", "lab.img", "-o", str(tmp_path / "out"), "--port", "0"]
    assert "--overwrite" in error_of(run_peer(tmp_path, *words, tracker=tracker.address), 7)
    assert (tmp_path / "out" / "lab.img").read_bytes() == b"mine"
    assert run_peer(tmp_path, *words, "--overwrite", tracker=tracker.address).code == 0


def test_a_target_folder_that_is_a_file_is_a_disk_error(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    (tmp_path / "file").write_bytes(b"")
    error_of(
        run_peer(
            tmp_path,
            "download",
            "lab.img",
            "-o",
            str(tmp_path / "file"),
            "--port",
            "0",
            tracker=tracker.address,
        ),
        7,
    )


@pytest.mark.parametrize(
    "words",
    [["serve", "/no/such/folder"], ["share", "/no/such/file"], ["upload", "/no/such/file"], ["download", "p2p:nonsense"], ["login", "a\nb"],
     ["download", "x", "--port", "22"], ["download", "x", "--limit", "fast"], ["list", "--transport", "pigeon"], ["download", ""],
     ["share", ""], ["serve", ""], ["upload", ""], ["serve", "/tmp", "--host", "a..b"], ["serve", "/tmp", "--host", "x" * 70]],
)  # fmt: skip
def test_wrong_words_end_with_2_and_one_line(tmp_path: Path, words: list[str]) -> None:
    error_of(run_peer(tmp_path, *words), 2)


@pytest.mark.parametrize("word", ["download", "serve", "upload", "share"])
def test_grpc_without_its_extra_ends_at_once_and_says_what_to_install(tmp_path: Path, word: str) -> None:
    old_file(tmp_path / "folder" / "x", b"x")
    began = time.monotonic()
    words = [
        *command("peer"),
        word,
        str(tmp_path / "folder"),
        "--transport",
        "grpc",
    ]  # without third-party packages
    done = run(words, clean_environment(tmp_path / "state"))
    assert done.code == 2
    assert done.err == "peer: error: the grpc transport needs an extra: pip install '.[grpc]'\n"
    assert done.out == ""
    assert time.monotonic() - began < 10


def test_nothing_of_grpc_is_imported_when_it_is_not_asked_for(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    words = [
        "download",
        "lab.img",
        "-o",
        str(tmp_path / "out"),
        "--tracker",
        tracker.address,
        "--port",
        "0",
        "--quiet",
    ]
    line = [sys.executable, "-X", "importtime", str(ROOT / "bin" / "peer"), *words]
    done = run(line, clean_environment(tmp_path / "state"))
    assert done.code == 0
    imported = {
        row.rpartition("|")[2].strip().partition(".")[0]
        for row in done.err.splitlines()
        if row.startswith("import time:")
    }
    assert "p2p" in imported
    assert not imported & {"grpc", "google", "grpc_health", "grpc_reflection", "protos"}


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


def test_the_default_port_gives_way_to_a_free_one(tmp_path: Path, tracker: Running) -> None:
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


# -- variables
# -------------------------------------------------------------------------------------------------------------------------


def test_every_setting_can_come_from_the_environment(tmp_path: Path, tracker: Running, seed: Running) -> None:
    environ = {
        "P2P_TRACKER": tracker.address, "P2P_OUTPUT": str(tmp_path / "out"), "P2P_NAME": "from-env", "P2P_PORT": "0", "P2P_JSON": "1",
        "P2P_TRACE": str(tmp_path / "trace"), "P2P_LIMIT": "100M", "P2P_HOST": "127.0.0.1",
    }  # fmt: skip
    done = run([*command("peer"), "download", "lab.img"], clean_environment(tmp_path / "state-me", environ))
    assert done.code == 0, done.err
    assert done.event("done")["path"] == str(tmp_path / "out" / "lab.img")
    assert '"name":"from-env"' in (tmp_path / "trace").read_text()


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    assert "P2P_TRACKER" in error_of(
        run([*command("peer"), "list", "--json"], clean_environment(tmp_path, {"P2P_TRACKER": "a:b:c"})), 2
    )


# -- being stopped
# ---------------------------------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_case_51_a_serving_peer_stops_within_two_seconds_and_leaves_the_directory(
    tmp_path: Path, tracker: Running, seed: Running, number: signal.Signals, code: int
) -> None:
    exit_code, seconds = seed.stop(number)
    assert (exit_code, seed.err) == (code, "")
    assert seconds < 2.0 + SLACK
    assert run_peer(tmp_path, "peers", tracker=tracker.address).events == []


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_case_51_a_tracker_stops_within_two_seconds(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with start_tracker(tmp_path, store=f"sqlite:{tmp_path / 'tracker.db'}") as tracker:
        exit_code, seconds = tracker.stop(number)
    assert (exit_code, tracker.err) == (code, "")
    assert seconds < 2.0 + SLACK


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_case_51_a_stopped_download_goes_on_from_where_it_was(
    tmp_path: Path, tracker: Running, number: signal.Signals, code: int
) -> None:
    path = old_file(tmp_path / "shared" / "big.img", os.urandom(24 << 20))
    out = str(tmp_path / "out")
    with start_peer(
        tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin"
    ) as origin:
        origin.event("shared")
        with start_peer(
            tmp_path, "download", "big.img", "-o", out, "--limit", "6M", tracker=tracker.address, name="me"
        ) as me:
            while me.event("progress", phase="downloading")["bytes"] < 4 << 20:
                pass
            exit_code, seconds = me.stop(number)
        assert (exit_code, me.err) == (code, "")
        assert seconds < 2.0 + SLACK
        assert not (tmp_path / "out" / "big.img").exists()
        done = run_peer(tmp_path, "download", "big.img", "-o", out, "--port", "0", tracker=tracker.address)
        assert done.code == 0, done.err
    assert (tmp_path / "out" / "big.img").read_bytes() == path.read_bytes()
    fetched = done.event("done")["bytes_from"]["origin"]
    assert fetched < 22 << 20
    last = [event for event in done.events if event["event"] == "progress"][-1]
    assert last["rate"] == pytest.approx(fetched / done.event("done")["seconds"], rel=0.01)


@POSIX
@pytest.mark.parametrize(
    "words",
    [["list"], ["status"], ["download", "x"], ["info", "x"], ["login", "alice"]],
    ids=lambda words: words[0],
)
def test_case_51_a_command_that_waits_for_the_tracker_can_be_stopped(
    tmp_path: Path, words: list[str]
) -> None:
    """The tracker accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with Running(
            [*command("peer"), *words, "--json", "--tracker", f"127.0.0.1:{port}"],
            clean_environment(tmp_path),
        ) as waiting:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(65536)
                code, seconds = waiting.stop(signal.SIGINT)
    assert code == 130
    assert seconds < 2.0 + SLACK
    assert waiting.err == ""


@POSIX
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [(signal.SIGTERM, signal.SIGINT, 130), (signal.SIGINT, signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_second_signal_does_not_wait_for_a_clean_stop(
    tmp_path: Path, tracker: Running, seed: Running, first: signal.Signals, second: signal.Signals, code: int
) -> None:
    """The tracker is frozen, so that leaving the directory takes its full time. A clean stop ends with the
    code of the first signal."""
    tracker.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        seed.send(first)
        seed.event("stopped")
        between = time.monotonic() - began
        ended, seconds = seed.stop(second)
    finally:
        tracker.send(signal.SIGCONT)
    assert seconds < 2.0 + SLACK
    # A machine that pauses for longer than it takes to leave the directory tells nothing.
    assert ended == code or between > SessionTimeouts().leave / 2


@POSIX
def test_a_signal_at_any_early_moment_ends_without_a_traceback(tmp_path: Path) -> None:
    """The interpreter's own first milliseconds are not ours; from the first line of the script on, no
    traceback comes."""
    for step in range(8):
        words = [*command("tracker"), "--json", "--port", "0", "--host", "127.0.0.1", "--store", "memory"]
        with Running(words, clean_environment(tmp_path)) as running:
            # Where a signal lands is what varies here; the wait is that variation, not a wait for something.
            threading.Event().wait(0.06 + step * 0.02)
            code, _ = running.stop(signal.SIGTERM)
        assert code in (143, -signal.SIGTERM)
        assert "Traceback" not in running.err


# -- terminals
# -------------------------------------------------------------------------------------------------------------------------


def on_terminal(
    words: list[str], environ: dict[str, str], *, columns: int = 80, stdout_too: bool = False
) -> tuple[int, str, str]:
    """Run with standard error on a terminal; returns exit code, standard output, and what the terminal
    got."""
    import fcntl
    import pty
    import struct
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {**environ, "COLUMNS": str(columns)}
    process = subprocess.Popen(
        words,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=side if stdout_too else subprocess.PIPE,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    shown, printed = b"", b""
    pipes = [main] if process.stdout is None else [main, process.stdout.fileno()]
    try:
        while pipes:
            for ready in select.select(pipes, [], [], 30)[0]:
                try:
                    data = os.read(ready, 65536)
                except OSError:  # Linux says so when the last writer has closed a terminal
                    data = b""
                if not data:
                    pipes.remove(ready)
                elif ready == main:
                    shown += data
                else:
                    printed += data
        return process.wait(30), printed.decode(), shown.decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(main)
        if process.stdout is not None:
            process.stdout.close()


def download_on_terminal(
    tmp_path: Path, tracker: Running, *more: str, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    words = [
        *command("peer"),
        "download",
        "lab.img",
        "-o",
        str(out),
        "--tracker",
        tracker.address,
        "--port",
        "0",
        "--limit",
        "200K",
        *more,
    ]
    return on_terminal(words, clean_environment(tmp_path / "state-me", env))


@POSIX
def test_progress_on_a_terminal_is_one_line_that_is_redrawn(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    code, printed, shown = download_on_terminal(tmp_path, tracker)
    assert code == 0
    assert "downloading" in shown
    assert re.search(r"\d+%", shown)
    assert all(len(part) < 80 for part in re.split(r"[\r\n]", shown))
    assert "\x1b" not in shown
    assert shown.rsplit("\r", 2)[1].strip() == ""
    assert printed.startswith("saved ")


@POSIX
def test_a_narrow_terminal_gets_a_line_that_is_not_cut(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    words = [
        *command("peer"),
        "download",
        "lab.img",
        "-o",
        str(tmp_path / "o"),
        "--tracker",
        tracker.address,
        "--port",
        "0",
    ]
    code, _, shown = on_terminal([*words, "--limit", "200K"], clean_environment(tmp_path / "s"), columns=40)
    assert code == 0
    parts = re.split(r"[\r\n]", shown)
    assert all(len(part) < 40 for part in parts)
    assert "..." not in shown
    assert any(re.fullmatch(r"downloading +\d+% .*/s .* left *", part) for part in parts)


@POSIX
def test_with_json_no_progress_is_drawn_even_on_a_terminal(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    code, printed, shown = download_on_terminal(tmp_path, tracker, "--json")
    assert (code, shown) == (0, "")
    assert any(event["event"] == "progress" for event in events_of(printed))


@POSIX
def test_after_ctrl_c_the_prompt_begins_on_its_own_line(tmp_path: Path) -> None:
    import pty

    main, side = pty.openpty()
    words = [*command("tracker"), "--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    try:
        with subprocess.Popen(
            words,
            env=clean_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=side,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        assert os.read(main, 100) == b"\r\n"
    finally:
        os.close(side)
        os.close(main)


@POSIX
def test_quiet_silences_progress_and_errors_are_coloured_unless_no_color(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    assert download_on_terminal(tmp_path, tracker, "--quiet")[2] == ""
    words = [*command("peer"), "info", "nope", "--tracker", tracker.address, "--port", "0"]
    assert "\x1b[31m" in on_terminal(words, clean_environment(tmp_path / "s"))[2]
    assert "\x1b" not in on_terminal(words, clean_environment(tmp_path / "s", {"NO_COLOR": "1"}))[2]


@POSIX
def test_json_stays_pure_when_everything_is_one_terminal(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    words = [
        *command("peer"),
        "download",
        "lab.img",
        "--json",
        "-o",
        str(tmp_path / "o"),
        "--tracker",
        tracker.address,
        "--port",
        "0",
    ]
    code, _, shown = on_terminal(words, clean_environment(tmp_path / "s"), stdout_too=True)
    assert code == 0
    assert events_of(shown.replace("\r\n", "\n"))[-1]["event"] == "done"


@POSIX
def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path: Path, tracker: Running, seed: Running) -> None:
    words = [
        *command("peer"),
        "serve",
        str(tmp_path / "shared"),
        "--json",
        "--tracker",
        tracker.address,
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        words, env=clean_environment(tmp_path / "s"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        old_file(tmp_path / "shared" / "more.bin", b"more")
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def left_at_once(
    words: list[str], environ: dict[str, str], tracker: str, folder: Path, *, trace: bool = False
) -> tuple[int, float]:
    """Start a command, close the stream it writes to after one line, and wait; returns its code and how many
    seconds that took."""
    out, err = (subprocess.DEVNULL, subprocess.PIPE) if trace else (subprocess.PIPE, subprocess.DEVNULL)
    process = subprocess.Popen(words, env=environ, stdout=out, stderr=err)
    stream = process.stderr if trace else process.stdout
    try:
        assert stream is not None
        assert stream.readline()
        until = time.monotonic() + 20
        while not run_peer(folder, "peers", tracker=tracker).events and time.monotonic() < until:
            pass
        stream.close()
        began = time.monotonic()
        return process.wait(20), time.monotonic() - began
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@POSIX
@pytest.mark.parametrize("trace", [False, True], ids=["stdout", "stderr"])
@pytest.mark.parametrize("json_output", [False, True], ids=["text", "json"])
def test_a_peer_whose_reader_left_leaves_the_directory_at_once(
    tmp_path: Path, tracker: Running, trace: bool, json_output: bool
) -> None:
    """As with `| head -1`: the reader goes after one line, and nothing more is written."""
    path = old_file(tmp_path / "one.bin", b"1")
    words = [
        *command("peer"),
        "share",
        str(path),
        "--tracker",
        tracker.address,
        "--port",
        "0",
        *(["--json"] if json_output else []),
    ]
    code, seconds = left_at_once(
        [*words, *(["--trace", "-"] if trace else [])],
        clean_environment(tmp_path / "s"),
        tracker.address,
        tmp_path,
        trace=trace,
    )
    assert code == 1
    assert seconds < 2.0 + SLACK
    assert run_peer(tmp_path, "peers", tracker=tracker.address).events == []


@POSIX
def test_a_tracker_whose_reader_left_stops(tmp_path: Path) -> None:
    words = [*command("tracker"), "--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    process = subprocess.Popen(
        words, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@POSIX
def test_a_download_whose_last_line_nobody_reads_has_left_the_directory(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    """The reader leaves before the end is printed, so that the peer finds out while it is leaving."""
    words = [
        *command("peer"),
        "download",
        "lab.img",
        "-o",
        str(tmp_path / "out"),
        "--tracker",
        tracker.address,
        "--port",
        "0",
        "--quiet",
    ]
    line = f"{shlex.join(words)} | true; exit 0"
    subprocess.run(
        ["sh", "-c", line], env=clean_environment(tmp_path / "s"), capture_output=True, timeout=30, check=True
    )
    assert [event["name"] for event in run_peer(tmp_path, "peers", tracker=tracker.address).events] == [
        "origin"
    ]


@POSIX
@pytest.mark.parametrize("where", ["-", "pipe"])
def test_a_download_whose_trace_nobody_reads_finishes_its_file(
    tmp_path: Path, tracker: Running, seed: Running, where: str
) -> None:
    words = [
        *command("peer"),
        "download",
        "lab.img",
        "-o",
        str(tmp_path / "out"),
        "--tracker",
        tracker.address,
        "--port",
        "0",
    ]
    there, here = os.pipe()
    target = "-" if where == "-" else f"/dev/fd/{here}"
    with subprocess.Popen(
        [*words, "--limit", "200K", "--trace", target], env=clean_environment(tmp_path / "s"), stdout=subprocess.PIPE,
        stderr=here if where == "-" else subprocess.DEVNULL, pass_fds=[here],
    ) as process:  # fmt: skip
        os.close(here)
        assert os.read(there, 1)
        os.close(there)
        assert process.stdout is not None
        assert b"saved " in process.stdout.read()
        assert process.wait(20) == 0
    assert (tmp_path / "out" / "lab.img").read_bytes() == (tmp_path / "shared" / "lab.img").read_bytes()
    assert [event["name"] for event in run_peer(tmp_path, "peers", tracker=tracker.address).events] == [
        "origin"
    ]


# -- hostile names
# ---------------------------------------------------------------------------------------------------------------------


class HostileTracker(threading.Thread):
    """Answers each line with the next of `answers`, its `seq` put in."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__(daemon=True)
        self._answers = answers
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"

    def run(self) -> None:
        try:
            connection, _ = self._door.accept()
        except OSError:
            return
        with connection, connection.makefile("rwb") as stream:
            for answer in self._answers:
                line = stream.readline()
                if not line:
                    return
                stream.write(answer.replace("SEQ", str(json.loads(line).get("seq"))).encode() + b"\n")
                stream.flush()
            stream.readline()

    def __enter__(self) -> HostileTracker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.join(5)


EVIL = "\\u001b[2J\\u001b]52;c;eA==\\u0007\\r\\n\\u009b31m\\u007f"
BIDI = "gnp\\u202e.exe\\u2066"
ID = "ab" * 32
ROW = f'{{"peer":"{"5f" * 16}","name":"%s","user":"%s","host":"10.0.0.7","listen":{{"tcp":6970}},"contents":4,"age":3}}'
FIGURES = ",".join(
    f'"{name}":1' for name in ("uptime", "peers", "contents", "shares", "bytes", "sessions", "requests")
)
HOSTILE = [
    (["list"], f'{{"ok":true,"seq":SEQ,"total":1,"hits":[{{"id":"{ID}","name":"%s","size":7,"seeds":1,"peers":1}}]}}'),
    (["search", "x"], f'{{"ok":true,"seq":SEQ,"total":1,"hits":[{{"id":"{ID}","name":"%s","size":7,"seeds":1,"peers":1}}]}}'),
    (["peers"], '{"ok":true,"seq":SEQ,"total":1,"peers":[' + ROW + "]}"),
    (["status"], '{"ok":true,"seq":SEQ,"version":"%s",' + FIGURES + ',"user":"%s"}'),
    (["login", "alice"], '{"ok":false,"seq":SEQ,"error":"not_allowed","message":"%s"}'),
    (["list"], '{"ok":false,"seq":SEQ,"error":"%s","message":"%s"}'),
    (["list"], '{"ok":false,"error":"busy","message":"%s"}'),
    (["list"], "%s"),
]  # fmt: skip


@pytest.mark.parametrize("evil", [EVIL, BIDI], ids=["controls", "bidi"])
@pytest.mark.parametrize("text", [True, False], ids=["text", "json"])
@pytest.mark.parametrize(
    ("words", "answer"), HOSTILE, ids=[f"{index}-{words[0]}" for index, (words, _) in enumerate(HOSTILE)]
)
def test_case_42_nothing_of_a_hostile_tracker_reaches_the_terminal_raw(
    tmp_path: Path, words: list[str], answer: str, text: bool, evil: str
) -> None:
    with HostileTracker([answer.replace("%s", evil)] * 2) as hostile:
        done = run_peer(tmp_path, *words, tracker=hostile.address, text=text)
    assert not CONTROLS.search(done.out + done.err), (done.out, done.err)
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    if not text:
        assert done.events


def test_case_42_hostile_words_of_the_command_line_are_escaped_too(tmp_path: Path, tracker: Running) -> None:
    evil = "\x1b[2J\x9b31m\u202e"
    for words in (
        ["info", evil],
        ["download", evil],
        ["serve", evil],
        ["share", evil],
        ["login", evil],
        [evil],
        ["list", "--tracker", evil],
    ):
        done = run_peer(
            tmp_path, *words, *(["--tracker", tracker.address] if "--tracker" not in words else [])
        )
        assert done.code in (2, 3)
        assert not CONTROLS.search(done.out + done.err)


@POSIX
def test_case_42_hostile_names_on_the_disk_are_escaped(tmp_path: Path, tracker: Running) -> None:
    old_file(tmp_path / "shared" / "bad\x1b[31m\nname", b"x")
    old_file(tmp_path / "shared" / "good", b"x")
    with start_peer(tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address) as peer:
        peer.event("shared", name="good")
        peer.stop()
    assert not CONTROLS.search(peer.out + peer.err)


@pytest.mark.parametrize(
    "words", [["list"], ["search", "x"], ["peers"], ["info", "x"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize("following", [0, 5, 10], ids=["round in a circle", "past the end", "beyond all"])
def test_case_40_a_tracker_that_sends_pages_that_lead_nowhere_is_not_followed(
    tmp_path: Path, words: list[str], following: int
) -> None:
    rows = "peers" if words == ["peers"] else "hits"
    page = f'{{"ok":true,"seq":SEQ,"total":4,"next":{following},"{rows}":[]}}'
    with HostileTracker([page] * 50) as hostile:
        done = run_peer(tmp_path, *words, tracker=hostile.address)
    if words[0] == "info":
        assert (done.code, done.event("error")["code"]) == (3, "not_found")
    else:
        assert (done.code, done.events) == (0, [])


def test_a_name_that_the_locale_cannot_write_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """PYTHONUTF8=0 and no coercion: as some boot scripts run it."""
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = old_file(tmp_path / "\u00f1am.bin", b"x")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
    ):
        content = peer.event("shared")["id"]
        environ = clean_environment(tmp_path / "state-run", latin)
        line = [
            sys.executable,
            "-S",
            command("peer")[-1],
            "download",
            content,
            "--json",
            "--tracker",
            tracker.address,
        ]
        done = run([*line, "-o", str(tmp_path / "out")], environ)
    assert done.code == 7
    assert "PYTHONUTF8" in done.event("error")["message"]
    assert not (tmp_path / "out").exists()


def test_case_45_a_name_is_found_however_its_accents_are_kept(tmp_path: Path) -> None:
    path = old_file(tmp_path / "cafe\u0301.bin", b"x")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
    ):
        peer.event("shared")
        assert run_peer(tmp_path, "info", "caf\u00e9.bin", tracker=tracker.address).code == 0


# -- the scripts
# -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tracker", "peer", "demo"])
def test_the_scripts_run_from_anywhere_and_answer_help_at_once(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [*command(name), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert done.stderr == ""
    version = subprocess.run(
        [*command(name), "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert version.stdout.startswith("enjambre ")


@pytest.mark.parametrize("name", ["tracker", "peer", "demo"])
def test_the_scripts_tell_an_old_python_what_they_need_before_they_import_anything(name: str) -> None:
    script = command(name)[-1]
    code = (
        "import sys; sys.version_info = (3, 10, 13, 'final', 0); sys.path[:] = []; sys.argv[:] = [sys.argv[1]];"
        "source = open(sys.argv[0]).read(); exec(compile(source, sys.argv[0], 'exec'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, script],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"{name}: needs Python 3.11 or newer, this is 3.10\n",
    )
    head = Path(script).read_text(encoding="utf-8").partition("sys.exit(")[0]
    assert re.findall(r"^(?:from|import) .*", head, re.MULTILINE) == ["import sys"]


@pytest.mark.parametrize("name", ["tracker", "peer", "demo", "simulate"])
def test_the_scripts_hold_nothing_that_an_old_python_cannot_read(name: str) -> None:
    """Where none is, too. A Python reads a whole file before it runs its first line."""
    source = Path(command(name)[-1]).read_text(encoding="utf-8")
    assert source.isascii()
    known = "Module If Compare Lt Attribute Name Load Constant Tuple Import ImportFrom alias Expr Call BinOp Mod Subscript Slice"
    assert {type(node).__name__ for node in ast.walk(ast.parse(source))} <= set(known.split()), (
        "as old as the language, or new?"
    )


def _old_pythons() -> dict[str, str]:
    """Old Pythons that are here and run, by their versions."""
    folders = [*os.get_exec_path(), *map(str, (Path.home() / ".pyenv" / "versions").glob("*/bin"))]
    found = {
        old: shutil.which(f"python{old}", path=os.pathsep.join(folders[::-1]))
        for old in ("2.7", "3.6", "3.10")
    }
    return {
        old: path
        for old, path in found.items()
        if path is not None
        and not subprocess.run([path, "--version"], capture_output=True, timeout=20, check=False).returncode
    }


OLD_PYTHONS = _old_pythons()
if OLD_PYTHONS:

    @pytest.mark.parametrize("old", OLD_PYTHONS)
    @pytest.mark.parametrize("name", ["tracker", "peer", "demo"])
    def test_an_old_python_that_is_here_reads_the_scripts_and_says_what_they_need(
        name: str, old: str
    ) -> None:
        done = subprocess.run(
            [OLD_PYTHONS[old], command(name)[-1], "--help"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, f"{name}: needs Python 3.11 or newer, this is {old}\n")


@POSIX
@pytest.mark.parametrize(
    "words",
    [
        "peer --help",
        "peer --version",
        "peer list --tracker 127.0.0.1:1",
        "peer list --json --tracker 127.0.0.1:1",
    ],
)
def test_a_command_without_standard_output_or_with_a_full_one_shows_no_traceback(
    tmp_path: Path, words: str
) -> None:
    name, *rest = words.split()
    line = shlex.join([*command(name), *rest])
    for target in (">&-", "> /dev/full", "2>&- >&-"):
        done = subprocess.run(
            ["sh", "-c", f"{line} {target}"],
            env=clean_environment(tmp_path),
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert b"Traceback" not in done.stderr + done.stdout
        assert done.returncode in (0, 6, 7)


def test_help_does_not_load_what_only_a_running_command_needs() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from p2p.cli.peer import main; "
        "main(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, timeout=20, check=True
    )
    assert not {"asyncio", "socket", "sqlite3", "logging", "transports"} & set(done.stderr.split())


def test_a_trace_tells_what_happens_in_the_swarm_besides_the_control_lines(tmp_path: Path) -> None:
    path = old_file(tmp_path / "share" / "image.bin", os.urandom(200_000))
    trace = tmp_path / "trace.jsonl"
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed,
    ):
        content = seed.event("shared")["id"]
        ended = run_peer(
            tmp_path,
            "download",
            content,
            "-o",
            str(tmp_path / "out"),
            "--trace",
            str(trace),
            tracker=tracker.address,
        )
        assert ended.code == 0, ended.err
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {"sent", "received", "joined", "asked", "fetched", "verified", "completed"} <= {
        event["event"] for event in events
    }
    assert sorted(event["piece"] for event in events if event["event"] == "verified") == [0, 1, 2, 3]
