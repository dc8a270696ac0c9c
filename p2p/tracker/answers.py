"""Keeps the answers of one connection in order while some of them wait for a commit."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from p2p.errors import Refused
from p2p.protocol.peer_messages import Answer

Reply = Answer | Exception
"""What a request is answered with; an exception becomes an error line."""


class Waiting(NamedTuple):
    """An answer, and the commit that must be through before it is written."""

    ticket: int
    reply: Reply
    seq: int | None
    promises: bool
    """Whether it promises a change. Otherwise it waits because one before it does."""


class AnswerQueue:
    """Answers that wait. While it is empty, answers that promise nothing need not pass through."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, reply: Reply, seq: int | None, ticket: int = 0) -> None:
        """Queue an answer. `ticket` is the commit of what it promises; 0: it promises nothing."""
        last = self._waiting[-1].ticket if self._waiting else 0
        self._waiting.append(Waiting(max(ticket, last), reply, seq, ticket > 0))

    def on_committed(self, upto: int) -> list[Waiting]:
        """Take out the answers whose commits are through."""
        ready: list[Waiting] = []
        while self._waiting and self._waiting[0].ticket <= upto:
            ready.append(self._waiting.popleft())
        return ready

    def on_commit_failed(self) -> list[Waiting]:
        """Take out all answers; those that promised something are refused. The change is made in memory and
        will be written, but no client may count on it yet."""
        refused = Refused("unavailable", "the tracker cannot write its store now; ask again later")
        ready = [one._replace(reply=refused) if one.promises else one for one in self._waiting]
        self._waiting.clear()
        return ready

    def clear(self) -> None:
        """Forget them: the connection is over."""
        self._waiting.clear()
