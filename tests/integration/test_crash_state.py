"""The session file and the hash cache of a peer that is killed at any call, or has a power cut (case 50)."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.model import Address
from p2p.peer.session_file import load_session
from tests.kit.crashing import Point, chosen, crash_environment, killed, launched, points_of
from tests.kit.power_cut import power_cut
from tests.kit.processes import Ended, Running, clean_environment, command, old_file, run, start_tracker

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a thing of POSIX")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with start_tracker(tmp_path_factory.mktemp("tracker")) as started:
        started.port = started.port or 0
        yield started


def at_state(place: Path, words: list[str], tracker: Running, point: Point | None, log: str) -> Ended:
    """Run a peer command under the launcher, which counts what happens in the state folder."""
    (place / "save").mkdir(parents=True, exist_ok=True)
    line = launched(["peer", words[0], "--json", "--tracker", tracker.address, *words[1:]])
    return run(line, crash_environment(place / "state", place / "state", place / log, point, place / "save"))


def plain(place: Path, tracker: Running, *words: str) -> Ended:
    """Run a peer command as a user does."""
    return run(
        [*command("peer"), words[0], "--json", "--tracker", tracker.address, *words[1:]],
        clean_environment(place / "state"),
    )


@pytest.mark.parametrize("cut", [False, True], ids=["kill", "power"])
def test_case_50_a_killed_login_or_logout_leaves_the_old_session_or_the_new(
    tmp_path: Path, tracker: Running, cut: bool
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    where = Address.parse(tracker.address)
    whole = tmp_path / "whole"
    for words in (["login", "alice"], ["login", "bob"], ["logout"]):
        assert at_state(whole, words, tracker, None, words[-1]).code == 0
    died = 0
    for words in (["login", "alice"], ["login", "bob"], ["logout"]):
        points = points_of(whole / words[-1])
        renamed = [point for point in points if point == Point("replace", 1, "after")]
        for point in dict.fromkeys(renamed + chosen(points, 4, rng)):
            place = tmp_path / f"{words[-1]}-{point}"
            if words != ["login", "alice"]:
                assert plain(place, tracker, "login", "alice").code == 0
            before = load_session(place / "state", where)
            ended = at_state(place, words, tracker, point, "log")
            died += killed(ended)
            if cut:
                worst = "bytes" if point in renamed else rng.choice(("", "all", "bytes"))
                power_cut(place / "log", [place / "state", place / "save"], rng, worst=worst)
            after = load_session(place / "state", where)
            # A login under another name ends the session before it first, so there is none in between.
            new = {"alice": ("alice",), "bob": (None, "bob"), "logout": (None,)}[words[-1]]
            assert after == before or (after.user if after else None) in new, f"{words} {point}: {after}"
            assert plain(place, tracker, "status").code == 0, f"{words} {point}"
            assert plain(place, tracker, "login", "carol").code == 0, f"{words} {point}"
            now = load_session(place / "state", where)
            assert now is not None
            assert now.user == "carol"
            left = [path.name for path in (place / "state").iterdir()]
            assert len(left) == 1, f"{words} {point}: left behind {left}"
    assert died >= 8


@pytest.mark.parametrize("cut", [False, True], ids=["kill", "power"])
def test_case_50_a_share_killed_while_it_writes_its_cache_shares_the_same_later(
    tmp_path: Path, tracker: Running, cut: bool
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = old_file(tmp_path / "image.bin", rng.randbytes(500_000))

    def share(place: Path, point: Point | None) -> str:
        """Share until it dies or has shared; returns the content's id, or nothing if it died."""
        (place / "save").mkdir(parents=True, exist_ok=True)
        words = [
            "peer",
            "share",
            str(path),
            "--json",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--tracker",
            tracker.address,
        ]
        with Running(
            launched(words),
            crash_environment(place / "state", place / "state", place / "log", point, place / "save"),
        ) as peer:
            try:
                return str(peer.event("shared")["id"])
            except AssertionError:
                assert peer.poll() is not None
                assert "error" not in peer.out
                return ""

    content = share(tmp_path / "whole", None)
    kept = files_below(tmp_path / "whole" / "state")
    points = chosen(points_of(tmp_path / "whole" / "log"), 5, rng)
    (tmp_path / "whole" / "log").unlink()
    for point in points:
        place = tmp_path / str(point)
        share(place, point)
        if cut:
            power_cut(
                place / "log",
                [place / "state", place / "save"],
                rng,
                worst=rng.choice(("", "all", "bytes", "bytes")),
            )
        (place / "log").unlink()
        assert share(place, None) == content, str(point)
        found = files_below(place / "state")
        assert found == kept, f"{point}: left behind {found.keys() - kept.keys()}"


def files_below(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by path. Session files are JSON, and differ by their tokens."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    return {
        name: b"" if name.endswith(".json") and json.loads(data) else data for name, data in found.items()
    }
