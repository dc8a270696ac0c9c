"""A download, the only seed or the tracker is killed at random (case 49): a kill costs a few blocks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.crashing import BLOCK, pieces_asked, share, window
from tests.kit.effort import limit, times
from tests.kit.processes import (
    DEADLINE,
    Running,
    clean_environment,
    command,
    events_of,
    held_port,
    old_file,
    start_peer,
    start_tracker,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a thing of POSIX")

PIECES = 200
SIZE = PIECES * BLOCK
LIMIT = 2 << 20
"""Bytes a second. The content takes six seconds, so that a kill falls into the middle. One window is about a
third of all pieces, so that a loss of more than it would be seen."""


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def right_pieces(part: Path, data: bytes) -> set[int]:
    """The pieces that are on disk and right."""
    found = part.read_bytes() if part.exists() else b""
    return {
        piece
        for piece in range(PIECES)
        if found[piece * BLOCK : (piece + 1) * BLOCK] == data[piece * BLOCK : (piece + 1) * BLOCK]
    }


def kill_after(peer: Running, trace: Path, goal: int) -> bool:
    """Kill a traced download when it has asked for `goal` pieces; returns False if it ended before."""
    end = time.monotonic() + DEADLINE
    while peer.poll() is None and len(pieces_asked(trace)) < goal:
        assert time.monotonic() < end, peer.err
        time.sleep(0.002)
    peer.send(signal.SIGKILL)
    return peer.wait() == -signal.SIGKILL


@limit(300)
def test_case_49_a_killed_download_fetches_again_only_what_was_under_way(
    tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(SIZE)
    path = old_file(tmp_path / "share" / "image.bin", data)
    most_kills, contents, began = times(15), 0, time.monotonic()
    lost: list[int] = []
    with share(tmp_path, path) as swarm:
        while len(lost) < most_kills:
            contents += 1
            out = tmp_path / f"out-{contents}"
            target, part = out / "image.bin", out / "image.bin.part"
            words = swarm.words("image.bin", out, "--limit", str(LIMIT))
            here: set[int] = set()
            for run_ in range(12):
                trace = tmp_path / f"trace-{contents}-{run_}"
                goal = rng.randint(0, (PIECES - len(here)) // rng.choice((1, 2, 4)))
                line = [*command("peer"), *words[1:], "--trace", str(trace)]
                with Running(line, clean_environment(tmp_path / "state-leech")) as leech:
                    died = kill_after(leech, trace, goal)
                asked = pieces_asked(trace)
                assert not here & set(asked), "a piece that was here and right is fetched again"
                assert len(asked) == len(set(asked)), "a piece is asked for twice of one source"
                if target.exists():
                    assert target.read_bytes() == data
                    break
                assert died, leech.err
                here = right_pieces(part, data)
                lost.append(len(set(asked) - here))
                if len(here) == PIECES:
                    break
            ended = swarm.plain(words)
            assert ended.code in ((0, 7) if target.exists() else (0,)), ended.err
            assert target.read_bytes() == data
            assert [entry.name for entry in out.iterdir()] == ["image.bin"]
    seconds = time.monotonic() - began
    print(
        f"{len(lost)} kills over {contents} downloads in {seconds:.0f} s; blocks lost by a kill: "
        f"{max(lost)} at most, {sum(lost) / len(lost):.2f} in the mean; the window is {window(LIMIT)}"
    )
    assert window(LIMIT) < PIECES / 2, "or the bound below could not be broken"
    assert max(lost) <= window(LIMIT)


@contextlib.contextmanager
def three_downloads(folder: Path, content: str, tracker: str) -> Iterator[list[Running]]:
    """Three peers that fetch a content at a rate that lets kills fall in between."""
    with contextlib.ExitStack() as stack:
        words = ["download", content, "--limit", str(LIMIT), "--seed", "-o"]
        yield [
            stack.enter_context(
                start_peer(folder, *words, str(folder / f"out-{name}"), tracker=tracker, name=name)
            )
            for name in ("a", "b", "c")
        ]


def wait_for_bytes(peer: Running, goal: int) -> None:
    """Wait until a download has so many bytes. Events are not consumed: a later wait still sees them."""
    end = time.monotonic() + 3 * DEADLINE
    while bytes_of(peer) < goal:
        assert time.monotonic() < end, f"{peer.out}\n{peer.err}"
        time.sleep(0.02)


def bytes_of(peer: Running) -> int:
    """The most bytes that a download has reported so far; all when it is done."""
    told = events_of(peer.out)
    if any(event["event"] == "done" for event in told):
        return SIZE
    return max(
        (
            event["bytes"]
            for event in told
            if event["event"] == "progress" and event["phase"] == "downloading"
        ),
        default=0,
    )


@limit(300)
def test_case_49_three_downloads_finish_though_the_only_seed_is_killed(
    tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(SIZE)
    path = old_file(tmp_path / "share" / "image.bin", data)
    kills = times(3)
    with (
        held_port() as port,
        start_tracker(tmp_path, "--ttl", "3") as tracker,
        contextlib.ExitStack() as seeds,
    ):

        def start_seed() -> Running:
            return seeds.enter_context(
                start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin", port=port)
            )

        seed = start_seed()
        content = seed.event("shared")["id"]
        with three_downloads(tmp_path, content, tracker.address) as peers:
            for goal in sorted(rng.randrange(SIZE * 9 // 10) for _ in range(kills)):
                wait_for_bytes(rng.choice(peers), goal)
                seed.send(signal.SIGKILL)
                assert seed.wait() == -signal.SIGKILL
                seed = start_seed()
                seed.event("shared")
            for peer in peers:
                assert peer.event("done", 90.0)["size"] == SIZE
                assert "Traceback" not in peer.err
    for name in ("a", "b", "c"):
        assert (tmp_path / f"out-{name}" / "image.bin").read_bytes() == data
        assert [entry.name for entry in (tmp_path / f"out-{name}").iterdir()] == ["image.bin"]


@limit(300)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_case_49_three_downloads_finish_though_the_tracker_is_killed(
    tmp_path: Path, rng: random.Random, store: str
) -> None:
    data = rng.randbytes(SIZE)
    path = old_file(tmp_path / "share" / "image.bin", data)
    where = "memory" if store == "memory" else f"sqlite:{tmp_path / 'tracker.db'}"
    kills = times(3)
    with held_port() as port, contextlib.ExitStack() as trackers:

        def start() -> Running:
            return trackers.enter_context(start_tracker(tmp_path, "--ttl", "3", port=port, store=where))

        tracker = start()
        with start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed:
            content = seed.event("shared")["id"]
            with three_downloads(tmp_path, content, tracker.address) as peers:
                for goal in sorted(rng.randrange(SIZE * 9 // 10) for _ in range(kills)):
                    wait_for_bytes(rng.choice(peers), goal)
                    tracker.send(signal.SIGKILL)
                    assert tracker.wait() == -signal.SIGKILL
                    tracker = start()
                for peer in peers:
                    assert peer.event("done", 90.0)["size"] == SIZE
                    assert "Traceback" not in peer.err
    for name in ("a", "b", "c"):
        assert (tmp_path / f"out-{name}" / "image.bin").read_bytes() == data
