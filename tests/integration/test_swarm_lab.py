"""Tests of `bench/run.py swarm`: real peers behind shaped links, and the output of each engine as it is
read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import run
from bench.lib.netns import why_not
from bench.rivals.swarms import Aria2, Enjambre, Libtorrent, Step

needs_lab = pytest.mark.skipif(bool(why_not()), reason=why_not())


@needs_lab
@pytest.mark.parametrize("case", ["equal", "killed"])
def test_every_surviving_receiver_is_measured(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    small = ["--only", "enjambre", "--peers", "4", "--size", "4M", "--rate", "20"]
    assert run.main(["swarm", *small, "--case", case, "--out", str(found)]) == 0
    (outcome,) = json.loads(found.read_text())["outcomes"]
    killed = [one for one in outcome["receivers"] if one["killed"]]
    assert len(killed) == (1 if case == "killed" else 0)
    assert all(one["seconds"] > 0 for one in outcome["receivers"] if not one["killed"])
    assert outcome["ratio"] >= 1.0
    assert outcome["copies"] > 0.9
    assert "completion ratio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ('{"event":"progress","phase":"downloading","bytes":7,"size":9,"rate":1,"peers":2}', Step(7)),
        (
            '{"event":"done","size":9,"seconds":1.5,"bytes_from":{"origin":4,"peer1":5}}',
            Step(9, True, 1.5, 4),
        ),
        ('{"event":"manifest","name":"x","size":9}', None),
    ],
)
def test_events_of_our_receivers_are_read(line: str, step: Step | None) -> None:
    assert Enjambre.step(line, 9) == step


def test_output_of_libtorrent_and_aria2_is_read() -> None:
    assert Libtorrent.step('{"event":"done","bytes":9,"seconds":2.5}', 9) == Step(9, True, 2.5)
    assert Aria2.step("[#5f1c9a 24MiB/64MiB(37%) CN:5 SD:1 DL:2.2MiB]", 9) == Step(24 * 1024 * 1024)
    assert Aria2.step("11/25 10:00:00 [NOTICE] Download complete: /x", 9) == Step(9, True)
    assert Aria2.step("[#5f1c9a SEED(0.0) CN:5 SD:1 UL:2.2MiB(9MiB)]", 9) == Step(9, True)
    assert Aria2.step("something else", 9) is None
