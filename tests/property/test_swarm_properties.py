"""Properties of a swarm: whatever conduct its peers have, an honest peer ends with all that honest peers
have.

The simulator drives real participants and checks after every event that no peer is asked for what it lacks,
that no more is under way than windows and buffers allow, that ticks alone are no busy loop, and that late
blocks change nothing. A failure names its seed.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from p2p.content.geometry import Geometry
from p2p.model import KIB, MIB
from p2p.sim.plan import Plan
from p2p.sim.shell import SimPeer
from p2p.sim.world import Conditions, World
from p2p.swarm.events import Failure
from p2p.swarm.peer_stats import Policy
from p2p.swarm.picker import numbers
from tests.kit.effort import examples, statistics

RATE = 2_500_000.0
RATES = (400_000.0, RATE, 12_500_000.0)
CONDUCTS = (
    "stalls",
    "stalls at once",
    "corrupts",
    "corrupts some",
    "lacks",
    "busy",
    "broken",
    "breaks some",
    "lies",
    "babbles",
    "leaves",
)
SMALL = st.integers(1, 24).map(lambda n: Geometry(n * 64 * KIB - 1234, 64 * KIB))
MIDDLE = st.integers(1, 6).map(lambda n: Geometry(n * 2 * MIB - 1234, 2 * MIB))
LARGE = st.integers(1, 2).map(lambda n: Geometry(n * 16 * MIB - 5 * MIB - 1, 16 * MIB))
QUICK = examples(150)


def misbehave(plan: Plan, kind: str, rng: Random, n: int) -> Plan:
    """The same peer with bad conduct."""
    changes: dict[str, dict[str, object]] = {
        "stalls": {"stalls_after": rng.randrange(1, 8)},
        "stalls at once": {"stalls_after": 0},
        "corrupts": {"corrupts": 1.0},
        "corrupts some": {"corrupts": 0.3},
        "lacks": {"refuses": Failure.LACKS},
        "busy": {"refuses": Failure.BUSY},
        "broken": {"refuses": Failure.BROKEN},
        "breaks some": {"refuses": Failure.BROKEN, "refuses_share": 0.4},
        "lies": {"claims": (1 << n) - 1, "has": rng.getrandbits(n)},
        "babbles": {"babbles": True},
        "leaves": {"leaves": rng.uniform(0.1, 3.0)},
    }
    return replace(plan, **changes[kind])  # type: ignore[arg-type]


def world_of(
    geometry: Geometry, plans: list[Plan], seed: int, *, delay: float = 0.001, policy: Policy | None = None
) -> World:
    chunk = max(16 * KIB, geometry.block_length // 8)
    conditions = Conditions(
        geometry,
        max(1.0, geometry.size / RATE),
        delay=delay,
        chunk=chunk,
        policy=policy,
        patience=3600.0,
        thorough=True,
    )
    return World(conditions, plans, seed)


@st.composite
def swarms(draw: st.DrawFn, geometry: Geometry, *, hostile: bool, whole: bool) -> World:
    """Some peers that serve, some that fetch, and where `hostile`, some of bad conduct. The honest ones
    together have all if `whole`."""
    seed = draw(st.integers(0, 2**32))
    rng, n = Random(seed), geometry.pieces
    servers, fetchers = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kinds = draw(st.lists(st.sampled_from(CONDUCTS), min_size=1, max_size=3)) if hostile else []
    held = [rng.getrandbits(n) for _ in range(servers)]
    lost = 0 if whole else 1 << rng.randrange(n) | rng.getrandbits(n)
    held[0] |= (1 << n) - 1 if whole else 0
    plans = [
        Plan(f"server{i}", rng.choice(RATES), rng.choice(RATES), has=bits & ~lost, serves_only=True)
        for i, bits in enumerate(held)
    ]
    for i in range(fetchers):
        has = rng.getrandbits(n) & rng.getrandbits(n) & ~lost
        joins = rng.choice((0.0, rng.uniform(0, 2)))
        plans.append(Plan(f"fetcher{i}", rng.choice(RATES), rng.choice(RATES), has=has, joins=joins))
    for i, kind in enumerate(kinds):
        bits = rng.choice(((1 << n) - 1, rng.getrandbits(n)))
        bad = Plan(f"bad{i} {kind}", rng.choice(RATES), rng.choice(RATES), has=bits, serves_only=True)
        plans.append(misbehave(bad, kind, rng, n))
    return world_of(geometry, plans, seed, delay=draw(st.sampled_from((0.0005, 0.005, 0.05))))


def honest_fetchers(world: World) -> list[SimPeer]:
    return [peer for peer in world.peers if peer.plan.fetches and peer.plan.fair and peer.plan.leaves is None]


def check_bans(world: World) -> None:
    plans = {peer.key: peer.plan for peer in world.peers}
    for peer in world.peers:
        for key in peer.banned:
            world.must(
                bool(plans[key].corrupts), f"{plans[key].name}, which sent nothing wrong, is not banned"
            )


def check_all_finish(world: World) -> None:
    world.run()
    for peer in honest_fetchers(world):
        world.must(peer.finished, f"{peer.plan.name} ends with all, not with {peer.gave_up} missing")
    check_bans(world)


def slowest(world: World) -> float:
    return max(peer.ended for peer in world.peers if peer.finished and peer.ended is not None)


@given(world=SMALL.flatmap(lambda geometry: swarms(geometry, hostile=True, whole=True)))
@QUICK
def test_pieces_of_one_block_reach_all_among_peers_of_any_conduct(world: World) -> None:
    check_all_finish(world)


@given(world=(MIDDLE | LARGE).flatmap(lambda geometry: swarms(geometry, hostile=True, whole=True)))
@QUICK
def test_pieces_of_several_blocks_reach_all_among_peers_of_any_conduct(world: World) -> None:
    check_all_finish(world)


@given(world=(SMALL | MIDDLE).flatmap(lambda geometry: swarms(geometry, hostile=False, whole=False)))
@QUICK
def test_a_download_that_gives_up_names_exactly_what_nobody_has(world: World) -> None:
    world.run()
    held = 0
    for peer in world.peers:
        held |= peer.have.bits
    missing = numbers((1 << world.geometry.pieces) - 1 & ~held)
    for peer in honest_fetchers(world):
        world.must(peer.gave_up == missing, f"{peer.plan.name} names {missing}, not {peer.gave_up}")
        world.must(numbers(peer.have.missing().bits) == missing, f"{peer.plan.name} has all the rest")


@given(world=(SMALL | MIDDLE).flatmap(lambda geometry: swarms(geometry, hostile=True, whole=False)))
@QUICK
def test_among_bad_peers_a_download_that_cannot_finish_still_ends(world: World) -> None:
    world.run()
    for peer in honest_fetchers(world):
        world.must(peer.ended is not None, f"{peer.plan.name} ends")
    check_bans(world)


@given(seed=st.integers(0, 2**32), blocks=st.integers(1, 4))
@examples(15)
def test_a_peer_with_buffers_for_few_blocks_still_finishes(seed: int, blocks: int) -> None:
    plans = [
        Plan("origin", RATE, RATE, seed=True),
        Plan("bad", RATE, RATE, seed=True, stalls_after=2),
        *(Plan(f"fetcher{i}", RATE, RATE) for i in range(3)),
    ]
    check_all_finish(
        world_of(Geometry(5 * 2 * MIB, 2 * MIB), plans, seed, policy=Policy(buffer_bytes=blocks * MIB))
    )


@given(seed=st.integers(0, 2**32))
@statistics(5)
def test_an_origin_sends_each_piece_about_once(seed: int) -> None:
    geometry = Geometry(12 * MIB, 64 * KIB)
    plans = [Plan("origin", RATE, RATE, seed=True), *(Plan(f"fetcher{i}", RATE, RATE) for i in range(8))]
    world = world_of(geometry, plans, seed)
    check_all_finish(world)
    world.must(world.copies() <= 1.1, f"{world.copies():.3f} origin copies")
    ratio = slowest(world) / (geometry.size / RATE)
    world.must(ratio <= 1.25, f"the slowest took {ratio:.3f} times what its link needs")


@given(seed=st.integers(0, 2**32), served=st.integers(0, 60))
@statistics(25)
def test_a_peer_that_stalls_delays_the_end_by_one_hedge_and_little_more(seed: int, served: int) -> None:
    for geometry in (Geometry(64 * 64 * KIB, 64 * KIB), Geometry(2 * 16 * MIB, 16 * MIB)):
        ends = []
        for stalls in (False, True):
            after = served % geometry.pieces if stalls else None
            plans = [
                Plan("good", RATE, RATE, seed=True),
                Plan("other", RATE, RATE, seed=True, stalls_after=after),
                Plan("fetcher", RATE, RATE),
            ]
            world = world_of(geometry, plans, seed)
            check_all_finish(world)
            ends.append(slowest(world))
        alone = geometry.size / RATE
        allowed = max(ends[0], alone) + Policy().hedge_after + 4 * geometry.block_length / RATE
        world.must(ends[1] <= allowed, f"it took {ends[1]:.2f} s where {allowed:.2f} s are allowed")
