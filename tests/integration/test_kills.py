"""Processes that are killed or stopped by signals: the swarm goes on, and the tracker forgets them in
time."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.kit.processes import DEADLINE, old_file, run_peer, start_peer, start_tracker

SIZE = 8_000_000
PIECES = -(-SIZE // 65536)


def _pieces_read_of(trace: Path) -> set[int]:
    """The pieces that a traced peer was asked for."""
    found = set()
    for line in trace.read_text().splitlines()[:-1] if trace.exists() else ():
        message = json.loads(line)["message"]
        if isinstance(message, dict) and message.get("op") == "read":
            found.add(message["piece"])
    return found


def test_the_rest_of_a_swarm_finishes_together_when_the_only_seed_is_killed_half_way(tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    trace = tmp_path / "trace.jsonl"
    path = old_file(tmp_path / "share" / "image.bin", data)
    with start_tracker(tmp_path, "--ttl", "3") as tracker:
        with start_peer(
            tmp_path, "share", str(path), "--trace", str(trace), tracker=tracker.address, name="origin"
        ) as seed:
            content = seed.event("shared")["id"]
            words = ["download", content, "--limit", "2M", "--seed", "-o"]
            with (
                start_peer(tmp_path, *words, str(tmp_path / "a"), tracker=tracker.address, name="a") as a,
                start_peer(tmp_path, *words, str(tmp_path / "b"), tracker=tracker.address, name="b") as b,
            ):
                until = time.monotonic() + DEADLINE
                while len(_pieces_read_of(trace)) < PIECES:
                    assert time.monotonic() < until, "the seed did not give every piece once"
                    a.event("progress")
                seed.send(signal.SIGKILL)
                assert seed.wait() == -signal.SIGKILL
                done = [one.event("done", 60.0) for one in (a, b)]
        assert (tmp_path / "a" / "image.bin").read_bytes() == data
        assert (tmp_path / "b" / "image.bin").read_bytes() == data
        assert "b" in done[0]["bytes_from"]
        assert "a" in done[1]["bytes_from"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_case_51_a_peer_that_is_stopped_is_out_of_all_answers_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = old_file(tmp_path / "share" / "image.bin", b"some bytes")
    with (
        start_tracker(tmp_path, "--ttl", "600") as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed,
    ):
        seed.event("shared")
        assert len(run_peer(tmp_path, "list", tracker=tracker.address).events) == 1
        assert seed.stop(number)[0] == 128 + number
        assert run_peer(tmp_path, "list", tracker=tracker.address).events == []
        assert run_peer(tmp_path, "peers", tracker=tracker.address).events == []


def test_case_20_a_peer_killed_without_a_word_is_gone_within_its_time_to_live(tmp_path: Path) -> None:
    path = old_file(tmp_path / "share" / "image.bin", b"some bytes")
    with (
        start_tracker(tmp_path, "--ttl", "2") as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed,
    ):
        seed.event("shared")
        seed.send(signal.SIGKILL)
        seed.wait()
        until = time.monotonic() + DEADLINE
        while run_peer(tmp_path, "list", tracker=tracker.address).events:
            assert time.monotonic() < until


def test_a_file_that_changes_while_shared_is_never_served_under_its_old_id(tmp_path: Path) -> None:
    path = old_file(tmp_path / "share" / "notes.txt", b"the first words")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "serve", str(path.parent), tracker=tracker.address, name="origin") as seed,
    ):
        old = seed.event("shared")["id"]
        path.write_bytes(b"other words entirely")
        assert seed.event("withdrawn")["id"] == old
        new = seed.event("shared")["id"]
        assert new != old
        assert (
            run_peer(tmp_path, "download", old, "-o", str(tmp_path / "old"), tracker=tracker.address).code
            == 3
        )
        assert (
            run_peer(tmp_path, "download", new, "-o", str(tmp_path / "new"), tracker=tracker.address).code
            == 0
        )
        assert (tmp_path / "new" / "notes.txt").read_bytes() == b"other words entirely"
        path.unlink()
        assert seed.event("withdrawn")["id"] == new


def test_case_34_two_contents_with_one_name_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    one = old_file(tmp_path / "x" / "notes.txt", b"one")
    two = old_file(tmp_path / "y" / "notes.txt", b"two, which is longer")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(one), str(two), tracker=tracker.address, name="origin") as seed,
    ):
        ids = {seed.event("shared")["id"], seed.event("shared")["id"]}
        refused = run_peer(
            tmp_path, "download", "notes.txt", "-o", str(tmp_path / "out"), tracker=tracker.address
        )
        assert refused.code == 3
        assert all(content in refused.err for content in ids)
        for content in ids:
            folder = tmp_path / content[:8]
            assert (
                run_peer(tmp_path, "download", content, "-o", str(folder), tracker=tracker.address).code == 0
            )
        assert {(tmp_path / content[:8] / "notes.txt").read_bytes() for content in ids} == {
            b"one",
            b"two, which is longer",
        }
        first, second = ids
        both = tmp_path / "both"
        assert run_peer(tmp_path, "download", first, "-o", str(both), tracker=tracker.address).code == 0
        before = (both / "notes.txt").read_bytes()
        assert run_peer(tmp_path, "download", second, "-o", str(both), tracker=tracker.address).code == 7
        assert (both / "notes.txt").read_bytes() == before


def test_case_40_a_download_that_runs_goes_on_when_the_tracker_is_killed(tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    path = old_file(tmp_path / "share" / "image.bin", data)
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed,
    ):
        content = seed.event("shared")["id"]
        out = tmp_path / "out"
        with start_peer(
            tmp_path,
            "download",
            content,
            "--limit",
            "4M",
            "-o",
            str(out),
            tracker=tracker.address,
            name="leech",
        ) as leech:
            while leech.event("progress")["bytes"] < SIZE // 4:
                pass
            tracker.send(signal.SIGKILL)
            tracker.wait()
            assert leech.event("done", 60.0)["size"] == SIZE
            assert leech.wait() == 0
        assert (out / "image.bin").read_bytes() == data
        late = run_peer(tmp_path, "download", content, "-o", str(tmp_path / "late"), tracker=tracker.address)
        assert late.code == 6
        assert tracker.address in late.err


def test_case_40_a_share_is_listed_again_soon_after_its_tracker_was_killed(
    tmp_path: Path,
) -> None:
    path = old_file(tmp_path / "share" / "image.bin", b"some bytes")
    with start_tracker(tmp_path, "--ttl", "3600") as tracker:
        port = tracker.port
        with start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed:
            seed.event("shared")
            tracker.stop(signal.SIGKILL)
            with start_tracker(tmp_path, "--ttl", "3600", port=port):
                seed.event("session", state="lost")
                seed.event("session", state="resumed")
                assert len(run_peer(tmp_path, "list", tracker=f"127.0.0.1:{port}").events) == 1


def test_the_tracker_learns_how_much_of_a_content_a_download_has(tmp_path: Path) -> None:
    path = old_file(tmp_path / "share" / "image.bin", os.urandom(SIZE))
    with (
        start_tracker(tmp_path, "--ttl", "2") as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed,
    ):
        content = seed.event("shared")["id"]
        words = ["download", content, "--limit", "1M", "-o", str(tmp_path / "out")]
        with start_peer(tmp_path, *words, tracker=tracker.address, name="leech") as leech:
            while leech.event("progress")["bytes"] < SIZE // 4:
                pass
            shares: list[int] = []
            while not shares or not 0 < shares[0] < SIZE:
                info = run_peer(tmp_path, "info", content, tracker=tracker.address)
                shares = [
                    event["have"]
                    for event in info.events
                    if event["event"] == "peer" and event["name"] == "leech"
                ]
                assert shares, "the download ended before the tracker knew of any of it"
