"""One simulated peer: what the real shell does around the real scheduler, chooser and upload queue, without
sockets, files and tasks.

After each wish it checks what must hold of every swarm: nobody is asked for what it lacks, and nothing is
asked for that is here.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from p2p.content.bitmap import Bitmap
from p2p.errors import Refused
from p2p.model import Address, BlockSpan, PeerId, PeerKey, peer_key
from p2p.sim.clock import Clock
from p2p.sim.network import LINE, Access, Transfer
from p2p.swarm.events import (
    BlockArrived,
    BlockFailed,
    Cancel,
    Drop,
    Effect,
    Event,
    Failure,
    Fetch,
    Finished,
    GiveUp,
    Listed,
    PeerGained,
    PeerHas,
    PeerJoined,
    PeerLeft,
    PieceCorrupt,
    PieceVerified,
    SendHave,
    Suggested,
    Tick,
)
from p2p.swarm.picker import as_bits
from p2p.swarm.scheduler import Scheduler
from p2p.swarm.super_seeding import SuperSeeding
from p2p.swarm.topology import tell_time
from p2p.swarm.upload_queue import UploadQueue
from p2p.value import frozen

if TYPE_CHECKING:
    from p2p.sim.world import World

HASHING: Final = 0.001
"""Seconds from a piece's last block to its verdict."""


@frozen
class Plan:
    """What one peer is and does. Rates in bytes a second, times in seconds since the beginning."""

    name: str
    up: float
    down: float
    seed: bool = False
    joins: float = 0.0
    leaves: float | None = None
    """When it is gone, without a word: killed, or its cable pulled."""
    stays: float | None = None
    """How long it serves after it has all; None is to the end."""
    corrupts: float = 0.0
    """Share of the blocks it sends that are altered."""
    stalls_after: int | None = None
    """Blocks that it sends before it falls silent."""
    rides: bool = False
    """A free-rider: tells nobody of what it has, so that nobody asks it."""

    @property
    def fair(self) -> bool:
        """Whether it gives as it takes, so that others have no reason to drop it."""
        return not self.corrupts and self.stalls_after is None and not self.rides


class SimPeer:
    """One peer of a `World`."""

    def __init__(self, world: World, plan: Plan, number: int) -> None:
        self.world, self.plan, self.number = world, plan, number
        self.rng = Random(world.rng.random())
        self.id = PeerId(f"{self.rng.getrandbits(128):032x}")
        self.address = Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 6970)
        self.key: PeerKey = peer_key(self.id, self.address)
        n = world.geometry.pieces
        self.have = Bitmap.all(n) if plan.seed else Bitmap(n)
        self.access = Access(
            world.clock, plan.up, plan.down, chunk=world.chunk, delay=world.delay, sent=self._served
        )
        self.links: dict[PeerKey, SimPeer] = {}
        self.told: dict[PeerKey, int] = {}
        """What each linked peer said it has, as bits."""
        self.here = self.finished = False
        self.ended: float | None = None
        self.gave_up: tuple[int, ...] | None = None
        self.banned: set[PeerKey] = set()
        self.under_way: dict[tuple[PeerKey, BlockSpan], Transfer] = {}
        self.uploads = UploadQueue()
        self.wasted = 0
        """Bytes that came and were of no use."""
        self._scheduler: Scheduler | None = None
        self._chooser: SuperSeeding | None = None
        self._tickets: dict[PeerKey, set[Transfer]] = {}
        self._parts: dict[int, dict[BlockSpan, bool]] = {}
        self._verified: list[int] = []
        self._told_at = float("-inf")
        self._served_blocks = 0
        self._wake: float | None = None

    @property
    def clock(self) -> Clock:
        """The world's clock."""
        return self.world.clock

    @property
    def sources(self) -> int:
        """From how many peers it fetches now."""
        return self._scheduler.sources if self._scheduler is not None else 0

    # -- coming and going
    # ----------------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Begin to fetch, or to serve."""
        self.here = True
        self.world.note(self, "joined")
        if self.plan.seed:
            self._chooser = SuperSeeding(self.have.n, self.rng)
        else:
            self._scheduler = Scheduler(
                self.world.geometry, self.have, self.rng, self.clock.now, self.world.policy
            )
        self.world.enter(self)
        self.news(Tick())

    def leave(self) -> None:
        """Vanish."""
        if not self.here:
            return
        self.here = False
        self.world.note(self, "left")
        for other in list(self.links.values()):
            self.world.unlink(self, other)
            self.cut(other)  # also where the other side closed it first, and we have not heard of it yet
        self.access.close()
        self.under_way.clear()
        self.world.left(self)

    def met(self, other: SimPeer) -> None:
        """A link is open."""
        self.links[other.key] = other
        self.told[other.key] = 0
        self.news(PeerJoined(other.key))
        self.world.say(self, other, other.heard_all, self.key, 0 if self.plan.rides else self.have.bits)

    def cut(self, other: SimPeer) -> None:
        """A link is closed; what was under way on it is lost."""
        if self.links.pop(other.key, None) is None:
            return
        del self.told[other.key]
        for key in [key for key in self.under_way if key[0] == other.key]:
            del self.under_way[key]
        for transfer in list(self._tickets.get(other.key, ())):
            self.abandon(transfer)
        if self._chooser is not None:
            self._chooser.left(other.key)
        self.news(PeerLeft(other.key))

    # -- what is said on links
    # -----------------------------------------------------------------------------------------------------

    def heard_all(self, key: PeerKey, bits: int) -> None:
        """A peer told all that it has."""
        self.told[key] = bits
        self.news(PeerHas(key, bits))
        self._on_gain(key)

    def heard_gain(self, key: PeerKey, news: PeerGained, bits: int) -> None:
        """A peer told what it has besides."""
        self.told[key] |= bits
        if self.ended is None:
            self.news(news)
        if self._chooser is not None:
            self._on_gain(key)

    def _on_gain(self, key: PeerKey) -> None:
        if self._chooser is not None:
            self._chooser.has(key, self.told[key])
            self._suggest()

    def heard_suggestion(self, key: PeerKey, pieces: tuple[int, ...]) -> None:
        """A seed would like us to fetch these from it."""
        self.news(Suggested(key, pieces))

    def _suggest(self) -> None:
        for key, pieces in self._chooser.choose() if self._chooser is not None else ():
            other = self.links[key]
            self.world.say(self, other, other.heard_suggestion, self.key, pieces)

    def _tell(self) -> None:
        self._told_at = self.clock.now
        pieces, self._verified = tuple(self._verified), []
        if not self.here or self.plan.rides:
            return
        self.access.line(LINE * len(self.links))
        self.clock.after(self.world.delay, self._told, list(self.links.values()), pieces)

    def _told(self, others: list[SimPeer], pieces: tuple[int, ...]) -> None:
        """What was told has come to all links that are still there: most of what happens in a swarm, so it is
        one event and not many."""
        bits, news = as_bits(pieces), PeerGained(self.key, pieces)
        for other in others:
            if self.key in other.links:
                other.heard_gain(self.key, news, bits)

    # -- fetching
    # ------------------------------------------------------------------------------------------------------------------

    def news(self, news: Event) -> None:
        """Tell the scheduler, carry out its wishes, and set its clock."""
        scheduler = self._scheduler
        if scheduler is None or not self.here or self.finished or self.gave_up is not None:
            return
        for wish in scheduler.handle(news, self.clock.now):
            self._carry_out(wish)
        when = None if self.finished or self.gave_up is not None else scheduler.next_wakeup()
        if when is not None and (self._wake is None or when < self._wake):
            self._wake = when
            self.clock.after(when - self.clock.now, self._woken, when)

    def listed(self, peers: int) -> None:
        """The tracker named so many others."""
        self.news(Listed(peers))

    def _woken(self, when: float) -> None:
        if self._wake == when:
            self._wake = None
            self.news(Tick())

    def _carry_out(self, wish: Effect) -> None:
        world = self.world
        match wish:
            case Fetch(peer, block):
                self._fetch(peer, block)
            case Cancel(peer, block):
                transfer = self.under_way.pop((peer, block))
                world.say(self, transfer.server, transfer.server.abandon, transfer)
            case Drop(peer, why, corrupt):
                world.note(self, "dropped", str(self.links[peer].number), why)
                if corrupt:
                    self.banned.add(peer)
                other = self.links[peer]
                world.unlink(self, other)
            case SendHave(piece):
                world.verified(self, piece)
                if not self._verified:
                    due = max(self._told_at + tell_time(len(self.links)), self.clock.now)
                    self.clock.after(due - self.clock.now, self._tell)
                self._verified.append(piece)
            case Finished():
                self._finish()
            case GiveUp(missing):
                self.gave_up, self.ended = missing, self.clock.now
                for transfer in self.under_way.values():
                    world.say(self, transfer.server, transfer.server.abandon, transfer)
                self.under_way.clear()
                world.note(self, "gave up")
                world.ended(self)

    def _finish(self) -> None:
        world = self.world
        world.must(self.have.full, "who finishes has all")
        self.finished, self.ended = True, self.clock.now
        world.note(self, "completed")
        self._chooser = SuperSeeding(self.have.n, self.rng)
        for key, bits in self.told.items():
            self._chooser.has(key, bits)
        if not self.plan.rides:
            self._suggest()
        world.ended(self)
        if self.plan.stays is not None:
            self.clock.after(self.plan.stays, self.leave)

    def _fetch(self, peer: PeerKey, block: BlockSpan) -> None:
        must, other = self.world.must, self.links.get(peer)
        if other is None:
            must(False, "only linked peers are asked")
            return
        must(bool(self.told[peer] >> block.piece & 1), "no peer is asked for what it lacks")
        must(block.piece not in self.have, "nothing is asked for that is here already")
        must((peer, block) not in self.under_way, "no peer is asked twice at once for one block")
        transfer = self.under_way[peer, block] = Transfer(other, self, block, block.length)
        self.world.say(self, other, other.asked, transfer)

    def arrived(self, transfer: Transfer) -> None:
        """The last byte of a block is here."""
        key = (transfer.server.key, transfer.block)
        if self.under_way.get(key) is not transfer:
            self.wasted += transfer.block.length
            return
        del self.under_way[key]
        piece = transfer.block.piece
        parts = self._parts.setdefault(piece, {})
        parts[transfer.block] = transfer.good
        self.news(BlockArrived(*key))
        if len(parts) == len(self.world.geometry.blocks(piece)):
            del self._parts[piece]
            good = all(parts.values())
            if not good:
                self.wasted += self.world.geometry.piece_size(piece)
            self.clock.after(HASHING, self.news, PieceVerified(piece) if good else PieceCorrupt(piece))

    def refused(self, transfer: Transfer, failure: Failure) -> None:
        """A peer will not send a block."""
        key = (transfer.server.key, transfer.block)
        if self.under_way.get(key) is transfer:
            del self.under_way[key]
            self.news(BlockFailed(*key, failure))

    # -- serving
    # -------------------------------------------------------------------------------------------------------------------

    def asked(self, transfer: Transfer) -> None:
        """A peer asks for a block."""
        client, plan = transfer.client, self.plan
        self.world.must(transfer.block.piece in self.have, "no peer is asked for what it lacks")
        self._served_blocks += 1
        if plan.stalls_after is not None and self._served_blocks > plan.stalls_after:
            return
        chooser = self._chooser
        if chooser is not None and not chooser.admits(
            client.key, transfer.block.piece, crowded=self.uploads.crowded
        ):
            self.world.say(self, client, client.refused, transfer, Failure.BUSY)
            return
        transfer.good = not plan.corrupts or self.rng.random() >= plan.corrupts
        try:
            admitted = self.uploads.ask(client.key, transfer)
        except Refused:
            self.world.say(self, client, client.refused, transfer, Failure.BUSY)
            return
        self._tickets.setdefault(client.key, set()).add(transfer)
        self._admit(admitted)

    def abandon(self, transfer: Transfer) -> None:
        """Nobody waits for this block any more."""
        if not transfer.over:
            self.access.stop(transfer)
            self._done(transfer)

    def _served(self, transfer: Transfer) -> None:
        key, piece = transfer.client.key, transfer.block.piece
        self._done(transfer)
        last = transfer.block.offset + transfer.block.length == self.world.geometry.piece_size(piece)
        if self._chooser is not None and self._chooser.served(
            key if key in self.links else None, piece, whole=last
        ):
            self._suggest()

    def _done(self, transfer: Transfer) -> None:
        tickets = self._tickets.get(transfer.client.key)
        if tickets is not None and transfer in tickets:
            tickets.remove(transfer)
            if not tickets:
                del self._tickets[transfer.client.key]
            self._admit(self.uploads.done(transfer))

    def _admit(self, admitted: list[Any]) -> None:
        for transfer in admitted:
            self.access.begin(transfer)

    def check_clean(self) -> None:
        """Nothing is left of what is over."""
        must = self.world.must
        if self.finished or self.gave_up is not None or not self.here:
            must(not self.under_way, "who is done waits for nothing")
        if not self.here:
            must(not self.links and not self._tickets, "who is gone has neither links nor uploads")
        wanted = {id(transfer) for other in self.world.peers for transfer in other.under_way.values()}
        for transfers in self._tickets.values():
            for transfer in transfers:
                must(id(transfer) in wanted, "what is served is waited for")
