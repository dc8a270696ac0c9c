"""Real peers and a real tracker in one process over loopback: who comes, who goes, what is shared, changed, kept and taken back."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.errors import DiskError, NotFound, Refused, Unreachable
from p2p.model import MIB, Address
from p2p.peer.errands import Ambiguous, info, resolve, upload
from p2p.peer.node import Node
from p2p.peer.reports import Downloaded, Progress, Received, SessionChanged, Shared, Uploaded, Withdrawn
from p2p.protocol.messages import Replicate
from p2p.protocol.tracker_messages import Login, Logout
from p2p.swarm.sources import Policy
from tests.integration.swarm_kit import Swarm, old_file
from tests.leaks import contained
from tests.waiting import until

SHORT = Policy(patience=1.5, patience_alone=1.0, patience_offline=1.5)
"""The real policy, for tests of what cannot succeed."""
DATA = Random(5).randbytes(5_000_000)


def hang_up_at_once(node: Node) -> None:
    """Kill a peer: its sockets are reset, it takes leave of nobody."""
    node._announcer._task.cancel()  # type: ignore[union-attr]
    for link in node._links.all():
        link.close()


# -- swarms --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"portable": True}, {"hash_name": "sha256"}], ids=["native", "portable", "sha256"])
def test_one_seed_and_four_peers_end_with_the_same_bytes(tmp_path: Path, settings: dict[str, Any]) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed", **settings)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            peers = [await swarm.peer(f"p{n}", **settings) for n in range(4)]
            done = await asyncio.gather(*(peer.download(shared.id, tmp_path / f"out{n}") for n, peer in enumerate(peers)))
            assert all(one.path.read_bytes() == DATA for one in done)
            assert all(sum(one.bytes_from.values()) == len(DATA) for one in done), "a byte came twice"
            assert seed.sent(shared.id) <= 2 * len(DATA)
            phases = [report.phase for report in swarm.told("p0", Progress)]
            assert phases[0] == "searching"
            assert "downloading" in phases
            await until(lambda: True)
            assert len(await swarm.sources(shared.id)) == 5

    contained(work)


def test_the_rest_finish_together_when_the_only_seed_stops_half_way(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=2) as swarm:
            seed = await swarm.peer("seed", limit_up=4 * MIB)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            peers = [await swarm.peer(f"p{n}") for n in range(3)]
            tasks = [asyncio.create_task(peer.download(shared.id, tmp_path / f"out{n}")) for n, peer in enumerate(peers)]

            def all_given() -> bool:
                have = [peer._serving.holdings.get(shared.id) for peer in peers]
                union = 0
                for holding in have:
                    union |= holding.have.bits if holding is not None else 0
                return union.bit_count() == -(-len(DATA) // 65536)

            await until(all_given, 20)
            assert not all(task.done() for task in tasks), "the seed was not stopped half way"
            await swarm.stop("seed")
            done = await asyncio.gather(*tasks)
            assert all(one.path.read_bytes() == DATA for one in done)

    contained(work, 40)


def test_a_download_whose_only_seed_leaves_says_what_is_missing_and_keeps_what_came(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm:
            seed = await swarm.peer("seed", limit_up=2 * MIB)
            shared = await seed.share(old_file(tmp_path / "image.bin", DATA))
            leech = await swarm.peer("leech", policy=SHORT)
            task = asyncio.create_task(leech.download(shared.id, tmp_path / "out"))
            await until(lambda: any(report.bytes > MIB for report in swarm.told("leech", Progress) if report.phase == "downloading"))
            await swarm.stop("seed")
            with pytest.raises(NotFound, match="pieces are missing"):
                await task
            again = await swarm.peer("again")
            await again.share(tmp_path / "image.bin")
            done = await leech.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == DATA
            assert sum(done.bytes_from.values()) <= len(DATA) - MIB // 2, "what had come was fetched again"

    contained(work, 60)


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

    contained(work, 40)


def test_a_killed_peer_is_gone_from_all_answers_within_its_lease(tmp_path: Path) -> None:
    """Case 20."""

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
                seed.retract(shared.id, shared.path)
                assert seed._announcer is not None
                await seed._announcer.known(5)
                assert [report.id for report in swarm.told("seed", Withdrawn)] == [shared.id]
            assert await swarm.sources(shared.id) == []
            assert await swarm.listed() == []

    contained(work)


def test_a_logout_by_somebody_else_ends_a_peer_of_a_stored_session(tmp_path: Path) -> None:
    """Case 79."""
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
            async with asyncio.timeout(3):
                error = await seed.ended()
            assert error.code == "login_needed"
            assert swarm.told("seed", SessionChanged)[-1].state == "ended"
            assert (await running).path.read_bytes() == DATA, "a download under way goes on with the link it has"

    contained(work)


# -- trackers that go away -----------------------------------------------------------------------------------------------------------


def test_a_download_goes_on_without_its_tracker(tmp_path: Path) -> None:
    """Case 40."""

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


def test_without_a_tracker_a_command_fails_soon_and_names_the_address(tmp_path: Path) -> None:
    """Case 40."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            leech = await swarm.peer("leech")
            await swarm.stop_tracker()
            began = time.monotonic()
            for attempt in (leech.download("ab" * 32, tmp_path), resolve(leech.tracker, "x"), info(leech, "ab" * 32)):  # type: ignore[arg-type]
                with pytest.raises(Unreachable) as failed:
                    await attempt
                assert str(swarm.address) in str(failed.value)
            with pytest.raises(Unreachable):
                await swarm.peer("late")
            assert time.monotonic() - began < 5

    contained(work)


def test_all_shares_are_registered_again_when_the_tracker_is_back(tmp_path: Path) -> None:
    """Case 40."""

    async def work() -> None:
        async with Swarm(tmp_path, ttl=1) as swarm:
            seed = await swarm.peer("seed")
            ids = {(await seed.share(old_file(tmp_path / f"{n}.bin", b"%d" % n))).id for n in range(70)}
            await swarm.stop_tracker()
            await until(lambda: swarm.told("seed", SessionChanged), 5)
            late = await seed.share(old_file(tmp_path / "late.bin", b"late"))
            await swarm.start_tracker()
            await until(lambda: swarm.told("seed", SessionChanged)[-1].state == "resumed", 20)
            assert {hit.id for hit in await swarm.listed()} == {*ids, late.id}

    contained(work, 40)


def test_a_peer_that_started_before_its_tracker_registers_when_that_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            await swarm.stop_tracker()
            seed = await swarm.peer("seed", require_tracker=False)
            began = time.monotonic()
            shared = await seed.share(old_file(tmp_path / "image.bin", b"x"))
            assert time.monotonic() - began < 2, "a share waited for a tracker that is not there"
            await swarm.start_tracker()
            await until(lambda: "resumed" in [report.state for report in swarm.told("seed", SessionChanged)], 10)
            assert [source.name for source in await swarm.sources(shared.id)] == ["seed"]

    contained(work, 40)


# -- what is shared ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["touched", "longer", "shorter", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_shared_is_never_served_under_its_old_id(tmp_path: Path, change: str) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech", policy=SHORT)
            path = old_file(tmp_path / "image.bin", DATA)
            shared = await seed.share(path)
            if change == "touched":
                os.utime(path, (2, 2))
            elif change == "removed":
                path.unlink()
            elif change == "replaced":
                old_file(tmp_path / "other", b"y" * len(DATA)).replace(path)
            else:
                path.write_bytes(DATA + b"!" if change == "longer" else DATA[:-1])
                os.utime(path, (1, 1))
            with pytest.raises((NotFound, Unreachable)):
                async with asyncio.timeout(20):
                    await leech.download(shared.id, tmp_path / "out")
            assert swarm.told("seed", Withdrawn)
            assert await swarm.sources(shared.id) == []
            assert not (tmp_path / "out" / "image.bin").exists()

    contained(work, 40)


def test_the_same_bytes_under_two_names_are_two_contents(tmp_path: Path) -> None:
    """Case 34."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
            one = await seed.share(old_file(tmp_path / "one.bin", DATA[:100_000]))
            two = await seed.share(old_file(tmp_path / "two.bin", DATA[:100_000]))
            assert one.id != two.id
            for shared in (one, two):
                assert (await leech.download(shared.id, tmp_path / "out")).path.name == shared.name

    contained(work)


def test_two_contents_with_one_name_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    """Case 34."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, other, leech = await swarm.peer("seed"), await swarm.peer("other"), await swarm.peer("leech")
            one = await seed.share(old_file(tmp_path / "a" / "x.bin", b"one"))
            two = await other.share(old_file(tmp_path / "b" / "x.bin", b"two"))
            with pytest.raises(Ambiguous) as ambiguous:
                await resolve(leech.tracker, "x.bin")
            assert set(ambiguous.value.ids) == {one.id, two.id}
            assert (await leech.download(two.id, tmp_path / "out")).path.read_bytes() == b"two"
            with pytest.raises(DiskError, match="exists"):
                await leech.download(one.id, tmp_path / "out")
            assert (await leech.download(one.id, tmp_path / "out", overwrite=True)).path.read_bytes() == b"one"

    contained(work)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 20 * 65_536, 20 * 65_536 + 1])
def test_a_file_of_any_size_arrives(tmp_path: Path, size: int) -> None:
    """Case 35."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA[:size]))
            done = await leech.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == DATA[:size]
            assert done.size == sum(done.bytes_from.values()) == size
            second = await swarm.peer("second")
            await swarm.stop("seed")
            assert (await second.download(shared.id, tmp_path / "again")).bytes_from == ({"leech": size} if size else {})

    contained(work)


def test_a_folder_with_empty_folders_and_thousands_of_small_files_arrives(tmp_path: Path) -> None:
    async def work() -> None:
        tree = tmp_path / "tree"
        for number in range(3000):
            old_file(tree / f"d{number % 30}" / f"{number}.txt", b"%d" % number * (number % 50))
        (tree / "empty" / "deep").mkdir(parents=True)
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
            shared = await seed.share(tree)
            done = await leech.download(shared.id, tmp_path / "out")
            found = {path.relative_to(done.path): path.read_bytes() if path.is_file() else None for path in done.path.rglob("*")}
            assert found == {path.relative_to(tree): path.read_bytes() if path.is_file() else None for path in tree.rglob("*")}

    contained(work, 60)


def test_a_download_into_a_target_that_exists_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    """Case 43."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
            shared = await seed.share(old_file(tmp_path / "x.bin", b"new"))
            mine = old_file(tmp_path / "out" / "x.bin", b"mine")
            with pytest.raises(DiskError, match="exists"):
                await leech.download(shared.id, tmp_path / "out")
            assert mine.read_bytes() == b"mine"
            assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["x.bin"]

    contained(work)


def test_two_downloads_of_one_content_into_one_folder_at_once_end_with_one_file(tmp_path: Path) -> None:
    """Case 43."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, one, two = await swarm.peer("seed"), await swarm.peer("one"), await swarm.peer("two")
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA))
            both = await asyncio.gather(*(peer.download(shared.id, tmp_path / "out") for peer in (one, two)), return_exceptions=True)
            assert sorted(isinstance(result, Downloaded) for result in both) == [False, True]
            assert (tmp_path / "out" / "x.bin").read_bytes() == DATA

    contained(work)


def test_a_resumed_download_fetches_only_what_is_missing(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed", limit_up=4 * MIB)
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA))
            first = await swarm.peer("first")
            task = asyncio.create_task(first.download(shared.id, tmp_path / "out"))

            def here() -> int:
                holding = first._serving.holdings.get(shared.id)
                return holding.bytes_here if holding is not None else 0

            await until(lambda: here() > 2 * MIB, 20)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await swarm.stop("first")
            second = await swarm.peer("second")
            done = await second.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == DATA
            assert sum(done.bytes_from.values()) <= len(DATA) - 2 * MIB

    contained(work, 40)


# -- uploads -------------------------------------------------------------------------------------------------------------------------


async def keeper(swarm: Swarm, name: str, room: int = 100 * MIB) -> Node:
    """A peer that accepts uploads."""
    return await swarm.peer(name, accept_uploads=room, folder=swarm.folder / name)


def test_an_upload_puts_copies_on_other_peers_and_counts_them(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            for name in ("k1", "k2", "k3"):
                await keeper(swarm, name)
            await swarm.peer("no uploads")
            origin = await swarm.peer("origin")
            done: list[Any] = []
            result = await upload(origin, old_file(tmp_path / "x.bin", DATA), 3, done.append)
            assert result == done[-1]
            assert isinstance(result, Uploaded)
            assert result.copies == 3
            assert result.origin_copies < 3
            for name in ("k1", "k2", "k3"):
                assert (tmp_path / name / "x.bin").read_bytes() == DATA
                assert [report.peer for report in swarm.told(name, Received)] == ["origin"]
            await swarm.stop("origin")
            assert {source.name for source in await swarm.sources(result.id)} == {"k1", "k2", "k3"}

    contained(work)


def test_an_upload_that_one_target_refuses_goes_to_another(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            for number in range(4):
                node = await keeper(swarm, f"k{number}")
                if number != 2:
                    node._keeper._quota = 1  # since its last heartbeat its room has shrunk
            origin = await swarm.peer("origin")
            result = await upload(origin, old_file(tmp_path / "x.bin", DATA[:500_000]), 1, lambda _: None)
            assert result.copies == 1
            assert (tmp_path / "k2" / "x.bin").exists()

    contained(work)


def test_an_upload_that_too_few_accept_says_how_many_copies_were_made(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            await keeper(swarm, "small", room=1000)
            await keeper(swarm, "large")
            origin = await swarm.peer("origin")
            with pytest.raises(NotFound, match="1 of 2 copies"):
                await upload(origin, old_file(tmp_path / "x.bin", DATA[:500_000]), 2, lambda _: None)

    contained(work)


def test_a_peer_that_has_the_content_already_verifies_at_once(tmp_path: Path) -> None:
    """Both answers of `replicate` come in one packet then."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node, origin = await keeper(swarm, "keeper"), await swarm.peer("origin")
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA))
            await node.download(shared.id, tmp_path / "keeper")
            link = await origin.link_to(node.peer, Address("127.0.0.1", node._links.me.listen["tcp"]))
            accepted: list[bool] = []
            for _ in range(20):
                async with asyncio.timeout(3):
                    await link.replicate(Replicate(id=shared.id, name="x.bin", size=len(DATA)), lambda: accepted.append(True))
            assert len(accepted) == 20

    contained(work)


@pytest.mark.parametrize(
    ("room", "size", "code"), [(0, 10, "not_allowed"), (1000, 500_000, "quota"), (400_000, 10, "quota")], ids=["none", "over", "lied"]
)
def test_what_a_peer_will_not_keep_is_refused(tmp_path: Path, room: int, size: int, code: str) -> None:
    """No uploads at all; over the quota; and a manifest larger than was announced."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node, origin = await keeper(swarm, "keeper", room), await swarm.peer("origin")
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA[:500_000]))
            link = await origin.link_to(node.peer, Address("127.0.0.1", node._links.me.listen["tcp"]))
            with pytest.raises(Refused) as refused:
                await link.replicate(Replicate(id=shared.id, name="x.bin", size=size), lambda: None)
            assert refused.value.code == code
            assert not (tmp_path / "keeper" / "x.bin").exists()
            assert node._keeper._used == 0

    contained(work)


# -- rates ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["limit_up", "limit_down"])
def test_a_limit_holds_roughly(tmp_path: Path, side: str) -> None:
    async def work() -> None:
        rate = 2_000_000
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed", limit_up=rate if side == "limit_up" else 0)
            leech = await swarm.peer("leech", limit_down=rate if side == "limit_down" else 0)
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA))
            done = await leech.download(shared.id, tmp_path / "out")
            assert 0.7 * len(DATA) / rate < done.seconds < 1.6 * len(DATA) / rate

    contained(work)


def test_a_peer_that_sends_at_a_very_low_rate_stops_at_once(tmp_path: Path) -> None:
    """Case 51: a worker that sleeps to keep the rate does not hold up the end."""

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


def test_the_same_content_at_two_paths_is_hashed_once_and_shared(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed")
            paths = [old_file(tmp_path / folder / "x.bin", b"same") for folder in ("a", "b")]
            looks: list[int] = []
            task = asyncio.create_task(seed.watch_paths(paths, lambda: looks.append(len(swarm.told("seed", Shared)))))
            await until(lambda: len(looks) >= 4, 20)
            assert looks[-1] == looks[0], "what is at rest was shared again"
            paths[0].unlink()
            await until(lambda: seed.held_at(paths[1]), 10, "the other path takes over")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    contained(work, 40)
