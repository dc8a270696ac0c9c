"""How blocks are given out: in turn, to those who take them, and never of what has changed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.content.bitmap import Bitmap
from p2p.errors import DiskError, Refused
from p2p.model import BlockSpan, ContentId, FileEntry, FileSpan, Manifest
from p2p.peer import block_server as module
from p2p.peer.block_server import BlockServer
from p2p.peer.local_content import LocalContent
from p2p.storage.disk import open_read
from p2p.storage.disk_io import disk_io
from p2p.storage.shared_content import SharedContent, fingerprints
from p2p.swarm.upload_queue import SLOTS
from tests.kit.leaks import contained
from tests.kit.waiting import until

PIECE = 65_536
CONTENT = ContentId("ab" * 32)
BLOCK = BlockSpan(0, 0, 1000)


class FakeStorage:
    def __init__(self) -> None:
        self.open = 0
        self.files = 1
        """Files of each block."""
        self.fault: Exception | None = None

    @contextmanager
    def opened(self, block: BlockSpan) -> Iterator[list[FileSpan]]:
        if self.fault is not None:
            raise self.fault
        self.open += 1
        try:
            yield [FileSpan(0, 0, block.length)] * self.files
        finally:
            self.open -= 1

    def scattered(self, block: BlockSpan) -> bool:
        return False


class Scene:
    def __init__(self, limit: int = 0, have: int = 0b11) -> None:
        self.storage = FakeStorage()
        self.changed: list[LocalContent] = []
        self.serving = BlockServer(self.changed.append, limit)
        manifest = Manifest(
            "x", "file", "blake2b-256", PIECE, (FileEntry("x", 2 * PIECE),), (), (bytes(32), bytes(32))
        )
        storage: Any = self.storage
        self.holding = LocalContent(CONTENT, manifest, b"", Bitmap(2, have), storage, Path("x"), Random(1))
        self.serving.holdings[CONTENT] = self.holding

    async def send(
        self, client: str, until_set: asyncio.Event, log: list[str], block: BlockSpan = BLOCK
    ) -> None:
        """Take a block and be busy with it until an event."""
        async with self.serving.blocks(client, CONTENT, [block]):
            log.append(client)
            await until_set.wait()


def test_a_piece_that_is_not_here_and_a_content_that_is_not_shared_are_not_found() -> None:
    async def work() -> None:
        scene = Scene(have=0b01)
        for content, block in ((CONTENT, BlockSpan(1, 0, 10)), (ContentId("cd" * 32), BLOCK)):
            with pytest.raises(Refused) as refused:
                async with scene.serving.blocks("a", content, [block]):
                    pass
            assert refused.value.code == "not_found"

    contained(work)


def test_a_disk_that_fails_is_told_as_such_without_our_paths_and_frees_the_slot() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.fault = DiskError("cannot read '/home/alice/secret'")
        for _ in range(SLOTS + 1):
            with pytest.raises(Refused) as refused:
                async with scene.serving.blocks("a", CONTENT, [BLOCK]):
                    pass
        assert refused.value.code == "disk"
        assert "alice" not in str(refused.value)
        assert scene.serving._uploads.serving == 0

    contained(work)


def test_case_60_a_file_that_cannot_be_opened_for_want_of_descriptors_is_busy_and_goes_on_being_shared() -> (
    None
):
    async def work() -> None:
        scene = Scene()
        fault = scene.storage.fault = DiskError("cannot open 'x'")
        fault.__cause__ = OSError(errno.EMFILE, "Too many open files")
        with pytest.raises(Refused) as refused:
            async with scene.serving.blocks("a", CONTENT, [BLOCK]):
                pass
        assert refused.value.code == "busy"
        assert scene.changed == []
        assert scene.serving._uploads.serving == 0

    contained(work)


def test_files_that_have_changed_are_reported_and_not_served() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.fault = Refused("not_found", "changed")
        with pytest.raises(Refused):
            async with scene.serving.blocks("a", CONTENT, [BLOCK]):
                pass
        assert scene.changed == [scene.holding]

    contained(work)


def test_what_was_taken_back_is_refused_at_once_and_holds_no_slot() -> None:
    """Its files are closed; only a finished download that is just being renamed is worth a wait."""

    async def work() -> None:
        scene = Scene()
        scene.holding.withdraw()
        scene.storage.fault = Refused("unavailable", "put away")
        async with asyncio.timeout(1):
            with pytest.raises(Refused):
                async with scene.serving.blocks("a", CONTENT, [BLOCK]):
                    pass

    contained(work)


def test_who_waits_is_served_when_another_is_done_and_who_goes_away_gives_up_its_place() -> None:
    async def work() -> None:
        scene, go, log = Scene(), asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(scene.send(f"p{n}", go, log)) for n in range(SLOTS + 2)]
        await until(lambda: len(log) == SLOTS)
        tasks[SLOTS].cancel()
        await asyncio.gather(tasks[SLOTS], return_exceptions=True)
        tasks[0].cancel()
        await until(lambda: log[-1] == f"p{SLOTS + 1}")
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (scene.serving._uploads.serving, scene.serving._uploads.waiting, scene.storage.open) == (
            0,
            0,
            0,
        )
        scene.serving.close()

    contained(work)


def test_case_25_those_who_take_no_bytes_give_their_slots_to_those_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEAF_TIME", 0.1)

    async def work() -> None:
        scene, never, go, log = Scene(), asyncio.Event(), asyncio.Event(), list[str]()
        go.set()
        deaf = [asyncio.create_task(scene.send("deaf", never, log)) for _ in range(SLOTS + 10)]
        await until(lambda: len(log) == SLOTS)
        async with asyncio.timeout(2):
            for _ in range(20):
                await scene.send("honest", go, log)
        assert log.count("deaf") == SLOTS, "who is deaf gets no further slot"
        with pytest.raises(Refused) as refused:
            await scene.send("deaf", go, log)
        assert refused.value.code == "busy"
        never.set()
        await asyncio.gather(*deaf, return_exceptions=True)
        await scene.send("deaf", go, log)
        assert scene.serving._uploads.serving == scene.serving._uploads.waiting == 0
        scene.serving.close()

    contained(work)


def test_who_asks_and_goes_away_again_and_again_does_not_make_the_deaf_look_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEAF_TIME", 0.2)

    async def work() -> None:
        scene, never, go, log = Scene(), asyncio.Event(), asyncio.Event(), list[str]()
        go.set()
        deaf = [asyncio.create_task(scene.send(f"deaf {n}", never, log)) for n in range(SLOTS)]
        await until(lambda: len(log) == SLOTS)
        honest = asyncio.create_task(scene.send("honest", go, log))
        async with asyncio.timeout(3):
            while not honest.done():
                passing = asyncio.create_task(scene.send("passing", go, log))
                await asyncio.sleep(0.02)
                passing.cancel()
                await asyncio.gather(passing, return_exceptions=True)
        assert "honest" in log
        never.set()
        await asyncio.gather(*deaf)
        scene.serving.close()

    contained(work)


def test_of_too_many_who_take_no_bytes_the_oldest_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEAF_TIME", 0.05)
    monkeypatch.setattr(module, "DEAF_MOST", 2 * SLOTS)

    async def work() -> None:
        scene, never, go, log = Scene(), asyncio.Event(), asyncio.Event(), list[str]()
        go.set()
        deaf = [asyncio.create_task(scene.send(f"deaf {n}", never, log)) for n in range(5 * SLOTS)]
        await until(lambda: len(log) == SLOTS)
        async with asyncio.timeout(5):
            await scene.send("honest", go, log)
        assert sum(task.cancelled() for task in deaf) >= SLOTS
        assert len(scene.serving._deaf) <= 2 * SLOTS
        assert not any(task.cancelled() for task in deaf[-SLOTS:])
        never.set()
        await asyncio.gather(*deaf, return_exceptions=True)
        assert scene.serving._uploads.serving == scene.serving._uploads.waiting == scene.storage.open == 0
        scene.serving.close()

    contained(work)


def test_who_is_given_up_and_takes_long_to_end_is_given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second cancel would break into the end of the first, while a thread still reads the block's files."""
    monkeypatch.setattr(module, "DEAF_TIME", 0.05)
    monkeypatch.setattr(module, "DEAF_MOST", 2)

    async def work() -> None:
        scene, never, log = Scene(), asyncio.Event(), list[str]()
        cancels: list[str] = []

        async def lingering(client: str) -> None:
            async with scene.serving.blocks(client, CONTENT, [BLOCK]):
                log.append(client)
                while not never.is_set():
                    try:
                        await never.wait()
                    except asyncio.CancelledError:
                        cancels.append(client)

        deaf = [asyncio.create_task(lingering(f"deaf {n}")) for n in range(4 * SLOTS)]
        await until(lambda: len(log) >= 3 * SLOTS and len(cancels) >= SLOTS)
        never.set()
        await asyncio.gather(*deaf, return_exceptions=True)
        assert len(cancels) == len(set(cancels))
        scene.serving.close()

    contained(work)


def test_a_host_with_several_who_take_no_bytes_gets_nothing_more_by_whatever_id_it_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEAF_TIME", 0.1)

    async def work() -> None:
        scene, never, go, log = Scene(), asyncio.Event(), asyncio.Event(), list[str]()
        go.set()
        deaf = [asyncio.create_task(scene.send(f"{n:032x}@10.0.0.66", never, log)) for n in range(30)]
        await until(lambda: len(log) == SLOTS)
        async with asyncio.timeout(3):
            for _ in range(20):
                await scene.send("honest@10.0.0.7", go, log)
        assert len(log) - 20 == module.DEAF_OF_ONE
        with pytest.raises(Refused):
            await scene.send("another@10.0.0.66", go, log)
        never.set()
        await asyncio.gather(*deaf, return_exceptions=True)
        await scene.send("another@10.0.0.66", go, log)
        scene.serving.close()

    contained(work)


def test_those_who_take_bytes_slowly_keep_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def work() -> None:
        scene, go, log = Scene(), asyncio.Event(), list[str]()
        slow = [asyncio.create_task(scene.send(f"slow {n}", go, log)) for n in range(SLOTS)]
        await until(lambda: len(log) == SLOTS)
        waiting = asyncio.create_task(scene.send("waiting", go, log))
        await until(lambda: scene.serving._uploads.waiting)
        for _ in range(12):
            now[0] += module.DEAF_TIME / 6
            scene.serving.throttle(100)
            scene.serving._look()
            await asyncio.sleep(0)
        assert "waiting" not in log
        now[0] += 1.1 * module.DEAF_TIME
        scene.serving._look()
        await until(lambda: "waiting" in log, what="who takes nothing at all gives its slot away")
        go.set()
        await asyncio.gather(*slow, waiting)
        scene.serving.close()

    contained(work)


def test_a_rate_is_kept_by_all_threads_together_and_close_wakes_them() -> None:
    scene = Scene(limit=1_000_000)

    def send() -> None:
        for _ in range(5):
            scene.serving.throttle(20_000)

    began = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.3 < time.monotonic() - began < 0.8
    sleeper = threading.Thread(target=scene.serving.throttle, args=(100_000_000,))
    sleeper.start()
    scene.serving.close()
    sleeper.join(2)
    assert not sleeper.is_alive()


def test_without_a_rate_nobody_waits() -> None:
    scene = Scene()
    began = time.monotonic()
    for _ in range(1000):
        scene.serving.throttle(10**9)
    assert time.monotonic() - began < 0.5
    scene.serving.close()


def test_who_is_quick_gets_several_blocks_in_one_turn_up_to_the_first_that_is_not_here() -> None:
    async def work() -> None:
        scene = Scene(have=0b01)
        here = [BlockSpan(0, at, 1000) for at in (0, 1000, 2000)]
        async with scene.serving.blocks("a", CONTENT, here) as opened:
            assert len(opened) == 1, "nobody knows yet whether it is quick"
        async with scene.serving.blocks("a", CONTENT, [*here, BlockSpan(1, 0, 1000), *here]) as opened:
            assert [sum(span.length for span in files) for files in opened] == [1000] * 3
            assert scene.storage.open == 3
        assert scene.storage.open == 0
        assert scene.holding.sent == 4000

    contained(work)


def test_while_others_wait_a_turn_is_one_block() -> None:
    async def work() -> None:
        scene, log = Scene(), list[str]()
        leave = [asyncio.Event() for _ in range(SLOTS)]
        async with scene.serving.blocks("a", CONTENT, [BLOCK]):
            pass
        tasks = [
            asyncio.create_task(scene.send(f"other-{number}", leave[number], log)) for number in range(SLOTS)
        ]
        await until(lambda: len(log) == SLOTS)

        async def turn() -> int:
            async with scene.serving.blocks("a", CONTENT, [BLOCK] * 3) as opened:
                return len(opened)

        mine = asyncio.create_task(turn())
        await until(lambda: scene.serving._uploads.waiting == 1)
        late = asyncio.create_task(scene.send("late", leave[0], log))
        await until(lambda: scene.serving._uploads.waiting == 2)
        leave[0].set()
        assert await mine == 1
        for event in leave:
            event.set()
        await asyncio.gather(late, *tasks)

    contained(work)


def test_a_turn_holds_no_more_files_open_than_one_block_may() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.files = 3
        async with scene.serving.blocks("a", CONTENT, [BLOCK]):
            pass
        async with scene.serving.blocks("a", CONTENT, [BLOCK] * 5) as opened:
            assert [len(files) for files in opened] == [3, 3]
            assert scene.storage.open == 2, "the third was opened, and closed again"
        assert scene.storage.open == 0

    contained(work)


def test_who_stalled_in_its_last_turn_is_not_quick_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        scene = Scene()
        async with scene.serving.blocks("a", CONTENT, [BLOCK]):
            pass
        monkeypatch.setattr("p2p.swarm.upload_queue.QUICK", -1.0)

        async def stall() -> None:
            async with scene.serving.blocks("a", CONTENT, [BLOCK] * 3) as opened:
                assert len(opened) == 3
                raise TimeoutError("the other side takes no bytes")

        with pytest.raises(TimeoutError):
            await stall()
        async with scene.serving.blocks("a", CONTENT, [BLOCK] * 3) as opened:
            assert len(opened) == 1

    contained(work)


def test_case_25_who_takes_a_byte_now_and_then_by_many_ids_does_not_keep_an_honest_one_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLOW_TIME", 0.3)

    async def work() -> None:
        scene, never, go, log = Scene(), asyncio.Event(), asyncio.Event(), list[str]()
        go.set()
        ids = [f"{number:032x}@10.0.0.66" for number in range(2 * SLOTS)]
        slow = [asyncio.create_task(scene.send(client, never, log)) for client in ids]
        await until(lambda: len(log) == SLOTS)
        honest = asyncio.create_task(scene.send("honest@10.0.0.7", go, log))
        async with asyncio.timeout(5):
            while not honest.done():
                for client in ids:
                    scene.serving.throttle(1, client)
                await asyncio.sleep(0.02)
        never.set()
        await asyncio.gather(*slow, return_exceptions=True)
        assert scene.serving._uploads.serving == scene.serving._uploads.waiting == 0
        assert not scene.serving._takers
        scene.serving.close()

    contained(work)


def test_one_that_takes_far_less_than_another_took_that_waits_leaves_its_slot_to_it_and_keeps_no_neighbour_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Receivers on a weak radio link beside others on a cable: each slow block would keep a slot for half a
    minute."""
    monkeypatch.setattr(module, "SLOW_TIME", 0.2)

    async def work() -> None:
        scene, go, end, log = Scene(), asyncio.Event(), asyncio.Event(), list[str]()
        go.set()
        long = BlockSpan(0, 0, PIECE)
        await scene.send("cable@10.0.0.7", go, log, long)
        radio = [f"{number:032x}@10.0.0.{8 + number // 6}" for number in range(12)]
        slow = [asyncio.create_task(scene.send(client, end, log, long)) for client in radio]
        await until(lambda: len(log) == 1 + SLOTS)
        async with asyncio.timeout(10):
            fast = asyncio.create_task(scene.send("cable@10.0.0.7", go, log, long))
            while not fast.done():
                for client in radio:
                    scene.serving.throttle(3000, client)
                await asyncio.sleep(0.02)
            neighbour = asyncio.create_task(scene.send("neighbour@10.0.0.8", end, log, long))
            await asyncio.sleep(0)
            assert not neighbour.done(), "it is not refused for what others of its host do not take"
        end.set()
        await asyncio.gather(*slow, neighbour)
        scene.serving.close()

    contained(work)


def test_where_all_are_slow_and_none_was_faster_few_more_than_the_slots_are_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be our own link that is thin, and each more that is sent at once makes it thinner for all."""
    monkeypatch.setattr(module, "SLOW_TIME", 0.2)

    async def work() -> None:
        scene, end, log = Scene(), asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(scene.send(f"p@10.0.1.{number}", end, log)) for number in range(100)]
        link = 31 * 1024
        began = time.monotonic()
        told = began
        while time.monotonic() - began < 2:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            share = int(link * (now - told) / len(log))
            told = now
            for client in log:
                scene.serving.throttle(share, client)
        assert SLOTS <= len(log) <= 3 * SLOTS
        end.set()
        await asyncio.gather(*tasks)
        scene.serving.close()

    contained(work)


async def _ticks(stop: asyncio.Event, longest: list[float]) -> None:
    """Note the longest time for which the loop did not come round."""
    last = time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest.append(now - last)
        last = now


def test_a_block_of_thousands_of_files_is_gathered_while_all_else_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [FileEntry(f"{number:05}", 20) for number in range(1000)]
    (tmp_path / "tiny").mkdir()
    for file in files:
        (tmp_path / "tiny" / file.path).write_bytes(b"x" * file.size)
    manifest = Manifest("tiny", "folder", "blake2b-256", PIECE, tuple(files), (), (bytes(32),))
    slow = 0.001

    def open_slowly(path: str) -> tuple[int, os.stat_result]:
        time.sleep(slow)
        return open_read(path)

    monkeypatch.setattr("p2p.storage.shared_content.open_read", open_slowly)
    storage = SharedContent(manifest, tmp_path / "tiny", fingerprints(manifest, tmp_path / "tiny"), disk_io())

    async def work() -> None:
        scene = Scene()
        scene.serving.holdings[CONTENT] = LocalContent(
            CONTENT, manifest, b"", Bitmap.all(1), storage, tmp_path / "tiny", Random(1)
        )
        stop, gaps = asyncio.Event(), list[float]()
        ticking = asyncio.create_task(_ticks(stop, gaps))
        began = time.monotonic()
        block = BlockSpan(0, 0, 20 * len(files))
        async with scene.serving.blocks("a", CONTENT, [block, block]) as opened:
            took = time.monotonic() - began
            stop.set()
            await ticking
            assert len(opened) == 1, "the next of them is gathered in a turn of its own"
            ((span,),) = opened
            os.lseek(span.fd, span.offset, os.SEEK_SET)
            assert os.read(span.fd, span.length) == b"x" * 20 * len(files)
        assert took >= slow * len(files)
        assert len(gaps) > 20
        assert max(gaps) < took / 2
        cut = asyncio.create_task(scene.send("b", stop, [], block))
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        (tmp_path / "tiny" / files[7].path).write_bytes(b"other")
        with pytest.raises(Refused) as refused:
            await scene.send("b", stop, [], block)
        assert refused.value.code == "not_found"
        assert scene.changed == [scene.serving.holdings[CONTENT]]
        assert scene.serving._uploads.serving == 0
        scene.serving.close()
        storage.close()

    contained(work)


def test_to_gather_a_block_for_long_is_held_against_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEAF_TIME", 0.05)

    async def work() -> None:
        scene, go, log = Scene(), asyncio.Event(), list[str]()
        read = threading.Event()

        class Scattered(FakeStorage):
            @contextmanager
            def opened(self, block: BlockSpan) -> Iterator[list[FileSpan]]:
                assert read.wait(10)
                yield [FileSpan(0, 0, block.length)]

            def scattered(self, block: BlockSpan) -> bool:
                return True

        storage: Any = Scattered()
        scene.holding.storage = storage
        go.set()
        tasks = [
            asyncio.create_task(scene.send(f"{number:032x}@10.0.0.7", go, log)) for number in range(3 * SLOTS)
        ]
        await until(lambda: len(scene.serving._deaf) == 2 * SLOTS)
        assert not any(send.deaf for send in scene.serving._deaf)
        read.set()
        await asyncio.gather(*tasks)
        assert len(log) == 3 * SLOTS
        scene.serving.close()

    contained(work)
