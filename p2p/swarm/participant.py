"""One peer in one swarm: everything it decides, with time as an argument and no I/O.

A participant hears events and returns effects (`swarm/events.py` has both). The real peer
(`peer/local_content.py`), the simulator (`sim/`) and the property tests drive this very class:

    participant = Participant(geometry, have, uploads, rng, now, fetching=True)
    effects = participant.handle(MemberJoined(peer, client), now)     # carry them out, in order
    participant.next_wakeup()                                          # feed a `Tick` at that time

It owns who is a member and what each has, our own `have`, and two deciders of which one is there at a time:

- While the content is fetched, the `Scheduler` decides which block to request from whom.
- When the whole content is published, `SuperSeeding` decides which pieces to suggest to whom.

Between the last piece and `Published` the content gets its final name; the participant serves all that it
has, and suggests nothing.

**Telling what we have.** Each verified piece is offered at once, but a line for each would cost a tenth of a
busy peer's processor time. So pieces are collected for a few hundredths of a second, more with more members
(`topology.have_interval`). A tick that comes late is the sign of a processor with too much to do: the
interval then grows to 16 times the delay, and shrinks again when ticks are on time.

**Uploads.** The upload queue is one for all swarms of a peer and is handed in. A participant checks a request
(is there such a block, do we have it, does super-seeding want this peer to have it) and leaves the rest to
the queue. An effect of the queue may therefore concern an upload of another swarm.
"""

from __future__ import annotations

from random import Random
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.errors import Refused
from p2p.model import BlockSpan, PeerKey
from p2p.swarm.events import (
    BlockArrived,
    BlockAsked,
    BlockFailed,
    BlockSent,
    Cancel,
    Effect,
    Event,
    GiveUp,
    Introduce,
    Listed,
    MemberJoined,
    MemberLeft,
    PeerGained,
    PeerHas,
    PieceCorrupt,
    PieceVerified,
    Published,
    Refuse,
    SchedulerEvent,
    SendBegan,
    SendHave,
    SendNone,
    Suggest,
    Suggested,
    Tick,
    Ticket,
    UploadEnded,
    Withdrawn,
)
from p2p.swarm.peer_stats import Policy
from p2p.swarm.scheduler import Scheduler
from p2p.swarm.super_seeding import SuperSeeding
from p2p.swarm.topology import MAX_HAVE_INTERVAL, have_interval
from p2p.swarm.upload_queue import UploadQueue

LATENESS_FACTOR: Final = 16
"""With one seed and 8 receivers on two cores, each line costs two processes a turn of their loops: to send
fewer lines there moved 15 % more bytes a second."""


class Participant:
    """One peer in one swarm. `have` are its verified pieces; it belongs to the participant from now on."""

    def __init__(
        self,
        geometry: Geometry,
        have: Bitmap,
        uploads: UploadQueue,
        rng: Random,
        now: float,
        *,
        fetching: bool = False,
        policy: Policy | None = None,
    ) -> None:
        """With `fetching` it fetches what it lacks; without, it serves what it has, and super-seeds if that
        is everything."""
        self.have = have
        self.uploads = uploads
        self._geometry = geometry
        self._rng = rng
        self._members: dict[PeerKey, int] = {}
        """Pieces of each member, as bits."""
        self._peers: dict[str, PeerKey] = {}
        """The member behind each client."""
        self._sent_to: dict[PeerKey, int] = {}
        self._tickets: dict[Ticket, str] = {}
        """The client of each upload of this swarm."""
        self._scheduler = Scheduler(geometry, have, rng, now, policy) if fetching and not have.full else None
        self._super_seeding = SuperSeeding(geometry.pieces, rng) if have.full and not fetching else None
        self._unsent: list[int] = []
        """Verified pieces that no line has told yet."""
        self._have_due: float | None = None
        self._have_sent_at = float("-inf")
        self._lateness = 0.0
        """Seconds by which an overloaded processor lengthens the interval between `have` lines."""
        self.sent = 0
        """Bytes of blocks sent."""

    # -- what there is

    @property
    def members(self) -> tuple[PeerKey, ...]:
        """The other peers of this swarm."""
        return tuple(self._members)

    @property
    def sources(self) -> int:
        """From how many peers something is requested now."""
        return self._scheduler.sources if self._scheduler is not None else 0

    @property
    def requests(self) -> frozenset[tuple[PeerKey, BlockSpan]]:
        """The open requests."""
        return self._scheduler.requests if self._scheduler is not None else frozenset()

    def has_member(self, peer: PeerKey) -> bool:
        """Whether a peer takes part in this swarm."""
        return peer in self._members

    def pieces_of(self, peer: PeerKey) -> int:
        """The pieces of a member, as bits; 0 for a stranger."""
        return self._members.get(peer, 0)

    def sent_to(self, peer: PeerKey) -> int:
        """Bytes sent to a peer since it became a member."""
        return self._sent_to.get(peer, 0)

    def banned(self, peer: PeerKey) -> bool:
        """Whether a peer was dropped for good."""
        return self._scheduler is not None and self._scheduler.banned(peer)

    def next_wakeup(self) -> float | None:
        """When to feed a `Tick` at the latest; None when there is nothing to wait for. The upload queue has a
        wake-up of its own."""
        wakeup = self._scheduler.next_wakeup() if self._scheduler is not None else None
        if self._have_due is not None and (wakeup is None or self._have_due < wakeup):
            return self._have_due
        return wakeup

    # -- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return the effects in the order in which to carry them out."""
        match event:
            case PeerGained(peer, bits):
                return self._on_have(event, self._members.get(peer, 0) | bits, now)
            case PeerHas(_, bits):
                return self._on_have(event, bits, now)
            case BlockAsked(ticket, client, block):
                return self._on_asked(ticket, client, block, now)
            case SendBegan(ticket):
                self.uploads.on_begun(ticket, now)
                return []
            case BlockSent(ticket, block):
                return self._on_sent(ticket, block)
            case UploadEnded(ticket):
                self._tickets.pop(ticket, None)
                return list(self.uploads.on_ended(ticket, now))
            case MemberJoined(peer, client):
                self._members[peer] = 0
                self._peers[client] = peer
                return [*self._schedule(event, now), Introduce(peer)]
            case MemberLeft():
                return self._on_left(event, now)
            case Published():
                return self._on_published()
            case Withdrawn():
                return self._on_withdrawn()
            case PieceVerified(piece):
                self._plan_have(piece, now)
                return self._schedule(event, now)
            case Tick():
                return [*self._send_have(now), *self._schedule(event, now)]
            case Suggested() | BlockArrived() | BlockFailed() | PieceCorrupt() | Listed():
                return self._schedule(event, now)

    def _schedule(self, event: SchedulerEvent, now: float) -> list[Effect]:
        return list(self._scheduler.handle(event, now)) if self._scheduler is not None else []

    def _on_have(self, event: PeerHas | PeerGained, bits: int, now: float) -> list[Effect]:
        """A member has the pieces in `bits`; of a stranger nothing is believed."""
        if event.peer not in self._members:
            return []
        self._members[event.peer] = bits
        if self._super_seeding is None:
            return self._schedule(event, now)
        self._super_seeding.on_have(event.peer, bits)
        return self._suggest()

    def _on_left(self, event: MemberLeft, now: float) -> list[Effect]:
        if self._members.pop(event.peer, None) is None:
            return []
        self._sent_to.pop(event.peer, None)
        for client in [client for client, peer in self._peers.items() if peer == event.peer]:
            del self._peers[client]
        if self._super_seeding is not None:
            self._super_seeding.on_left(event.peer)
        return self._schedule(event, now)

    def _on_published(self) -> list[Effect]:
        """Become a seed: every member hears that we have everything, which lines on their way may not say."""
        self._scheduler = None
        self._unsent, self._have_due = [], None
        self._super_seeding = SuperSeeding(self._geometry.pieces, self._rng)
        effects: list[Effect] = []
        for peer, bits in self._members.items():
            self._super_seeding.on_have(peer, bits)
            effects.append(Introduce(peer))
        return [*effects, *self._suggest()]

    def _on_withdrawn(self) -> list[Effect]:
        effects: list[Effect] = [SendNone(self.members)]
        if self._scheduler is not None:
            effects += [Cancel(peer, block) for peer, block in sorted(self._scheduler.requests)]
            effects.append(GiveUp(self._scheduler.unobtainable()))
        self._scheduler = self._super_seeding = None
        self._members.clear()
        self._peers.clear()
        self._sent_to.clear()
        self._unsent, self._have_due = [], None
        return effects

    # -- telling what we have

    def _plan_have(self, piece: int, now: float) -> None:
        self._unsent.append(piece)
        if self._have_due is None:
            interval = max(self._lateness, have_interval(len(self._members)))
            self._have_due = max(self._have_sent_at + interval, now)

    def _send_have(self, now: float) -> list[Effect]:
        if self._have_due is None or now < self._have_due:
            return []
        late = now - self._have_due
        self._lateness = min((self._lateness + LATENESS_FACTOR * late) / 2, MAX_HAVE_INTERVAL)
        pieces, self._unsent = tuple(self._unsent), []
        self._have_due, self._have_sent_at = None, now
        return [SendHave(pieces)]

    def _suggest(self) -> list[Effect]:
        if self._super_seeding is None:
            return []
        return [Suggest(peer, pieces) for peer, pieces in self._super_seeding.choose()]

    # -- uploads

    def _on_asked(self, ticket: Ticket, client: str, block: BlockSpan, now: float) -> list[Effect]:
        try:
            self._check(client, block)
            granted = self.uploads.ask(client, ticket, now)
        except Refused as refused:
            return [Refuse(ticket, refused.code, str(refused))]
        self._tickets[ticket] = client
        return list(granted)

    def _check(self, client: str, block: BlockSpan) -> None:
        self._geometry.check(block)
        if block.piece not in self.have:
            raise Refused("not_found", "this piece is not here yet")
        self.uploads.check(client)  # before super-seeding counts the piece as requested
        peer = self._peers.get(client)
        if self._super_seeding is None or peer is None:
            return
        if not self._super_seeding.admits(peer, block.piece, crowded=self.uploads.crowded):
            raise Refused(
                "busy", "while it has pieces that nobody has, and many ask, this seed sends what it suggests"
            )

    def _on_sent(self, ticket: Ticket, block: BlockSpan) -> list[Effect]:
        client = self._tickets.get(ticket)
        if client is None:
            return []
        self.uploads.on_sent(ticket, block.length)
        self.sent += block.length
        peer = self._peers.get(client)
        if peer is not None:
            self._sent_to[peer] = self._sent_to.get(peer, 0) + block.length
        if self._super_seeding is None:
            return []
        last = block.offset + block.length == self._geometry.piece_size(block.piece)
        return self._suggest() if self._super_seeding.on_sent(peer, block.piece, whole=last) else []
