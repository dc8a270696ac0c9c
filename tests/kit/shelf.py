"""A source for tests of transports: one file, and all the ways in which a source can be slow, refuse, or hand
out something else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from p2p.errors import Refused
from p2p.model import MAX_BLOCK, BlockSpan, ContentId, FileSpan

CONTENT: Final = ContentId("ab" * 32)
PIECE: Final = 2 * MAX_BLOCK
SIZE: Final = 2 * PIECE + 12_345


class Shelf:
    """A source over one file. A test may hold it (`gate`), make it refuse, change what it hands out, or slow
    it down."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.data = data
        self.fd = os.open(path, os.O_RDWR)
        self.refuse: dict[int, str] = {}
        """Code with which to refuse a piece."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.cut: Callable[[FileSpan], list[FileSpan]] = lambda span: [span]
        self.delay = 0.0
        """Seconds that each part takes."""
        self.at_once = 1
        """Most blocks given in one turn."""
        self.entered = self.left = 0
        self.client: list[str] = []

    @asynccontextmanager
    async def blocks(
        self, client: str, content: ContentId, spans: Sequence[BlockSpan]
    ) -> AsyncIterator[list[list[FileSpan]]]:
        self.client.append(client)
        self._check(content, spans[0])
        self.entered += 1
        try:
            await self.gate.wait()
            opened = []
            for span in spans[: self.at_once]:
                try:
                    self._check(content, span)
                except Refused:
                    break
                opened.append(self.cut(FileSpan(self.fd, span.piece * PIECE + span.offset, span.length)))
            yield opened
        finally:
            self.left += 1

    def _check(self, content: ContentId, span: BlockSpan) -> None:
        if content != CONTENT:
            raise Refused("not_found", "this content is not shared here")
        if (
            span.piece * PIECE + span.offset + span.length > len(self.data)
            or span.offset + span.length > PIECE
        ):
            raise Refused("bad_range", "the block is not inside its piece")
        if span.piece in self.refuse:
            raise Refused(self.refuse[span.piece], "no")

    def throttle(self, count: int, client: str) -> None:
        time.sleep(self.delay * count / 8192)

    def crawl(self) -> None:
        """Hand out 8 KiB each 20 ms, so that a test can act in the middle of a block."""
        self.delay = 0.02
        self.cut = lambda span: [
            FileSpan(span.fd, span.offset + at, min(8192, span.length - at))
            for at in range(0, span.length, 8192)
        ]

    def bytes_of(self, span: BlockSpan) -> bytes:
        """What a block must hold."""
        start = span.piece * PIECE + span.offset
        return self.data[start : start + span.length]
