"""What is shared by real peers over loopback: files that change, names that clash, sizes and shapes, targets
that exist, resumes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import pytest

from p2p.errors import DiskError, NotFound, Unreachable
from p2p.model import MIB
from p2p.peer.operations import Ambiguous, resolve
from p2p.peer.reports import Downloaded, Shared, Warned, Withdrawn
from p2p.swarm.peer_stats import Policy
from tests.kit.leaks import contained
from tests.kit.swarm_kit import Swarm, old_file
from tests.kit.waiting import hang_guard, until

SHORT = Policy(stall_timeout=1.5, alone_timeout=1.0, offline_timeout=1.5)
"""The real policy, for tests of what cannot succeed."""
DATA = Random(5).randbytes(5_000_000)


# -- what is shared


@pytest.mark.parametrize("change", ["touched", "longer", "shorter", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_shared_is_never_served_under_its_old_id(
    tmp_path: Path, change: str
) -> None:
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
                async with hang_guard():
                    await leech.download(shared.id, tmp_path / "out")
            assert swarm.told("seed", Withdrawn)
            assert await swarm.sources(shared.id) == []
            assert not (tmp_path / "out" / "image.bin").exists()

    contained(work)


def test_what_is_unchanged_is_not_hashed_again_unless_rehash_says_so(tmp_path: Path) -> None:
    """Size, time and inode are all that is looked at: bytes that change behind their back show who reads and
    who remembers."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            path = old_file(tmp_path / "image.bin", DATA)
            first = await swarm.peer("first")
            one = await first.share(path)
            same = await (await swarm.peer("same", state=first.settings.state)).share(path)
            with path.open("r+b") as file:
                file.write(b"other bytes")
            os.utime(path, (1, 1))
            remembered = await (await swarm.peer("remembers", state=first.settings.state)).share(path)
            read = await (await swarm.peer("reads", state=first.settings.state, rehash=True)).share(path)
            later = await (await swarm.peer("later", state=first.settings.state)).share(path)
            assert one.id == same.id == remembered.id
            assert read.id == later.id != one.id

    contained(work)


def test_a_memory_that_cannot_be_kept_is_told_and_the_file_is_shared(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            state = tmp_path / "state"
            state.mkdir()
            (state / "hashes").write_bytes(b"a file where a folder should be")
            seed = await swarm.peer("seed", state=state)
            assert (await seed.share(old_file(tmp_path / "image.bin", DATA))).size == len(DATA)
            await until(
                lambda: any(
                    "hashed again next time" in warned.message for warned in swarm.told("seed", Warned)
                )
            )

    contained(work)


def test_case_34_the_same_bytes_under_two_names_are_two_contents(tmp_path: Path) -> None:

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
            one = await seed.share(old_file(tmp_path / "one.bin", DATA[:100_000]))
            two = await seed.share(old_file(tmp_path / "two.bin", DATA[:100_000]))
            assert one.id != two.id
            for shared in (one, two):
                assert (await leech.download(shared.id, tmp_path / "out")).path.name == shared.name

    contained(work)


def test_case_34_two_contents_with_one_name_are_told_apart_by_their_ids(tmp_path: Path) -> None:

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, other, leech = (
                await swarm.peer("seed"),
                await swarm.peer("other"),
                await swarm.peer("leech"),
            )
            one = await seed.share(old_file(tmp_path / "a" / "x.bin", b"one"))
            two = await other.share(old_file(tmp_path / "b" / "x.bin", b"two"))
            with pytest.raises(Ambiguous) as ambiguous:
                await resolve(leech.tracker, "x.bin")
            assert set(ambiguous.value.ids) == {one.id, two.id}
            assert (await leech.download(two.id, tmp_path / "out")).path.read_bytes() == b"two"
            with pytest.raises(DiskError, match="exists"):
                await leech.download(one.id, tmp_path / "out")
            assert (
                await leech.download(one.id, tmp_path / "out", overwrite=True)
            ).path.read_bytes() == b"one"

    contained(work)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 20 * 65_536, 20 * 65_536 + 1])
def test_case_35_a_file_of_any_size_arrives(tmp_path: Path, size: int) -> None:

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, leech = await swarm.peer("seed"), await swarm.peer("leech")
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA[:size]))
            done = await leech.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == DATA[:size]
            assert done.size == sum(done.bytes_from.values()) == size
            second = await swarm.peer("second")
            await swarm.stop("seed")
            assert (await second.download(shared.id, tmp_path / "again")).bytes_from == (
                {"leech": size} if size else {}
            )

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
            found = {
                path.relative_to(done.path): path.read_bytes() if path.is_file() else None
                for path in done.path.rglob("*")
            }
            assert found == {
                path.relative_to(tree): path.read_bytes() if path.is_file() else None
                for path in tree.rglob("*")
            }

    contained(work)


def test_case_43_a_download_into_a_target_that_exists_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:

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


def test_case_43_two_downloads_into_one_folder_at_once_end_with_one_file(
    tmp_path: Path,
) -> None:

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed, one, two = await swarm.peer("seed"), await swarm.peer("one"), await swarm.peer("two")
            shared = await seed.share(old_file(tmp_path / "x.bin", DATA))
            both = await asyncio.gather(
                *(peer.download(shared.id, tmp_path / "out") for peer in (one, two)), return_exceptions=True
            )
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
                local = first.library.find(shared.id)
                return local.bytes_here if local is not None else 0

            await until(lambda: here() > 2 * MIB)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await swarm.stop("first")
            second = await swarm.peer("second")
            done = await second.download(shared.id, tmp_path / "out")
            assert done.path.read_bytes() == DATA
            assert sum(done.bytes_from.values()) <= len(DATA) - 2 * MIB

    contained(work)


def test_the_same_content_at_two_paths_is_hashed_once_and_shared(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            seed = await swarm.peer("seed")
            paths = [old_file(tmp_path / folder / "x.bin", b"same") for folder in ("a", "b")]
            looks: list[int] = []
            task = asyncio.create_task(
                seed.watch_paths(paths, lambda: looks.append(len(swarm.told("seed", Shared))))
            )
            await until(lambda: len(looks) >= 4)
            assert looks[-1] == looks[0], "what is at rest was shared again"
            paths[0].unlink()
            await until(lambda: seed.publisher.held_at(paths[1]), "the other path takes over")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    contained(work)
