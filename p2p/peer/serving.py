"""The source of a listening transport: a block asked for becomes open file spans, or a refusal; few are sent at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from p2p.errors import Refused
from p2p.model import BlockSpan, ContentId, FileSpan
from p2p.peer.holding import Holding
from p2p.swarm.pace import Pace
from p2p.swarm.uploads import Ticket, Uploads

RENAME_TIME: Final = 5.0
"""Seconds that a request may wait while a finished download gets its final name."""


class Serving:
    """All contents of this peer as a `Source`. `limit` is bytes a second for all uploads together; 0 is none."""

    def __init__(self, changed: Callable[[Holding], None], limit: int = 0) -> None:
        """`changed` is told of a content whose files are not what they were; it is not served any more."""
        self.holdings: dict[ContentId, Holding] = {}
        self._changed = changed
        self._uploads = Uploads()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._pace = Pace(limit)
        self._pacing = threading.Lock()

    def get(self, content: ContentId) -> Holding:
        """The holding of an id. Raises `Refused("not_found")`, the same for what does not exist and what is not shared."""
        holding = self.holdings.get(content)
        if holding is None:
            raise Refused("not_found", "this content is not shared here")
        return holding

    @asynccontextmanager
    async def block(self, who: str, content: ContentId, span: BlockSpan) -> AsyncIterator[list[FileSpan]]:
        """Admit a request and open the block's files while it is sent. Raises `Refused`."""
        holding = self.get(content)
        holding.geometry.check(span)
        if span.piece not in holding.have:
            raise Refused("not_found", "this piece is not here yet")
        ticket = object()
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._admit(self._uploads.ask(who, ticket))
            await turn
            with ExitStack() as stack:
                yield await self._open(holding, span, stack)
            holding.served(who, span)
        finally:
            del self._turns[ticket]
            self._admit(self._uploads.done(ticket))

    def pace(self, count: int) -> None:
        """Keep the upload rate; called in the worker threads that send."""
        if not self._pace.rate:
            return
        with self._pacing:
            wait = self._pace.take(count, time.monotonic())
        time.sleep(wait)

    def _admit(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            turn = self._turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(None)

    async def _open(self, holding: Holding, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        """Open a block's files. While a download gets its final name, which may take as long as a slow disk, the asker waits."""
        try:
            return self._enter(holding, span, stack)
        except Refused as refused:
            if refused.code != "unavailable":
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENAME_TIME):
                    await holding.whole.wait()
            return self._enter(holding, span, stack)

    def _enter(self, holding: Holding, span: BlockSpan, stack: ExitStack) -> list[FileSpan]:
        try:
            return stack.enter_context(holding.storage.opened(span))
        except Refused as refused:
            if refused.code == "not_found":
                self._changed(holding)
            raise
