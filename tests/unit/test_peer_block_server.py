"""The block server: a requested block becomes open files, or a refusal."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.errors import DiskError, Refused
from p2p.model import BlockSpan, ContentId, FileEntry, Manifest
from p2p.peer.block_server import BlockServer
from p2p.peer.library import Library
from p2p.peer.local_content import LocalContent
from p2p.peer.uploads import Uploads
from p2p.storage.disk_io import disk_io
from p2p.storage.file_set import MAX_SPANS
from p2p.storage.shared_content import SharedContent, fingerprints
from p2p.swarm.events import PieceVerified
from p2p.swarm.participant import Participant
from p2p.swarm.upload_queue import UploadLimits
from tests.kit.leaks import contained
from tests.kit.local_contents import (
    CONTENT,
    LENGTH,
    FakeAnnouncements,
    FakeStorage,
    local_content,
    no_descriptors,
)
from tests.kit.virtual_time import in_virtual_time
from tests.kit.waiting import HANG_S, until

BLOCK = BlockSpan(0, 0, 1000)
LIMITS = UploadLimits()
SLOTS = LIMITS.slots
RENAME_TIMEOUT_S = 5.0


class Scene:
    """A block server with one content of two pieces."""

    def __init__(self, have: int = 0b11, *, fetching: bool = False) -> None:
        self.uploads = Uploads(asyncio.get_running_loop().time)
        self.library = Library(FakeAnnouncements())
        self.storage = FakeStorage()
        self.local = local_content(
            self.uploads, 2, have, storage=self.storage, on_fetch=(lambda _: None) if fetching else None
        )
        self.library.publish(self.local)
        self.changed: list[LocalContent] = []
        self.server = BlockServer(self.library, self.uploads, self.changed.append, RENAME_TIMEOUT_S)
        self.began: list[str] = []
        """Clients in the order in which their uploads began."""

    async def send(
        self, client: str, done: asyncio.Event | None = None, spans: Sequence[BlockSpan] = (BLOCK,)
    ) -> int:
        """Send to a client until `done` is set; returns the number of blocks in the turn."""
        async with self.server.blocks(client, CONTENT, spans) as opened:
            self.began.append(client)
            if done is not None:
                await done.wait()
            return len(opened)

    async def refused(self, content: ContentId = CONTENT, block: BlockSpan = BLOCK) -> Refused:
        """The refusal of a block."""
        with pytest.raises(Refused) as refused:
            async with self.server.blocks("client", content, [block]):
                pass
        return refused.value

    @property
    def counts(self) -> tuple[int, int, int]:
        """Uploads in slots, requests that wait, blocks that are open."""
        return self.uploads.queue.serving, self.uploads.queue.waiting, self.storage.open


# -- refusals


@pytest.mark.parametrize(
    ("content", "block"), [(CONTENT, BlockSpan(1, 0, 10)), (ContentId("cd" * 32), BLOCK)]
)
def test_a_piece_or_a_content_that_is_not_here_is_not_found(content: ContentId, block: BlockSpan) -> None:
    async def work() -> None:
        scene = Scene(have=0b01)
        assert (await scene.refused(content, block)).code == "not_found"

    in_virtual_time(work)


def test_a_disk_error_is_told_without_our_paths_and_frees_the_slot() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.fault = DiskError("cannot read '/home/alice/secret'")
        for _ in range(SLOTS + 1):
            refused = await scene.refused()
            assert refused.code == "disk"
            assert "alice" not in str(refused)
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


def test_case_60_without_descriptors_a_block_is_busy_and_the_content_stays_shared() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.fault = no_descriptors()
        assert (await scene.refused()).code == "busy"
        assert scene.changed == []
        scene.storage.fault = None
        await scene.send("client")
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


def test_files_that_have_changed_are_reported_and_not_served() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.fault = Refused("not_found", "changed")
        assert (await scene.refused()).code == "not_found"
        assert scene.changed == [scene.local]

    in_virtual_time(work)


def test_a_content_that_is_withdrawn_while_a_request_waits_is_refused_at_once() -> None:
    """Its files are closed. Only a finished download that is being renamed is worth a wait."""

    async def work() -> None:
        scene, done = Scene(), asyncio.Event()
        tasks = [asyncio.create_task(scene.send(f"client {number}", done)) for number in range(SLOTS)]
        waiting = asyncio.create_task(scene.refused())
        await asyncio.sleep(0)
        assert scene.counts == (SLOTS, 1, SLOTS)
        scene.library.retract(scene.local)
        scene.storage.fault = Refused("unavailable", "its files are closed")
        began = asyncio.get_running_loop().time()
        done.set()
        assert (await waiting).code == "unavailable"
        assert asyncio.get_running_loop().time() == began
        await asyncio.gather(*tasks)
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


# -- while a download gets its final name


def test_a_request_waits_while_a_finished_download_gets_its_final_name() -> None:
    async def work() -> None:
        scene = Scene(have=0b01, fetching=True)
        scene.local.handle(PieceVerified(1))
        scene.storage.fault = Refused("unavailable", "it is being renamed")
        sending = asyncio.create_task(scene.send("client"))
        await asyncio.sleep(RENAME_TIMEOUT_S / 2)
        assert scene.began == []
        scene.local.publish(FakeStorage(), Path("final name"))
        assert await sending == 1

    in_virtual_time(work)


def test_a_request_waits_for_a_final_name_only_so_long() -> None:
    async def work() -> None:
        scene = Scene(have=0b01, fetching=True)
        scene.storage.fault = Refused("unavailable", "it is being renamed")
        began = asyncio.get_running_loop().time()
        assert (await scene.refused()).code == "unavailable"
        assert asyncio.get_running_loop().time() - began == pytest.approx(RENAME_TIMEOUT_S)
        scene.local.close()

    in_virtual_time(work)


# -- slots


def test_a_waiting_client_is_served_when_another_is_done_unless_it_went_away() -> None:
    async def work() -> None:
        scene, done = Scene(), asyncio.Event()
        tasks = [asyncio.create_task(scene.send(f"client {number}", done)) for number in range(SLOTS + 2)]
        await asyncio.sleep(0.1)
        assert scene.counts == (SLOTS, 2, SLOTS)
        tasks[SLOTS].cancel()
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        await asyncio.sleep(0.1)
        assert scene.began[SLOTS:] == [f"client {SLOTS + 1}"]
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


def test_stalled_receivers_give_their_slots_to_a_client_that_waits() -> None:
    async def work() -> None:
        scene, never = Scene(), asyncio.Event()
        stalled = [asyncio.create_task(scene.send("stalled", never)) for _ in range(SLOTS + 1)]
        await asyncio.sleep(0.1)
        await scene.send("honest")
        with pytest.raises(Refused, match="you do not take"):
            await stalled[SLOTS]
        never.set()
        await asyncio.gather(*stalled[:SLOTS])
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


def test_a_receiver_that_takes_bytes_keeps_its_slot() -> None:
    async def work() -> None:
        scene, done = Scene(), asyncio.Event()
        tasks = [asyncio.create_task(scene.send(f"client {number}", done)) for number in range(SLOTS)]
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(scene.send("waiting"))
        for _ in range(100):
            for number in range(SLOTS):
                scene.server.throttle(LENGTH, f"client {number}")
            await asyncio.sleep(0.5)
        assert "waiting" not in scene.began
        done.set()
        await asyncio.gather(*tasks, waiting)

    in_virtual_time(work)


def test_of_too_many_stalled_uploads_the_oldest_is_cancelled_and_closes_its_files() -> None:
    async def work() -> None:
        scene, never = Scene(), asyncio.Event()
        count = LIMITS.demoted + 2 * SLOTS
        tasks = [asyncio.create_task(scene.send(f"stalled {number}", never)) for number in range(count)]
        honest = asyncio.create_task(scene.send("honest"))
        await asyncio.wait([honest])
        assert tasks[0].cancelled()
        assert not tasks[-1].done()
        assert scene.storage.open == sum(not task.done() for task in tasks)
        never.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


# -- several blocks in one turn


def test_a_quick_client_gets_several_blocks_up_to_the_first_that_is_not_here() -> None:
    async def work() -> None:
        scene = Scene(have=0b01)
        here = [BlockSpan(0, at, 1000) for at in (0, 1000, 2000)]
        assert await scene.send("client", spans=here) == 1, "it is not known yet whether it is quick"
        wanted = [*here, BlockSpan(1, 0, 1000), *here]
        async with scene.server.blocks("client", CONTENT, wanted) as opened:
            assert [sum(span.length for span in files) for files in opened] == [1000] * 3
            assert scene.storage.open == 3
        assert scene.storage.open == 0
        assert scene.local.participant.sent == 4000

    in_virtual_time(work)


def test_while_others_wait_a_turn_is_one_block() -> None:
    async def work() -> None:
        scene, done = Scene(), asyncio.Event()
        await scene.send("client")
        tasks = [asyncio.create_task(scene.send(f"other {number}", done)) for number in range(SLOTS)]
        await asyncio.sleep(0.1)
        mine = asyncio.create_task(scene.send("client", spans=[BLOCK] * 3))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(scene.send("late", done))
        await asyncio.sleep(0.1)
        assert scene.uploads.queue.waiting == 2
        tasks[0].cancel()
        assert await mine == 1
        done.set()
        await asyncio.gather(late, *tasks, return_exceptions=True)

    in_virtual_time(work)


def test_a_turn_holds_no_more_files_open_than_one_block_may() -> None:
    async def work() -> None:
        scene = Scene()
        scene.storage.files = 3
        await scene.send("client")
        async with scene.server.blocks("client", CONTENT, [BLOCK] * 5) as opened:
            assert [len(files) for files in opened] == [3, 3]
            assert scene.storage.open == 2, "the third was opened, and closed again"
        assert scene.storage.open == 0

    in_virtual_time(work)


def test_a_turn_has_no_more_bytes_than_its_limit() -> None:
    async def work() -> None:
        scene = Scene()
        await scene.send("client")
        spans = [BlockSpan(number % 2, 0, LENGTH) for number in range(100)]
        scene.storage.files = 0
        assert await scene.send("client", spans=spans) == LIMITS.turn // LENGTH

    in_virtual_time(work)


def test_a_changed_file_ends_a_turn_and_is_reported() -> None:
    async def work() -> None:
        scene = Scene()
        await scene.send("client")

        def change_after_the_first() -> None:
            if scene.storage.open:
                scene.storage.fault = Refused("not_found", "changed")

        scene.storage.before_open = change_after_the_first
        assert await scene.send("client", spans=[BLOCK] * 3) == 1
        assert scene.changed == [scene.local]
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


def test_a_send_that_breaks_off_counts_no_bytes_and_closes_its_files() -> None:
    async def work() -> None:
        scene = Scene()
        with pytest.raises(TimeoutError):
            async with scene.server.blocks("client", CONTENT, [BLOCK]):
                raise TimeoutError("the other side takes no bytes")
        assert scene.local.participant.sent == 0
        assert scene.counts == (0, 0, 0)

    in_virtual_time(work)


# -- blocks that lie in many files


def test_a_block_of_many_files_is_opened_in_a_thread_while_all_else_goes_on() -> None:
    async def work() -> None:
        scene, opened, may_open = Scene(), asyncio.Event(), threading.Event()
        scene.storage.in_thread = True
        loop = asyncio.get_running_loop()

        def open_slowly() -> None:
            loop.call_soon_threadsafe(opened.set)
            assert may_open.wait(HANG_S), "the loop stands still meanwhile"

        scene.storage.before_open = open_slowly
        sending = asyncio.create_task(scene.send("client", spans=[BLOCK, BLOCK]))
        await opened.wait()
        assert scene.uploads.queue.active() == (), "the time to open files is not held against the receiver"
        may_open.set()
        assert await sending == 1, "the next block is opened in a turn of its own"
        scene.server.close()

    contained(work)


def test_a_client_that_goes_away_while_files_are_opened_leaves_none_open() -> None:
    async def work() -> None:
        scene, may_open = Scene(), threading.Event()
        scene.storage.in_thread = True
        scene.storage.before_open = lambda: may_open.wait(HANG_S)
        sending = asyncio.create_task(scene.send("client"))
        await asyncio.sleep(0)
        sending.cancel()
        may_open.set()
        await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: scene.counts == (0, 0, 0))
        assert scene.began == []
        scene.server.close()

    contained(work)


def test_tiny_files_are_sent_as_one_span_and_reported_when_one_has_changed(tmp_path: Path) -> None:
    files = [FileEntry(f"{number:02}", 20) for number in range(MAX_SPANS + 1)]
    root = tmp_path / "tiny"
    root.mkdir()
    for file in files:
        (root / file.path).write_bytes(b"x" * file.size)
    size = 20 * len(files)
    manifest = Manifest("tiny", "folder", "blake2b-256", LENGTH, tuple(files), (), (bytes(32),))
    storage = SharedContent(manifest, root, fingerprints(manifest, root), disk_io())
    block = BlockSpan(0, 0, size)

    async def work() -> None:
        scene = Scene()
        now = asyncio.get_running_loop().time()
        participant = Participant(Geometry(size, LENGTH), Bitmap.all(1), scene.uploads.queue, Random(1), now)
        local = LocalContent(CONTENT, manifest, b"", storage, root, participant, scene.uploads)
        scene.library.publish(local)
        async with scene.server.blocks("client", CONTENT, [block]) as opened:
            ((span,),) = opened
            os.lseek(span.fd, span.offset, os.SEEK_SET)
            assert os.read(span.fd, span.length) == b"x" * size
        (root / files[7].path).write_bytes(b"other")
        assert (await scene.refused(block=block)).code == "not_found"
        assert scene.changed == [local]
        assert scene.counts == (0, 0, 0)
        scene.server.close()
        scene.library.close()

    contained(work)
