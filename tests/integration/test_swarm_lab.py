"""`bench/swarm.py` as its page tells it: real peers on hosts of their own behind shaped links, and what it
makes of what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import swarm, swarm_plot
from bench.netns import why_not
from bench.rivals.swarms import Aria2, Enjambre, Libtorrent, Step

needs_lab = pytest.mark.skipif(bool(why_not()), reason=why_not())


@needs_lab
@pytest.mark.parametrize("case", ["equal", "killed"])
def test_a_small_lab_measures_every_receiver_that_lives(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, drawn = tmp_path / "found.json", tmp_path / "found.svg"
    argv = [
        "--only",
        "enjambre",
        "--peers",
        "4",
        "--size",
        "4M",
        "--rate",
        "20",
        "--case",
        case,
        "--out",
        str(found),
    ]
    assert swarm.main(argv) == 0
    (outcome,) = json.loads(found.read_text())["outcomes"]
    killed = [one for one in outcome["receivers"] if one["killed"]]
    assert len(killed) == (1 if case == "killed" else 0)
    assert all(one["seconds"] > 0 for one in outcome["receivers"] if not one["killed"])
    assert outcome["ratio"] >= 1.0
    assert outcome["copies"] > 0.9
    assert "completion ratio" in capsys.readouterr().out
    assert swarm_plot.main([str(found), str(drawn)]) == 0
    assert "simulated" in drawn.read_text()


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
def test_what_our_receivers_say_is_understood(line: str, step: Step | None) -> None:
    assert Enjambre.step(Enjambre.__new__(Enjambre), line) == step


def test_what_libtorrent_and_aria2_say_is_understood() -> None:
    assert Libtorrent.step(
        Libtorrent.__new__(Libtorrent), '{"event":"done","bytes":9,"seconds":2.5}'
    ) == Step(9, True, 2.5)
    aria = Aria2.__new__(Aria2)
    aria.size = 9
    assert aria.step("[#5f1c9a 24MiB/64MiB(37%) CN:5 SD:1 DL:2.2MiB]") == Step(24 * 1024 * 1024)
    assert aria.step("11/25 10:00:00 [NOTICE] Download complete: /x") == Step(9, True)
    assert aria.step("[#5f1c9a SEED(0.0) CN:5 SD:1 UL:2.2MiB(9MiB)]") == Step(9, True)
    assert aria.step("something else") is None
