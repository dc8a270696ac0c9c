"""Named situations of a swarm, made from a size, a rate and a number of receivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from p2p.content.geometry import Geometry
from p2p.errors import UsageError
from p2p.sim.plan import Plan
from p2p.sim.world import Conditions, World
from p2p.value import frozen

STARTS: Final = 0.07
"""Seconds from one receiver's start to the next one's in a small swarm, as when 16 interpreters start on two
cores."""
CROWD: Final = 1.0
"""Seconds in which a large swarm has started."""
FINE: Final = 64
"""Receivers up to which links are shared by quarters of a block; above that by whole blocks, to save time."""


@frozen
class Setup:
    """What a scenario is made from: receivers, pieces, their length in bytes, the rate of links in bytes a
    second, delay in seconds."""

    peers: int
    pieces: int
    piece_length: int
    rate: float
    delay: float
    degree: int
    seed: int

    @property
    def ideal(self) -> float:
        """Seconds that a link needs for all of it."""
        return self.pieces * self.piece_length / self.rate


Make = Callable[[list[Plan], Setup, Random], list[Plan]]
"""Makes the receivers of a scenario from plain ones."""


def _flash(plans: list[Plan], _setup: Setup, _rng: Random) -> list[Plan]:
    return [replace(plan, joins=0.0) for plan in plans]


def _killed(plans: list[Plan], setup: Setup, _rng: Random) -> list[Plan]:
    half = 0.55 * setup.ideal
    return [replace(plan, leaves=half) if number % 4 == 0 else plan for number, plan in enumerate(plans)]


def _slow(plans: list[Plan], setup: Setup, _rng: Random) -> list[Plan]:
    quarter = setup.rate / 4
    return [
        replace(plan, up=quarter, down=quarter) if number % 2 else plan for number, plan in enumerate(plans)
    ]


def _churn(plans: list[Plan], setup: Setup, rng: Random) -> list[Plan]:
    """A fifth is killed at some time, and a fifth comes later."""
    made = []
    for plan in plans:
        lot = rng.random()
        if lot < 0.2:
            made.append(replace(plan, leaves=plan.joins + rng.uniform(0.05, 0.9) * setup.ideal))
        else:
            made.append(replace(plan, joins=rng.uniform(0, setup.ideal)) if lot < 0.4 else plan)
    return made


def _late(plans: list[Plan], setup: Setup, _rng: Random) -> list[Plan]:
    return [
        replace(plan, joins=plan.joins + (setup.ideal / 2 if number % 4 == 3 else 0))
        for number, plan in enumerate(plans)
    ]


def _corrupting(plans: list[Plan], _setup: Setup, _rng: Random) -> list[Plan]:
    return [replace(plan, corrupts=0.5) if number % 8 == 1 else plan for number, plan in enumerate(plans)]


def _stalling(plans: list[Plan], _setup: Setup, rng: Random) -> list[Plan]:
    return [
        replace(plan, stalls_after=rng.randrange(20)) if number % 8 == 1 else plan
        for number, plan in enumerate(plans)
    ]


def _riders(plans: list[Plan], _setup: Setup, _rng: Random) -> list[Plan]:
    return [replace(plan, rides=True) if number % 4 == 1 else plan for number, plan in enumerate(plans)]


def _leaving(plans: list[Plan], _setup: Setup, _rng: Random) -> list[Plan]:
    return [replace(plan, stays=0.0) for plan in plans]


SCENARIOS: Final[dict[str, tuple[Make | None, str]]] = {
    "equal": (None, "all links are equal, and all begin within a second or so"),
    "flash": (_flash, "all begin in the same moment"),
    "killed": (_killed, "a quarter is killed half way"),
    "slow": (_slow, "half of the receivers have a quarter of the rate"),
    "churn": (_churn, "a fifth is killed at some time, a fifth comes late"),
    "late": (_late, "a quarter comes when the others are half way"),
    "corrupt": (_corrupting, "an eighth alters half of what it sends"),
    "stall": (_stalling, "an eighth falls silent after some blocks"),
    "riders": (_riders, "a quarter takes and gives nothing"),
    "leave": (_leaving, "who has all leaves at once, as `download` without --seed does"),
    "origin": (None, "the origin is killed in the moment in which the others together have all"),
}
"""By name: what becomes of the receivers, and a sentence."""


def make(name: str, setup: Setup) -> World:
    """The world of a scenario. Raises `UsageError` for a name that there is not."""
    if name not in SCENARIOS:
        raise UsageError(f"scenario: {name!r} is not known; there are: {', '.join(SCENARIOS)}")
    change = SCENARIOS[name][0]
    rng = Random(setup.seed)
    step = min(STARTS, CROWD / setup.peers)
    rate = setup.rate
    plans = [Plan(f"peer{number}", rate, rate, joins=step * (number + 1)) for number in range(setup.peers)]
    plans = change(plans, setup, rng) if change is not None else plans
    origin = Plan("origin", rate, rate, seed=True)
    geometry = Geometry(setup.pieces * setup.piece_length, setup.piece_length)
    chunk = geometry.block_length // 4 if setup.peers <= FINE else geometry.block_length
    conditions = Conditions(
        geometry,
        setup.ideal,
        delay=setup.delay,
        chunk=chunk,
        degree=setup.degree,
        origin_leaves=name == "origin",
    )
    return World(conditions, [origin, *plans], setup.seed)
