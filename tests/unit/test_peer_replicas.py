"""Which replicas a peer keeps for others, how many at once, and what they cost. Downloads are fake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.errors import DiskError, EnjambreError, IntegrityError, NotFound, Refused, Unreachable
from p2p.model import MIB, ContentId, FileEntry, Manifest
from p2p.peer.library import Library
from p2p.peer.local_content import LocalContent
from p2p.peer.manifest_search import Found
from p2p.peer.replicas import Allowance, ReplicaLimits, Replicas, check_cost
from p2p.peer.reports import Downloaded, Received, Report, Warned
from p2p.peer.uploads import Uploads
from p2p.protocol.peer_messages import Replicate
from p2p.storage.disk import free_space
from tests.kit.local_contents import FakeAnnouncements, FakeConnection, local_content
from tests.kit.virtual_time import in_virtual_time

LIMITS = ReplicaLimits(quota=100)


def ask(number: int, size: int = 10) -> Replicate:
    return Replicate(id=ContentId(f"{number:064x}"), name=f"{number}.bin", size=size)


def manifest_of(size: int) -> Manifest:
    return Manifest("x.bin", "file", "blake2b-256", 65_536, (FileEntry("x.bin", size),), (), ())


class FakeHashing:
    """Runs work at once."""

    async def run(self, work: Callable[[], Any]) -> Any:
        return work()


class FakeCache:
    """A replica cache that notes what it is to remember."""

    def __init__(self) -> None:
        self.remembered: list[Path] = []
        self.fault: EnjambreError | None = None

    def keep(self, root: Path, manifest: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        self.remembered.append(root)


class Scene:
    """The replicas of one peer. Each download waits for `may_end`, and ends in `fault` if that is set."""

    def __init__(self, folder: Path | None, limits: ReplicaLimits = LIMITS) -> None:
        self.reports: list[Report] = []
        self.uploads = Uploads(asyncio.get_running_loop().time)
        self.library = Library(FakeAnnouncements())
        self.cache = FakeCache()
        self.fetched: list[ContentId] = []
        self.may_end = asyncio.Event()
        self.fault: Exception | None = None
        self.size = 10
        """What the manifest says."""
        self.manifest_comes = True
        self.made = True
        """Whether a download leaves something on the disk."""
        self.deleted: set[ContentId] = set()
        """Contents whose files are gone, which only a look shows."""
        self.looks = 0
        services: Any = SimpleNamespace(
            library=self.library, hashing=FakeHashing(), report=self.reports.append, scene=self
        )
        cache: Any = self.cache
        self.free: Callable[[Path], int] = free_space
        fake: Any = FakeDownload
        self.replicas = Replicas(
            folder, limits, services, cache, self.still_there, lambda path: self.free(path), fake
        )

    def accept(self, number: int, size: int = 10, host: str = "10.0.0.7") -> Awaitable[object]:
        """Ask for a replica, which then has the size that was announced."""
        self.size = size
        connection: Any = FakeConnection("origin", host)
        return self.replicas.accept(connection, ask(number, size))

    def refused(self, number: int, size: int = 10, host: str = "10.0.0.7") -> Refused:
        """The refusal of a replica."""
        with pytest.raises(Refused) as refused:
            self.accept(number, size, host)
        return refused.value

    def share(self, number: int, *, pieces: int = 1, fetching: bool = False, here: int = 0) -> LocalContent:
        """Put a content into the library: whole, or being fetched with the pieces of the bitmap `here`."""
        local = local_content(
            self.uploads,
            pieces,
            here if fetching else None,
            content=ask(number).id,
            on_fetch=(lambda _: None) if fetching else None,
        )
        self.library.publish(local)
        return local

    async def still_there(self, local: LocalContent) -> bool:
        self.looks += 1
        await asyncio.sleep(0.1)
        if local.id in self.deleted:
            self.library.retract(local)
        return local in self.library


class FakeDownload:
    """The three steps of a download without a swarm and without a disk."""

    def __init__(self, content: ContentId, services: Any) -> None:
        self.content = content
        self.made = False
        self.scene: Scene = services.scene
        self.size = 0
        self.scene.fetched.append(content)

    async def __aenter__(self) -> FakeDownload:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def manifest(self, first: Any) -> Found:
        if not self.scene.manifest_comes:
            await self.end()
        self.size = self.scene.size
        return Found(b"manifest", manifest_of(self.size))

    async def prepare(self, found: Found, folder: Path) -> None:
        self.made = self.scene.made
        if not self.made:
            await self.end()

    async def fetch(self) -> Downloaded:
        await self.end()
        return Downloaded(Path("x.bin"), self.content, self.size, 1.0)

    async def end(self) -> None:
        await self.scene.may_end.wait()
        if self.scene.fault is not None:
            raise self.scene.fault


# -- the quota


@pytest.mark.parametrize(("folder", "quota"), [(None, 100), (Path(), 0), (None, 0)])
def test_a_peer_without_a_folder_or_a_quota_accepts_nothing(folder: Path | None, quota: int) -> None:
    async def work() -> None:
        scene = Scene(folder, ReplicaLimits(quota=quota))
        assert scene.refused(1).code == "not_allowed"
        assert scene.replicas.room == 0

    in_virtual_time(work)


def test_replicas_count_against_the_quota_also_while_they_are_fetched(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        assert scene.replicas.room == 100
        replica = scene.accept(1, 60)
        assert scene.replicas.room == 40
        assert scene.refused(2, 41).code == "quota"
        scene.size = 59
        scene.may_end.set()
        await replica
        assert scene.replicas.room == 41, "the manifest decides how large it is"
        (received,) = [report for report in scene.reports if isinstance(report, Received)]
        assert (received.size, received.peer) == (59, "origin")
        assert scene.cache.remembered == [Path("x.bin")]

    in_virtual_time(work)


def test_requests_that_come_at_once_cannot_pass_the_quota_together(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.accept(1, 40)
        scene.accept(2, 40)
        assert scene.refused(3, 40).code == "quota"
        await scene.replicas.close()

    in_virtual_time(work)


def test_a_replica_larger_than_announced_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        replica = scene.accept(1, 60)
        scene.size = 61
        with pytest.raises(Refused, match="61 bytes, 60 were announced"):
            await replica
        assert scene.replicas.room == 100

    in_virtual_time(work)


def test_a_disk_that_is_nearly_full_leaves_less_room_than_the_quota(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.free = lambda folder: 7
        assert scene.replicas.room == 7

        def broken(folder: Path) -> int:
            raise DiskError("gone")

        scene.free = broken
        assert scene.replicas.room == 0

    in_virtual_time(work)


def test_what_running_replicas_will_yet_write_is_no_room_on_the_disk(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, ReplicaLimits(quota=1024 * MIB))
        scene.free = lambda folder: 100 * MIB
        replica = scene.accept(1, 60 * MIB)
        await asyncio.sleep(0)
        assert scene.refused(2, 60 * MIB).code == "quota"
        scene.share(1, pieces=1000, fetching=True, here=(1 << 400) - 1)  # 25 MiB are here
        scene.free = lambda folder: 75 * MIB
        assert scene.replicas.room == 40 * MIB, "the disk counts what is written"
        scene.may_end.set()
        await replica
        scene.library.close()

    in_virtual_time(work)


def test_a_replica_of_countless_empty_files_is_refused() -> None:
    files = tuple(FileEntry(f"{number:06}", 0) for number in range(5000))
    manifest = Manifest("many", "folder", "blake2b-256", 65_536, files, (), ())
    check_cost(manifest, Allowance(0, 5000))
    with pytest.raises(Refused, match="5000 files"):
        check_cost(manifest, Allowance(0, 4999))


def test_only_so_many_different_replicas_are_kept_however_small(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, replace(LIMITS, replicas=2))
        scene.may_end.set()
        for number in range(2):
            await scene.accept(number, 0)
        assert scene.refused(2, 0).code == "quota"

    in_virtual_time(work)


# -- replicas that fail


def test_a_failed_replica_is_charged_for_what_it_left_on_the_disk(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.fault = DiskError("disk full")
        scene.may_end.set()
        for _ in range(2):
            with pytest.raises(DiskError):
                await scene.accept(1, 60)
            assert scene.replicas.room == 40
            assert isinstance(scene.reports[-1], Warned)
        assert "room for 40" in str(scene.refused(2, 60))

    in_virtual_time(work)


def test_a_failed_replica_is_charged_by_its_manifest_and_not_as_announced(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.fault = Unreachable("gone")
        replica = scene.accept(1, 60)
        scene.size = 20
        assert scene.replicas.room == 40
        await asyncio.sleep(0.1)
        assert scene.replicas.room == 80
        scene.may_end.set()
        with pytest.raises(Unreachable):
            await replica
        assert scene.replicas.room == 80

    in_virtual_time(work)


FAULTS = [
    Refused("quota", "it has more bytes"),
    NotFound("nobody"),
    Unreachable("gone"),
    IntegrityError("another manifest"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_a_replica_whose_manifest_never_came_costs_nothing(tmp_path: Path, fault: EnjambreError) -> None:
    """Otherwise requests for contents that do not exist would use up the room of all."""

    async def work() -> None:
        scene = Scene(tmp_path)
        scene.fault, scene.manifest_comes = fault, False
        scene.may_end.set()
        for number in range(3):
            with pytest.raises(type(fault)):
                await scene.accept(number, 60)
            assert scene.replicas.room == 100

    in_virtual_time(work)


def test_a_later_try_that_fails_early_leaves_the_earlier_part_charged(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.fault = Unreachable("gone")
        scene.may_end.set()
        for manifest_comes in (True, False):
            scene.manifest_comes = manifest_comes
            with pytest.raises(Unreachable):
                await scene.accept(1, 60)
            assert scene.replicas.room == 40

    in_virtual_time(work)


def test_a_replica_that_fails_before_it_touches_the_disk_costs_nothing(tmp_path: Path) -> None:
    """As when another file has its name: the second version of an image would use up the room of all."""

    async def work() -> None:
        scene = Scene(tmp_path)
        scene.fault, scene.made = DiskError("'x.bin' exists"), False
        scene.may_end.set()
        for number in range(3):
            with pytest.raises(DiskError):
                await scene.accept(number, 80)
            assert scene.replicas.room == 100

    in_virtual_time(work)


def test_a_replica_that_cannot_be_remembered_is_verified_all_the_same(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.cache.fault = DiskError("disk full")
        scene.may_end.set()
        await scene.accept(1)
        assert [type(report) for report in scene.reports] == [Warned, Received]

    in_virtual_time(work)


# -- how many at once


@pytest.mark.parametrize(
    ("host", "most"),
    [
        ("10.0.0.7", LIMITS.at_once_per_host),
        ("fe80::7", LIMITS.at_once_per_host),
        ("127.0.0.1", LIMITS.at_once),
    ],
)
def test_one_host_cannot_have_all_places_of_replicas(tmp_path: Path, host: str, most: int) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in range(most):
            scene.accept(number, 1, host)
        assert scene.refused(most, 1, host).code == "busy"
        if most < LIMITS.at_once:
            scene.accept(most, 1, "10.0.0.8")
        scene.may_end.set()
        await asyncio.sleep(0.1)
        await scene.accept(most + 1, 1, host)
        await scene.replicas.close()

    in_virtual_time(work)


def test_only_so_many_replicas_are_fetched_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in range(LIMITS.at_once):
            scene.accept(number, 1, f"10.0.0.{number}")
        assert scene.refused(LIMITS.at_once, 1, "10.0.0.99").code == "busy"
        await scene.replicas.close()

    in_virtual_time(work)


def test_a_replica_requested_twice_is_fetched_once_and_both_requests_end(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        both = [scene.accept(1, 60) for _ in range(2)]
        await asyncio.sleep(0)
        scene.may_end.set()
        await asyncio.gather(*both)
        assert scene.fetched == [ask(1).id]

    in_virtual_time(work)


def test_a_client_that_disconnects_does_not_stop_the_replica(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        waiting = asyncio.ensure_future(scene.accept(1, 60))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        scene.may_end.set()
        await asyncio.sleep(0.1)
        assert [type(report) for report in scene.reports] == [Received]

    in_virtual_time(work)


# -- contents that are here already


def test_a_content_that_is_here_is_verified_at_once_and_one_being_fetched_is_busy(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.share(1)
        scene.share(2, fetching=True)
        await scene.accept(1, 1000)
        assert scene.refused(2).code == "busy"
        assert scene.fetched == []
        scene.library.close()

    in_virtual_time(work)


def test_a_content_whose_files_are_gone_is_fetched_anew_and_not_called_verified(tmp_path: Path) -> None:
    """Its files may be deleted between two looks of the watcher."""

    async def work() -> None:
        scene = Scene(tmp_path)
        scene.deleted |= {ask(1).id, ask(2).id}
        scene.may_end.set()
        scene.share(1)
        await asyncio.gather(*(scene.accept(1, 60) for _ in range(3)))
        assert scene.fetched == [ask(1).id]
        assert scene.looks == 1
        scene.share(2)
        with pytest.raises(Refused) as refused:
            await scene.accept(2, 60)
        assert refused.value.code == "quota"

    in_virtual_time(work)


def test_closing_ends_looks_and_replicas(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.share(1)
        scene.deleted.add(ask(1).id)
        waiting = [asyncio.ensure_future(scene.accept(number, 10)) for number in (1, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await scene.replicas.close()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert [task.cancelled() for task in waiting] == [True, True]
        assert scene.fetched == [ask(2).id]

    in_virtual_time(work)


def test_a_replica_is_not_called_verified_before_it_has_its_final_name(tmp_path: Path) -> None:
    """Every piece may be here, and the disk still refuse the last sync. A second request waits for the same
    end."""

    async def work() -> None:
        scene = Scene(tmp_path)
        first = scene.accept(1, 60)
        await asyncio.sleep(0)
        local = scene.share(1, fetching=True, here=1)
        assert local.have.full
        second = scene.accept(1, 60)
        scene.fault = DiskError("cannot sync")
        scene.may_end.set()
        found = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(one) for one in found] == [DiskError, DiskError]
        assert "already" in str(scene.refused(1, 60))

    in_virtual_time(work)
