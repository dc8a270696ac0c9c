"""Sharing files: what is hashed, what is remembered, and when a content is retracted."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import pytest

from p2p.content.manifest import content_id, to_bytes
from p2p.model import ContentId
from p2p.peer.library import Library
from p2p.peer.publisher import Publisher
from p2p.peer.reports import Progress, Report, Shared, Warned, Withdrawn
from p2p.peer.uploads import Uploads
from p2p.storage.cache import HashCache, ReplicaCache
from p2p.storage.hashing import HashPool
from p2p.storage.scan import scan
from tests.kit.content_samples import LENGTH, manifest_of, no_warning, some_bytes
from tests.kit.leaks import contained
from tests.kit.local_contents import FakeAnnouncements, local_content
from tests.kit.swarm_kit import old_file

DATA = some_bytes(3 * LENGTH)


class Scene:
    """A publisher and its library. Hashes are remembered in `folder`, where another scene finds them."""

    def __init__(self, folder: Path, *, rehash: bool = False) -> None:
        self.reports: list[Report] = []
        self.hashing = HashPool(2)
        self.library = Library(FakeAnnouncements())
        self.replica_cache = ReplicaCache(folder / "replicas")
        self.uploads = Uploads(asyncio.get_running_loop().time)
        self.publisher = Publisher(
            self.library,
            self.hashing,
            HashCache(folder / "hashes"),
            self.replica_cache,
            self.uploads,
            Random(1),
            self.reports.append,
            hash_name="blake2b-256",
            rehash=rehash,
        )

    async def publish(self, path: Path) -> ContentId:
        return await self.publisher.publish(scan(path, no_warning))

    def reported(self, kind: type[Report]) -> list[Report]:
        return [report for report in self.reports if isinstance(report, kind)]

    def close(self) -> None:
        self.library.close()
        self.hashing.close()


def test_a_file_is_hashed_shared_and_reported(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.bin", DATA)

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        content = await scene.publish(path)
        local = scene.library.get(content)
        assert content_id(local.data) == content
        assert local.have.full
        assert local.settled.is_set()
        assert scene.reported(Progress)
        assert scene.reported(Shared) == [Shared("x.bin", content, len(DATA), path)]
        assert scene.publisher.held_at(path) == content
        assert scene.publisher.held_at(tmp_path) is None
        assert scene.publisher.holds(content)
        assert await scene.publish(path) == content
        assert len(scene.library) == 1
        scene.close()

    contained(work)


@pytest.mark.parametrize("rehash", [False, True])
def test_a_file_that_has_not_changed_is_hashed_again_only_on_demand(tmp_path: Path, rehash: bool) -> None:
    path = old_file(tmp_path / "x.bin", DATA)

    async def work() -> None:
        ids = []
        for again in (False, True):
            scene = Scene(tmp_path / "state", rehash=rehash and again)
            ids.append(await scene.publish(path))
            assert bool(scene.reported(Progress)) is (rehash or not again)
            scene.close()
        assert ids[0] == ids[1]

    contained(work)


def test_hashes_that_cannot_be_remembered_are_a_warning(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.bin", DATA)
    (tmp_path / "state").write_bytes(b"a file where a folder should be")

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        content = await scene.publish(path)
        assert scene.publisher.holds(content)
        (warned,) = scene.reported(Warned)
        assert isinstance(warned, Warned)
        assert "hashed again next time" in warned.message
        scene.close()

    contained(work)


def test_a_replica_is_shared_by_the_manifest_with_which_it_came(tmp_path: Path) -> None:
    """Its publisher may have used another hash function than this peer."""
    path = old_file(tmp_path / "x.bin", DATA)
    manifest = manifest_of(DATA)
    data = to_bytes(manifest)

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        scene.replica_cache.keep(path, data)
        assert await scene.publish(path) == content_id(data)
        scene.close()

    contained(work)


def test_a_replica_whose_bytes_have_changed_is_another_content(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.bin", some_bytes(len(DATA), seed=2))
    data = to_bytes(manifest_of(DATA))

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        scene.replica_cache.keep(path, data)
        content = await scene.publish(path)
        assert content != content_id(data)
        assert scene.library.get(content).manifest.hash_name == "blake2b-256"
        scene.close()

    contained(work)


def test_only_a_content_at_its_own_path_is_retracted(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.bin", DATA)

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        content = await scene.publish(path)
        scene.publisher.retract(content, tmp_path / "elsewhere")
        assert scene.publisher.holds(content)
        scene.publisher.retract(content, path)
        scene.publisher.retract(content, path)
        assert not scene.publisher.holds(content)
        assert scene.reported(Withdrawn) == [Withdrawn("x.bin", content)]
        scene.close()

    contained(work)


def test_a_download_that_will_end_at_a_path_is_not_retracted_with_its_former_file(tmp_path: Path) -> None:
    """The watcher may notice only during the download that the former file was deleted."""
    path = old_file(tmp_path / "x.bin", DATA)

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        content = await scene.publish(path)
        fetched = local_content(scene.uploads, 2, 1, content=content, path=path, on_fetch=lambda _: None)
        scene.library.publish(fetched)
        scene.publisher.retract(content, path)
        assert scene.library.find(content) is fetched
        assert scene.reported(Withdrawn) == []
        scene.close()

    contained(work)


def test_a_content_whose_file_has_changed_is_retracted_at_a_look(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.bin", DATA)

    async def work() -> None:
        scene = Scene(tmp_path / "state")
        local = scene.library.get(await scene.publish(path))
        assert await scene.publisher.still_there(local)
        os.utime(path, (2, 2))
        assert not await scene.publisher.still_there(local)
        assert local not in scene.library
        assert scene.reported(Withdrawn) == [Withdrawn("x.bin", local.id)]
        assert not await scene.publisher.still_there(local), "and it is reported once"
        assert len(scene.reported(Withdrawn)) == 1
        scene.close()

    contained(work)
