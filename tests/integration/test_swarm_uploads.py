"""Uploads by real peers over loopback: copies placed, refused, replaced and counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.errors import NotFound, Refused
from p2p.model import MIB, Address, PeerId
from p2p.peer import operations as errands
from p2p.peer.node import Node
from p2p.peer.operations import upload
from p2p.peer.replicas import ReplicaLimits
from p2p.peer.reports import Received, Shared, Uploaded
from p2p.peer.settings import WatchLimits
from p2p.protocol.peer_messages import Replicate
from p2p.protocol.tracker_messages import Contact
from tests.kit.bad_peers import Message, PlainPeer, Sample, Talk
from tests.kit.leaks import contained
from tests.kit.swarm_kit import Swarm, old_file
from tests.kit.waiting import hang_guard, until

DATA = Random(5).randbytes(5_000_000)


# -- uploads


async def target(swarm: Swarm, name: str, quota: int = 100 * MIB, **settings: Any) -> Node:
    """A peer that accepts uploads."""
    return await swarm.peer(name, accept_uploads=quota, folder=swarm.folder / name, **settings)


async def look_once(node: Node, folder: Path) -> None:
    """Let a peer look once at the folder that it watches."""
    looked = asyncio.Event()
    watching = asyncio.create_task(node.watch(folder, looked.set))
    await looked.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_an_upload_puts_copies_on_other_peers_and_counts_them(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            for name in ("k1", "k2", "k3"):
                await target(swarm, name)
            await swarm.peer("no uploads")
            # Slow enough for the targets to share what they have: without a limit it may be done before they
            # know each other.
            origin = await swarm.peer("origin", limit_up=2 * MIB)
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
                node = await target(swarm, f"k{number}")
                if number != 2:
                    node.replicas._limits = ReplicaLimits(
                        quota=1
                    )  # since its last heartbeat its room has shrunk
            origin = await swarm.peer("origin")
            result = await upload(origin, old_file(tmp_path / "x.bin", DATA[:500_000]), 1, lambda _: None)
            assert result.copies == 1
            assert (tmp_path / "k2" / "x.bin").exists()

    contained(work)


def test_an_upload_that_too_few_accept_says_how_many_copies_were_made(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            await target(swarm, "small", quota=1000)
            await target(swarm, "large")
            origin = await swarm.peer("origin")
            with pytest.raises(NotFound, match="1 of 2 copies"):
                await upload(origin, old_file(tmp_path / "x.bin", DATA[:500_000]), 2, lambda _: None)

    contained(work)


def test_a_peer_that_has_the_content_already_verifies_at_once(tmp_path: Path) -> None:
    """Both answers of `replicate` come in one packet then."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node, origin = await target(swarm, "target"), await swarm.peer("origin")
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA))
            await node.download(shared.id, tmp_path / "target")
            link = await origin.link_to(node.peer, Address("127.0.0.1", node.controls.me.listen["tcp"]))
            accepted: list[bool] = []
            for _ in range(20):
                async with hang_guard():
                    await link.replicate(
                        Replicate(id=shared.id, name="x.bin", size=len(DATA)), lambda: accepted.append(True)
                    )
            assert len(accepted) == 20

    contained(work)


@pytest.mark.parametrize(
    ("quota", "size", "code"),
    [(0, 10, "not_allowed"), (1000, 500_000, "quota"), (400_000, 10, "quota")],
    ids=["none", "over", "lied"],
)
def test_what_a_peer_will_not_keep_is_refused(tmp_path: Path, quota: int, size: int, code: str) -> None:
    """No uploads at all; over the quota; and a manifest larger than was announced."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node, origin = await target(swarm, "target", quota), await swarm.peer("origin")
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA[:500_000]))
            link = await origin.link_to(node.peer, Address("127.0.0.1", node.controls.me.listen["tcp"]))
            with pytest.raises(Refused) as refused:
                await link.replicate(Replicate(id=shared.id, name="x.bin", size=size), lambda: None)
            assert refused.value.code == code
            assert not (tmp_path / "target" / "x.bin").exists()
            assert not node.replicas._charged

    contained(work)


def test_a_replica_deleted_since_the_last_look_is_fetched_anew_and_stays_shared(
    tmp_path: Path,
) -> None:
    never = WatchLimits(pause=3600.0, longest_pause=3600.0)

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node, origin = await target(swarm, "target", watch_limits=never), await swarm.peer("origin")
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA))
            link = await origin.link_to(node.peer, Address("127.0.0.1", node.controls.me.listen["tcp"]))
            request, copy = (
                Replicate(id=shared.id, name="x.bin", size=len(DATA)),
                tmp_path / "target" / "x.bin",
            )
            await link.replicate(request, lambda: None)
            await look_once(node, copy.parent)
            copy.unlink()
            await link.replicate(request, lambda: None)
            assert copy.read_bytes() == DATA
            # What the watcher remembers of the first copy must not make it retract the second.
            await look_once(node, copy.parent)
            assert node.publisher.held_at(copy) == shared.id
            assert not swarm.told("target", Shared)

    contained(work)


def test_a_copy_that_another_file_of_its_name_keeps_away_costs_no_room(tmp_path: Path) -> None:
    """As the second version of an image, put on a peer that keeps the first."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node, origin = await target(swarm, "target", 100_000), await swarm.peer("origin")
            old_file(tmp_path / "target" / "x.bin", b"the first version")
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA[:80_000]))
            link = await origin.link_to(node.peer, Address("127.0.0.1", node.controls.me.listen["tcp"]))
            for _ in range(2):
                with pytest.raises(Refused) as refused:
                    await link.replicate(Replicate(id=shared.id, name="x.bin", size=80_000), lambda: None)
                assert refused.value.code == "disk"
                assert node.replicas.room == 100_000
            assert [entry.name for entry in (tmp_path / "target").iterdir()] == ["x.bin"]
            (tmp_path / "target" / "x.bin").unlink()
            await link.replicate(Replicate(id=shared.id, name="x.bin", size=80_000), lambda: None)
            assert node.replicas.room == 20_000

    contained(work)


class SilentTarget(PlainPeer):
    """Accepts a copy and never fetches it."""

    vice = "silent target"

    async def on_replicate(self, talk: Talk, message: Message) -> None:
        await talk.say({"ok": True, "seq": message.get("seq"), "state": "accepted"})


def test_a_peer_that_accepts_a_copy_and_never_fetches_it_does_not_hold_up_an_upload(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            origin = await swarm.peer("origin", patience=1.0)
            shared = await origin.share(old_file(tmp_path / "x.bin", DATA[:100_000]))
            silent = SilentTarget(Sample("other", b"other"))
            await silent.start()
            try:
                contact = Contact(
                    peer=PeerId(silent.peer), name="silent", host="127.0.0.1", listen={"tcp": silent.port}
                )
                async with hang_guard():
                    clock = asyncio.get_running_loop().time
                    placement = errands.Placement(origin, shared, 1, lambda _: None, clock)
                    fault = await placement.copy_to(contact)
                assert fault is not None
                assert "gained nothing for 1 s" in fault
            finally:
                await silent.stop()

    contained(work)


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        (["x.bin"], ["x.bin"]),
        (["a:b?.bin"], ["a_b_.bin"]),
        (["notes.part"], ["notes_part"]),
        (
            ["tree/z", 'tree/a"b', "tree/a0", "tree/NUL", "tree/s/.h"],
            ["tree/z", "tree/a_b", "tree/a0", "tree/_NUL", "tree/s/.h"],
        ),
    ],
    ids=["plain", "odd", "part", "folder"],
)
def test_a_copy_kept_for_others_is_the_same_content_after_its_keeper_was_restarted(
    tmp_path: Path, paths: list[str], kept: list[str]
) -> None:
    """Whatever the publisher chose that this peer would not: another hash function, another order of names,
    names no disk can hold."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node = await target(swarm, "target")
            origin = await swarm.peer("origin", hash_name="sha256")
            for number, path in enumerate(paths):
                old_file(tmp_path / "mine" / path, DATA[number * 200_000 : (number + 1) * 200_000])
            result = await upload(origin, tmp_path / "mine" / Path(paths[0]).parts[0], 1, lambda _: None)
            assert all((tmp_path / "target" / path).is_file() for path in kept)
            await swarm.stop("target")
            await swarm.stop("origin")
            node = await swarm.peer("target", accept_uploads=MIB, folder=tmp_path / "target")
            watching = asyncio.create_task(node.watch(tmp_path / "target"))
            try:
                await until(lambda: node.publisher.holds(result.id))
                reader = await swarm.peer("reader")
                done = await reader.download(result.id, tmp_path / "out")
                assert done.size == sum(
                    path.stat().st_size for path in (tmp_path / "mine").rglob("*") if path.is_file()
                )
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    contained(work)


def test_a_kept_copy_that_was_changed_is_shared_as_what_it_is_now(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node = await target(swarm, "target")
            origin = await swarm.peer("origin", hash_name="sha256")
            result = await upload(origin, old_file(tmp_path / "x.bin", DATA[:200_000]), 1, lambda _: None)
            await swarm.stop("target")
            old_file(tmp_path / "target" / "x.bin", DATA[1:200_001])
            node = await swarm.peer("target", accept_uploads=MIB, folder=tmp_path / "target")
            shared = await node.share(tmp_path / "target" / "x.bin")
            assert shared.id != result.id
            assert not node.publisher.holds(result.id)

    contained(work)
