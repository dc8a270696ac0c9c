"""Real peers and a real tracker, and between them a network that fails (hostile cases 9, 54 to 57): the right
bytes, soon, nothing left.

The sweep over a session with a peer tries some of all offsets, which chance chooses by a seed that is
printed; P2P_TEST_EXAMPLES=N tries N times as many. With a tracker all are tried.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import Refused, Unreachable
from p2p.model import MIB, Address, ContentId, PeerId
from p2p.net.limits import TIMEOUTS, Timeouts
from p2p.peer.candidates import FinderTimeouts
from p2p.peer.hedging import SearchLimits
from p2p.peer.node import Node
from p2p.peer.reports import Progress, SessionChanged, Shared
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.peer_messages import Ping, Request
from p2p.protocol.tracker_messages import (
    Announce,
    List,
    Login,
    LoginAnswer,
    Logout,
    Lookup,
    Search,
    Share,
    Stats,
)
from p2p.swarm.peer_stats import Policy
from tests.kit.effort import limit, times
from tests.kit.faulty_network import NONE, Fault, FaultyNetwork
from tests.kit.leaks import contained
from tests.kit.swarm_kit import Swarm, old_file
from tests.kit.waiting import hang_guard, until

QUICK = Policy(
    block_timeout=1.0,
    min_rate=64 * MIB,
    stall_timeout=1000.0,
    alone_timeout=1000.0,
    offline_timeout=1000.0,
    hedge_after=0.4,
    busy_pause=0.2,
)
"""Each fault is noticed soon, and a download waits for as long as this machine needs: its end is the
proof."""
OFTEN: dict[str, Any] = {
    "finder_timeouts": FinderTimeouts(eager=0.05, redial_first=0.0),
    "search_limits": SearchLimits(pause=0.05),
}
"""Settings of a peer that asks the tracker and dials often."""
TIMES = Timeouts(stall_s=1.5, answer_s=1.0, ping_s=0.7)
SMALL = random.Random(1).randbytes(1500)
PATIENT = Timeouts(tracker_s=1000.0)
"""A connection that was cut is noticed by its end, and not by a timeout."""
DATA = random.Random(2).randbytes(3_000_000)


def offsets(total: int, count: int) -> list[int]:
    """Some of 0 … total, the first and last always; all of them when enough are asked for."""
    seed = random.randrange(2**32)
    inner = range(1, total)
    chosen = random.Random(seed).sample(inner, min(times(count), len(inner)))
    print(f"seed {seed}: {len(chosen) + 2} of {total + 1} offsets")
    return [0, *sorted(chosen), total]


def between_peers(
    tmp_path: Path,
    play: Callable[[Node, Shared, FaultyNetwork], Awaitable[None]],
    data: bytes = DATA,
    policy: Policy = QUICK,
    timeouts: Timeouts = TIMES,
) -> None:
    """A seed behind a network that fails, and a downloader."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm, FaultyNetwork(Address("127.0.0.1", 1)) as network:
            seed = await swarm.peer("seed", advertise=network.address, timeouts=timeouts)
            port = next(listener.port for listener in seed._listeners)
            network.target = Address("127.0.0.1", port)
            shared = await seed.share(old_file(tmp_path / "image.bin", data))
            await play(await swarm.peer("leech", policy=policy, timeouts=timeouts, **OFTEN), shared, network)

    contained(work)


# -- a whole session, cut at its offsets


@limit(300)
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_case_57_a_download_survives_connections_that_end_after_any_byte(
    tmp_path: Path, way: str, reset: bool
) -> None:
    async def play(leech: Node, shared: Shared, network: FaultyNetwork) -> None:
        await leech.download(shared.id, tmp_path / "whole", keep=False)
        total = network.passed[way]
        for offset in offsets(total, 20):
            for link in leech.controls.all():
                link.close()
            await until(lambda: not leech.controls.all())
            first = network.count
            network.faults = lambda number, at=offset, first=first: (  # type: ignore[misc]
                Fault(cut_after=at, direction=way, reset=reset) if number < first + 2 else NONE
            )
            async with hang_guard():
                done = await leech.download(shared.id, tmp_path / f"{offset}", keep=False)
            assert done.path.read_bytes() == SMALL, f"cut after {offset} bytes"

    between_peers(tmp_path, play, SMALL)


def content(number: int) -> ContentId:
    return ContentId(f"{number:064x}")


def questions(number: int) -> list[Request]:
    """A session's questions, about a content that is of this session alone."""
    share = Share(id=content(number), name="lab.img", size=7, have=7)
    announce = Announce(peer=PeerId(f"{number:032x}"), name="one", listen={"tcp": 7000}, contents=(share,))
    return [announce, Lookup(id=share.id), Search(text="lab"), List(), Stats(), Logout()]


async def session(client: TrackerClient, number: int) -> int:
    """Log in, ask everything, log out; returns how many answers came before the connection broke."""
    answers = 0
    try:
        client.use_session((await client.expect(Login(user="alice"), LoginAnswer)).session)
        for question in questions(number):
            answers += 1
            await client.ask(question)
    except (Unreachable, Refused):
        return answers
    finally:
        await client.close()
    return answers + 1


@limit(300)
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_case_9_a_tracker_session_cut_after_any_byte_leaves_whole_requests_only(
    tmp_path: Path, way: str, reset: bool
) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm, FaultyNetwork(swarm.address) as network:
            everything = await session(TrackerClient(network.address, timeouts=PATIENT), 1)
            assert everything == len(questions(1)) + 1
            total = network.passed[way]
            healthy = TrackerClient(swarm.address)
            for offset in range(total + 1):
                first = network.count
                network.faults = lambda number, at=offset, first=first: (  # type: ignore[misc]
                    Fault(cut_after=at, direction=way, reset=reset)
                    if number == first
                    else Fault(cut_after=0, reset=True)
                )
                answers = await session(TrackerClient(network.address, timeouts=PATIENT), 2 + offset)
                assert answers < everything or offset == total
                await until(lambda: _connections(swarm) <= 1, what="its connection is gone at the tracker")
                known = bool(await swarm.sources(content(2 + offset)))
                assert known <= (0 < answers < everything), (
                    "what was never begun, or was logged out, is not in the directory"
                )
                assert known >= (1 < answers < everything - 1), (
                    "what was acknowledged, and not logged out, is"
                )
                await healthy.ask(Ping())
            await healthy.close()

    contained(work)


def _connections(swarm: Swarm) -> int:
    assert swarm._server is not None
    return swarm._server.connections


# -- slow, late, in crumbs


def test_case_54_what_comes_byte_by_byte_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real times: a machine that is busy passes 20,000 parts slowly

    async def play(leech: Node, shared: Shared, network: FaultyNetwork) -> None:
        network.faults = lambda _: Fault(slices=1)
        done = await leech.download(shared.id, tmp_path / "out")
        assert done.path.read_bytes() == DATA[:20_000]

    between_peers(tmp_path, play, DATA[:20_000], policy=Policy(), timeouts=TIMEOUTS)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(delay=0.3),
        Fault(pauses=0.3, slices=16_384),
        Fault(delay=0.05, pauses=0.1, slices=1400 * 8),
        Fault(rate=2_000_000),
    ],
    ids=["300 ms away", "30 % lost", "both", "slow"],
)
def test_case_54_delay_and_loss_cost_time_and_no_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.undo()  # the real times: 30 % lost is no reason to give a peer up

    async def play(leech: Node, shared: Shared, network: FaultyNetwork) -> None:
        network.faults = lambda _: fault
        done = await leech.download(shared.id, tmp_path / "out")
        assert done.path.read_bytes() == DATA
        assert done.bytes_from.keys() == {"seed"}

    between_peers(tmp_path, play, policy=Policy(), timeouts=TIMEOUTS)


# -- half open, partitioned


@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_case_55_a_partition_is_survived_and_what_waits_is_told(tmp_path: Path, seconds: float) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm, FaultyNetwork(Address("127.0.0.1", 1)) as network:

            def nothing_comes() -> bool:
                last = swarm.told("leech", Progress)[-1]
                return last.peers == 0 or last.rate < 1000

            seed = await swarm.peer("seed", advertise=network.address, limit_up=2 * MIB, timeouts=TIMES)
            network.target = Address("127.0.0.1", seed._listeners[0].port)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            leech = await swarm.peer("leech", policy=QUICK, timeouts=TIMES, **OFTEN)
            task = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(lambda: any(report.bytes for report in swarm.told("leech", Progress)))
            network.flowing.clear()
            await asyncio.sleep(seconds)
            if seconds > 1:
                await until(nothing_comes, what="told that nothing comes")
            network.flowing.set()
            async with hang_guard():
                assert (await task).path.read_bytes() == DATA

    contained(work)


@pytest.mark.parametrize("way", ["up", "down"])
def test_case_56_a_connection_that_dies_in_one_direction_is_noticed_and_replaced(
    tmp_path: Path, way: str
) -> None:
    async def play(leech: Node, shared: Shared, network: FaultyNetwork) -> None:
        limit = 300 if way == "up" else 500_000
        network.faults = lambda number: (
            Fault(cut_after=limit, direction=way, half_open=True) if number < 2 else NONE
        )
        async with hang_guard():
            done = await leech.download(shared.id, tmp_path / "out")
        assert done.path.read_bytes() == DATA
        assert network.count > 2

    between_peers(tmp_path, play)


def test_case_57_connections_that_are_reset_all_the_time_still_bring_it_all(tmp_path: Path) -> None:
    async def play(leech: Node, shared: Shared, network: FaultyNetwork) -> None:
        network.faults = lambda number: Fault(cut_after=400_000, reset=True) if number < 16 else NONE
        done = await leech.download(shared.id, tmp_path / "out")
        assert done.path.read_bytes() == DATA

    between_peers(tmp_path, play)


def test_case_55_a_peer_is_listed_again_when_its_tracker_is_reachable_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm, FaultyNetwork(swarm.address) as network:
            seed = await swarm.peer("seed", tracker=network.address, timeouts=Timeouts(tracker_s=0.5))
            shared = await seed.share(old_file(tmp_path / "image.bin", SMALL))
            assert await swarm.sources(shared.id)
            network.flowing.clear()
            await until(
                lambda: [report.state for report in swarm.told("seed", SessionChanged)][-1:] == ["lost"]
            )
            async with hang_guard():  # a peer whose heartbeats do not come leaves the directory
                while await swarm.sources(shared.id):
                    pass
            network.flowing.set()
            network.break_all()
            await until(lambda: swarm.told("seed", SessionChanged)[-1].state == "resumed")
            assert [source.name for source in await swarm.sources(shared.id)] == ["seed"]

    contained(work)
