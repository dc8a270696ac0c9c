"""Whom we serve, across all contents: few requests at a time, each finished before the next, peers in turn.

Many slow streams from one seed would delay everybody's first piece, so only `slots` blocks are sent at once.
Who waits, waits in a queue of its own, and the queues are served round robin: a peer that asks for a hundred
blocks delays another by one block, not by a hundred. Ids cost nothing, hosts do: all callers of one host
together have `SEATS` places in a round, so that one which says a hundred ids delays others by so many blocks,
not by a hundred.

A slot is for who takes what it is sent. Who takes next to nothing, or far less than another that waits, is
sent the rest of its block beside the slots.

While nobody waits, who takes what it gets at once gets several blocks in one turn: most of the cost of a
small block is to begin it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from p2p.errors import Refused
from p2p.model import KIB, MAX_BLOCK

SLOTS: Final = 4
"""Blocks sent at once. The sketch of a 16-peer swarm did as well with 3 or 4 as with any other number."""
WAITING_OF_ONE: Final = 64
WAITING_IN_ALL: Final = 4096

SEATS: Final = 4
"""Callers of one host that are served in a round; more of them take turns."""

TURN: Final = MAX_BLOCK
"""Most bytes of a turn: one long block, or several short ones."""
QUICK: Final = 0.02
"""Seconds that a turn may take for the next one to have more than one block: by so much a newcomer may have
to wait longer."""
_REMEMBERED: Final = 256
"""Peers known to be quick, and peers of which the rate is known, at most."""

LEAST_RATE: Final = 16 * KIB
"""Bytes a second that who is being sent something must take while others wait. It is what a receiver expects
of a sender."""
_MOST_OTHERS: Final = 15
"""So many make it a 256th, and not less: else a few bytes a second of many hosts would do."""
OUTPACED: Final = 8
"""Who takes less than the so manieth part of what another took, that waits now, leaves its slot to it."""

Ticket = Hashable
"""Whatever the caller knows one request by."""


class _Line:
    """Who waits at one host, in turn, and how many places it has in the round."""

    __slots__ = ("queues", "seats")

    def __init__(self) -> None:
        self.queues: dict[str, deque[Ticket]] = {}
        self.seats = 0


class UploadQueue:
    """The queue of one peer. `ask` and `done` return the tickets that may be served from now on."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._serving: set[Ticket] = set()
        self._lines: dict[str, _Line] = {}
        self._round: deque[str] = deque()
        """Hosts in the order in which they are served, each as often as it has seats."""
        self._waiting = 0
        self._quick: dict[str, None] = {}
        self._rates: dict[str, float] = {}
        """Bytes a second at which peers took their last turns."""

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

    def ask(self, client: str, ticket: Ticket) -> list[Ticket]:
        """A request came from `client`. Raises `Refused("busy")` when it has too many waiting, or all have."""
        host = host_of(client)
        line = self._lines.get(host) or _Line()
        queue = line.queues.get(client)
        if self._waiting >= WAITING_IN_ALL or (queue is not None and len(queue) >= WAITING_OF_ONE):
            raise Refused("busy", "too many blocks are asked for at once")
        if queue is None:
            queue = line.queues[client] = deque()
            self._lines[host] = line
            self._seat(host, line)
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

    def turn(self, client: str) -> int:
        """How many bytes `client` may get in the turn that begins now; 0 is only the first block that it asked
        for."""
        return TURN if client in self._quick and not self._waiting else 0

    def took(self, client: str, seconds: float, count: int = 0) -> None:
        """A turn of `client` has ended after so long, and `count` bytes were sent whole; 0 if it broke off."""
        self._quick.pop(client, None)
        if seconds <= QUICK:
            self._quick[client] = None
            if len(self._quick) > _REMEMBERED:
                del self._quick[next(iter(self._quick))]
        self._rates.pop(client, None)
        if count:
            self._rates[client] = count / max(seconds, 1e-6)
            if len(self._rates) > _REMEMBERED:
                del self._rates[next(iter(self._rates))]

    def outpaced(self, rate: float) -> bool:
        """Whether somebody waits who took its last turn so much faster that a slot of this rate would be
        better used by it."""
        return any(
            self._rates.get(client, 0.0) > OUTPACED * rate
            for line in self._lines.values()
            for client in line.queues
        )

    def _forget(self, ticket: Ticket) -> None:
        for host, line in self._lines.items():
            for client, queue in line.queues.items():
                if ticket in queue:
                    queue.remove(ticket)
                    self._waiting -= 1
                    if not queue:
                        del line.queues[client]
                        self._unseat(host, line)
                    return

    def _seat(self, host: str, line: _Line) -> None:
        """Give a host one more place at the end of the round, if it has callers for it."""
        if line.seats < min(len(line.queues), SEATS):
            line.seats += 1
            self._round.append(host)

    def _unseat(self, host: str, line: _Line) -> None:
        """Take the place of a caller that waits no more."""
        if line.seats > len(line.queues):
            line.seats -= 1
            self._round.remove(host)
        if not line.queues:
            del self._lines[host]

    def _admit(self) -> list[Ticket]:
        admitted: list[Ticket] = []
        while self._round and len(self._serving) < self._slots:
            host = self._round.popleft()
            line = self._lines[host]
            line.seats -= 1
            client, queue = next(iter(line.queues.items()))
            ticket = queue.popleft()
            del line.queues[client]
            if queue:
                line.queues[client] = queue
            self._seat(host, line)
            if not line.queues:
                del self._lines[host]
            self._waiting -= 1
            self._serving.add(ticket)
            admitted.append(ticket)
        return admitted


def least_rate(others: int, limit: int = 0) -> float:
    """Bytes a second below which who is being sent something is to blame itself, and not our own link.

    `others` are those of other hosts that are below it already: where several are, it may be our link that is
    thin, and each that is sent something beside the slots makes it thinner for all. `limit` is our own upload
    rate, 0 for none.
    """
    least = min(LEAST_RATE, limit / (2 * SLOTS)) if limit else LEAST_RATE
    return least / (1 + min(others, _MOST_OTHERS)) ** 2


def host_of(client: str) -> str:
    """The host of a caller, as `model.client_id` writes it."""
    return client.rpartition("@")[2]
