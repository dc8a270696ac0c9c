"""Which requests for blocks are served now: upload slots, fair queueing by host, slow and stalled receivers.

One queue serves all swarms of a peer. It is pure: it gets `now`, and returns `Grant`, `Refuse` and `Abort`
effects.

**Slots.** Many slow streams from one seed delay everybody's first piece, so only a few blocks are sent at
once, each finished before the next begins. A request that waits does so in the queue of its client, and the
queues are served round robin: a client with a hundred requests delays another by one block, not by a hundred.

**Hosts.** An id costs nothing, a host does. All clients of one host together have a few turns in a round, so
a host that makes up a hundred ids delays others by a few blocks.

**Slow and stalled receivers.** A slot is for a receiver that takes what it is sent. While others wait, every
upload in a slot is measured:

- *stalled*: it takes less than the minimum rate, or nobody takes anything for a second. An upload whose files
  are not open by then loses its slot too, but its client is not refused anything;
- *slow*: it takes less than an eighth of what a waiting client took in its last turn.

Both are *demoted*: the upload goes on outside of the slots, and its slot goes to the next in the queue. Until
it has ended, its client gets no second block, and is refused the one that it waits for. To hang up instead
would be kinder to an attacker, who would come back at once and hold the next slot for a while. Demoted
uploads cost a thread each, so there is a limit, above which the oldest stalled one is aborted.

**Whose fault is a low rate?** If our own uplink is thin, every receiver is below the minimum, and to demote
them all would split a thin link into ever more streams. So the minimum falls with each stalled upload of
another host: with n of them, to 1 / (1 + n)².

**Turns.** To begin a block costs more than to send it when blocks are small. A client that took its last turn
at once gets several blocks in one turn while nobody waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from p2p.errors import Refused
from p2p.model import KIB, MAX_BLOCK, is_loopback
from p2p.swarm.events import Abort, Grant, Refuse, Ticket, UploadEffect
from p2p.swarm.rate_limit import MIN_RATE
from p2p.value import frozen

TAKES_NOTHING: Final = "you do not take what is being sent to you"


@frozen
class UploadLimits:
    """The numbers of an upload queue; times in seconds, rates in bytes a second."""

    slots: int = 4
    """Blocks sent at once. In a swarm of 16 peers 3 or 4 did as well as any other number."""
    waiting_per_client: int = 64
    waiting: int = 4096
    """Requests that may wait, of one client and in all; one more is refused."""
    turns_per_host: int = 4
    """Clients of one host that are served in a round."""
    turn: int = MAX_BLOCK
    """Bytes of a turn at most: one long block, or several short ones."""
    quick: float = 0.02
    """A turn that was shorter than this may be followed by one of several blocks; a new client waits at most
    so much longer."""
    remembered: int = 256
    """Clients whose last turn is remembered."""
    look: float = 0.25
    """How often uploads are measured while others wait."""
    silence: float = 1.0
    """When nothing is sent to anybody for so long, everything in a slot counts as stalled."""
    window: float = 2.5
    """Time over which a rate is measured. A kernel that buffers much takes more only after a third of it has
    gone, so a shorter window would take a slow receiver for a stalled one."""
    min_rate: float = MIN_RATE
    """A receiver that takes less is stalled."""
    outpaced: float = 8.0
    """A receiver is slow if a waiting client took its last turn more than so many times faster."""
    demoted: int = 64
    """Uploads outside of the slots."""
    stalled_per_host: int = 4
    """Stalled uploads of one host, above which it is refused more. Loopback, where many peers share a host,
    has no such limit."""
    paced: int = 64 * KIB
    """With a rate limit, the windows are at least as long as so many bytes take."""


@dataclass(slots=True, eq=False)
class _Upload:
    """A granted upload."""

    ticket: Ticket
    client: str
    granted_at: float
    sent: int = 0
    """Bytes of whole blocks."""
    looked_at: float | None = None
    """When its rate was last measured; None while its files are being opened, which is no fault of the
    receiver."""
    taken: int = 0
    """What its client had taken by then."""
    stalled: bool = False
    excused: bool = False
    """Whether it was demoted while this side was still opening its files."""

    @property
    def host(self) -> str:
        return host_of(self.client)


@dataclass(slots=True)
class _Client:
    """A client with granted uploads that have begun: how many, and the bytes that it took by all of them."""

    uploads: int = 0
    taken: int = 0


class _HostQueue:
    """The waiting clients of one host, in turn, and how many turns it has in the round."""

    __slots__ = ("clients", "turns")

    def __init__(self) -> None:
        self.clients: dict[str, deque[Ticket]] = {}
        self.turns = 0


class UploadQueue:
    """The uploads of one peer: waiting, in a slot, or demoted."""

    def __init__(self, limits: UploadLimits | None = None, rate_limit: int = 0) -> None:
        """`rate_limit` is the upload rate limit of this peer in bytes a second; 0 is none."""
        self._limits = limits or UploadLimits()
        self._rate_limit = rate_limit
        self._hosts: dict[str, _HostQueue] = {}
        self._round: deque[str] = deque()
        """Hosts in the order in which they are served, each as often as it has turns."""
        self._waiting: dict[Ticket, str] = {}
        """The client of each request that waits."""
        self._slots: dict[Ticket, _Upload] = {}
        self._demoted: dict[Ticket, _Upload] = {}
        self._aborted: dict[Ticket, _Upload] = {}
        self._clients: dict[str, _Client] = {}
        self._quick: dict[str, None] = {}
        self._rates: dict[str, float] = {}
        """Bytes a second of the last turns."""
        self._moved_at = 0.0
        self._look_at: float | None = None

    # -- what there is

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def serving(self) -> int:
        """How many uploads are in a slot."""
        return len(self._slots)

    @property
    def demoted(self) -> int:
        """How many uploads go on outside of the slots."""
        return len(self._demoted)

    @property
    def crowded(self) -> bool:
        """Whether as many requests wait as can be served at once."""
        return self.waiting >= self._limits.slots

    def next_wakeup(self) -> float | None:
        """When to call `tick` at the latest; None when there is nothing to measure."""
        return self._look_at if self._waiting else None

    def active(self) -> tuple[str, ...]:
        """Clients that are being sent something, and whose bytes `on_taken` wants to know."""
        return tuple(self._clients)

    # -- events

    def ask(self, client: str, ticket: Ticket, now: float) -> list[UploadEffect]:
        """A client requests a block. Raises `Refused("busy")` if it has too much waiting, or takes
        nothing."""
        self.check(client)
        host = host_of(client)
        queue = self._hosts.get(host) or _HostQueue()
        tickets = queue.clients.get(client)
        if tickets is None:
            tickets = queue.clients[client] = deque()
            self._hosts[host] = queue
            self._add_turn(host, queue)
        if not self._waiting:
            self._look_at = None  # the last look was planned for requests that wait no more
        tickets.append(ticket)
        self._waiting[ticket] = client
        effects = self._grant(now)
        self._schedule_look(now)
        return effects

    def check(self, client: str) -> None:
        """Raise what `ask` would, if it would."""
        if self._takes_nothing(client):
            raise Refused("busy", TAKES_NOTHING)
        limits, queue = self._limits, self._hosts.get(host_of(client))
        waiting = len(queue.clients.get(client, ())) if queue is not None else 0
        if self.waiting >= limits.waiting or waiting >= limits.waiting_per_client:
            raise Refused("busy", "too many blocks are asked for at once")

    def on_begun(self, ticket: Ticket, now: float) -> None:
        """The first byte of a granted upload may leave."""
        upload = self._granted(ticket)
        if upload is None or upload.looked_at is not None:
            return
        client = self._clients.setdefault(upload.client, _Client())
        client.uploads += 1
        upload.looked_at, upload.taken = now, client.taken
        self._moved_at = now

    def on_taken(self, client: str, count: int, now: float) -> None:
        """A client took `count` bytes more."""
        found = self._clients.get(client)
        if found is not None and count:
            found.taken += count
            self._moved_at = now

    def on_sent(self, ticket: Ticket, count: int) -> None:
        """A block of `count` bytes left whole."""
        upload = self._granted(ticket)
        if upload is not None:
            upload.sent += count

    def on_ended(self, ticket: Ticket, now: float) -> list[UploadEffect]:
        """An upload is over, or its client went away while it waited."""
        if ticket in self._waiting:
            self._forget(ticket)
            return self._grant(now)
        upload = self._granted(ticket)
        if upload is None:
            return []
        in_slot = self._slots.pop(ticket, None) is not None
        self._demoted.pop(ticket, None)
        self._aborted.pop(ticket, None)
        if in_slot:
            self._moved_at = now
        if upload.looked_at is not None:
            client = self._clients[upload.client]
            client.uploads -= 1
            if not client.uploads:
                del self._clients[upload.client]
            self._remember(upload, now)
        return self._grant(now)

    def tick(self, now: float) -> list[UploadEffect]:
        """Measure the uploads, if that is due: demote what is slow or stalled while others wait."""
        if self._look_at is None or now < self._look_at:
            return []
        self._look_at = None
        effects: list[UploadEffect] = []
        if self._waiting:
            if now - self._moved_at > self._longer(self._limits.silence):
                self._moved_at = now
                found = self._silent()
            else:
                found = self._slow(now)
            effects = self._demote(found, now)
        self._schedule_look(now)
        return effects

    # -- the round

    def _takes_nothing(self, client: str) -> bool:
        """Whether a client has a demoted upload that has not ended, or its host too many stalled ones."""
        if not self._demoted and not self._aborted:
            return False
        host, demoted = host_of(client), (*self._demoted.values(), *self._aborted.values())
        if any(upload.client == client and not upload.excused for upload in demoted):
            return True
        stalled = sum(upload.stalled and upload.host == host for upload in demoted)
        return stalled >= self._limits.stalled_per_host and not is_loopback(host)

    def _add_turn(self, host: str, queue: _HostQueue) -> None:
        """Give a host one more turn at the end of the round, if it has clients for it."""
        if queue.turns < min(len(queue.clients), self._limits.turns_per_host):
            queue.turns += 1
            self._round.append(host)

    def _forget(self, ticket: Ticket) -> None:
        """Take a request out that waits."""
        client = self._waiting.pop(ticket)
        host = host_of(client)
        queue = self._hosts[host]
        queue.clients[client].remove(ticket)
        if not queue.clients[client]:
            del queue.clients[client]
            if queue.turns > len(queue.clients):
                queue.turns -= 1
                self._round.remove(host)
            if not queue.clients:
                del self._hosts[host]

    def _grant(self, now: float) -> list[UploadEffect]:
        effects: list[UploadEffect] = []
        while self._round and len(self._slots) < self._limits.slots:
            host = self._round.popleft()
            queue = self._hosts[host]
            queue.turns -= 1
            client, tickets = next(iter(queue.clients.items()))
            ticket = tickets.popleft()
            del queue.clients[client]
            if tickets:
                queue.clients[client] = tickets  # behind the other clients of its host
            self._add_turn(host, queue)
            if not queue.clients:
                del self._hosts[host]
            del self._waiting[ticket]
            if self._takes_nothing(client):  # an upload of it was demoted while this request waited
                effects.append(Refuse(ticket, "busy", TAKES_NOTHING))
                continue
            self._slots[ticket] = _Upload(ticket, client, now)
            self._moved_at = now
            effects.append(Grant(ticket, self._turn(client)))
        return effects

    def _turn(self, client: str) -> int:
        return self._limits.turn if client in self._quick and not self._waiting else 0

    def _remember(self, upload: _Upload, now: float) -> None:
        """Keep how a client took its last turn."""
        seconds, client = now - upload.granted_at, upload.client
        self._quick.pop(client, None)
        self._rates.pop(client, None)
        if seconds <= self._limits.quick:
            self._quick[client] = None
        if upload.sent:
            self._rates[client] = upload.sent / max(seconds, 1e-6)
        for memory in (self._quick, self._rates):
            if len(memory) > self._limits.remembered:
                del memory[next(iter(memory))]

    def _granted(self, ticket: Ticket) -> _Upload | None:
        return self._slots.get(ticket) or self._demoted.get(ticket) or self._aborted.get(ticket)

    # -- slow and stalled receivers

    def _schedule_look(self, now: float) -> None:
        if self._look_at is None and self._waiting:
            self._look_at = now + self._limits.look

    def _longer(self, seconds: float) -> float:
        """A window that a rate limit does not make meaningless."""
        limits = self._limits
        return max(seconds, limits.slots * limits.paced / self._rate_limit) if self._rate_limit else seconds

    def _slow(self, now: float) -> list[_Upload]:
        """What goes too slowly in a slot, by what was taken since it was last measured. Of slow uploads one
        at a time is demoted, since the rate of the others may rise by it."""
        window = self._longer(self._limits.window)
        found: list[_Upload] = []
        for upload in [*self._demoted.values(), *self._slots.values()]:
            if upload.looked_at is None or now - upload.looked_at < window:
                continue
            client = self._clients[upload.client]
            rate = (client.taken - upload.taken) / client.uploads / (now - upload.looked_at)
            upload.looked_at, upload.taken = now, client.taken
            others = (*self._demoted.values(), *found)
            stalled = sum(other.stalled and other.host != upload.host for other in others)
            upload.stalled = rate < min_rate(stalled, self._limits, self._rate_limit)
            upload.excused = upload.excused and not upload.stalled
            if upload.ticket not in self._slots:
                continue
            slow = not found and self.demoted < self._limits.demoted and self._outpaced(rate)
            if upload.stalled or slow:
                found.append(upload)
        return found

    def _silent(self) -> list[_Upload]:
        """What is in a slot while nothing is sent to anybody. Files that are slow to open are this side's
        fault: one slow disk must not keep the slots from contents on others, nor is the client blamed."""
        found: list[_Upload] = []
        for upload in self._slots.values():
            upload.stalled = upload.looked_at is not None
            upload.excused = not upload.stalled
            if upload.stalled or self.demoted + len(found) < self._limits.demoted:
                found.append(upload)
        return found

    def _outpaced(self, rate: float) -> bool:
        waiting = set(self._waiting.values())
        return any(self._rates.get(client, 0.0) > self._limits.outpaced * rate for client in waiting)

    def _demote(self, found: list[_Upload], now: float) -> list[UploadEffect]:
        for upload in found:
            self._demoted[upload.ticket] = self._slots.pop(upload.ticket)
        effects: list[UploadEffect] = []
        stalled = [upload for upload in self._demoted.values() if upload.stalled]
        for upload in stalled[: max(0, self.demoted - self._limits.demoted)]:
            self._aborted[upload.ticket] = self._demoted.pop(upload.ticket)
            effects.append(Abort(upload.ticket))
        return [*effects, *self._grant(now)] if found else effects


def min_rate(stalled: int, limits: UploadLimits, rate_limit: int = 0) -> float:
    """Bytes a second below which a receiver is stalled, while `stalled` uploads of other hosts are."""
    least = min(limits.min_rate, rate_limit / (2 * limits.slots)) if rate_limit else limits.min_rate
    return least / (1 + min(stalled, 15)) ** 2


def host_of(client: str) -> str:
    """The host of a client, as `model.client_id` writes it."""
    return client.rpartition("@")[2]
