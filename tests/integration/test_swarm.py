"""Real peers and a real tracker in one process over loopback: who comes, who goes, what is shared, changed,
kept and taken back."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.content.manifest import to_bytes
from p2p.errors import NotFound, Unreachable
from p2p.model import MIB, ContentId, Manifest
from p2p.peer import download
from p2p.peer.node import Node
from p2p.peer.operations import info, resolve
from p2p.peer.reports import Downloaded, Progress, SessionChanged, Shared, Withdrawn
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import Announce, Login, LoginAnswer, Logout
from p2p.storage.cache import ReplicaCache
from p2p.storage.scan import Fingerprint
from p2p.storage.shared_content import fingerprints
from p2p.swarm.peer_stats import Policy
from tests.kit.content_samples import id_of, manifest_of
from tests.kit.leaks import contained
from tests.kit.swarm_kit import Swarm, folder_in_memory, old_file
from tests.kit.waiting import hang_guard, until

SHORT = Policy(block_timeout=3.0, stall_timeout=1.5, alone_timeout=1.0, offline_timeout=1.5)
"""The real policy, for tests of what cannot succeed."""
DATA = Random(5).randbytes(5_000_000)


def hang_up_at_once(node: Node) -> None:
    """Kill a peer: its sockets are reset, it takes leave of nobody."""
    node._announcer._task.cancel()  # type: ignore[union-attr]
    for link in node.controls.all():
        link.close()


# -- swarms


@pytest.mark.parametrize(
    "settings", [{}, {"portable": True}, {"hash_name": "sha256"}], ids=["native", "portable", "sha256"]
)
def test_one_seed_and_four_peers_end_with_the_same_bytes(tmp_path: Path, settings: dict[str, Any]) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            # Slow enough for the receivers to share what they have: without a limit the seed may be done
            # before they know each other.
            seed = await swarm.peer("seed", limit_up=2 * MIB, **settings)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            peers = [await swarm.peer(f"p{n}", **settings) for n in range(4)]
            done = await asyncio.gather(
                *(peer.download(shared.id, tmp_path / f"out{n}") for n, peer in enumerate(peers))
            )
            assert all(one.path.read_bytes() == DATA for one in done)
            assert all(sum(one.bytes_from.values()) == len(DATA) for one in done), "a byte came twice"
            # Each block asked for twice would be four copies and more. What goes twice at the tail is more on
            # a machine that is busy.
            assert seed.sent(shared.id) <= 2.5 * len(DATA)
            phases = [report.phase for report in swarm.told("p0", Progress)]
            assert phases[0] == "searching"
            assert "downloading" in phases
            assert len(await swarm.sources(shared.id)) == 5

    contained(work)


def test_a_peer_that_will_not_serve_does_not_look_at_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def look(manifest: Manifest, path: Path) -> tuple[Fingerprint, ...]:
        looked.append(path)
        return fingerprints(manifest, path)

    monkeypatch.setattr(download, "fingerprints", look)

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed")
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            leaver = await swarm.peer("leaver")
            done = await leaver.download(shared.id, tmp_path / "out0", keep=False)
            assert done.path.read_bytes() == DATA
            assert leaver.library.find(shared.id) is None
            assert not looked
            await swarm.stop("leaver")
            done = await (await swarm.peer("target")).download(shared.id, tmp_path / "out1")
            assert done.path.read_bytes() == DATA
            assert looked == [done.path]
            assert len(await swarm.sources(shared.id)) == 2

    contained(work)


def test_the_rest_finish_together_when_the_only_seed_stops_half_way(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=2) as swarm:
            seed = await swarm.peer("seed", limit_up=4 * MIB)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            peers = [await swarm.peer(f"p{n}") for n in range(3)]
            tasks = [
                asyncio.create_task(peer.download(shared.id, tmp_path / f"out{n}"))
                for n, peer in enumerate(peers)
            ]

            def all_given() -> bool:
                have = [peer.library.find(shared.id) for peer in peers]
                union = 0
                for local in have:
                    union |= local.have.bits if local is not None else 0
                return union.bit_count() == -(-len(DATA) // 65536)

            await until(all_given)
            assert not all(task.done() for task in tasks), "the seed was not stopped half way"
            await swarm.stop("seed")
            done = await asyncio.gather(*tasks)
            assert all(one.path.read_bytes() == DATA for one in done)

    contained(work)


def test_a_download_whose_only_seed_leaves_says_what_is_missing_and_keeps_what_came(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm:
            seed = await swarm.peer("seed", limit_up=2 * MIB)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            leech = await swarm.peer("leech", policy=SHORT)
            task = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(
                lambda: any(
                    report.bytes > MIB
                    for report in swarm.told("leech", Progress)
                    if report.phase == "downloading"
                )
            )
            await swarm.stop("seed")
            with pytest.raises(NotFound, match="pieces are missing"):
                await task
            again = await swarm.peer("again")
            await again.share(tmp_path / "image.bin")
            done = await leech.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == DATA
            assert sum(done.bytes_from.values()) <= len(DATA) - MIB // 2, "what had come was fetched again"

    contained(work)


def test_peers_that_come_late_and_go_early_do_not_disturb_the_others(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=2) as swarm:
            seed = await swarm.peer("seed", limit_up=4 * MIB)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            tasks = []
            for number in range(6):
                peer = await swarm.peer(f"p{number}")
                tasks.append(asyncio.create_task(peer.download(shared.id, tmp_path / f"out{number}")))
                await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                if number in (1, 3):
                    tasks[number].cancel()
                    await asyncio.gather(tasks[number], return_exceptions=True)
                    await swarm.stop(f"p{number}")
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for number, one in enumerate(done):
                if isinstance(one, Downloaded):
                    assert one.path.read_bytes() == DATA
                else:
                    assert number in (1, 3), repr(one)

    contained(work)


def test_case_20_a_killed_peer_is_gone_from_all_answers_within_its_lease(tmp_path: Path) -> None:

    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm:
            seed = await swarm.peer("seed")
            shared = await seed.share(old_file(tmp_path / "image.bin", b"x" * 100))
            assert await swarm.sources(shared.id)
            hang_up_at_once(seed)
            began = time.monotonic()
            while await swarm.sources(shared.id):
                assert time.monotonic() - began < 2.5
                await asyncio.sleep(0.05)
            assert await swarm.listed() == []

    contained(work)


@pytest.mark.parametrize("way", ["stop", "withdraw", "logout"])
def test_who_leaves_in_good_order_is_out_of_all_answers_at_once(tmp_path: Path, way: str) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed")
            shared = await seed.share(old_file(tmp_path / "image.bin", b"x" * 100))
            assert len(await swarm.sources(shared.id)) == 1
            if way == "stop":
                await swarm.stop("seed")
            elif way == "logout":
                await seed.tracker.ask(Logout())
            else:
                seed.publisher.retract(shared.id, shared.path)
                assert seed._announcer is not None
                await seed._announcer.known(5)
                assert [report.id for report in swarm.told("seed", Withdrawn)] == [shared.id]
            assert await swarm.sources(shared.id) == []
            assert await swarm.listed() == []

    contained(work)


def test_case_79_a_logout_by_somebody_else_ends_a_peer_of_a_stored_session(tmp_path: Path) -> None:
    from p2p.peer.session_file import StoredSession, forget_session, save_session
    from p2p.peer.tracker_client import TrackerClient
    from p2p.protocol.tracker_messages import LoginAnswer

    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm:
            state = tmp_path / "state" / "seed"
            client = TrackerClient(swarm.address)
            token = (await client.expect(Login(user="alice"), LoginAnswer)).session
            save_session(state, StoredSession(swarm.address, "alice", token))
            seed, leech = await swarm.peer("seed", limit_up=2 * MIB), await swarm.peer("leech")
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            running = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(lambda: any(report.bytes for report in swarm.told("leech", Progress)))
            await client.ask(Logout())
            forget_session(state, swarm.address)
            await client.close()
            async with hang_guard():
                error = await seed.ended()
            assert error.code == "login_needed"
            assert swarm.told("seed", SessionChanged)[-1].state == "ended"
            assert (await running).path.read_bytes() == DATA, (
                "a download under way goes on with the link it has"
            )

    contained(work)


@pytest.mark.parametrize("what", ["touched", "moved away and back"])
def test_a_running_download_goes_on_when_its_seed_shares_the_same_file_again(
    tmp_path: Path, what: str
) -> None:
    """A neighbour of hostile case 79: the seed withdraws what was touched, and shares it again under the same
    id, on the same link."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed", limit_up=4 * MIB)
            path = old_file(tmp_path / "shared" / "image.bin", DATA)
            watching = asyncio.create_task(seed.watch(path.parent))
            await until(lambda: swarm.told("seed", Shared))
            shared = swarm.told("seed", Shared)[0]
            leech = await swarm.peer("leech")
            task = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(lambda: any(report.bytes for report in swarm.told("leech", Progress)))
            if what == "touched":
                os.utime(path, (2, 2))
            else:
                path.rename(tmp_path / "away")
            await until(lambda: swarm.told("seed", Withdrawn))
            if what != "touched":
                (tmp_path / "away").rename(path)
            assert (await task).path.read_bytes() == DATA
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    contained(work)


# -- trackers that go away


def test_case_40_a_download_goes_on_without_its_tracker(tmp_path: Path) -> None:

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed", limit_up=4 * MIB)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            leech = await swarm.peer("leech")
            task = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(lambda: any(report.bytes for report in swarm.told("leech", Progress)))
            await swarm.stop_tracker()
            assert (await task).path.read_bytes() == DATA

    contained(work)


def test_case_40_without_a_tracker_a_command_fails_soon_and_names_the_address(tmp_path: Path) -> None:

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            leech = await swarm.peer("leech")
            await swarm.stop_tracker()
            nothing = ContentId("ab" * 32)
            for attempt in (
                leech.download(nothing, tmp_path),
                resolve(leech.tracker, "x"),
                info(leech, nothing),
            ):
                with pytest.raises(Unreachable) as failed:
                    await attempt
                assert str(swarm.address) in str(failed.value)
            with pytest.raises(Unreachable):
                await swarm.peer("late")

    contained(work)


def test_case_40_all_shares_are_registered_again_when_the_tracker_is_back(tmp_path: Path) -> None:

    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm:
            seed = await swarm.peer("seed")
            ids = {(await seed.share(old_file(tmp_path / f"{n}.bin", b"%d" % n))).id for n in range(70)}
            await swarm.stop_tracker()
            await until(lambda: swarm.told("seed", SessionChanged))
            late = await seed.share(old_file(tmp_path / "late.bin", b"late"))
            await swarm.start_tracker()
            await until(lambda: swarm.told("seed", SessionChanged)[-1].state == "resumed")
            assert {hit.id for hit in await swarm.listed()} == {*ids, late.id}

    contained(work)


def test_a_peer_that_started_before_its_tracker_registers_when_that_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            await swarm.stop_tracker()
            seed = await swarm.peer("seed", require_tracker=False)
            shared = await seed.share(old_file(tmp_path / "image.bin", b"x"))
            await swarm.start_tracker()
            await until(lambda: "resumed" in [report.state for report in swarm.told("seed", SessionChanged)])
            assert [source.name for source in await swarm.sources(shared.id)] == ["seed"]

    contained(work)


def test_case_40_ids_taken_while_a_tracker_restarts_end_none_of_their_peers(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=6) as swarm:
            seed = await swarm.peer("seed")
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            stolen = seed.peer
            await swarm.stop_tracker()
            await swarm.start_tracker()
            thief = TrackerClient(swarm.address)
            thief.use_session((await thief.expect(Login(user="thief"), LoginAnswer)).session)
            await thief.ask(Announce(peer=stolen, name="thief", listen={"tcp": 6970}))
            await until(
                lambda: (
                    [r.state for r in swarm.told("seed", SessionChanged)][-1:] == ["resumed"]
                    and seed.peer != stolen
                )
            )
            leech = await swarm.peer("leech")
            assert (await leech.download(shared.id, tmp_path / "out")).path.read_bytes() == DATA
            await thief.close()

    contained(work)


# -- rates


@pytest.mark.parametrize("side", ["limit_up", "limit_down"])
def test_a_limit_holds_roughly(tmp_path: Path, side: str) -> None:
    async def work() -> None:
        rate = 2_000_000
        async with Swarm(folder) as swarm:
            seed = await swarm.peer("seed", limit_up=rate if side == "limit_up" else 0)
            leech = await swarm.peer("leech", limit_down=rate if side == "limit_down" else 0)
            shared = await seed.share(old_file(folder / "x.bin", DATA))
            done = await leech.download(shared.id, folder / "out")
            assert 0.7 * len(DATA) / rate < done.seconds < 1.6 * len(DATA) / rate

    with folder_in_memory(tmp_path) as folder:
        contained(work)


def test_case_51_a_peer_that_sends_at_a_very_low_rate_stops_at_once(tmp_path: Path) -> None:
    """A worker that sleeps to keep the rate does not hold up the end."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed", limit_up=10_000), await swarm.peer("leech")
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA))
            task = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(lambda: any(report.bytes for report in swarm.told("leech", Progress)))
            began = time.monotonic()
            await swarm.stop("seed")
            assert time.monotonic() - began < 2
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    contained(work)


def test_a_thin_link_shared_by_several_receivers_wastes_nothing(
    tmp_path: Path,
) -> None:
    """A block of 1 MiB takes four seconds here, and four times as long as the policy waits: it comes all the
    same, and once."""
    path = old_file(tmp_path / "image.bin", DATA)
    manifest = manifest_of(DATA, path.name, length=MIB)

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed", limit_up=MIB)
            ReplicaCache(seed.settings.state / "kept").keep(path, to_bytes(manifest))
            shared = await seed.share(path)
            assert shared.id == id_of(manifest)
            impatient = Policy(block_timeout=1.0, min_rate=MIB / 10)
            peers = [await swarm.peer(f"p{n}", policy=impatient) for n in range(4)]
            done = await asyncio.gather(
                *(peer.download(shared.id, tmp_path / f"out{n}") for n, peer in enumerate(peers))
            )
            assert all(one.path.read_bytes() == DATA for one in done)
            assert seed.sent(shared.id) <= 2 * len(DATA)

    contained(work)
