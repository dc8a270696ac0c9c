"""Blocks over gRPC through a network that fails: the right bytes, by gRPC or by TCP in its place (hostile
cases 54, 57, 73)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.model import MIB, Address
from p2p.net.limits import Timeouts
from p2p.peer.reports import Downloaded
from p2p.swarm.peer_stats import Policy
from tests.kit.effort import times
from tests.kit.faulty_network import NONE, Fault, FaultyNetwork
from tests.kit.leaks import KEPT_BY_GRPC, contained
from tests.kit.swarm_kit import Swarm, old_file
from tests.kit.waiting import hang_guard

KEPT = KEPT_BY_GRPC
QUICK = Policy(
    block_timeout=2.0,
    min_rate=64 * MIB,
    stall_timeout=10.0,
    alone_timeout=5.0,
    offline_timeout=5.0,
    hedge_after=0.4,
    busy_pause=0.2,
)
TIMES = Timeouts(stall_s=2.0, silent_s=1.0)
FOREVER_S = 1000.0
PATIENT = Policy(
    block_timeout=FOREVER_S, stall_timeout=FOREVER_S, hedge_after=FOREVER_S, offline_timeout=FOREVER_S
)
PATIENT_TIMES = Timeouts(dial_s=FOREVER_S, stall_s=FOREVER_S, silent_s=FOREVER_S)
DATA = random.Random(3).randbytes(1_500_000)


def fetch(
    tmp_path: Path,
    faults: Callable[[int], Fault],
    data: bytes = DATA,
    policy: Policy = QUICK,
    timeouts: Timeouts = TIMES,
) -> Downloaded:
    """Download from a seed whose gRPC port is behind a network that fails."""

    async def work() -> Downloaded:
        async with Swarm(tmp_path) as swarm, FaultyNetwork(Address("127.0.0.1", 1), faults) as network:
            seed = await swarm.peer("seed", transport="grpc", timeouts=timeouts)
            listen = seed.controls.me.listen
            network.target = Address("127.0.0.1", listen["grpc"])
            listen["grpc"] = network.address.port
            shared = await seed.share(old_file(tmp_path / "image.bin", data))
            leech = await swarm.peer("leech", transport="grpc", policy=policy, timeouts=timeouts)
            async with hang_guard():
                done = await leech.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == data
            assert network.count, "it was tried"
            return done

    return contained(work, KEPT)


def test_case_54_grpc_byte_by_byte_and_late_is_grpc_still(tmp_path: Path) -> None:
    byte_by_byte = fetch(tmp_path, lambda _: Fault(slices=1), DATA[:20_000], PATIENT, PATIENT_TIMES)
    assert set(byte_by_byte.bytes_by) == {"grpc"}
    late = fetch(tmp_path / "late", lambda _: Fault(delay=0.1, slices=16_384), DATA, PATIENT, PATIENT_TIMES)
    assert set(late.bytes_by) == {"grpc"}


@pytest.mark.parametrize("way", ["up", "down"])
def test_case_57_grpc_that_is_cut_at_any_byte_is_replaced(tmp_path: Path, way: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    total = 1200 if way == "up" else len(DATA)
    for offset in (0, 1, *random.Random(seed).sample(range(2, total), times(4))):
        fault = Fault(cut_after=offset, direction=way, reset=bool(offset % 2))
        fetch(tmp_path / str(offset), lambda number, fault=fault: fault if number < 2 else NONE)  # type: ignore[misc]


def test_case_73_grpc_that_falls_silent_in_the_middle_is_replaced(tmp_path: Path) -> None:
    done = fetch(tmp_path, lambda _: Fault(cut_after=300_000, direction="down", half_open=True))
    assert set(done.bytes_by) == {"grpc", "tcp"}, "TCP has taken over"
