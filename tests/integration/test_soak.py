"""The scenarios of `bench/soak.py` in short, on real processes: a serving peer and a tracker under load, and
what must hold on any machine.

`tests/integration/test_tracker_server.py` has the tracker's part of cases 12, 13, 14 and 60 in one process;
here it is mostly the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.soak import outcomes_of
from bench.soaking.report import Outcome
from bench.soaking.rig import Scale, many_descriptors
from tests.kit.processes import ROOT, clean_environment, old_file, run, start_peer, start_tracker

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"), pytest.mark.timeout(120)]

SLOW_MACHINE = 250.0
"""Milliseconds that 99 in a hundred answers may take where the two cores are shared with other tests."""


def soak(name: str, folder: Path, only: str = "") -> list[Outcome]:
    """Run a scenario in short. What it printed is shown when the test fails."""
    found = asyncio.run(outcomes_of(name, Scale(short=True, only=only), str(folder)))
    for one in found:
        print(json.dumps(one.to_json(), indent=1))
    return found


def figures(outcome: Outcome) -> dict[str, float]:
    """The figures that were held against bounds, by their names."""
    return {check.what: check.figure for check in outcome.checks}


def check_nothing_is_left(outcome: Outcome) -> None:
    """The common rule: descriptors are back, nothing was logged that fills a disk or shows our insides, and a
    fresh ping is answered."""
    found = figures(outcome)
    assert found["descriptors more than before"] <= 2
    assert found["bytes of log"] < 1 << 20
    assert found["tracebacks"] == 0
    assert found["pings that fail afterwards"] == 0


def test_the_probe_asks_once_at_least(tmp_path: Path) -> None:
    with start_tracker(tmp_path) as tracker:
        words = [
            sys.executable,
            str(ROOT / "bench" / "soaking" / "probe.py"),
            "127.0.0.1",
            str(tracker.port),
            "100",
            "kept",
        ]
        done = run(words, clean_environment(tmp_path / "state"))
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["times"]) == 1


def test_a_soak_leaves_the_limit_of_descriptors_as_it_was() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with many_descriptors():
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_case_12_thousands_of_idle_connections_to_a_peer_keep_nobody_out_and_are_ended_in_time(
    tmp_path: Path,
) -> None:
    for outcome in soak("idle", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a healthy client did not get"] == 0, outcome.scenario
        assert found["p99 of a healthy client, ms"] < SLOW_MACHINE
        assert found["RSS, MiB"] < 150
        assert found["connections left after the deadline"] == 0
        check_nothing_is_left(outcome)


def test_case_13_slow_ones_are_cut_by_a_deadline_for_the_whole_message_and_hold_nobody_up(
    tmp_path: Path,
) -> None:
    for outcome in soak("slow", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a healthy client did not get"] == 0
        assert found["p99 of a healthy client, ms more than before"] < SLOW_MACHINE
        assert found["slow ones left after the deadline"] == 0, "each byte moves a deadline of its own"
        check_nothing_is_left(outcome)


def test_case_14_a_peer_to_which_thousands_come_and_go_leaks_nothing_and_logs_little(tmp_path: Path) -> None:
    for outcome in soak("churn", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a healthy client did not get"] == 0
        assert found["lines of log a second"] < 10
        assert outcome.notes["threads more than before"] <= 4
        check_nothing_is_left(outcome)


def test_case_21_hundreds_that_come_back_to_a_tracker_within_a_second_are_registered_again_with_either_store(
    tmp_path: Path,
) -> None:
    outcomes = soak("herd", tmp_path)
    assert [one.target for one in outcomes] == ["tracker, memory", "tracker, sqlite"]
    for outcome in outcomes:
        found = figures(outcome)
        assert found["peers registered"] == 300
        assert found["seconds until all are registered"] < 30


def test_case_21_a_peer_whose_tracker_hangs_up_on_everybody_comes_back_later_and_later_and_never_within_a_second(
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
        came: list[float] = []
        with _door(port) as door:
            while len(came) < 3:
                sock, _ = door.accept()
                came.append(time.monotonic())
                sock.close()
        gaps = [later - earlier for earlier, later in itertools.pairwise(came)]
        assert all(gap >= 0.95 for gap in gaps), gaps
        assert gaps[-1] > gaps[0], f"it does not come later each time: {gaps}"
        with start_tracker(tmp_path, port=port) as again:
            peer.event("session", timeout=40, state="resumed")
            assert again.err == ""


@contextlib.contextmanager
def _door(port: int) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", port)) as door:
        door.settimeout(40)
        yield door


def test_case_60_a_peer_without_descriptors_goes_on_with_those_inside_and_recovers(tmp_path: Path) -> None:
    for outcome in soak("descriptors", tmp_path, "peer"):
        found = figures(outcome)
        assert found["answers that a client inside did not get"] == 0
        assert found["processor while exhausted, share of one"] < 0.5
        assert outcome.recovery is not None
        assert outcome.recovery < 10, "one that waits at the door when it opens again is let in"
        check_nothing_is_left(outcome)


def test_case_61_a_hundred_readers_of_a_large_file_cost_little_memory(tmp_path: Path) -> None:
    (outcome,) = soak("memory", tmp_path)
    found = figures(outcome)
    assert found["RSS, MiB"] < 128
    assert found["connections that broke"] == 0
    assert found["blocks read"] > 100
    check_nothing_is_left(outcome)


def test_case_62_a_peer_that_can_start_no_thread_refuses_what_needs_one_and_lives(tmp_path: Path) -> None:
    (outcome,) = soak("threads", tmp_path)
    found = figures(outcome)
    assert found["of which were served"] == 0
    assert found["pings that fail meanwhile"] == 0
    assert found["served when there are threads again"] == 1
    check_nothing_is_left(outcome)


def test_case_63_a_little_of_everything_for_a_while_leaves_tracker_and_peer_as_they_were(
    tmp_path: Path,
) -> None:
    for outcome in soak("mixed", tmp_path):
        found = figures(outcome)
        assert found["still alive"] == 1
        assert found["answers that a healthy client did not get"] == 0
        assert found["descriptors more than before"] <= 2
        assert found["tracebacks"] == 0


def test_case_64_a_flood_of_nonsense_fills_no_log_and_no_word_of_it_is_repeated(tmp_path: Path) -> None:
    outcomes = soak("log", tmp_path)
    assert [one.target for one in outcomes] == ["tracker", "peer"]
    for outcome in outcomes:
        found = figures(outcome)
        assert found["bytes of log"] < 20_000
        assert found["words of callers in the log"] == 0
        assert found["answers that a healthy client did not get"] == 0
        check_nothing_is_left(outcome)
