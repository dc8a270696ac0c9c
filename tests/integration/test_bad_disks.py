"""Downloads onto real bad disks (cases 43, 46, 47): a clear error, a part that is kept, and a resume."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.kit.bad_peers import PIECE, PlainPeer, Sample, announced
from tests.kit.disks import (
    OBEYS_MODES,
    Ext4,
    Gate,
    Tree,
    bring_to_disk,
    disk_message,
    disk_of,
    download,
    ext4,
    fetched,
    fill_up,
    more_files,
    needs_disks,
    overlay,
    tmpfs,
)
from tests.kit.leaks import contained
from tests.kit.processes import Ended
from tests.kit.swarm_kit import Swarm
from tests.kit.waiting import hang_guard, until

pytestmark = needs_disks

MIB = 1 << 20
SAMPLE = Sample.random("image.bin", MIB)
LAST = SAMPLE.count - 1


def on_disk(path: Path) -> int:
    """Bytes that a file takes."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def content_of(out: Path, sample: Sample) -> bytes:
    """The bytes of a content that was downloaded."""
    paths = [Path(path) for path, _ in sample.files] if isinstance(sample, Tree) else [Path()]
    return b"".join((out / sample.name / path).read_bytes() for path in paths)


async def reaches(gate: Gate, out: Path) -> None:
    """Wait until the gate has sent its blocks, and all of them are written."""
    async with hang_guard():
        await gate.reached.wait()
    await until(lambda: on_disk(out / f"{gate.sample.name}.part") >= gate.open_for * PIECE)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("pieces", [0, 1, LAST])
def test_case_46_after_a_full_disk_only_what_is_missing_is_fetched(
    tmp_path: Path, kind: str, pieces: int
) -> None:
    async def work(disk: Path) -> None:
        out = disk / "out"
        gate = Gate(SAMPLE, pieces)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate):
            running = asyncio.create_task(download(swarm.address, SAMPLE.id, out, tmp_path / "s"))
            await reaches(gate, out)
            other = fill_up(disk)
            gate.opened.set()
            said = disk_message(await running)
            assert said.startswith("disk full: need ")
            assert f"'{out / 'image.bin.part'}'" in said
            numbers = re.search(r"need ([\d,]+) bytes, have 0;", said)
            assert numbers is not None, said
            # ext4 may free a few blocks that it had reserved, so a part of one piece may have been written.
            missing = (SAMPLE.count - pieces) * PIECE
            assert missing - PIECE < int(numbers[1].replace(",", "")) <= missing
            assert sorted(path.name for path in out.iterdir()) == [
                "image.bin.part",
                "image.bin.part.manifest",
            ]
            asked = gate.reads
            said = disk_message(await download(swarm.address, SAMPLE.id, out, tmp_path / "s"))
            assert said.startswith("disk full: need ")
            assert gate.reads == asked
            other.unlink()
            done = await download(swarm.address, SAMPLE.id, out, tmp_path / "s")
            assert fetched(done) == len(SAMPLE.data) - pieces * PIECE
            assert (out / "image.bin").read_bytes() == SAMPLE.data
            assert [path.name for path in out.iterdir()] == ["image.bin"]

    with disk_of(kind, tmp_path, 2 * MIB) as disk:
        contained(lambda: work(disk))


def one_download(tmp_path: Path, sample: Sample, out: Path, *before: str) -> tuple[Ended, int]:
    """Download from an honest peer; returns how it ended, and how many blocks were requested."""

    async def work() -> tuple[Ended, int]:
        sender = PlainPeer(sample)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, sender):
            return await download(swarm.address, sample.id, out, tmp_path / "s", before=before), sender.reads

    return contained(work)


def test_case_46_a_content_larger_than_the_disk_is_refused_at_once(
    tmp_path: Path,
) -> None:
    with tmpfs(tmp_path / "disk", MIB // 2) as disk:
        done, reads = one_download(tmp_path, SAMPLE, disk / "out")
        assert f"disk full: need {MIB:,} bytes, have " in disk_message(done)
        assert reads == 0
        assert list((disk / "out").iterdir()) == []


def test_case_46_a_disk_is_filled_to_the_last_byte(
    tmp_path: Path,
) -> None:
    with tmpfs(tmp_path / "disk", 2 * MIB) as disk:
        fill_up(disk, leave=MIB + 4096)  # the manifest beside it takes a page
        done, _ = one_download(tmp_path, SAMPLE, disk / "out")
        assert fetched(done) == MIB
        assert (disk / "out" / "image.bin").read_bytes() == SAMPLE.data
        assert shutil.disk_usage(disk).free == 4096


@pytest.mark.parametrize("files", [3, 4, 20])
def test_case_46_a_disk_that_can_hold_no_more_files_says_so(tmp_path: Path, files: int) -> None:
    sample = Tree.many("tree", 40, 5_000)
    with tmpfs(tmp_path / "disk", 8 * MIB, files=files) as disk:
        said = disk_message(one_download(tmp_path, sample, disk / "out")[0])
        assert "no room for another file" in said
        assert str(disk / "out") in said
        assert not (disk / "out" / "tree").exists()
        more_files(disk, 100)
        done, _ = one_download(tmp_path, sample, disk / "out")
        assert done.code == 0, done.err
        assert (
            b"".join((disk / "out" / "tree" / path).read_bytes() for path, _ in sample.files) == sample.data
        )


def test_case_46_a_disk_whose_last_file_was_made_still_gives_it_its_final_name(tmp_path: Path) -> None:
    """A hard link counts as another file on this disk, so the rename must do without."""
    with tmpfs(tmp_path / "disk", 8 * MIB, files=4) as disk:  # itself, the folder, the part and the manifest
        done, _ = one_download(tmp_path, SAMPLE, disk / "out")
        assert fetched(done) == MIB
        assert [path.name for path in (disk / "out").iterdir()] == ["image.bin"]


def test_case_46_a_limit_on_the_size_of_files_is_an_error_with_the_path(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = disk_message(one_download(tmp_path, SAMPLE, out, "prlimit", f"--fsize={MIB // 2}")[0])
    assert str(out / "image.bin.part") in said
    assert "too large" in said
    assert not (out / "image.bin").exists()
    assert fetched(one_download(tmp_path, SAMPLE, out)[0]) == MIB


# -- no permission, read-only, gone


def test_case_47_a_folder_without_permission_is_named_and_works_when_it_is_given(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    for folder in (out, out / "deeper"):
        said = disk_message(one_download(tmp_path, SAMPLE, folder, *OBEYS_MODES)[0])
        assert str(folder) in said
        assert "no permission" in said
    assert list(out.iterdir()) == []
    out.chmod(0o755)
    assert fetched(one_download(tmp_path, SAMPLE, out, *OBEYS_MODES)[0]) == MIB


def test_case_47_a_folder_that_may_not_even_be_looked_at_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "out").mkdir(parents=True)
    closed.chmod(0)
    said = disk_message(one_download(tmp_path, SAMPLE, closed / "out", *OBEYS_MODES)[0])
    assert str(closed / "out") in said
    assert "no permission" in said


def test_case_47_a_part_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk:
        out = disk.place / "out"
        stopped_in_the_middle(tmp_path, disk, out, disk.abort)
        for name in ("image.bin.part", "image.bin.part.manifest"):
            (out / name).chmod(0)
            said = disk_message(one_download(tmp_path, SAMPLE, out, *OBEYS_MODES)[0])
            assert str(out / name) in said
            assert "no permission" in said
            (out / name).chmod(0o600)


def test_case_47_a_read_only_disk_is_named(tmp_path: Path) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk:
        disk.unmount()
        disk.mount("ro")
        for out in (disk.place, disk.place / "out"):
            said = disk_message(one_download(tmp_path, SAMPLE, out)[0])
            assert str(out) in said
            assert "read-only" in said


def sync_file(path: Path) -> None:
    """Wait until a file is on its disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def stopped_in_the_middle(tmp_path: Path, disk: Ext4, out: Path, stop: object, pieces: int = 5) -> str:
    """Let a disk fail when `pieces` are written and synced, and mount it again. Returns the error message."""
    assert callable(stop)

    async def work() -> str:
        gate = Gate(SAMPLE, pieces)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate):
            running = asyncio.create_task(download(swarm.address, SAMPLE.id, out, tmp_path / "s"))
            await reaches(gate, out)
            await asyncio.to_thread(sync_file, out / "image.bin.part")
            stop()
            gate.opened.set()
            return disk_message(await running)

    said = contained(work)
    disk.unmount()
    disk.mount()
    return said


@pytest.mark.parametrize(("how", "why"), [("abort", "read-only"), ("pull_out", "read or write error")])
def test_case_47_a_download_goes_on_when_a_failed_disk_is_back(tmp_path: Path, how: str, why: str) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk:
        out = disk.place / "out"
        said = stopped_in_the_middle(tmp_path, disk, out, getattr(disk, how))
        assert str(out / "image.bin.part") in said
        assert why in said
        assert not (out / "image.bin").exists()
        assert fetched(one_download(tmp_path, SAMPLE, out)[0]) == MIB - 5 * PIECE
        assert (out / "image.bin").read_bytes() == SAMPLE.data


@pytest.mark.parametrize("below", [False, True], ids=["plain", "overlay"])
@pytest.mark.parametrize(
    "sample",
    [SAMPLE, Tree.many("tree", 40, 50_000), Tree.many("tree", 300, 7_000)],
    ids=["file", "40", "300"],
)
def test_case_47_a_disk_that_takes_bytes_and_loses_them_later_gets_no_final_name(
    tmp_path: Path, sample: Sample, below: bool
) -> None:
    """As on a thinly provisioned device: each write succeeds, and fails when the kernel brings it to disk.

    A `syncfs` of an overlay, as in a container, does not report what the disk below has lost.
    """

    async def work(disk: Path, device: Path, out: Path) -> Ended:
        gate = Gate(sample, 1)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate):
            running = asyncio.create_task(download(swarm.address, sample.id, out, tmp_path / "s"))
            async with hang_guard():
                await gate.reached.wait()
            await asyncio.to_thread(bring_to_disk, disk)
            fill_up(device)
            gate.opened.set()
            return await running

    with (
        tmpfs(tmp_path / "device", 4 * MIB) as device,
        ext4(tmp_path / "disk", device / "image", 16 * MIB, thin=True) as disk,
    ):
        with overlay(tmp_path / "over", disk.place / "upper") if below else nullcontext(disk.place) as place:
            out = place / "out"
            said = disk_message(contained(lambda: work(disk.place, device, out)))
            assert "cannot sync" in said
            assert str(out) in said
            assert not (out / sample.name).exists()
            (device / "other").unlink()
            # What was lost can still be in memory; a resume that verified that would call it done.
            again, _ = one_download(tmp_path, sample, out)
            assert again.code == 0, again.err
        disk.unmount()
        disk.mount()
        assert content_of(disk.place / "upper" / "out" if below else out, sample) == sample.data


@pytest.mark.parametrize("killed", [False, True], ids=["running", "killed"])
def test_case_47_a_loss_that_another_program_was_told_of_first_is_seen_all_the_same(
    tmp_path: Path, killed: bool
) -> None:
    """A kernel reports a loss to each program that has the file open. A program that opens it later hears of
    the loss only if no other has."""

    async def work(device: Path, out: Path) -> str:
        gate = Gate(SAMPLE, 1)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate):
            running = asyncio.create_task(download(swarm.address, SAMPLE.id, out, tmp_path / "s"))
            await reaches(gate, out)
            await asyncio.to_thread(bring_to_disk, out)
            fill_up(device)
            gate.let_through(LAST)
            await reaches(gate, out)
            if killed:
                running.cancel()  # which kills the process
                await asyncio.gather(running, return_exceptions=True)
            told = await asyncio.create_subprocess_exec(
                "sync", out / "image.bin.part", stderr=asyncio.subprocess.DEVNULL
            )
            assert await told.wait() != 0
            (device / "other").unlink()
            gate.opened.set()
            return "" if killed else disk_message(await running)

    with (
        tmpfs(tmp_path / "device", 4 * MIB) as device,
        ext4(tmp_path / "disk", device / "image", 16 * MIB, thin=True) as disk,
    ):
        out = disk.place / "out"
        said = contained(lambda: work(device, out))
        assert killed or "cannot sync" in said
        again, _ = one_download(tmp_path, SAMPLE, out)
        assert again.code == 0, again.err
        disk.unmount()
        disk.mount()
        assert content_of(out, SAMPLE) == SAMPLE.data


@pytest.mark.parametrize("how", ["removed", "moved", "swapped"])
def test_case_47_a_folder_that_vanishes_during_a_download_ends_it(tmp_path: Path, how: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def work() -> Ended:
        gate = Gate(SAMPLE, 3)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate):
            running = asyncio.create_task(download(swarm.address, SAMPLE.id, out, tmp_path / "s"))
            await reaches(gate, out)
            if how == "removed":
                shutil.rmtree(out)
            else:
                out.rename(tmp_path / "moved")
            if how == "swapped":
                out.symlink_to(elsewhere)
            gate.opened.set()
            return await running

    said = disk_message(contained(work))
    assert str(out / "image.bin.part") in said
    assert "does not exist" in said
    assert list(elsewhere.iterdir()) == []
    if how == "swapped":
        out.unlink()
    if how == "moved":
        (tmp_path / "moved").rename(out)
    again = fetched(one_download(tmp_path, SAMPLE, out)[0])
    assert again == (0 if how == "moved" else MIB)
    assert (out / "image.bin").read_bytes() == SAMPLE.data


# -- two at once


@pytest.mark.parametrize("same", [True, False], ids=["one content", "two contents"])
def test_case_43_of_two_processes_that_download_one_name_one_is_refused(tmp_path: Path, same: bool) -> None:
    out = tmp_path / "out"
    other = SAMPLE if same else Sample.random("image.bin", MIB, seed=2)

    async def work() -> None:
        gate = Gate(SAMPLE, 3)
        second = PlainPeer(other)
        async with Swarm(tmp_path) as swarm, announced(swarm.address, gate, *([] if same else [second])):
            running = asyncio.create_task(download(swarm.address, SAMPLE.id, out, tmp_path / "s"))
            await reaches(gate, out)
            said = disk_message(await download(swarm.address, other.id, out, tmp_path / "s2"))
            assert said == f"another download of 'image.bin' into '{out}' is running"
            gate.opened.set()
            assert fetched(await running) == MIB
            assert (out / "image.bin").read_bytes() == SAMPLE.data
            assert "exists; use --overwrite" in disk_message(
                await download(swarm.address, other.id, out, tmp_path / "s2")
            )
            assert [path.name for path in out.iterdir()] == ["image.bin"]

    contained(work)
