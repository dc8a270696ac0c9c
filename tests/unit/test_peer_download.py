"""The steps of a download on a real disk, without peers: a part is resumed, kept, finished and shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from p2p.content.manifest import to_bytes
from p2p.errors import DiskError, NotFound, Refused, Unreachable
from p2p.model import PeerId
from p2p.peer.candidates import FinderTimeouts
from p2p.peer.download import Download
from p2p.peer.hedging import SearchLimits
from p2p.peer.library import Library
from p2p.peer.manifest_search import Found
from p2p.peer.reports import Downloaded, ManifestKnown, Progress, Report, Warned
from p2p.peer.uploads import Uploads
from p2p.protocol.tracker_messages import Contact, HitRow, LookupAnswer, Share
from p2p.storage.disk import lock_file
from p2p.storage.hashing import HashPool
from p2p.swarm.peer_stats import Policy
from p2p.swarm.rate_limit import TokenBucket
from tests.kit.content_samples import LENGTH, fill, id_of, manifest_of, part_of, some_bytes
from tests.kit.leaks import contained
from tests.kit.local_contents import FakeAnnouncements
from tests.kit.waiting import until

DATA = some_bytes(3 * LENGTH + 17)
MANIFEST = manifest_of(DATA)
CONTENT = id_of(MANIFEST)
FOUND = Found(to_bytes(MANIFEST), MANIFEST)


class NoTracker:
    """A tracker that cannot be reached."""

    async def expect(self, *_: object) -> NoReturn:
        raise Unreachable("no tracker")


class OnePeer:
    """A tracker that names one peer."""

    async def expect(self, *_: object) -> LookupAnswer:
        hit = HitRow(id=CONTENT, name="x", size=1, seeds=1, peers=1)
        contact = Contact(peer=PeerId("5f" * 16), name="seed", host="127.0.0.1", listen={"tcp": 1})
        return LookupAnswer(content=hit, sources=(contact,))


def is_locked(path: Path) -> bool:
    try:
        lock_file(path).close()
    except BlockingIOError:
        return True
    return False


class Scene:
    """What downloads work with: a library, threads and a disk, but no peers. A download gives up at once."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.announcements = FakeAnnouncements()
        self.library = Library(self.announcements)
        self.hashing = HashPool(2)
        self.services: Any = SimpleNamespace(
            controls=SimpleNamespace(all=list, get=lambda _: None, me=SimpleNamespace(peer="me")),
            data=None,
            hashing=self.hashing,
            library=self.library,
            uploads=Uploads(asyncio.get_running_loop().time),
            tracker=NoTracker(),
            rng=Random(1),
            rate_limit=TokenBucket(0),
            policy=Policy(offline_timeout=0.01),
            finder_timeouts=FinderTimeouts(),
            search_limits=SearchLimits(),
            report=self.reports.append,
            note=None,
        )

    def download(self) -> Download:
        return Download(CONTENT, self.services)

    async def run(self, folder: Path, *, overwrite: bool = False, keep: bool = True) -> Downloaded:
        """The last two steps of a download."""
        async with self.download() as download:
            await download.prepare(FOUND, folder, overwrite=overwrite)
            return await download.fetch(keep=keep)

    def close(self) -> None:
        self.library.close()
        self.hashing.close()

    def reported(self, kind: type[Report]) -> list[Report]:
        return [report for report in self.reports if isinstance(report, kind)]


def write_part(folder: Path, pieces: range | None = None) -> None:
    """Leave a part file as an earlier download does that had written these pieces: by default all."""
    part = part_of(MANIFEST, folder)
    part.open()
    fill(part, DATA, pieces)
    part.abandon()


def test_a_part_that_is_whole_gets_its_final_name_and_is_shared(tmp_path: Path) -> None:
    write_part(tmp_path)

    async def work() -> None:
        scene = Scene()
        done = await scene.run(tmp_path)
        assert done.path == tmp_path / MANIFEST.name
        assert done.path.read_bytes() == DATA
        assert (done.id, done.size, done.bytes_from) == (CONTENT, len(DATA), {})
        share = Share(id=CONTENT, name=MANIFEST.name, size=len(DATA), have=len(DATA))
        assert scene.announcements.changes == [(share, True)]
        local = scene.library.get(CONTENT)
        assert local.settled.is_set()
        assert local.path == done.path
        phases = [report.phase for report in scene.reports if isinstance(report, Progress)]
        assert phases[0] == "verifying"
        assert phases[-1] == "finishing"
        assert len(scene.reported(ManifestKnown)) == 1
        scene.close()

    contained(work)


def test_a_content_that_is_not_kept_is_not_shared(tmp_path: Path) -> None:
    write_part(tmp_path)

    async def work() -> None:
        scene = Scene()
        await scene.run(tmp_path, keep=False)
        assert scene.announcements.changes == []
        assert len(scene.library) == 0
        scene.close()

    contained(work)


def test_a_download_that_gives_up_keeps_its_part_and_shares_nothing(tmp_path: Path) -> None:
    write_part(tmp_path, range(1, 3))

    async def work() -> None:
        scene = Scene()
        with pytest.raises(NotFound, match="2 pieces are missing"):
            await scene.run(tmp_path)
        share = Share(id=CONTENT, name=MANIFEST.name, size=len(DATA), have=2 * LENGTH)
        assert scene.announcements.changes[0] == (share, True), "what is here is shared meanwhile"
        assert scene.announcements.changes[-1] == CONTENT
        assert len(scene.library) == 0
        scene.close()

    contained(work)
    again = part_of(MANIFEST, tmp_path)
    again.open()
    assert again.resumed
    assert sorted(again.written()) == [1, 2]
    again.abandon()


def test_a_download_that_is_cancelled_gives_its_lock_back(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene()
        scene.services.policy = Policy()
        task = asyncio.create_task(scene.run(tmp_path))
        await until(lambda: len(scene.library))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(scene.library) == 0
        lock_file(part_of(MANIFEST, tmp_path).sidecar).close()
        scene.close()

    contained(work)


@pytest.mark.parametrize("turns", range(1, 12))
def test_a_download_that_is_cancelled_twice_gives_its_lock_back(tmp_path: Path, turns: int) -> None:
    """The second time while it leaves, between any two turns of the loop."""

    dialled: list[object] = []

    async def dial(*peer: object) -> NoReturn:
        dialled.append(peer)
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
        raise AssertionError

    async def work() -> None:
        scene = Scene()
        scene.services.policy = Policy()
        scene.services.tracker = OnePeer()
        scene.services.controls.connect = dial
        task = asyncio.create_task(scene.run(tmp_path))
        await until(lambda: len(scene.library))
        await until(lambda: dialled)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(scene.library) == 0
        await until(lambda: not is_locked(part_of(MANIFEST, tmp_path).sidecar))
        scene.close()

    contained(work)


def test_case_62_a_download_gives_its_lock_back_though_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each later try would say that another download of it is running."""

    async def refuse(_work: Callable[[], None]) -> NoReturn:
        raise Refused("unavailable", "this side cannot start another thread now; try again later")

    async def work() -> None:
        scene = Scene()
        async with scene.download() as download:
            await download.prepare(FOUND, tmp_path)
            monkeypatch.setattr(scene.hashing, "run", refuse)
        lock_file(part_of(MANIFEST, tmp_path).sidecar).close()
        scene.close()

    contained(work)


def test_a_download_that_must_not_replace_a_file_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / MANIFEST.name).write_bytes(b"another file")

    async def work() -> None:
        scene = Scene()
        download = scene.download()
        with pytest.raises(DiskError, match="exists"):
            async with download:
                await download.prepare(FOUND, tmp_path)
        assert not download.made
        scene.close()

    contained(work)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST.name]


def test_a_file_is_replaced_when_that_is_allowed(tmp_path: Path) -> None:
    write_part(tmp_path)
    (tmp_path / MANIFEST.name).write_bytes(b"another file")

    async def work() -> None:
        scene = Scene()
        await scene.run(tmp_path, overwrite=True)
        scene.close()

    contained(work)
    assert (tmp_path / MANIFEST.name).read_bytes() == DATA


def test_a_name_that_is_written_otherwise_is_reported(tmp_path: Path) -> None:
    manifest = manifest_of(b"", name="con")

    async def work() -> None:
        scene = Scene()
        async with Download(id_of(manifest), scene.services) as download:
            await download.prepare(Found(to_bytes(manifest), manifest), tmp_path)
            done = await download.fetch()
        (warned,) = scene.reported(Warned)
        assert isinstance(warned, Warned)
        assert "'con'" in warned.message
        assert done.path.exists()
        scene.close()

    contained(work)


def test_a_download_is_prepared_before_it_is_fetched() -> None:
    async def work() -> None:
        scene = Scene()
        with pytest.raises(RuntimeError, match="prepared"):
            async with scene.download() as download:
                await download.fetch()
        scene.close()

    contained(work)
