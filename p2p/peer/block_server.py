"""The source of every listening transport: a requested block becomes open file spans, or a refusal.

Whether and when a block is sent is decided by the content's `Participant` and the upload queue behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from p2p.errors import WIRE_CODES, DiskError, Refused
from p2p.model import BlockSpan, ContentId, FileSpan
from p2p.net.descriptors import out_of_descriptors
from p2p.net.threads import in_thread
from p2p.peer.library import Library
from p2p.peer.local_content import LocalContent
from p2p.peer.uploads import Uploads
from p2p.storage.file_set import MAX_SPANS
from p2p.swarm.events import BlockAsked, BlockSent, SendBegan, UploadEnded

GATHERERS: Final = 4
"""Threads that open blocks which lie in many files; each starts when needed."""


class _Upload:
    """One request; its identity is the ticket."""


class BlockServer:
    """All contents of a library as a `BlockSource`."""

    def __init__(
        self,
        library: Library,
        uploads: Uploads,
        changed: Callable[[LocalContent], None],
        rename_timeout: float = 5.0,
    ) -> None:
        """`changed` is told of a content whose files are not what they were; it is not served any more.
        `rename_timeout`: seconds that a request waits while a finished download gets its final name."""
        self._library = library
        self._uploads = uploads
        self._changed = changed
        self._rename_timeout = rename_timeout
        self._gatherers = ThreadPoolExecutor(GATHERERS, thread_name_prefix="gather")

    @asynccontextmanager
    async def blocks(
        self, client: str, content: ContentId, spans: Sequence[BlockSpan]
    ) -> AsyncIterator[list[list[FileSpan]]]:
        """Wait for a slot, and open the files of the first blocks while they are sent. Raises `Refused` for
        the first block."""
        local = self._library.get(content)
        upload, uploads = _Upload(), self._uploads
        granted = uploads.expect(upload)
        try:
            local.handle(BlockAsked(upload, client, spans[0]))
            turn = await granted
            uploads.on_sending(upload)
            with ExitStack() as stack:
                opened = [await self._open(local, spans[0], stack)]
                opened += self._open_more(local, spans[1:], opened, turn - spans[0].length, stack)
                local.handle(SendBegan(upload))
                yield opened
            for span in spans[: len(opened)]:
                local.handle(BlockSent(upload, span))
        finally:
            uploads.report_taken()
            local.handle(UploadEnded(upload))
            uploads.forget(upload)

    def throttle(self, count: int, client: str = "") -> None:
        """Called in sender threads: `client` took `count` bytes. Sleeps to keep the rate limit."""
        self._uploads.throttle(count, client)

    def close(self) -> None:
        """Open no more blocks: this peer is stopping."""
        self._uploads.close()
        self._gatherers.shutdown(wait=False, cancel_futures=True)

    def _open_more(
        self,
        local: LocalContent,
        spans: Sequence[BlockSpan],
        opened: list[list[FileSpan]],
        most: int,
        stack: ExitStack,
    ) -> Iterator[list[FileSpan]]:
        """Open further blocks of the same turn: at most `most` bytes, and together no more files than one
        block may have, since open files are scarce.

        A block that must be refused, or that lies in many files, ends the turn. It comes first in its next
        turn, and gets its answer there.
        """
        files = len(opened[0])
        for span in spans:
            most -= span.length
            if most < 0 or not local.serves(span) or local.storage.scattered(span):
                return
            with ExitStack() as one:
                try:
                    found = self._enter(local, span, one)
                except Refused as refused:
                    self._note_changed(local, refused)
                    return
                files += len(found)
                if files > MAX_SPANS:
                    return
                stack.push(one.pop_all())
                yield found

    async def _open(self, local: LocalContent, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        """Open a block's files. While a download gets its final name, which may take as long as a slow disk,
        the request waits."""
        try:
            return await self._gather(local, span, stack)
        except Refused as refused:
            if refused.code != "unavailable":
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rename_timeout):
                    await local.settled.wait()
            return await self._gather(local, span, stack)

    async def _gather(self, local: LocalContent, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        """Open a block's files; in a thread if there are many, which would hold the event loop up."""
        try:
            if not local.storage.scattered(span):
                return self._enter(local, span, stack)
            return await in_thread(self._gatherers, lambda: self._enter(local, span, stack))
        except Refused as refused:
            self._note_changed(local, refused)
            raise

    @staticmethod
    def _enter(local: LocalContent, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        try:
            return stack.enter_context(local.storage.opened(span))
        except DiskError as error:
            if out_of_descriptors(error):
                raise Refused("busy", "this side has too many open files now; ask again later") from error
            raise Refused("disk", WIRE_CODES["disk"]) from error

    def _note_changed(self, local: LocalContent, refused: Refused) -> None:
        if refused.code == "not_found":
            self._changed(local)
