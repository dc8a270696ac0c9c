"""The shell of one simulated peer: carries a participant's effects into a virtual network.

Everything that is decided is decided by the real `Participant` and `UploadQueue`. The shell does what
sockets, disks and timers do for the real peer, plays the bad conduct that a plan asks for, and has what it
does checked (`checks.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import Address, BlockSpan, PeerId, PeerKey, peer_key
from p2p.sim.checks import PeerChecks
from p2p.sim.clock import Clock
from p2p.sim.network import LINE, Access, Transfer
from p2p.sim.plan import Plan
from p2p.swarm.events import (
    Abort,
    BlockArrived,
    BlockAsked,
    BlockFailed,
    BlockSent,
    Cancel,
    Drop,
    Effect,
    Event,
    Failure,
    Fetch,
    Finished,
    GiveUp,
    Grant,
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
    SendBegan,
    SendHave,
    SendNone,
    Suggest,
    Suggested,
    Tick,
    UploadEnded,
)
from p2p.swarm.participant import Participant
from p2p.swarm.peer_stats import Policy
from p2p.swarm.picker import as_bits
from p2p.swarm.upload_queue import UploadQueue

HASHING: Final = 0.001
"""Seconds from a piece's last block to its verdict."""
MAX_IDLE_TICKS: Final = 64
"""More ticks than this in a row, with neither an effect nor another event between them, are a busy loop."""
FAILURES: Final = {"not_found": Failure.LACKS, "bad_range": Failure.LACKS, "busy": Failure.BUSY}


@dataclass(slots=True, eq=False, kw_only=True)
class Upload(Transfer):
    """One block on its way from one peer to another; also the ticket in the upload queue."""

    server: SimPeer
    client: SimPeer
    block: BlockSpan
    good: bool
    """Whether its bytes match their hash."""


class Surroundings(Protocol):
    """What a shell needs of its world."""

    clock: Clock
    rng: Random
    geometry: Geometry
    policy: Policy
    chunk: int
    delay: float
    thorough: bool
    peers: list[SimPeer]

    def must(self, holds: bool, sentence: str) -> None:
        """Raise unless it holds."""

    def note(self, peer: SimPeer, what: str, *about: str) -> None:
        """Keep account of what happened."""

    def enter(self, peer: SimPeer) -> None:
        """A peer logs in at the tracker, announces itself, and looks for others."""

    def disconnect(self, one: SimPeer, other: SimPeer) -> None:
        """`one` closes a connection."""

    def send(self, sender: SimPeer, receiver: SimPeer, what: Callable[..., None], *about: Any) -> None:
        """Send a control line over a connection."""

    def verified(self, peer: SimPeer, piece: int) -> None:
        """A peer has a piece more."""

    def ended(self, peer: SimPeer) -> None:
        """A download has ended, well or not."""

    def left(self, peer: SimPeer) -> None:
        """A peer is gone."""


class SimPeer:
    """One peer of a world."""

    def __init__(self, world: Surroundings, plan: Plan, number: int) -> None:
        self.world, self.plan, self.number = world, plan, number
        self.clock = world.clock
        self.rng = Random(world.rng.random())
        self.id = PeerId(f"{self.rng.getrandbits(128):032x}")
        self.address = Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 6970)
        self.key: PeerKey = peer_key(self.id, self.address)
        n = world.geometry.pieces
        self.have = Bitmap.all(n) if plan.seed else Bitmap(n, plan.has)
        self.access: Access[Upload] = Access(
            world.clock,
            plan.up,
            plan.down,
            chunk=world.chunk,
            delay=world.delay,
            receiver=lambda upload: upload.client,
            moved=self._moved,
        )
        self.connections: dict[PeerKey, SimPeer] = {}
        self.told: dict[PeerKey, int] = {}
        """What each connected peer said it has, as bits, less what it then refused as lacking."""
        self.here = self.finished = False
        self.ended: float | None = None
        self.gave_up: tuple[int, ...] | None = None
        self.banned: set[PeerKey] = set()
        self.dropped: list[tuple[float, Drop]] = []
        self.under_way: dict[tuple[PeerKey, BlockSpan], Upload] = {}
        self.uploads = UploadQueue()
        self.wasted = 0
        """Bytes that came and were of no use."""
        self._checks = PeerChecks(world.must, world.geometry, world.policy, self.have)
        self._participant: Participant | None = None
        self._serving: dict[PeerKey, set[Upload]] = {}
        """Requests of each peer that were not answered yet."""
        self._blocks: dict[int, dict[BlockSpan, bool]] = {}
        """Of each piece that is coming in, the blocks that are here, and whether their bytes are right."""
        self._events: deque[Event] = deque()
        self._handling = False
        self._served_blocks = 0
        self._idle_ticks = 0
        self._wakes: dict[str, float] = {}

    @property
    def sources(self) -> int:
        """From how many peers it fetches now."""
        return self._participant.sources if self._participant is not None else 0

    @property
    def busy(self) -> bool:
        """Whether its download is not over yet."""
        return self.plan.fetches and self.ended is None

    # -- coming and going

    def join(self) -> None:
        """Begin to fetch, or to serve."""
        self.here = True
        world = self.world
        world.note(self, "joined")
        self._participant = Participant(
            world.geometry,
            self.have,
            self.uploads,
            self.rng,
            self.clock.now,
            fetching=self.plan.fetches and not self.have.full,
            policy=world.policy,
        )
        if self.plan.fetches and self.have.full:
            self._finish()
        world.enter(self)
        self.handle(Tick())

    def leave(self) -> None:
        """Vanish."""
        if not self.here:
            return
        self.here = False
        self.world.note(self, "left")
        for other in list(self.connections.values()):
            self.world.disconnect(self, other)
            self.on_disconnected(other)  # also where the other side hung up first, and we have not heard it
        self.access.close()
        self.world.left(self)

    def on_connected(self, other: SimPeer) -> None:
        """A connection is open."""
        self.connections[other.key] = other
        self.told[other.key] = 0
        self.handle(MemberJoined(other.key, other.key))

    def on_disconnected(self, other: SimPeer) -> None:
        """A connection is closed; what was under way on it is lost."""
        if self.connections.pop(other.key, None) is None:
            return
        del self.told[other.key]
        for transfer in list(self._serving.get(other.key, ())):
            self.abandon(transfer)
        self.handle(MemberLeft(other.key))

    # -- the participant

    def handle(self, event: Event) -> None:
        """Feed the participant, carry out its effects, and set its clock. An event that an effect brings
        waits its turn, as in the real peer."""
        participant = self._participant
        if participant is None:
            return
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        while self._events:
            event = self._events.popleft()
            effects = participant.handle(event, self.clock.now)
            idle = isinstance(event, Tick) and not effects
            self._idle_ticks = self._idle_ticks + 1 if idle else 0
            self.world.must(self._idle_ticks < MAX_IDLE_TICKS, "ticks alone are no busy loop")
            for effect in effects:
                self._carry_out(effect)
        self._handling = False
        if self.busy and self.world.thorough:
            self._checks.requests(participant, self.under_way.keys())
        self._wake_at("swarm", participant.next_wakeup())
        self._wake_at("uploads", self.uploads.next_wakeup())

    def listed(self, peers: int) -> None:
        """The tracker named so many others."""
        self.handle(Listed(peers))

    def _wake_at(self, what: str, when: float | None) -> None:
        if when is not None and self.here and (what not in self._wakes or when < self._wakes[what]):
            self._wakes[what] = when
            self.clock.after(when - self.clock.now, self._woken, what, when)

    def _woken(self, what: str, when: float) -> None:
        if self._wakes.get(what) != when or not self.here:
            return
        del self._wakes[what]
        if what == "swarm":
            self.handle(Tick())
        else:
            for effect in self.uploads.tick(self.clock.now):
                self._carry_out(effect)
            self._wake_at(what, self.uploads.next_wakeup())

    def _carry_out(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case Fetch(peer, block):
                self._fetch(peer, block)
            case Cancel(peer, block):
                transfer = self.under_way.pop((peer, block))
                world.send(self, transfer.server, transfer.server.abandon, transfer)
            case Introduce(peer):
                bits = 0 if self.plan.rides else self.have.bits | self.plan.claims
                other = self.connections[peer]
                world.send(self, other, other.on_have, PeerHas(self.key, bits))
            case SendHave(pieces):
                self._send_have(pieces)
            case Suggest(peer, pieces):
                if not self.plan.rides:
                    other = self.connections[peer]
                    world.send(self, other, other.handle, Suggested(self.key, pieces))
            case Drop(peer, why, corrupt):
                self._drop(effect, why, corrupt=corrupt)
            case Finished():
                world.must(self.have.full and not self.finished, "who finishes has all, and does so once")
                self._finish()
                self.handle(Published())
            case GiveUp(missing):
                self._give_up(missing)
            case Grant(Upload() as transfer, _):
                self.access.begin(transfer)
                self.handle(SendBegan(transfer))
            case Refuse(Upload() as transfer, code, _):
                self._answered(transfer)
                world.send(self, transfer.client, transfer.client.on_refused, transfer, FAILURES[code])
            case Abort(Upload() as transfer):
                self.abandon(transfer)
            case SendNone() | Grant() | Refuse() | Abort():
                world.must(False, "nothing else is asked of a simulated peer")

    # -- what is said on connections

    def on_have(self, event: PeerHas | PeerGained) -> None:
        """A peer said what it has, in all or besides."""
        known = self.told[event.peer] if isinstance(event, PeerGained) else 0
        self.told[event.peer] = known | event.bits
        self.handle(event)
        if self.plan.babbles and isinstance(event, PeerHas):
            other = self.connections[event.peer]
            pieces = tuple(self.rng.randrange(self.have.n) for _ in range(3))
            self.world.send(self, other, other.handle, Suggested(self.key, pieces))

    def _send_have(self, pieces: tuple[int, ...]) -> None:
        """Most of what happens in a swarm, so it is one event of the world and not one for each member."""
        if not self.here or self.plan.rides:
            return
        self.access.line(LINE * len(self.connections))
        gained = PeerGained(self.key, as_bits(pieces))
        self.clock.after(self.world.delay, self._have_sent, list(self.connections.values()), gained)

    def _have_sent(self, others: list[SimPeer], gained: PeerGained) -> None:
        for other in others:
            if self.key in other.connections:
                other.on_have(gained)

    # -- fetching

    def _fetch(self, peer: PeerKey, block: BlockSpan) -> None:
        other = self.connections.get(peer)
        if other is None:
            self.world.must(False, "only connected peers are asked")
            return
        arrived = self._blocks.get(block.piece, ())
        self._checks.fetch(peer, block, self.told[peer], self.under_way.keys(), arrived, self.clock.now)
        transfer = self.under_way[peer, block] = Upload(
            block.length, server=other, client=self, block=block, good=True
        )
        self.world.send(self, other, other.on_asked, transfer)

    def on_arrived(self, transfer: Upload) -> None:
        """The last byte of a block is here."""
        key = (transfer.server.key, transfer.block)
        if self.under_way.get(key) is not transfer:
            self.wasted += transfer.block.length
            self._check_late(key)
            return
        del self.under_way[key]
        piece = transfer.block.piece
        blocks = self._blocks.setdefault(piece, {})
        blocks[transfer.block] = transfer.good
        self.handle(BlockArrived(*key))
        if len(blocks) == len(self.world.geometry.blocks(piece)):
            del self._blocks[piece]
            good = all(blocks.values())
            if not good:
                self.wasted += self.world.geometry.piece_size(piece)
            self.clock.after(HASHING, self._on_verdict, piece, good)

    def _on_verdict(self, piece: int, good: bool) -> None:
        if self.ended is not None or not self.here:
            return
        if good:
            self.world.verified(self, piece)
        self.handle(PieceVerified(piece) if good else PieceCorrupt(piece))

    def _check_late(self, key: tuple[PeerKey, BlockSpan]) -> None:
        participant = self._participant
        if participant is not None and self.world.thorough and self.busy and key not in self.under_way:
            self.handle(Tick())  # what time alone brings is no effect of the late block
            if self.busy and key not in self.under_way:
                self._checks.late(participant, key, self.clock.now)

    def on_refused(self, transfer: Upload, failure: Failure) -> None:
        """A peer will not send a block."""
        key = (transfer.server.key, transfer.block)
        if self.under_way.get(key) is transfer:
            del self.under_way[key]
            if failure is Failure.LACKS:
                self.told[transfer.server.key] &= ~(1 << transfer.block.piece)
            self.handle(BlockFailed(*key, failure))

    def _drop(self, drop: Drop, why: str, *, corrupt: bool) -> None:
        other = self.connections[drop.peer]
        self.dropped.append((self.clock.now, drop))
        self.world.note(self, "dropped", str(other.number), why)
        if corrupt:
            self.banned.add(drop.peer)
        self.world.disconnect(self, other)

    def _finish(self) -> None:
        self.finished, self.ended = True, self.clock.now
        self.world.note(self, "completed")
        self.world.ended(self)
        if self.plan.stays is not None:
            self.clock.after(self.plan.stays, self.leave)

    def _give_up(self, missing: tuple[int, ...]) -> None:
        self._checks.gave_up(missing, self.told)
        self.gave_up, self.ended = missing, self.clock.now
        for transfer in self.under_way.values():
            self.world.send(self, transfer.server, transfer.server.abandon, transfer)
        self.under_way.clear()
        self.world.note(self, "gave up")
        self.world.ended(self)

    # -- serving

    def on_asked(self, transfer: Upload) -> None:
        """A peer requests a block."""
        client, plan = transfer.client, self.plan
        if plan.refuses is not None and self.rng.random() < plan.refuses_share:
            self.world.send(self, client, client.on_refused, transfer, plan.refuses)
            return
        if not plan.claims:
            self.world.must(transfer.block.piece in self.have, "no peer is asked for what it lacks")
        self._served_blocks += 1
        if plan.stalls_after is not None and self._served_blocks > plan.stalls_after:
            return
        transfer.good = not plan.corrupts or self.rng.random() >= plan.corrupts
        self._serving.setdefault(client.key, set()).add(transfer)
        self.handle(BlockAsked(transfer, client.key, transfer.block))

    def abandon(self, transfer: Upload) -> None:
        """Nobody waits for this block any more."""
        if not transfer.over:
            self.access.stop(transfer)
            self._answered(transfer)
            self.handle(UploadEnded(transfer))

    def _moved(self, transfer: Upload, size: int) -> None:
        """A chunk has left."""
        self.uploads.on_taken(transfer.client.key, size, self.clock.now)
        if transfer.over and not transfer.left:
            self._answered(transfer)
            self.handle(BlockSent(transfer, transfer.block))
            self.handle(UploadEnded(transfer))

    def _answered(self, transfer: Upload) -> None:
        waiting = self._serving.get(transfer.client.key)
        if waiting is not None:
            waiting.discard(transfer)
            if not waiting:
                del self._serving[transfer.client.key]

    def check_clean(self) -> None:
        """Nothing is left of what is over."""
        must = self.world.must
        if self.ended is not None or not self.here:
            must(not self.under_way, "who is done waits for nothing")
        if not self.here:
            must(
                not self.connections and not self._serving, "who is gone has neither connections nor uploads"
            )
        wanted = {id(transfer) for other in self.world.peers for transfer in other.under_way.values()}
        for transfers in self._serving.values():
            for transfer in transfers:
                must(id(transfer) in wanted, "what is served is waited for")
