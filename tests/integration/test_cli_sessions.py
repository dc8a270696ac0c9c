"""`login`, `logout`, `status`, and the users of peers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from tests.kit.commands import POSIX, SIZE, error_of
from tests.kit.processes import (
    Ended,
    Running,
    events_of,
    held_port,
    old_file,
    run_peer,
    start_peer,
    start_tracker,
)


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


def test_a_login_of_another_user_ends_the_session_before_it(tmp_path: Path, tracker: Running) -> None:
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


def test_logout_ends_a_serving_peer_with_the_reason(tmp_path: Path) -> None:
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
            assert origin.event("error")["code"] == "login_needed"
            assert origin.wait() == 4


def test_a_named_user_logs_in_whatever_session_is_stored(tmp_path: Path, tracker: Running) -> None:
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


def test_a_login_of_another_user_ends_a_serving_peer_with_the_reason(tmp_path: Path) -> None:
    old_file(tmp_path / "shared" / "lab.img", b"x")
    environ = {"P2P_STATE": str(tmp_path / "state-run")}
    with start_tracker(tmp_path, "--ttl", "6") as tracker:
        assert run_peer(tmp_path, "login", "alice", tracker=tracker.address).code == 0
        with start_peer(
            tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin", env=environ
        ) as origin:
            origin.event("shared")
            assert run_peer(tmp_path, "login", "bob", tracker=tracker.address).code == 0
            assert origin.event("error")["code"] == "login_needed"
            assert origin.wait() == 4
        assert run_peer(tmp_path, "list", tracker=tracker.address).events == []
        assert run_peer(tmp_path, "status", tracker=tracker.address).event("stats")["user"] == "bob"


@POSIX
def test_a_user_without_a_home_can_run_all_commands_that_store_nothing(
    tmp_path: Path, tracker: Running
) -> None:
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
