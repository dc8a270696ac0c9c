"""The source of a listening transport: a block asked for becomes open file spans, or a refusal; few are sent at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from p2p.errors import Refused
from p2p.model import BlockSpan, ContentId, FileSpan
from p2p.peer.holding import Holding
from p2p.swarm.pace import Pace
from p2p.swarm.uploads import Ticket, Uploads


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
            with self._opened(holding, span) as files:
                yield files
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

    def _opened(self, holding: Holding, span: BlockSpan) -> _Opened:
        return _Opened(holding, span, self._changed)


class _Opened:
    """A block's files, open; notices when they are not what they were."""

    def __init__(self, holding: Holding, span: BlockSpan, changed: Callable[[Holding], None]) -> None:
        self._holding = holding
        self._files = holding.storage.opened(span)
        self._changed = changed

    def __enter__(self) -> list[FileSpan]:
        try:
            return self._files.__enter__()
        except Refused as refused:
            if refused.code == "not_found":
                self._changed(self._holding)
            raise

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)  # type: ignore[arg-type]
