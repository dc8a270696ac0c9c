"""The simulator: one seed one story, and in every story each live download ends with all, whatever the others
do.

`p2p/sim` itself raises `SimulationFault` when a peer is asked for what it lacks, or something is left of what
is over.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.cli import simulate
from p2p.content.geometry import Geometry
from p2p.model import KIB
from p2p.sim.plan import Plan
from p2p.sim.report import figures, ratio, svg
from p2p.sim.scenarios import SCENARIOS, Setup, make
from p2p.sim.world import Conditions, SimulationFault, World
from tests.kit.effort import examples, statistics

RATE = 2_500_000.0
SMALL = Setup(peers=12, pieces=96, piece_length=64 * KIB, rate=RATE, delay=0.001, degree=40, seed=7)


@pytest.mark.parametrize("name", SCENARIOS)
def test_in_every_scenario_all_who_live_complete(name: str) -> None:
    world = make(name, SMALL)
    world.run()
    found = figures(world)
    assert found.completed + found.gone == found.peers
    assert found.completed >= found.peers * 3 // 4 - 1
    assert found.copies < 4


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    traces = []
    for seed in (7, 7, 8):
        world = make("churn", replace(SMALL, seed=seed))
        world.run()
        traces.append(world.trace_hash)
    assert traces[0] == traces[1] != traces[2]


def test_sixteen_receivers_need_little_more_than_one_link_and_one_origin_copy() -> None:
    world = make("equal", replace(SMALL, peers=16, pieces=512))
    world.run()
    found = figures(world)
    assert found.slowest <= 1.2
    assert found.copies <= 1.1


def test_an_origin_that_is_killed_when_the_others_have_all_together_is_not_missed() -> None:
    world = make("origin", replace(SMALL, pieces=512))
    world.run()
    assert not world.peers[0].here
    assert figures(world).completed == SMALL.peers


def test_of_unequal_links_the_fast_ones_are_not_held_up() -> None:
    world = make("slow", replace(SMALL, peers=16, pieces=512))
    world.run()
    fast = [ratio(world, peer) or 99.0 for peer in world.peers[1:] if peer.plan.down == RATE]
    assert len(fast) == 8
    assert max(fast) <= 1.4


def test_a_crowd_spreads_the_content_and_does_not_stand_in_line_at_the_origin() -> None:
    world = make("flash", replace(SMALL, peers=100, pieces=128, degree=10))
    world.run()
    assert figures(world).slowest <= 3.0


def test_a_download_from_nobody_gives_up_and_names_what_is_missing() -> None:
    geometry = Geometry(4 * 64 * KIB, 64 * KIB)
    origin = Plan("origin", RATE, RATE, seed=True, leaves=0.001)
    world = World(
        Conditions(geometry, 1.0, patience=2000.0), [origin, Plan("late", RATE, RATE, joins=1.0)], 1
    )
    world.run()
    assert world.peers[1].gave_up == (0, 1, 2, 3)
    assert figures(world).completed == 0


def test_a_world_that_does_not_end_says_so_with_its_seed() -> None:
    world = make("equal", SMALL)
    world.conditions.patience = 0.1
    with pytest.raises(SimulationFault, match="seed 7"):
        world.run()


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A random swarm with one origin that stays, and peers of all kinds."""
    seed = draw(st.integers(0, 2**32))
    rng = Random(seed)
    length = draw(st.sampled_from((64 * KIB, 256 * KIB, 4096 * KIB)))
    geometry = Geometry(
        draw(st.integers(1, 40 if length < 1024 * KIB else 6)) * length - rng.randrange(length // 2), length
    )
    ideal = geometry.size / RATE
    plans = [Plan("origin", RATE, RATE, seed=True)]
    for number in range(draw(st.integers(1, 14))):
        rate = rng.choice((RATE, RATE, RATE / 4))
        plan = Plan(f"peer{number}", rate, rate, joins=rng.choice((0.0, rng.uniform(0, ideal))))
        kind = draw(
            st.sampled_from(("plain", "plain", "plain", "killed", "corrupts", "stalls", "rides", "leaves"))
        )
        changes: dict[str, object] = {
            "killed": {"leaves": plan.joins + rng.uniform(0, 2 * ideal)},
            "corrupts": {"corrupts": rng.choice((0.1, 1.0))},
            "stalls": {"stalls_after": rng.randrange(10)},
            "rides": {"rides": True},
            "leaves": {"stays": rng.uniform(0, ideal)},
        }
        plans.append(replace(plan, **changes.get(kind, {})))  # type: ignore[arg-type]
    delay = draw(st.sampled_from((0.0005, 0.01, 0.1)))
    conditions = Conditions(
        geometry, max(ideal, 1.0), delay=delay, degree=draw(st.integers(2, 20)), patience=1000.0
    )
    return World(conditions, plans, seed)


@given(world=worlds())
@examples(200)
def test_case_59_in_random_swarms_every_live_download_completes(world: World) -> None:
    world.run()
    for peer in world.peers[1:]:
        alive = peer.plan.leaves is None or peer.plan.leaves > world.clock.now
        world.must(peer.finished or not alive, f"{peer.plan.name} completes")
        world.must(
            not peer.banned or all(world.peers[0].key != key for key in peer.banned),
            "the origin is banned by nobody",
        )


@given(world=worlds())
@statistics(200)
def test_case_59_in_random_swarms_the_origin_sends_at_most_one_copy_a_receiver(
    world: World,
) -> None:
    world.run()
    receivers = world.peers[1:]
    # What goes twice at the tail, or was altered on its way through others, is little; but a content of very
    # few pieces is all tail.
    copies = len(receivers) * (world.policy.max_asked if world.geometry.pieces <= 4 else 1) + 2.0
    world.must(world.copies() <= copies, f"{world.copies():.2f} origin copies for {len(receivers)} receivers")


def test_the_command_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "swarm.svg"
    assert simulate.main(["late", "--peers", "4", "--pieces", "32", "--svg", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "4 of 4" in out
    assert "origin copies" in picture.read_text()


def test_the_command_prints_samples_peers_and_figures_as_json_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulate.main(["--json", "--peers", "4", "--pieces", "32"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["event"] for row in rows} == {"sample", "peer", "done"}
    assert rows[-1]["completed"] == 4
    assert len(rows[-1]["trace"]) == 32
    assert rows[-2]["state"] == "completed"


def test_the_command_lists_its_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--list"]) == 0
    assert all(name in capsys.readouterr().out for name in ("flash",))


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["nothing"], "scenario"),
        (["--peers", "0"], "--peers"),
        (["--piece", "65K"], "--piece"),
        (["--rate", "x"], "--rate"),
    ],
)
def test_the_command_refuses_nonsense_and_names_it(
    argv: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate.main(argv) == 2
    assert word in capsys.readouterr().err


def test_a_plot_of_a_world_has_all_three_curves() -> None:
    world = make("equal", SMALL)
    world.run()
    drawn = svg("a & b", world.samples, SMALL.ideal)
    assert drawn.count("<polyline") == 3
    assert "a &amp; b" in drawn
