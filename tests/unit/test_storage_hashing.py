"""Tests of p2p/storage/hashing.py: hashing to share, verifying to resume, and taking in blocks."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from p2p.content.bitmap import Bitmap
from p2p.errors import DiskError, Refused
from p2p.model import KIB, MIB, BlockSpan
from p2p.storage.disk_io import disk_io
from p2p.storage.hashing import HashPool, PieceChecker, Verdict
from p2p.storage.scan import scan
from tests.kit.content_samples import (
    LENGTH,
    fill,
    folder_manifest,
    manifest_of,
    no_warning,
    part_of,
    some_bytes,
    take_all,
)
from tests.kit.faulty_io import FaultyIO, bad_sector
from tests.kit.waiting import HANG_S

DATA = some_bytes(5 * MIB + 12_345)
LONG = 2 * MIB
"""A piece length of two blocks."""


def silent(_done: int) -> None:
    pass


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def pool(request: pytest.FixtureRequest) -> Iterator[HashPool]:
    pool = HashPool(2, disk_io(request.param))
    yield pool
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hash")]


def digests(data: bytes, length: int, name: str = "sha256") -> tuple[bytes, ...]:
    new: Callable[[bytes], Any] = (
        hashlib.sha256 if name == "sha256" else lambda piece: hashlib.blake2b(piece, digest_size=32)
    )
    return tuple(new(data[at : at + length]).digest() for at in range(0, len(data), length))


@pytest.mark.parametrize("name", ["sha256", "blake2b-256"])
@pytest.mark.parametrize("length", [LENGTH, MIB, 4 * MIB, 16 * MIB])
def test_pieces_run_across_file_borders(pool: HashPool, tmp_path: Path, name: str, length: int) -> None:
    cuts = [0, 0, 1, 70_000, 70_000, 2 * MIB, 4 * MIB + 3, len(DATA)]
    for index, (start, end) in enumerate(pairwise(cuts)):
        (tmp_path / f"f{index}").write_bytes(DATA[start:end])
    scanned = scan(tmp_path, no_warning)
    seen: list[int] = []
    assert asyncio.run(pool.hash_content(scanned, name, length, seen.append)) == digests(DATA, length, name)
    assert seen == sorted(seen)
    assert seen[-1] == len(DATA)


@pytest.mark.parametrize("size", [0, 1, LENGTH - 1, LENGTH, LENGTH + 1])
def test_case_35_a_file_of_a_size_at_the_border_is_hashed_right(
    pool: HashPool, tmp_path: Path, size: int
) -> None:
    (tmp_path / "f").write_bytes(DATA[:size])
    assert asyncio.run(
        pool.hash_content(scan(tmp_path / "f", no_warning), "sha256", LENGTH, silent)
    ) == digests(DATA[:size], LENGTH)


@pytest.mark.parametrize("change", ["grow", "cut", "delete", "touch", "fifo"])
def test_case_44_a_file_that_changed_since_the_scan_is_an_error(
    pool: HashPool, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    scanned = scan(path, no_warning)
    if change == "grow":
        path.write_bytes(DATA + b"x")
    elif change == "cut":
        os.truncate(path, 10)
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
        if change == "fifo" and hasattr(os, "mkfifo"):
            os.mkfifo(path)
    with pytest.raises(DiskError):
        asyncio.run(pool.hash_content(scanned, "sha256", LENGTH, silent))


@pytest.mark.parametrize("change", ["touch", "delete", "cut"])
def test_a_file_that_changes_while_it_is_hashed_is_an_error(
    pool: HashPool, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(some_bytes(9 * MIB) * 4)

    def meddle(_done: int) -> None:
        if change == "touch":
            os.utime(path, ns=(1, 1))
        elif change == "cut":
            os.truncate(path, 0)
        else:
            path.unlink(missing_ok=True)

    with pytest.raises(DiskError, match=r"changed while|does not exist"):
        asyncio.run(pool.hash_content(scan(path, no_warning), "sha256", MIB, meddle))


@pytest.mark.parametrize("change", ["touch", "delete"])
def test_a_file_that_changes_after_its_last_byte_was_read_is_an_error(
    pool: HashPool, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)

    def meddle(done: int) -> None:
        if done == len(DATA) and change == "touch":
            os.utime(path, ns=(1, 1))
        elif done == len(DATA):
            path.unlink()

    with pytest.raises(DiskError, match=r"changed while|does not exist"):
        asyncio.run(pool.hash_content(scan(path, no_warning), "sha256", LENGTH, meddle))


def hash_with(io: FaultyIO, path: Path) -> None:
    """Scan and hash a file with an I/O of a test."""
    pool = HashPool(2, io)
    try:
        asyncio.run(pool.hash_content(scan(path, no_warning), "sha256", LENGTH, silent))
    finally:
        pool.close()


def test_a_file_cut_short_after_its_scan_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    with pytest.raises(DiskError, match="changed while it was hashed"):
        hash_with(FaultyIO(read=lambda *_arguments: 0), tmp_path / "f")


def test_case_47_a_read_fault_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    with pytest.raises(DiskError, match=r"cannot read '.*f'"):
        hash_with(FaultyIO(read=bad_sector), tmp_path / "f")


def test_small_files_are_hashed_many_in_one_job(tmp_path: Path) -> None:
    for index in range(2_000):
        (tmp_path / f"{index:05}").write_bytes(b"%05d" % index + bytes(4091))
    pool = HashPool()
    jobs: list[int] = []
    try:
        scanned = scan(tmp_path, no_warning)
        asyncio.run(pool.hash_content(scanned, "blake2b-256", LENGTH, jobs.append))
    finally:
        pool.close()
    assert jobs[-1] == 2_000 * 4096
    assert len(jobs) <= 2


def test_a_resumed_part_is_verified_piece_by_piece(pool: HashPool, tmp_path: Path) -> None:
    cut = [("a", DATA[: 3 * MIB]), ("b", b""), ("c", DATA[3 * MIB :])]
    manifest = folder_manifest(cut, length=LONG)
    first = part_of(manifest, tmp_path)
    first.open()
    assert asyncio.run(pool.verify(first, silent)) == Bitmap(3)
    fill(first, DATA, range(2))
    fill(first, bytes(len(DATA)), range(2, 3))
    first.abandon()
    second = part_of(manifest, tmp_path)
    second.open()
    seen: list[int] = []
    assert list(asyncio.run(pool.verify(second, seen.append))) == [0, 1]
    assert seen == sorted(seen)
    assert seen[-1] == len(DATA)
    second.abandon()


def test_a_part_without_bytes_verifies_at_once(pool: HashPool, tmp_path: Path) -> None:
    manifest = manifest_of(b"")
    for _ in range(2):
        part = part_of(manifest, tmp_path)
        part.open()
        assert asyncio.run(pool.verify(part, silent)) == Bitmap(0)
        part.abandon()


def checking(
    tmp_path: Path,
    length: int,
    body: Callable[[PieceChecker, Any], Coroutine[Any, Any, None]],
    pool: HashPool,
) -> None:
    """Open a download of DATA and run `body` with its checker."""
    part = part_of(manifest_of(DATA, length=length), tmp_path)
    part.open()
    try:
        asyncio.run(body(PieceChecker(pool, part, Bitmap(part.geometry.pieces)), part))
    finally:
        part.abandon()


def view_of(part: Any, block: BlockSpan, data: bytes = DATA) -> memoryview:
    at = part.geometry.offset(block)
    return memoryview(data)[at : at + block.length]


@pytest.mark.parametrize("length", [LENGTH, MIB, LONG, 4 * MIB])
def test_blocks_in_order_verify_every_piece(pool: HashPool, tmp_path: Path, length: int) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        verdicts = await take_all(checker, part, DATA)
        assert verdicts.count(Verdict.VERIFIED) == part.geometry.pieces
        assert verdicts.count(Verdict.CORRUPT) == 0
        assert part.finish().read_bytes() == DATA

    checking(tmp_path, length, body, pool)


def test_blocks_in_any_order_and_many_at_once_verify_every_piece(pool: HashPool, tmp_path: Path) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        blocks = [block for piece in range(part.geometry.pieces) for block in part.geometry.blocks(piece)]
        seed = random.randrange(2**32)
        print("seed", seed)
        random.Random(seed).shuffle(blocks)
        verdicts = await asyncio.gather(*(checker.take(block, view_of(part, block)) for block in blocks))
        assert verdicts.count(Verdict.VERIFIED) == part.geometry.pieces
        assert part.finish().read_bytes() == DATA

    checking(tmp_path, 4 * MIB, body, pool)


def test_case_28_a_corrupt_piece_of_one_block_is_never_written(pool: HashPool, tmp_path: Path) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        (block,) = part.geometry.blocks(1)
        bad = bytearray(view_of(part, block))
        bad[17] ^= 1
        assert await checker.take(block, memoryview(bad)) is Verdict.CORRUPT
        into = memoryview(bytearray(block.length))
        part.read(block, into)
        assert bytes(into) == bytes(block.length)
        assert await checker.take(block, view_of(part, block)) is Verdict.VERIFIED

    checking(tmp_path, LENGTH, body, pool)


@pytest.mark.parametrize("first", [0, 1])
def test_case_28_a_corrupt_piece_of_many_blocks_is_fetched_anew(
    pool: HashPool, tmp_path: Path, first: int
) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        blocks = part.geometry.blocks(0)
        order = [blocks[first], blocks[1 - first]]
        assert await checker.take(order[0], memoryview(bytearray(MIB))) is Verdict.PENDING
        assert await checker.take(order[1], view_of(part, order[1])) is Verdict.CORRUPT
        assert await checker.take(order[1], view_of(part, order[1])) is Verdict.PENDING
        assert await checker.take(order[0], view_of(part, order[0])) is Verdict.VERIFIED

    checking(tmp_path, LONG, body, pool)


def test_a_block_that_comes_twice_never_spoils_what_is_here(pool: HashPool, tmp_path: Path) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        one, two = part.geometry.blocks(0)
        bad = memoryview(bytearray(MIB))
        assert await checker.take(one, view_of(part, one)) is Verdict.PENDING
        assert await checker.take(one, bad) is Verdict.PENDING
        assert await checker.take(two, view_of(part, two)) is Verdict.VERIFIED
        assert await checker.take(two, bad) is Verdict.VERIFIED
        await take_all(checker, part, DATA)
        assert part.finish().read_bytes() == DATA

    checking(tmp_path, LONG, body, pool)


def test_the_same_last_block_from_two_peers_at_once_verifies_once_and_for_all(
    pool: HashPool, tmp_path: Path
) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        (block,) = part.geometry.blocks(0)
        bad = memoryview(bytearray(block.length))
        good = view_of(part, block)
        verdicts = await asyncio.gather(*(checker.take(block, view) for view in (bad, good, bad, good)))
        assert verdicts == [Verdict.CORRUPT, Verdict.VERIFIED, Verdict.VERIFIED, Verdict.VERIFIED]

    checking(tmp_path, LENGTH, body, pool)


def test_what_verified_before_is_not_written_again(pool: HashPool, tmp_path: Path) -> None:
    async def body(_checker: PieceChecker, part: Any) -> None:
        have = Bitmap.of(part.geometry.pieces, [0])
        checker = PieceChecker(pool, part, have)
        (block,) = part.geometry.blocks(0)
        assert await checker.take(block, memoryview(bytearray(block.length))) is Verdict.VERIFIED
        assert have.count == 1

    checking(tmp_path, LENGTH, body, pool)


def test_what_is_no_whole_block_is_an_error(pool: HashPool, tmp_path: Path) -> None:
    async def body(checker: PieceChecker, part: Any) -> None:
        for block, length in (
            (BlockSpan(0, 0, MIB), 5),
            (BlockSpan(0, 5, 5), 5),
            (BlockSpan(0, 0, LONG), LONG),
        ):
            with pytest.raises(ValueError, match="bytes for"):
                await checker.take(block, memoryview(bytearray(length)))
        with pytest.raises(IndexError):
            await checker.take(BlockSpan(99, 0, 5), memoryview(bytearray(5)))

    checking(tmp_path, LONG, body, pool)


def test_case_46_a_block_that_could_not_be_written_may_come_again(pool: HashPool, tmp_path: Path) -> None:
    failures = [OSError(errno.ENOSPC, "full")] * 2

    def fault(step: str) -> None:
        if step == "write" and failures:
            raise failures.pop()

    async def body(part: Any) -> None:
        checker = PieceChecker(pool, part, Bitmap(part.geometry.pieces))
        first = part.geometry.blocks(0)[0]
        for _ in range(2):
            with pytest.raises(DiskError, match="disk full"):
                await checker.take(first, view_of(part, first))
        assert (await take_all(checker, part, DATA)).count(Verdict.VERIFIED) == part.geometry.pieces

    for length in (LENGTH, LONG):
        failures = [OSError(errno.ENOSPC, "full")] * 2
        part = part_of(manifest_of(DATA, name=f"x{length}", length=length), tmp_path, fault=fault)
        part.open()
        asyncio.run(body(part))
        part.abandon()


def test_a_cancelled_take_returns_only_when_the_buffer_is_free_and_loses_nothing(
    pool: HashPool, tmp_path: Path
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def fault(step: str) -> None:
        if step == "write" and not leave.is_set():
            entered.set()
            leave.wait(HANG_S)

    async def body(part: Any) -> None:
        checker = PieceChecker(pool, part, Bitmap(part.geometry.pieces))
        one, two = part.geometry.blocks(0)
        taking = asyncio.ensure_future(checker.take(one, view_of(part, one)))
        await asyncio.to_thread(entered.wait, 10)
        for _ in range(3):
            taking.cancel()
            await asyncio.sleep(0)
        assert not taking.done()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert await checker.take(one, view_of(part, one)) is Verdict.PENDING
        assert await checker.take(two, view_of(part, two)) is Verdict.VERIFIED

    part = part_of(manifest_of(DATA, length=LONG), tmp_path, fault=fault)
    part.open()
    asyncio.run(body(part))
    part.abandon()


def test_work_that_has_not_begun_is_called_off_when_cancelled() -> None:
    pool = HashPool(1)
    leave = threading.Event()
    done: list[int] = []

    async def body() -> None:
        first = asyncio.ensure_future(pool.run(lambda: leave.wait(HANG_S)))
        second = asyncio.ensure_future(pool.run(lambda: done.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        leave.set()
        assert await first

    asyncio.run(body())
    pool.close()
    assert done == []


def test_a_fault_of_cancelled_work_is_told_to_nobody() -> None:
    pool = HashPool(1)
    entered, leave = threading.Event(), threading.Event()
    complaints: list[dict[str, Any]] = []

    def work() -> None:
        entered.set()
        leave.wait(HANG_S)
        raise DiskError("nobody waits for this")

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        task = asyncio.ensure_future(pool.run(work))
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    pool.close()
    assert complaints == []


def test_closing_tells_those_whose_work_waits() -> None:
    pool = HashPool(1)
    leave = threading.Event()

    async def body() -> None:
        first = asyncio.ensure_future(pool.run(lambda: leave.wait(HANG_S)))
        second = asyncio.ensure_future(pool.run(lambda: None))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(pool.close))
        with pytest.raises(Refused, match="stopping"):
            await second
        leave.set()
        await closing
        assert await first
        with pytest.raises(Refused, match="later"):
            await pool.run(lambda: None)

    asyncio.run(body())


@pytest.mark.parametrize("busy", [False, True])
def test_case_62_work_without_a_thread_is_refused_and_never_runs(
    monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    pool = HashPool(2)
    leave = threading.Event()
    done: list[str] = []

    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body() -> None:
        first = asyncio.ensure_future(pool.run(lambda: leave.wait(HANG_S))) if busy else None
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(Refused) as caught:
                await pool.run(lambda: done.append("refused"))
            assert caught.value.code == "unavailable"
        leave.set()
        if first:
            await first
        await pool.run(lambda: done.append("after"))

    asyncio.run(body())
    pool.close()
    assert done == ["after"]


def test_one_fault_ends_the_other_jobs_of_a_content(tmp_path: Path) -> None:
    pool = HashPool(2)
    (tmp_path / "a").write_bytes(some_bytes(20 * MIB))
    scanned = scan(tmp_path, no_warning)
    (tmp_path / "a").write_bytes(b"")

    async def body() -> None:
        with pytest.raises(DiskError):
            await pool.hash_content(scanned, "sha256", 64 * KIB, silent)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(body())
    pool.close()


def test_case_61_hashing_takes_one_buffer_a_thread_whatever_the_size(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(256 * MIB)
    pool = HashPool(2)
    scanned = scan(tmp_path / "sparse", no_warning)
    tracemalloc.start()
    try:
        pieces = asyncio.run(pool.hash_content(scanned, "blake2b-256", 16 * MIB, silent))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pool.close()
    assert len(set(pieces)) == 1
    assert peak < 6 * MIB
