"""Properties of p2p/swarm: whatever swarm meets whatever conduct, who is honest ends with all that honest
peers have.

`swarm_node` itself checks after every piece of news that nobody is asked for what it lacks, that no more is
under way than window and memory allow, that wake-ups lie ahead and lead somewhere, and that what comes late
changes nothing. A failure names its seed.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.content.geometry import Geometry
from p2p.model import KIB, MIB
from p2p.swarm.events import Failure
from p2p.swarm.peer_stats import Policy
from p2p.swarm.picker import numbers
from tests.kit.effort import statistics
from tests.kit.swarm_node import Node, Spec
from tests.kit.swarm_world import World

RATES = (400_000.0, 2_500_000.0, 12_500_000.0)
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
QUICK = settings(max_examples=150, deadline=None, print_blob=True)


def conduct(spec: Spec, kind: str, rng: Random, n: int) -> Spec:
    """The same peer, gone bad."""
    every = (1 << n) - 1
    changes: dict[str, dict[str, object]] = {
        "stalls": {"stalls_after": rng.randrange(1, 8)},
        "stalls at once": {"stalls_after": 0},
        "corrupts": {"corrupts": 1.0},
        "corrupts some": {"corrupts": 0.3},
        "lacks": {"refuses": Failure.LACKS},
        "busy": {"refuses": Failure.BUSY},
        "broken": {"refuses": Failure.BROKEN},
        "breaks some": {"refuses": Failure.BROKEN, "refuses_share": 0.4},
        "lies": {"claims": every, "has": rng.getrandbits(n)},
        "babbles": {"babbles": True},
        "leaves": {"leaves": rng.uniform(0.1, 3.0)},
    }
    return replace(spec, **changes[kind])  # type: ignore[arg-type]


@st.composite
def swarms(draw: st.DrawFn, geometry: Geometry, *, hostile: bool, whole: bool) -> World:
    """Some who serve, some who fetch, and where `hostile`, some of bad conduct; the honest together have all
    if `whole`."""
    seed = draw(st.integers(0, 2**32))
    rng, n = Random(seed), geometry.pieces
    servers, fetchers = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kinds = draw(st.lists(st.sampled_from(CONDUCTS), min_size=1, max_size=3)) if hostile else []
    held = [rng.getrandbits(n) for _ in range(servers)]
    lost = 0 if whole else 1 << rng.randrange(n) | rng.getrandbits(n)
    held[0] |= (1 << n) - 1 if whole else 0
    specs = [
        Spec(f"server{i}", bits & ~lost, False, rng.choice(RATES), rng.choice(RATES))
        for i, bits in enumerate(held)
    ]
    for i in range(fetchers):
        has = rng.getrandbits(n) & rng.getrandbits(n) & ~lost
        specs.append(
            Spec(
                f"fetcher{i}",
                has,
                True,
                rng.choice(RATES),
                rng.choice(RATES),
                joins=rng.choice((0.0, rng.uniform(0, 2))),
            )
        )
    for i, kind in enumerate(kinds):
        bits = rng.choice(((1 << n) - 1, rng.getrandbits(n)))
        specs.append(
            conduct(Spec(f"bad{i} {kind}", bits, False, rng.choice(RATES), rng.choice(RATES)), kind, rng, n)
        )
    delay = draw(st.sampled_from((0.0005, 0.005, 0.05)))
    return World(geometry, specs, seed, delay=delay, chunk=geometry.block_length // 4)


def honest_fetchers(world: World) -> list[Node]:
    return [node for node in world.nodes.values() if node.spec.fetching and node.spec.honest]


def check_nobody_honest_is_banned(world: World) -> None:
    for node in world.nodes.values():
        for peer in node.banned:
            world.must(
                bool(world.nodes[peer].spec.corrupts), f"{node.id} bans {peer}, which sent nothing wrong"
            )


def check_all_finish(world: World) -> None:
    world.run()
    for node in honest_fetchers(world):
        world.must(node.finished, f"{node.id} ends with all, not with {node.gave_up} missing")
    check_nobody_honest_is_banned(world)


@given(world=SMALL.flatmap(lambda geometry: swarms(geometry, hostile=True, whole=True)))
@QUICK
def test_with_pieces_of_one_block_all_finish_among_peers_of_any_conduct(world: World) -> None:
    check_all_finish(world)


@given(world=(MIDDLE | LARGE).flatmap(lambda geometry: swarms(geometry, hostile=True, whole=True)))
@QUICK
def test_with_pieces_of_several_blocks_all_finish_among_peers_of_any_conduct(world: World) -> None:
    check_all_finish(world)


@given(world=(SMALL | MIDDLE).flatmap(lambda geometry: swarms(geometry, hostile=False, whole=False)))
@QUICK
def test_where_something_is_missing_all_give_up_and_name_exactly_what_nobody_has(world: World) -> None:
    world.run()
    held = 0
    for node in world.nodes.values():
        held |= node.have.bits
    missing = numbers((1 << world.geometry.pieces) - 1 & ~held)
    for node in honest_fetchers(world):
        world.must(node.gave_up == missing, f"{node.id} names {missing}, not {node.gave_up}")
        world.must(numbers(node.have.missing().bits) == missing, f"{node.id} has all the rest")


@given(world=(SMALL | MIDDLE).flatmap(lambda geometry: swarms(geometry, hostile=True, whole=False)))
@QUICK
def test_where_something_is_missing_and_peers_are_bad_every_download_still_ends(world: World) -> None:
    world.run()
    for node in honest_fetchers(world):
        world.must(node.finished or node.gave_up is not None, f"{node.id} ends")
    check_nobody_honest_is_banned(world)


@given(seed=st.integers(0, 2**32), memory=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_a_peer_with_memory_for_few_blocks_still_finishes(seed: int, memory: int) -> None:
    geometry = Geometry(5 * 2 * MIB, 2 * MIB)
    specs = [
        Spec("origin", 31, False),
        Spec("bad", 31, False, stalls_after=2),
        *(Spec(f"fetcher{i}") for i in range(3)),
    ]
    check_all_finish(World(geometry, specs, seed, policy=Policy(memory=memory * MIB), chunk=MIB // 4))


@given(seed=st.integers(0, 2**32))
@statistics(5)
def test_an_origin_sends_each_piece_about_once(seed: int) -> None:
    geometry = Geometry(12 * MIB, 64 * KIB)
    specs = [Spec("origin", (1 << geometry.pieces) - 1, False), *(Spec(f"fetcher{i}") for i in range(8))]
    world = World(geometry, specs, seed)
    check_all_finish(world)
    world.must(world.copies("origin") <= 1.1, f"{world.copies('origin'):.3f} origin copies")
    ratio = world.slowest() / (geometry.size / 2_500_000)
    world.must(ratio <= 1.2, f"the slowest took {ratio:.3f} times what its link needs")


@given(seed=st.integers(0, 2**32), served=st.integers(0, 60))
@statistics(25)
def test_a_peer_that_stalls_delays_the_end_by_tail_patience_and_little_more(seed: int, served: int) -> None:
    for geometry in (Geometry(64 * 64 * KIB, 64 * KIB), Geometry(2 * 16 * MIB, 16 * MIB)):
        every = (1 << geometry.pieces) - 1
        ends = []
        for stalls in (False, True):
            other = Spec("other", every, False, stalls_after=served % geometry.pieces if stalls else None)
            world = World(geometry, [Spec("good", every, False), other, Spec("fetcher")], seed)
            check_all_finish(world)
            ends.append(world.slowest())
        alone = geometry.size / 2_500_000
        allowed = max(ends[0], alone) + Policy().tail_patience + 4 * geometry.block_length / 2_500_000
        world.must(ends[1] <= allowed, f"it took {ends[1]:.2f} s where {allowed:.2f} s are allowed")
