"""Hostile sharers against an honest downloader (hostile cases 28-35, 55-57): it ends soon, with the right
bytes or a clear error."""

from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import EnjambreError, IntegrityError, NotFound, Unreachable
from p2p.model import MIB, PeerId
from p2p.net.limits import Timeouts
from p2p.peer.candidates import FinderTimeouts
from p2p.peer.hedging import SearchLimits
from p2p.peer.node import Node
from p2p.peer.reports import Downloaded
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import Announce, Login, LoginAnswer, Share
from p2p.swarm.peer_stats import Policy
from tests.kit import bad_peers as kit
from tests.kit.leaks import contained, open_descriptors
from tests.kit.swarm_kit import Swarm, folder_in_memory
from tests.kit.waiting import HANG_S, hang_guard, until

QUICK = Policy(
    block_timeout=1.0,
    min_rate=64 * MIB,
    stall_timeout=2.5,
    alone_timeout=0.7,
    offline_timeout=1.5,
    hedge_after=0.4,
    busy_pause=0.2,
)
"""The real policy with short times, so that a test of a stall takes two seconds and not twenty."""
OFTEN: dict[str, Any] = {
    "finder_timeouts": FinderTimeouts(eager=0.3),
    "search_limits": SearchLimits(pause=0.3),
}
"""Settings of a peer that asks the tracker often."""
PATIENT = dataclasses.replace(QUICK, stall_timeout=1000.0, alone_timeout=1000.0, offline_timeout=1000.0)
"""The same, for a download that must succeed however busy this machine is."""
TIMES = Timeouts(stall_s=1.5, line_s=1.5, answer_s=1.0, ping_s=0.7)
SAMPLE = kit.Sample.random("image.bin", 2_000_000)
BIG = kit.Sample("big.bin", kit.Sample.random("", 9 * MIB).data, piece_length=4 * MIB)
"""Its pieces have four blocks each, so that one piece comes from several peers."""


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, where the times of this file are not those of a busy disk."""
    with folder_in_memory(tmp_path) as folder:
        yield folder


async def victim(swarm: Swarm, policy: Policy = QUICK) -> Node:
    """An honest peer with little patience."""
    return await swarm.peer("victim", policy=policy, timeouts=TIMES, **OFTEN)


def meet(tmp_path: Path, *peers: kit.PlainPeer) -> Downloaded:
    """Download from these peers, however long it takes; returns what came. Checks the bytes, and that nothing
    is left behind."""

    async def work() -> Downloaded:
        sample = peers[0].sample
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, *peers):
            node = await victim(swarm, PATIENT)
            async with hang_guard():
                done = await node.download(sample.id, tmp_path / "out")
            assert done.path.read_bytes() == sample.data
            assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [sample.name]
            return done

    return contained(work)


def fail(tmp_path: Path, *peers: kit.PlainPeer) -> EnjambreError:
    """Download from these peers in vain; returns the error. Checks that nothing lies under the final name."""

    async def work() -> EnjambreError:
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, *peers):
            node = await victim(swarm)
            async with hang_guard():
                with pytest.raises(EnjambreError) as failed:
                    await node.download(peers[0].sample.id, tmp_path / "out")
            assert not (tmp_path / "out" / peers[0].sample.name).exists()
            return failed.value

    return contained(work)


def honest(count: int, sample: kit.Sample = SAMPLE) -> list[kit.PlainPeer]:
    return [kit.PlainPeer(sample, f"honest {number}") for number in range(count)]


# -- one bad peer among honest ones

VICES = [
    cls
    for cls in vars(kit).values()
    if isinstance(cls, type) and issubclass(cls, kit.PlainPeer) and cls is not kit.PlainPeer
]


@pytest.mark.parametrize("vice", VICES, ids=lambda vice: vice.vice)
def test_a_bad_peer_does_not_keep_a_download_from_its_end(tmp_path: Path, vice: type[kit.PlainPeer]) -> None:
    done = meet(tmp_path, vice(SAMPLE), *honest(2))
    assert done.size == len(SAMPLE.data)


class BreaksOffOnce(kit.PlainPeer):
    """Sends its manifest in crumbs, and breaks off in the middle the first time."""

    vice = "breaks off once"
    asked = 0

    async def on_manifest(self, talk: kit.Talk, message: kit.Message) -> None:
        self.asked += 1
        data = self.sample.manifest
        step = len(data) // 12
        await talk.raw(kit.encoded({"ok": True, "seq": message.get("seq"), "body": len(data)}))
        for at in range(0, len(data), step):
            if self.asked == 1 and at > len(data) // 2:
                talk.hang_up()
                return
            await talk.raw(data[at : at + step])
            await asyncio.sleep(0.01)


def test_a_manifest_whose_transfer_broke_off_is_asked_for_again(tmp_path: Path) -> None:
    peer = BreaksOffOnce(SAMPLE)
    done = meet(tmp_path, peer)
    assert done.size == len(SAMPLE.data)
    assert peer.asked == 2


@pytest.mark.parametrize(
    "vice", [kit.BitFlipper, kit.Liar, kit.Quitter, kit.OneByte, kit.LinkDropper], ids=lambda vice: vice.vice
)
def test_a_bad_peer_that_shares_large_pieces_with_honest_ones_is_survived(
    tmp_path: Path, vice: type[kit.PlainPeer]
) -> None:
    done = meet(tmp_path, vice(BIG), *honest(2, BIG))
    assert done.size == len(BIG.data)


def test_three_bad_peers_of_different_kinds_and_one_honest_end_with_the_right_bytes(tmp_path: Path) -> None:
    done = meet(tmp_path, kit.Liar(SAMPLE), kit.Quitter(SAMPLE), kit.Refuser(SAMPLE), *honest(1))
    assert done.bytes_from["honest 0"] > len(SAMPLE.data) * 0.8


@pytest.mark.parametrize("vice", [kit.Liar, kit.Refuser, kit.Quitter], ids=lambda vice: vice.vice)
def test_an_impostor_with_the_id_of_an_honest_seed_does_not_keep_it_away(
    tmp_path: Path, vice: type[kit.PlainPeer]
) -> None:
    """An id is no secret: the tracker tells it to everybody."""

    async def work() -> None:
        seed, impostor = kit.PlainPeer(SAMPLE, "seed"), vice(SAMPLE, "impostor")
        impostor.peer = seed.peer
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, seed):
            node = await victim(swarm)
            await impostor.start()
            try:
                await impostor.call(node.controls.me.listen["tcp"])
                await until(
                    lambda: len(node.controls.all()) == 1,
                    what="the impostor is linked before any peer is dialled",
                )
                done = await node.download(SAMPLE.id, tmp_path / "out")
            finally:
                await impostor.stop()
            assert done.path.read_bytes() == SAMPLE.data
            assert done.bytes_from["seed"] >= len(SAMPLE.data)
            assert impostor.reads

    contained(work)


def test_case_28_a_peer_that_flips_one_bit_is_dropped_and_costs_at_most_two_blocks(tmp_path: Path) -> None:
    flipper = kit.BitFlipper(SAMPLE)
    done = meet(tmp_path, flipper, *honest(1))
    assert sum(done.bytes_from.values()) <= len(SAMPLE.data) + 2 * kit.PIECE


def test_case_29_a_peer_that_sends_only_bad_data_is_dropped_after_few_blocks(tmp_path: Path) -> None:
    """At most five bad blocks of a thousand."""
    sample = kit.Sample.random("thousand.bin", 1000 * kit.PIECE)
    liar = kit.Liar(sample)
    done = meet(tmp_path, liar, *honest(2, sample))
    assert done.bytes_from.get(liar.name, 0) <= 5 * kit.PIECE
    assert sum(done.bytes_from.values()) <= len(sample.data) + 5 * kit.PIECE


def test_what_comes_from_a_peer_that_is_gone_does_not_count_as_anothers(tmp_path: Path) -> None:
    """A piece of several blocks: if the zeros of the one that left were taken, the honest one would be blamed
    for them."""
    dropper = kit.LinkDropper(BIG)
    good = kit.Slow(BIG, "good")
    done = meet(tmp_path, dropper, good)
    assert done.bytes_from.keys() == {"good"}
    assert done.bytes_from["good"] <= len(BIG.data) + 2 * MIB


def test_case_54_a_peer_that_is_slow_and_honest_is_not_dropped(tmp_path: Path) -> None:
    """No false ban."""
    slow = kit.Slow(SAMPLE)
    done = meet(tmp_path, slow, *honest(1))
    assert "slow" in done.bytes_from


@pytest.mark.parametrize("answers", [False, True], ids=["nobody there", "accept and say nothing"])
def test_an_honest_seed_among_many_that_are_made_up_is_found(tmp_path: Path, answers: bool) -> None:
    """One session announces two hundred peers that do not exist: a neighbour of hostile case 15."""

    async def work() -> None:
        mute, seed = kit.Mute(SAMPLE), kit.PlainPeer(SAMPLE, "honest")
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, seed):
            await mute.start()
            port = mute.port
            if not answers:
                await mute.stop()
            liar = TrackerClient(swarm.address)
            liar.use_session((await liar.expect(Login(user="liar"), LoginAnswer)).session)
            share = Share(id=SAMPLE.id, name=SAMPLE.name, size=len(SAMPLE.data), have=len(SAMPLE.data))
            for number in range(200):
                await liar.ask(
                    Announce(peer=PeerId(f"{number:032x}"), name="x", listen={"tcp": port}, contents=(share,))
                )
            # Each lookup names a quarter of the peers, by chance.
            policy = dataclasses.replace(QUICK, stall_timeout=HANG_S)
            often = SearchLimits(pause=0.1)
            node = await swarm.peer("victim", policy=policy, timeouts=TIMES, search_limits=often)
            async with hang_guard():
                done = await node.download(SAMPLE.id, tmp_path / "out")
            assert done.path.read_bytes() == SAMPLE.data
            await liar.close()
            await mute.stop()

    contained(work)


NOBODY = (NotFound, Unreachable)
"""Whether one that is hung up on and comes back is there at the end, chance decides."""

# -- only bad peers


@pytest.mark.parametrize(
    ("vice", "kind", "said"),
    [
        (kit.Liar, IntegrityError, "liar: piece"),
        (kit.BitFlipper, IntegrityError, "bit flipper: piece 0"),
        (kit.ManifestForger, IntegrityError, "manifest forger"),
        (kit.EndlessManifest, Unreachable, "endless manifest"),
        (kit.LongAnswer, NOBODY, "its answers are broken"),
        (kit.ShortAnswer, NOBODY, "its answers are broken"),
        (kit.HugeHeader, NOBODY, "its answers are broken"),
        (kit.Refuser, NotFound, "pieces are missing"),
        (kit.BusyRefuser, Unreachable, "no peer gives"),
        (kit.OneByte, EnjambreError, "what came is kept"),
        (kit.EndlessLine, Unreachable, "does not speak as a peer"),
        (kit.SlamDoor, Unreachable, "127.0.0.1:"),
        (kit.Mute, Unreachable, "no answer in time"),
    ],
    ids=lambda value: getattr(value, "vice", ""),
)
def test_case_30_when_all_are_bad_it_is_said_soon(
    tmp_path: Path, vice: type[kit.PlainPeer], kind: type[Exception] | tuple[type[Exception], ...], said: str
) -> None:
    error = fail(tmp_path, vice(SAMPLE))
    assert isinstance(error, kind)
    assert said in str(error)


class _DiskGone(kit.Refuser):
    """Has all, on a disk that cannot be read."""

    vice = "disk gone"
    code = "disk"

    async def answer_read(self, talk: kit.Talk, message: kit.Message, block: bytes) -> None:
        await talk.say(
            {"ok": False, "seq": message.get("seq"), "error": self.code, "message": "no disk here"}
        )


def test_case_47_of_a_peer_that_cannot_read_its_disk_is_told_once_what_it_says(tmp_path: Path) -> None:
    said = str(fail(tmp_path, _DiskGone(SAMPLE)))
    assert said.count("disk gone: ") == 1
    assert "it says: no disk here" in said


def test_what_was_verified_is_kept_when_all_peers_turn_out_bad(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node = await victim(swarm)
            async with kit.announced(swarm.address, kit.Turncoat(SAMPLE)):
                with pytest.raises(IntegrityError):
                    await node.download(SAMPLE.id, tmp_path / "out")
            assert {entry.name for entry in (tmp_path / "out").iterdir()} == {
                "image.bin.part",
                "image.bin.part.manifest",
            }
            async with kit.announced(swarm.address, *honest(1)):
                done = await node.download(SAMPLE.id, tmp_path / "out")
        assert done.path.read_bytes() == SAMPLE.data
        assert sum(done.bytes_from.values()) <= len(SAMPLE.data) - 9 * kit.PIECE

    contained(work)


def test_case_33_a_peer_that_refuses_everything_is_not_asked_in_a_busy_loop(tmp_path: Path) -> None:
    for vice in (kit.Refuser, kit.BusyRefuser):
        peer = vice(SAMPLE)
        fail(tmp_path, peer)
        assert peer.reads <= 3 * SAMPLE.count


def test_a_peer_that_hangs_up_on_data_connections_is_dialled_a_few_times_only(tmp_path: Path) -> None:
    """Each dial uses up a local port for a minute, and thousands a second were possible."""
    slammer = kit.DataSlammer(SAMPLE)
    done = meet(tmp_path, slammer, *honest(1))
    assert done.bytes_from == {"honest 0": len(SAMPLE.data)}
    assert 1 <= slammer.slams < 40


def test_a_peer_that_returns_under_new_ids_does_not_use_up_descriptors(
    tmp_path: Path,
) -> None:
    rounds = 50

    async def work() -> None:
        peer = kit.DataHolder(SAMPLE)
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, peer):
            node = await swarm.peer("victim", timeouts=TIMES, **OFTEN)
            before = len(open_descriptors())
            downloading = asyncio.create_task(node.download(SAMPLE.id, tmp_path / "out"))
            await until(lambda: peer.reads, what="the first data connection")
            for number in range(rounds):
                reads = peer.reads
                peer.peer = f"{number + 1:032x}"
                await peer.call(node.controls.me.listen["tcp"])
                await until(lambda: peer.reads > reads, what="a data connection under this id")  # noqa: B023 (it is waited for here)
                await until(lambda: not len(node.controls), what="its link is gone")
            await until(lambda: not len(node.data), what="its data connections are closed")
            if before:
                # One end of each data connection is the other side's, which keeps it, and a few are of the
                # download itself.
                await until(lambda: len(open_descriptors()) < before + rounds + rounds // 2)
            downloading.cancel()
            await asyncio.gather(downloading, return_exceptions=True)

    contained(work)


# -- memory


@pytest.mark.parametrize(
    "vice",
    [kit.EndlessManifest, kit.Overflower, kit.EndlessLine, kit.HaveFlooder],
    ids=lambda vice: vice.vice,
)
def test_case_31_a_peer_that_never_stops_sending_costs_little_memory(
    tmp_path: Path, vice: type[kit.PlainPeer]
) -> None:

    async def work() -> int:
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, vice(SAMPLE), *honest(1)):
            node = await victim(swarm)
            tracemalloc.start()
            try:
                await node.download(SAMPLE.id, tmp_path / "out")
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert contained(work) < 12 * MIB


# -- networks that fail


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_case_57_a_connection_cut_at_any_byte_of_an_answer_is_survived(tmp_path: Path, reset: bool) -> None:
    header = len(kit.encoded({"ok": True, "seq": 1, "body": kit.PIECE}))
    sample = kit.Sample.random("small.bin", 5 * kit.PIECE + 1)
    for number, after in enumerate(
        (0, 1, header - 1, header, header + 1, header + 1000, header + kit.PIECE - 1)
    ):
        cutter = kit.Cutter(sample)
        cutter.after, cutter.reset = after, reset
        meet(tmp_path / str(number), cutter, *honest(1, sample))


def test_cases_55_56_a_download_goes_on_when_its_only_peer_is_back(
    tmp_path: Path,
) -> None:
    """Half-open links are noticed by the ping, and dialled again."""

    async def work() -> None:
        peer = kit.Freezer(SAMPLE)
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, peer):
            node = await victim(swarm, dataclasses.replace(QUICK, stall_timeout=30.0, offline_timeout=30.0))
            task = asyncio.create_task(node.download(SAMPLE.id, tmp_path / "out"))
            await until(lambda: peer.reads >= 5)
            peer.flowing.clear()
            frozen = node.controls.all()
            assert frozen
            await until(
                lambda: all(link.closed for link in frozen), what="a connection that is dead is noticed"
            )
            peer.flowing.set()
            async with hang_guard():
                done = await task
            assert done.path.read_bytes() == SAMPLE.data

    contained(work)


# -- names and contents


def test_case_34_two_contents_with_one_name_never_mix(tmp_path: Path) -> None:
    other = kit.Sample.random("image.bin", 2_000_000, seed=2)

    async def work() -> None:
        async with Swarm(tmp_path) as swarm, kit.announced(swarm.address, *honest(2), *honest(2, other)):
            node = await victim(swarm)
            both = await asyncio.gather(
                node.download(SAMPLE.id, tmp_path / "a"), node.download(other.id, tmp_path / "b")
            )
            assert [
                done.path.read_bytes() == sample.data
                for done, sample in zip(both, (SAMPLE, other), strict=True)
            ] == [True, True]

    contained(work)
