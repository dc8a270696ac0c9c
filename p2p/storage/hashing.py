"""Hash, compare and write in worker threads: what is shared, what is resumed, and every block that comes in.

`hashlib`, reads and writes release the interpreter's lock while they work, so threads use all cores. Each
worker has one buffer, so memory does not grow with the content. Each job covers some MiB, so that small
pieces do not cost a switch of threads each.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import partial as bind
from typing import Final, TypeVar

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry, Layout
from p2p.content.manifest import HASHES, Hash
from p2p.errors import DiskError
from p2p.model import KIB, MIB, BlockSpan
from p2p.net.threads import ThreadBatch, in_thread
from p2p.storage.disk import disk_error, open_read
from p2p.storage.disk_io import DiskIO, disk_io
from p2p.storage.part_file import PartFile
from p2p.storage.scan import Scanned
from p2p.text import printable

_JOB: Final = 4 * MIB
"""Bytes that one job hashes or verifies at least."""
_BUFFER: Final = MIB
_MAX_WORKERS: Final = 8
_SHORT: Final = 256 * KIB
"""Bytes of a block up to which its check is a short job, done in a batch."""
_BATCH: Final = 16
"""Most short jobs of one batch: 1 MiB in blocks of 64 KiB."""

T = TypeVar("T")


class HashPool:
    """Worker threads for hashing and the disk. Its coroutines belong to one event loop; `close` it when
    done."""

    def __init__(self, workers: int | None = None, io: DiskIO | None = None) -> None:
        """At most `workers` threads, by default one for each core and no more than 8. They start when first
        needed."""
        self.workers = workers or min(os.cpu_count() or 1, _MAX_WORKERS)
        self.io = io or disk_io()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="hash")
        self._batch = ThreadBatch(self._threads, self.workers, _BATCH)
        self._own = threading.local()

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in a worker and return what it returns; as `in_thread`."""
        return await in_thread(self._threads, work)

    async def run_short(self, work: Callable[[], T]) -> T:
        """The same for work that takes less time than to wake a worker; as `ThreadBatch.run`."""
        return await self._batch.run(work)

    async def hash_content(
        self, scanned: Scanned, hash_name: str, piece_length: int, progress: Callable[[int], None]
    ) -> tuple[bytes, ...]:
        """The digest of each piece of what was scanned, in order.

        `progress` is called in the loop with the bytes that are done. Raises `DiskError` if a file cannot be
        read or has changed since it was scanned.
        """
        geometry = Geometry(scanned.size, piece_length)
        reader, new = _Reader(scanned, self.io), HASHES[hash_name]
        step = max(1, _JOB // piece_length)
        digests: list[bytes] = []

        def work(first: int) -> list[bytes]:
            last = min(first + step, geometry.pieces)
            return reader.hash_pieces(range(first, last), geometry, new, self._buffer())

        def done(found: list[bytes]) -> None:
            digests.extend(found)
            progress(min(len(digests) * piece_length, scanned.size))

        await self._each((bind(work, first) for first in range(0, geometry.pieces, step)), done)
        await self.run(reader.check_all)
        return tuple(digests)

    async def verify(self, part: PartFile, progress: Callable[[int], None]) -> Bitmap:
        """The pieces of a part that are on disk and right. Those that are all hole are missing, and not read.

        If the part has its final name already, and is not right in whole, the download begins anew.
        `progress` is called in the loop with the bytes that are done. Raises `DiskError`.
        """
        geometry = part.geometry
        right = Bitmap(geometry.pieces)
        if not part.resumed or not geometry.pieces:
            progress(geometry.size)
            return right
        candidates = list(await self.run(part.written))
        step = max(1, _JOB // geometry.piece_length)

        def work(pieces: Sequence[int]) -> tuple[int, list[int]]:
            found = [piece for piece in pieces if self.hash_part(part, piece) == part.manifest.pieces[piece]]
            return pieces[-1], found

        def done(result: tuple[int, list[int]]) -> None:
            last, found = result
            for piece in found:
                right.add(piece)
            progress(min((last + 1) * geometry.piece_length, geometry.size))

        await self._each(
            (bind(work, candidates[first : first + step]) for first in range(0, len(candidates), step)), done
        )
        if part.landed and not right.full:
            await self.run(part.begin_anew)
            right = Bitmap(geometry.pieces)
        progress(geometry.size)
        return right

    def close(self) -> None:
        """Stop the threads: what runs ends, what waits is dropped. Blocks until they have stopped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _each(self, jobs: Iterable[Callable[[], T]], done: Callable[[T], None]) -> None:
        """Do all jobs, a bounded number at a time, and call `done` with their results in order."""
        running: deque[asyncio.Task[T]] = deque()
        try:
            for job in jobs:
                running.append(asyncio.ensure_future(self.run(job)))
                if len(running) > 2 * self.workers:
                    done(await running.popleft())
            while running:
                done(await running.popleft())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _buffer(self) -> memoryview:
        """The calling worker's own buffer."""
        view: memoryview | None = getattr(self._own, "view", None)
        if view is None:
            view = self._own.view = memoryview(bytearray(_BUFFER))
        return view

    def hash_part(self, part: PartFile, piece: int, begun: Hash | None = None, skip: int = 0) -> bytes:
        """The digest of a piece on disk. Called in a worker.

        The hash `begun`, which is not changed, has its first `skip` blocks already.
        """
        hasher = begun.copy() if begun else HASHES[part.manifest.hash_name]()
        buffer = self._buffer()
        for block in part.geometry.blocks(piece)[skip:]:
            view = buffer[: block.length]
            part.read(block, view)
            hasher.update(view)
        return hasher.digest()


class Verdict(Enum):
    """What the check of a block found out about its piece."""

    PENDING = "pending"
    VERIFIED = "verified"
    CORRUPT = "corrupt"


@dataclass(slots=True)
class _Incoming:
    """A piece that is coming in: which blocks are here, and the hash of the first `hashed` of them."""

    hasher: Hash
    here: set[int] = field(default_factory=set)
    hashed: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PieceChecker:
    """Writes the blocks of one download, and says when a piece is whole and whether it is right.

    A piece of one block is written only if it is right. Of a longer piece each block is written as it comes:
    blocks that come in order are hashed at once, and others are read back when the piece is whole.
    """

    def __init__(self, pool: HashPool, part: PartFile, verified: Bitmap) -> None:
        """`verified` are the pieces that are right already; it is copied."""
        self._pool = pool
        self._part = part
        self._geometry = part.geometry
        self._new: Callable[[], Hash] = HASHES[part.manifest.hash_name]
        self._verified = verified.copy()
        self._incoming: dict[int, _Incoming] = {}

    async def take(self, block: BlockSpan, view: memoryview) -> Verdict:
        """Check and write a whole block, one of `Geometry.blocks`, whose bytes are `view`.

        `CORRUPT` forgets the blocks of the piece, so that all of it is fetched again. A block that is here
        already, or whose piece is verified, changes nothing. The view is the caller's again when this
        returns. Raises `DiskError`, and `ValueError` for any other block or view.
        """
        if len(view) != block.length or block not in self._geometry.blocks(block.piece):
            raise ValueError(f"{len(view)} bytes for {block}")
        if block.piece in self._verified:
            return Verdict.VERIFIED
        state = self._incoming.get(block.piece)
        if state is None:
            state = self._incoming.setdefault(block.piece, _Incoming(self._new()))
        async with state.lock:
            if block.piece in self._verified:
                return Verdict.VERIFIED
            if self._incoming.get(block.piece) is not state:
                # The piece was found corrupt meanwhile, and begins anew with this block.
                return await self.take(block, view)
            run = self._pool.run_short if block.length <= _SHORT else self._pool.run
            verdict = await run(bind(self._work, block, view, state))
            if verdict is not Verdict.PENDING:
                del self._incoming[block.piece]
            if verdict is Verdict.VERIFIED:
                self._verified.add(block.piece)
            return verdict

    def _work(self, block: BlockSpan, view: memoryview, state: _Incoming) -> Verdict:
        expected = self._part.manifest.pieces[block.piece]
        size = self._geometry.piece_size(block.piece)
        if block.length == size:
            hasher = self._new()
            hasher.update(view)
            if hasher.digest() != expected:
                return Verdict.CORRUPT
            self._part.write(block, view)
            return Verdict.VERIFIED
        step = self._geometry.block_length
        number = block.offset // step
        if number not in state.here:
            self._part.write(block, view)
            state.here.add(number)
            if number == state.hashed:
                state.hasher.update(view)
                state.hashed += 1
        if len(state.here) * step < size:
            return Verdict.PENDING
        digest = self._pool.hash_part(self._part, block.piece, state.hasher, state.hashed)
        return Verdict.VERIFIED if digest == expected else Verdict.CORRUPT


class _Reader:
    """Reads scanned files end to end, and raises when one has changed."""

    def __init__(self, scanned: Scanned, io: DiskIO) -> None:
        self._scanned = scanned
        self._layout = Layout(scanned.entries)
        self._io = io

    def hash_pieces(
        self, pieces: range, geometry: Geometry, new: Callable[[], Hash], buffer: memoryview
    ) -> list[bytes]:
        """The digests of adjacent pieces. Their files are read one after the other into a buffer, which is
        hashed when it is full."""
        digests: list[bytes] = []
        hasher, filled, left = new(), 0, geometry.piece_size(pieces.start)
        start = pieces.start * geometry.piece_length
        end = min(pieces.stop * geometry.piece_length, geometry.size)
        for index, offset, length in self._layout.slices(start, end - start):
            fd = self._open(index)
            try:
                while length:
                    part = min(length, left, len(buffer) - filled)
                    self._fill(fd, buffer[filled : filled + part], offset, index)
                    offset, length, left, filled = offset + part, length - part, left - part, filled + part
                    if not left or filled == len(buffer):
                        hasher.update(buffer[:filled])
                        filled = 0
                    if not left:
                        digests.append(hasher.digest())
                        piece = pieces.start + len(digests)
                        hasher, left = new(), geometry.piece_size(piece) if piece < geometry.pieces else 0
            finally:
                os.close(fd)
        return digests

    def check_all(self) -> None:
        """Raise `DiskError` if a file has changed since it was scanned, and so perhaps while it was read."""
        for index, file in enumerate(self._scanned.files):
            path = self._scanned.path_of(index)
            try:
                same = file.matches(os.lstat(path))
            except OSError as error:
                raise disk_error(error, "read", path) from error
            if not same:
                raise self._changed(index)

    def _open(self, index: int) -> int:
        fd, found = open_read(self._scanned.path_of(index))
        if not self._scanned.files[index].matches(found):
            os.close(fd)
            raise self._changed(index)
        return fd

    def _fill(self, fd: int, view: memoryview, offset: int, index: int) -> None:
        while view:
            try:
                moved = self._io.pread_into(fd, view, offset)
            except OSError as error:
                raise disk_error(error, "read", self._scanned.path_of(index)) from error
            if not moved:
                raise self._changed(index)
            view = view[moved:]
            offset += moved

    def _changed(self, index: int) -> DiskError:
        return DiskError(
            f"'{printable(self._scanned.path_of(index))}' changed while it was hashed; "
            "share it again when it is at rest"
        )
