"""Which copies a peer keeps for others, and how many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import DiskError, EnjambreError, IntegrityError, NotFound, Refused, Unreachable
from p2p.model import MIB, ContentId, FileEntry, Manifest
from p2p.peer import replicas as module
from p2p.peer.replicas import AT_ONCE, Allowance, Replicas, check_cost
from p2p.peer.reports import Downloaded, Received, Report, Warned
from p2p.protocol.peer_messages import Replicate
from tests.kit.virtual_time import in_virtual_time


class FakeLink:
    name = "origin"

    def __init__(self, host: str = "10.0.0.7") -> None:
        self.host = host


class FakeHolding:
    """A content that is here, all of it or some."""

    id = ContentId("00" * 32)

    def __init__(self, *, full: bool, whole: bool = True, bytes_here: int = 0) -> None:
        self.have = self
        self.full = full
        self.bytes_here = bytes_here
        self.whole = asyncio.Event()
        if whole:
            self.whole.set()


def ask(number: int, size: int = 10) -> Replicate:
    return Replicate(id=ContentId(f"{number:064x}"), name=f"{number}.bin", size=size)


class Scene:
    def __init__(self, folder: Path | None, quota: int) -> None:
        self.reports: list[Report] = []
        self.holdings: dict[ContentId, Any] = {}
        self.fetched: list[tuple[ContentId, int]] = []
        self.let_go = asyncio.Event()
        self.fault: Exception | None = None
        self.sized: int | None = None
        """What the manifest says, if not what was announced."""
        self.comes = True
        """Whether the manifest comes."""
        self.made = True
        """Whether something lies on the disk then."""
        self.link: Any = FakeLink()
        self.looks = 0
        self.deleted: set[ContentId] = set()
        """Contents whose files are gone, which only a look shows."""
        self.keeper = Replicas(folder, quota, self.holdings, self.fetch, self.look, self.reports.append)

    async def look(self, held: Any) -> bool:
        self.looks += 1
        await asyncio.sleep(0.1)
        gone = {content for content, other in self.holdings.items() if other is held} & self.deleted
        for content in gone:
            del self.holdings[content]
        return not gone

    async def fetch(
        self,
        content: ContentId,
        folder: Path,
        link: Any,
        admit: Callable[[Manifest], None],
        made: Callable[[], None],
    ) -> Downloaded:
        most = self.keeper._charged[content]
        self.fetched.append((content, most))
        if self.comes:
            size = most if self.sized is None else self.sized
            admit(Manifest("x.bin", "file", "blake2b-256", 65536, (FileEntry("x.bin", size),), (), ()))
            if self.made:
                made()
        await self.let_go.wait()
        if self.fault is not None:
            raise self.fault
        return Downloaded(folder / "x.bin", content, most - 1, 1.0)


@pytest.mark.parametrize(("folder", "quota"), [(None, 100), (Path(), 0), (None, 0)])
def test_a_peer_without_a_folder_or_a_quota_keeps_nothing(folder: Path | None, quota: int) -> None:
    async def work() -> None:
        scene = Scene(folder, quota)
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(scene.link, ask(1))
        assert refused.value.code == "not_allowed"
        assert scene.keeper.room == 0

    in_virtual_time(work)


def test_what_is_kept_and_what_is_being_fetched_counts_against_the_quota(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        assert scene.keeper.room == 100
        copy = scene.keeper.accept(scene.link, ask(1, 60))
        await asyncio.sleep(0)
        assert scene.keeper.room == 40
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(scene.link, ask(2, 41))
        assert refused.value.code == "quota"
        scene.let_go.set()
        await copy
        assert scene.keeper.room == 41, "the manifest decides how large it was"
        assert [(report.size, report.peer) for report in scene.reports if isinstance(report, Received)] == [
            (59, "origin")
        ]

    in_virtual_time(work)


def test_many_requests_in_one_round_cannot_pass_the_quota_together(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        for number in range(2):
            scene.keeper.accept(scene.link, ask(number, 40))
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(scene.link, ask(2, 40))
        assert refused.value.code == "quota"
        await scene.keeper.close()

    in_virtual_time(work)


def test_a_disk_that_is_nearly_full_leaves_less_room_than_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100 * MIB)
        monkeypatch.setattr(module, "free_space", lambda folder: 7)
        assert scene.keeper.room == 7

        def broken(folder: Path) -> int:
            raise DiskError("gone")

        monkeypatch.setattr(module, "free_space", broken)
        assert scene.keeper.room == 0

    in_virtual_time(work)


def test_a_copy_that_fails_keeps_its_room_for_a_later_try_and_is_told_to_the_asker_and_here(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.fault = DiskError("disk full")
        scene.let_go.set()
        with pytest.raises(DiskError):
            await scene.keeper.accept(scene.link, ask(1, 60))
        assert scene.keeper.room == 40  # what came of it is still on the disk
        assert isinstance(scene.reports[-1], Warned)
        with pytest.raises(DiskError):
            await scene.keeper.accept(scene.link, ask(1, 60))
        assert scene.keeper.room == 40
        with pytest.raises(Refused, match="room for 40"):
            scene.keeper.accept(scene.link, ask(2, 60))

    in_virtual_time(work)


FAULTS = [
    Refused("quota", "it has more bytes"),
    NotFound("nobody"),
    Unreachable("gone"),
    IntegrityError("another manifest"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_a_copy_that_ends_before_its_manifest_came_costs_nothing(
    tmp_path: Path, fault: EnjambreError
) -> None:
    """Or whoever asks for what there is not would use up the room of all."""

    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.fault, scene.comes = fault, False
        scene.let_go.set()
        for number in range(3):
            with pytest.raises(type(fault)):
                await scene.keeper.accept(scene.link, ask(number, 60))
            assert scene.keeper.room == 100

    in_virtual_time(work)


def test_a_later_try_that_does_not_even_begin_leaves_what_is_on_the_disk_counted(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.fault = Unreachable("gone")
        scene.let_go.set()
        for comes in (True, False):
            scene.comes = comes
            with pytest.raises(Unreachable):
                await scene.keeper.accept(scene.link, ask(1, 60))
            assert scene.keeper.room == 40

    in_virtual_time(work)


def test_a_copy_that_fails_before_anything_of_it_is_on_the_disk_costs_nothing(tmp_path: Path) -> None:
    """As when another file has its name: the second version of an image would use up the room of all."""

    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.fault, scene.made = DiskError("'x.bin' exists"), False
        scene.let_go.set()
        for number in range(3):
            with pytest.raises(DiskError):
                await scene.keeper.accept(scene.link, ask(number, 80))
            assert scene.keeper.room == 100

    in_virtual_time(work)


def test_a_copy_counts_as_large_as_it_is_from_its_manifest_on_and_also_when_it_fails(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.sized, scene.fault = 20, Unreachable("gone")
        copy = scene.keeper.accept(scene.link, ask(1, 60))
        assert scene.keeper.room == 40
        await asyncio.sleep(0.1)
        assert scene.keeper.room == 80
        scene.let_go.set()
        with pytest.raises(Unreachable):
            await copy
        assert scene.keeper.room == 80

    in_virtual_time(work)


def test_what_copies_that_run_have_yet_to_write_is_no_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 1024 * MIB)
        monkeypatch.setattr(module, "free_space", lambda folder: 100 * MIB)
        copy = scene.keeper.accept(scene.link, ask(1, 60 * MIB))
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(scene.link, ask(2, 60 * MIB))
        assert refused.value.code == "quota"
        scene.holdings[ask(1).id] = FakeHolding(full=False, bytes_here=25 * MIB)
        monkeypatch.setattr(module, "free_space", lambda folder: 75 * MIB)
        assert scene.keeper.room == 40 * MIB, "what is written is counted by the disk"
        scene.let_go.set()
        await copy
        assert scene.keeper.room == 75 * MIB

    in_virtual_time(work)


@pytest.mark.parametrize(
    ("host", "most"), [("10.0.0.7", AT_ONCE // 2), ("fe80::7", AT_ONCE // 2), ("127.0.0.1", AT_ONCE)]
)
def test_one_host_cannot_have_all_places_of_copies(tmp_path: Path, host: str, most: int) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 1000)
        one: Any = FakeLink(host)
        for number in range(most):
            scene.keeper.accept(one, ask(number))
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(one, ask(most))
        assert refused.value.code == "busy"
        if most < AT_ONCE:
            other: Any = FakeLink("10.0.0.8")
            scene.keeper.accept(other, ask(most))
        scene.let_go.set()
        await asyncio.sleep(0.1)
        again = scene.keeper.accept(one, ask(most + 1))
        await again
        await scene.keeper.close()

    in_virtual_time(work)


def test_a_copy_of_countless_empty_files_is_turned_away() -> None:
    files = tuple(FileEntry(f"{number:06}", 0) for number in range(5000))
    manifest = Manifest("many", "folder", "blake2b-256", 65536, files, (), ())
    check_cost(manifest, Allowance(0, 5000))
    with pytest.raises(Refused, match="5000 files"):
        check_cost(manifest, Allowance(0, 4999))


def test_the_same_copy_asked_for_twice_is_fetched_once_and_both_are_told(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        both = [scene.keeper.accept(scene.link, ask(1, 60)) for _ in range(2)]
        await asyncio.sleep(0)
        scene.let_go.set()
        await asyncio.gather(*both)
        assert len(scene.fetched) == 1

    in_virtual_time(work)


def test_an_asker_that_goes_away_does_not_stop_the_copy(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)

        async def wait(copy: Any) -> None:
            await copy

        waiting = asyncio.create_task(wait(scene.keeper.accept(scene.link, ask(1, 60))))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        scene.let_go.set()
        await asyncio.sleep(0.1)
        assert [type(report) for report in scene.reports] == [Received]

    in_virtual_time(work)


def test_what_is_here_already_is_verified_at_once_and_what_is_being_fetched_is_busy(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.holdings[ask(1).id] = FakeHolding(full=True)
        scene.holdings[ask(2).id] = FakeHolding(full=False)
        await scene.keeper.accept(scene.link, ask(1, 1000))
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(scene.link, ask(2))
        assert refused.value.code == "busy"
        assert scene.fetched == []

    in_virtual_time(work)


def test_what_is_not_here_any_more_is_not_called_verified_but_fetched_anew(tmp_path: Path) -> None:
    """Between two looks of the watcher its files may be deleted, and whoever uploads wants a copy there and
    not a word."""

    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.holdings[ask(1).id] = FakeHolding(full=True)
        scene.deleted.add(ask(1).id)
        scene.let_go.set()
        await asyncio.gather(*(scene.keeper.accept(scene.link, ask(1, 60)) for _ in range(3)))
        assert [content for content, _ in scene.fetched] == [ask(1).id]
        assert scene.looks == 1
        scene.holdings[ask(2).id] = FakeHolding(full=True)
        scene.deleted.add(ask(2).id)
        with pytest.raises(Refused) as refused:
            await scene.keeper.accept(scene.link, ask(2, 60))
        assert refused.value.code == "quota"

    in_virtual_time(work)


def test_a_keeper_that_closes_looks_at_nothing_any_more(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 100)
        scene.holdings[ask(1).id] = FakeHolding(full=True)
        waiting = asyncio.ensure_future(scene.keeper.accept(scene.link, ask(1, 60)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await scene.keeper.close()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert scene.fetched == []

    in_virtual_time(work)


def test_a_copy_is_not_called_verified_before_it_has_its_final_name(tmp_path: Path) -> None:
    """Every piece may be here, and the disk still refuse the last sync: whoever asks meanwhile waits for the
    same end."""

    async def work() -> None:
        scene = Scene(tmp_path, 100)
        first = scene.keeper.accept(scene.link, ask(1, 60))
        await asyncio.sleep(0)
        scene.holdings[ask(1).id] = FakeHolding(full=True, whole=False)
        second = scene.keeper.accept(scene.link, ask(1, 60))
        scene.fault = DiskError("cannot sync")
        scene.let_go.set()
        found = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(one) for one in found] == [DiskError, DiskError]
        with pytest.raises(Refused, match="already"):
            scene.keeper.accept(scene.link, ask(1, 60))

    in_virtual_time(work)


def test_only_so_many_copies_are_fetched_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, 1000)
        for number in range(AT_ONCE):
            link: Any = FakeLink(f"10.0.0.{number}")
            scene.keeper.accept(link, ask(number))
        with pytest.raises(Refused) as refused:
            scene.keeper.accept(scene.link, ask(AT_ONCE))
        assert refused.value.code == "busy"
        await scene.keeper.close()

    in_virtual_time(work)
