"""The load tests in short sizes: what must hold for a tracker and a serving peer even on a busy machine.

`make soak` checks the bounds on time, on a machine that does nothing else. The tracker's part of cases
12, 13, 14 and 60 is in `test_tracker_server.py`; here it is mostly the peer.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.kit.processes import ROOT, clean_environment, old_file, run, start_peer, start_tracker
from tests.kit.waiting import HANG_S
from tests.load.report import Outcome
from tests.load.rig import Scale, many_descriptors
from tests.load.soak import outcomes_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def soak(name: str, folder: Path, only: str = "") -> list[Outcome]:
    """Run a scenario in its short size, and print its figures for a failure's report."""
    found = asyncio.run(outcomes_of(name, Scale(short=True, only=only), str(folder)))
    for one in found:
        print(json.dumps(one.to_json(), indent=1))
    return found


def figures(outcome: Outcome) -> dict[str, float]:
    """The figures that have a bound, by name."""
    return {check.what: check.figure for check in outcome.checks}


def check_nothing_is_left(outcome: Outcome) -> None:
    """The common rule: descriptors are closed, the log is short and has no traceback, a ping is answered."""
    found = figures(outcome)
    assert found["descriptors more than before"] <= 2
    assert found["bytes of log"] < 1 << 20
    assert found["tracebacks"] == 0
    assert found["pings that fail afterwards"] == 0


def test_the_probe_asks_at_least_once(tmp_path: Path) -> None:
    with start_tracker(tmp_path) as tracker:
        words = [
            sys.executable,
            str(ROOT / "tests/load/probe.py"),
            "127.0.0.1",
            str(tracker.port),
            "100",
            "kept",
        ]
        done = run(words, clean_environment(tmp_path / "state"))
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["times"]) == 1


def test_a_load_test_restores_the_limit_of_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with many_descriptors():
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_case_12_idle_connections_do_not_keep_other_clients_out_of_a_peer(
    tmp_path: Path,
) -> None:
    for outcome in soak("idle", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a healthy client did not get"] == 0, outcome.scenario
        assert found["RSS, MiB"] < 150
        assert found["connections left after the deadline"] == 0
        check_nothing_is_left(outcome)


def test_case_13_the_deadline_is_for_the_whole_message_of_a_slow_client(
    tmp_path: Path,
) -> None:
    for outcome in soak("slow", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a healthy client did not get"] == 0
        assert found["slow ones left after the deadline"] == 0, "a byte must not move the deadline"
        check_nothing_is_left(outcome)


def test_case_14_thousands_of_short_connections_leak_nothing_and_log_little(tmp_path: Path) -> None:
    for outcome in soak("churn", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a healthy client did not get"] == 0
        assert found["lines of log a second"] < 10
        assert outcome.notes["threads more than before"] <= 4
        check_nothing_is_left(outcome)


def test_case_21_hundreds_of_peers_register_again_after_a_tracker_restart(
    tmp_path: Path,
) -> None:
    outcomes = soak("herd", tmp_path)
    assert [one.target for one in outcomes] == ["tracker, memory", "tracker, sqlite"]
    for outcome in outcomes:
        found = figures(outcome)
        assert found["peers registered"] == 300


def test_case_21_a_peer_resumes_when_a_tracker_that_hangs_up_is_well_again(
    tmp_path: Path,
) -> None:
    shared = old_file(tmp_path / "x.bin", os.urandom(100_000))
    with (
        start_tracker(tmp_path, "--ttl", "1") as tracker,
        start_peer(tmp_path, "share", str(shared), tracker=tracker.address) as peer,
    ):
        peer.event("shared")
        port = tracker.port
        tracker.stop(signal.SIGKILL)
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.settimeout(HANG_S)
            for _ in range(3):
                listener.accept()[0].close()
        with start_tracker(tmp_path, port=port) as again:
            peer.event("session", state="resumed")
            assert again.err == ""


def test_case_60_a_peer_without_descriptors_serves_open_connections(tmp_path: Path) -> None:
    for outcome in soak("descriptors", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a client inside did not get"] == 0
        assert found["processor while exhausted, share of one"] < 0.5
        check_nothing_is_left(outcome)


def test_case_61_a_hundred_readers_of_a_large_file_cost_little_memory(tmp_path: Path) -> None:
    (outcome,) = soak("memory", tmp_path)
    found = figures(outcome)
    assert found["RSS, MiB"] < 128
    assert found["connections that broke"] == 0
    assert found["blocks read"] > 100
    check_nothing_is_left(outcome)


def test_case_62_a_peer_that_can_start_no_thread_refuses_reads_and_lives(tmp_path: Path) -> None:
    (outcome,) = soak("threads", tmp_path)
    found = figures(outcome)
    assert found["of which were served"] == 0
    assert found["pings that fail meanwhile"] == 0
    assert found["served when there are threads again"] == 1
    check_nothing_is_left(outcome)


def test_case_63_a_mixed_load_leaves_tracker_and_peer_as_they_were(
    tmp_path: Path,
) -> None:
    for outcome in soak("mixed", tmp_path):
        found = figures(outcome)
        assert found["still alive"] == 1
        assert found["answers that a healthy client did not get"] == 0
        assert found["descriptors more than before"] <= 2
        assert found["tracebacks"] == 0


def test_case_64_a_flood_of_malformed_lines_is_not_repeated_in_the_log(tmp_path: Path) -> None:
    outcomes = soak("log", tmp_path)
    assert [one.target for one in outcomes] == ["tracker", "peer"]
    for outcome in outcomes:
        found = figures(outcome)
        assert found["bytes of log"] < 20_000
        assert found["words of clients in the log"] == 0
        assert found["answers that a healthy client did not get"] == 0
        check_nothing_is_left(outcome)
