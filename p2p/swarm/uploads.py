"""Whom we serve, across all contents: few requests at a time, each finished before the next, peers in turn.

Many slow streams from one seed would delay everybody's first piece, so only `slots` blocks are sent at once. Who waits, waits in a queue of
its own, and the queues are served round robin: a peer that asks for a hundred blocks delays another by one block, not by a hundred.

While nobody waits, who takes what it gets at once gets several blocks in one turn: most of the cost of a small block is to begin it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from p2p.errors import Refused
from p2p.model import MAX_BLOCK

SLOTS: Final = 4
"""Blocks sent at once. The sketch of a 16-peer swarm did as well with 3 or 4 as with any other number."""
WAITING_OF_ONE: Final = 64
WAITING_IN_ALL: Final = 4096

TURN: Final = MAX_BLOCK
"""Most bytes of a turn: one long block, or several short ones."""
QUICK: Final = 0.02
"""Seconds that a turn may take for the next one to have more than one block: by so much a newcomer may have to wait longer."""
_REMEMBERED: Final = 256
"""Peers known to be quick, at most."""

Ticket = Hashable
"""Whatever the caller knows one request by."""


class Uploads:
    """The queue of one peer. `ask` and `done` return the tickets that may be served from now on."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._serving: set[Ticket] = set()
        self._queues: dict[str, deque[Ticket]] = {}
        self._waiting = 0
        self._quick: dict[str, None] = {}

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._waiting

    @property
    def crowded(self) -> bool:
        """Whether as many wait as are served."""
        return self._waiting >= self._slots

    @property
    def serving(self) -> int:
        """How many requests are served now."""
        return len(self._serving)

    def ask(self, who: str, ticket: Ticket) -> list[Ticket]:
        """A request came from `who`. Raises `Refused("busy")` when it has too many waiting, or all have."""
        queue = self._queues.get(who)
        if self._waiting >= WAITING_IN_ALL or (queue is not None and len(queue) >= WAITING_OF_ONE):
            raise Refused("busy", "too many blocks are asked for at once")
        if queue is None:
            queue = self._queues[who] = deque()
        queue.append(ticket)
        self._waiting += 1
        return self._admit()

    def done(self, ticket: Ticket) -> list[Ticket]:
        """A request was served, or failed, or its asker went away while it waited."""
        if ticket in self._serving:
            self._serving.discard(ticket)
        else:
            self._forget(ticket)
        return self._admit()

    def turn(self, who: str) -> int:
        """How many bytes `who` may get in the turn that begins now; 0 is only the first block that it asked for."""
        return TURN if who in self._quick and not self._waiting else 0

    def took(self, who: str, seconds: float) -> None:
        """A turn of `who` has ended after so long."""
        self._quick.pop(who, None)
        if seconds <= QUICK:
            self._quick[who] = None
            if len(self._quick) > _REMEMBERED:
                del self._quick[next(iter(self._quick))]

    def _forget(self, ticket: Ticket) -> None:
        for who, queue in self._queues.items():
            if ticket in queue:
                queue.remove(ticket)
                self._waiting -= 1
                if not queue:
                    del self._queues[who]
                return

    def _admit(self) -> list[Ticket]:
        admitted: list[Ticket] = []
        while self._queues and len(self._serving) < self._slots:
            who, queue = next(iter(self._queues.items()))
            ticket = queue.popleft()
            del self._queues[who]
            if queue:
                self._queues[who] = queue
            self._waiting -= 1
            self._serving.add(ticket)
            admitted.append(ticket)
        return admitted
