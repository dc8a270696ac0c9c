"""One peer of the world in `swarm_world`: the shell around a real scheduler, chooser and upload queue.

It carries out its scheduler's wishes as the real shell would, and after every piece of news checks what must
always hold (`_check`, `_fetch`, `_late_changes_nothing`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from p2p.content.bitmap import Bitmap
from p2p.errors import Refused
from p2p.model import BlockSpan, PeerKey
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
from p2p.swarm.picker import numbers
from p2p.swarm.scheduler import Scheduler
from p2p.swarm.super_seeding import SuperSeeding
from p2p.swarm.upload_queue import UploadQueue

if TYPE_CHECKING:
    from tests.kit.swarm_world import World

HASHING = 0.001
"""Seconds from a piece's last block to its verdict."""
IDLE_TICKS = 64
"""More ticks than this in a row, with neither a wish nor other news between them, is a busy loop."""


@dataclass(frozen=True)
class Spec:
    """One peer: what it has at the start, its link in bytes a second, and its conduct. A peer that is not
    `fetching` only serves."""

    name: str
    has: int = 0
    fetching: bool = True
    up: float = 2_500_000.0
    down: float = 2_500_000.0
    joins: float = 0.0
    leaves: float | None = None
    stalls_after: int | None = None
    """Blocks that it serves before it falls silent."""
    corrupts: float = 0.0
    """Share of the blocks it sends that are altered."""
    refuses: Failure | None = None
    refuses_share: float = 1.0
    claims: int = 0
    """Pieces that it says it has besides those it has."""
    babbles: bool = False
    """Suggests pieces by chance, also such as it has not."""

    @property
    def honest(self) -> bool:
        return (
            self.stalls_after is None
            and not self.corrupts
            and self.refuses is None
            and not self.claims
            and self.leaves is None
        )


@dataclass(slots=True, eq=False)
class Transfer:
    """One block asked of one peer by another; also the ticket in its upload queue."""

    server: Node
    client: Node
    block: BlockSpan
    left: int
    good: bool = True
    dead: bool = False


class Node:
    """One peer of the world: the shell around its scheduler, its upload queue and its link to the world."""

    def __init__(self, world: World, spec: Spec) -> None:
        self.world, self.spec, self.id = world, spec, PeerKey(spec.name)
        self.rng = Random(world.rng.random())
        n = world.geometry.pieces
        self.have = Bitmap(n, spec.has)
        self.scheduler: Scheduler | None = None
        self.chooser: SuperSeeding | None = None
        self.here = self.finished = False
        self.gave_up: tuple[int, ...] | None = None
        self.ended = 0.0
        self.banned: set[PeerKey] = set()
        self.dropped: list[tuple[float, Drop]] = []
        self.told: dict[PeerKey, int] = {}
        """What each linked peer said it has, less what it then refused as lacking."""
        self.under_way: dict[tuple[PeerKey, BlockSpan], Transfer] = {}
        self.parts: dict[int, dict[BlockSpan, bool]] = {}
        self.late = self.served = self.sent = self.wasted = self.idle_ticks = self._wake = 0
        self.uploads = UploadQueue()
        self.tickets: dict[PeerKey, list[Transfer]] = {}
        self._sending: deque[Transfer] = deque()
        self._link_busy = False
        self._coming = 0
        self._free_at = 0.0
        self._held_up: dict[PeerKey, Node] = {}

    @property
    def busy(self) -> bool:
        """Whether the world must go on for this peer."""
        return (
            self.spec.fetching
            and not self.finished
            and self.gave_up is None
            and (self.here or self.world.now <= self.spec.joins)
        )

    # -- coming and going
    # ----------------------------------------------------------------------------------------------------------

    def join(self) -> None:
        self.here = True
        if self.spec.fetching:
            self.scheduler = Scheduler(
                self.world.geometry, self.have, self.rng, self.world.now, self.world.policy
            )
        elif self.have.full:
            self._choose()
        for other in list(self.world.nodes.values()):
            if other is not self:
                self.world.link(self, other)
        self.news(Tick())

    def leave(self) -> None:
        for other in list(self.world.nodes.values()):
            self.world.unlink(self, other)
        self.here = False

    def met(self, other: Node) -> None:
        self.told[other.id] = 0
        self.news(PeerJoined(other.id))

    def cut(self, other: Node) -> None:
        """Forget a peer whose link is closed, and end what is under way both ways."""
        self.told.pop(other.id, None)
        for key in [key for key in self.under_way if key[0] == other.id]:
            del self.under_way[key]
        for transfer in self.tickets.pop(other.id, []):
            self.abandon(transfer)
        if self.chooser is not None:
            self.chooser.left(other.id)

    def lost(self, other: Node) -> None:
        self.cut(other)
        self.news(PeerLeft(other.id))

    # -- what is said on links
    # -----------------------------------------------------------------------------------------------------

    def told_at_first(self) -> int:
        return self.have.bits | self.spec.claims

    def heard_all(self, other: Node, bits: int) -> None:
        self.told[other.id] = bits
        if self.chooser is not None:
            self.chooser.has(other.id, bits)
        self.news(PeerHas(other.id, bits))
        self._suggest(other)

    def heard_gain(self, other: Node, piece: int) -> None:
        self.told[other.id] |= 1 << piece
        if self.chooser is not None:
            self.chooser.has(other.id, self.told[other.id])
        self.news(PeerGained(other.id, (piece,)))
        self._suggest(other)

    def heard_suggestion(self, other: Node, pieces: tuple[int, ...]) -> None:
        self.news(Suggested(other.id, pieces))

    def _choose(self) -> None:
        """Become one that suggests."""
        self.chooser = SuperSeeding(self.world.geometry.pieces, self.rng)
        for peer, bits in self.told.items():
            self.chooser.has(peer, bits)
        self._suggest()

    def _suggest(self, other: Node | None = None) -> None:
        chosen: list[tuple[PeerKey, tuple[int, ...]]] = []
        if self.spec.babbles and other is not None:
            chosen = [(other.id, tuple(self.rng.randrange(self.have.n) for _ in range(3)))]
        elif self.chooser is not None:
            chosen = self.chooser.choose()
        for peer, pieces in chosen:
            receiver = self.world.nodes[peer]
            self.world.send(self, receiver, receiver.heard_suggestion, self, pieces)

    # -- fetching: carry out wishes
    # --------------------------------------------------------------------------------------------------

    def news(self, news: Event) -> None:
        scheduler, now = self.scheduler, self.world.now
        if scheduler is None or not self.here:
            return
        wishes = scheduler.handle(news, now)
        self.idle_ticks = self.idle_ticks + 1 if isinstance(news, Tick) and not wishes else 0
        for wish in wishes:
            self._carry_out(wish)
        self._check()
        wakeup = scheduler.next_wakeup()
        self.world.must(
            (wakeup is None) == (self.finished or self.gave_up is not None),
            "only what is over needs no wake-up",
        )
        if wakeup is not None:
            self.world.must(wakeup > now, "the next wake-up lies in the future")
            self._wake += 1
            self.world.after(wakeup - now, self._woken, self._wake)

    def _woken(self, number: int) -> None:
        if number == self._wake:
            self.news(Tick())

    def _check(self) -> None:
        must, scheduler = self.world.must, self.scheduler
        if scheduler is None or self.finished or self.gave_up is not None:
            return
        entries = {(entry.peer, entry.block) for entry in scheduler._ledger.entries()}
        must(entries == set(self.under_way), "the ledger says what is under way")
        must(len(scheduler._ledger) == len(self.under_way), "the ledger counts right")
        must(self.idle_ticks < IDLE_TICKS, "ticks alone, one after the other: a busy loop")
        must(
            sum(block.length for _, block in self.under_way) <= self.world.policy.memory,
            "no more is under way than memory allows",
        )

    def _carry_out(self, wish: Effect) -> None:
        world = self.world
        match wish:
            case Fetch(peer, block):
                self._fetch(peer, block)
            case Cancel(peer, block):
                transfer = self.under_way.pop((peer, block), None)
                world.must(transfer is not None, "only what is under way is cancelled")
                if transfer is not None:
                    world.send(self, transfer.server, transfer.server.abandon, transfer)
            case Drop(peer, _, corrupt):
                self.dropped.append((world.now, wish))
                other = world.nodes[peer]
                world.unlink(self, other)
                if corrupt:
                    self.banned.add(peer)
                elif world.rejoins is not None:
                    world.after(world.rejoins, world.link, self, other)
            case SendHave(piece):
                for other in world.nodes.values():
                    world.send(self, other, other.heard_gain, self, piece)
            case Finished():
                world.must(self.have.full and not self.finished, "finished once, and with all")
                self.finished, self.ended = True, world.now
                self._choose()
            case GiveUp(missing):
                told = 0
                for bits in self.told.values():
                    told |= bits
                world.must(
                    missing == numbers(self.have.missing().bits & ~told),
                    "what is missing is what nobody says he has",
                )
                self.gave_up, self.ended = missing, world.now

    def _fetch(self, peer: PeerKey, block: BlockSpan) -> None:
        world, scheduler, other = self.world, self.scheduler, self.world.nodes[peer]
        world.must(peer in self.told, "only linked peers are asked")
        world.must(bool(self.told[peer] >> block.piece & 1), "no peer is asked for what it lacks")
        world.must(block.piece not in self.have, "nothing is asked for that is here already")
        world.must(
            block in world.geometry.blocks(block.piece), "blocks are asked for as the geometry cuts them"
        )
        world.must((peer, block) not in self.under_way, "no peer is asked twice at once for one block")
        world.must(block not in self.parts.get(block.piece, ()), "a block that came is not asked for again")
        transfer = Transfer(other, self, block, block.length)
        self.under_way[peer, block] = transfer
        if scheduler is not None and peer in scheduler._sources:
            few = len(scheduler._sources) <= world.policy.few
            window = scheduler._sources[peer].window(world.policy, world.geometry.block_length, few=few)
            world.must(
                sum(1 for who, _ in self.under_way if who == peer) <= window,
                "no more is under way than the window allows",
            )
        copies = sum(1 for _, asked in self.under_way if asked == block)
        late = world.now >= world.policy.block_timeout  # before, none can have been
        most = world.policy.duplicates_most if late else world.policy.duplicates
        world.must(copies <= most, "no block is asked for more often at once than the policy says")
        world.send(self, other, other.asked, transfer)

    def arrived(self, transfer: Transfer) -> None:
        key = (transfer.server.id, transfer.block)
        if self.under_way.get(key) is not transfer:
            self.late += 1
            self.wasted += transfer.block.length
            self._late_changes_nothing(key)
            return
        del self.under_way[key]
        piece = transfer.block.piece
        self.parts.setdefault(piece, {})[transfer.block] = transfer.good
        self.news(BlockArrived(*key))
        if len(self.parts.get(piece, ())) == len(self.world.geometry.blocks(piece)):
            good = all(self.parts.pop(piece).values())
            self.world.after(HASHING, self.news, PieceVerified(piece) if good else PieceCorrupt(piece))

    def _late_changes_nothing(self, key: tuple[PeerKey, BlockSpan]) -> None:
        """Tell the scheduler what a careless shell would tell it."""
        if self.scheduler is None or self.finished or self.gave_up is not None or key in self.under_way:
            return
        self.news(Tick())
        late: list[Event] = [BlockArrived(*key), *(BlockFailed(*key, failure) for failure in Failure)]
        for news in late:
            before = picture(self.scheduler)
            if key not in self.under_way:
                self.world.must(
                    not self.scheduler.handle(news, self.world.now), "what comes late makes no wish"
                )
                self.world.must(picture(self.scheduler) == before, "what comes late changes nothing")

    def refused(self, transfer: Transfer, failure: Failure) -> None:
        key = (transfer.server.id, transfer.block)
        if self.under_way.get(key) is transfer:
            del self.under_way[key]
            if failure is Failure.LACKS:
                self.told[transfer.server.id] &= ~(1 << transfer.block.piece)
            self.news(BlockFailed(*key, failure))

    # -- serving
    # -------------------------------------------------------------------------------------------------------------------

    def asked(self, transfer: Transfer) -> None:
        client = transfer.client
        if self.spec.refuses is not None and self.rng.random() < self.spec.refuses_share:
            self.world.send(self, client, client.refused, transfer, self.spec.refuses)
        elif transfer.block.piece not in self.have:
            self.world.send(self, client, client.refused, transfer, Failure.LACKS)
        elif self.spec.stalls_after is None or self.served < self.spec.stalls_after:
            self.served += 1
            transfer.good = self.rng.random() >= self.spec.corrupts
            try:
                admitted = self.uploads.ask(client.id, transfer)
            except Refused:
                self.world.send(self, client, client.refused, transfer, Failure.BUSY)
            else:
                self.tickets.setdefault(client.id, []).append(transfer)
                self._admit(admitted)

    def abandon(self, transfer: Transfer) -> None:
        """Nobody waits for this block any more."""
        if not transfer.dead:
            transfer.dead = True
            if transfer in self._sending:
                self._sending.remove(transfer)
            self._admit(self.uploads.done(transfer))

    def _admit(self, admitted: list[Any]) -> None:
        for transfer in admitted:
            self._sending.append(transfer)
        self.pump()

    def pump(self) -> None:
        """Send the next chunk, to each in turn whose downlink takes it."""
        if self._link_busy or not self.here:
            return
        for _ in range(len(self._sending)):
            transfer = self._sending.popleft()
            client, size = transfer.client, min(self.world.chunk, transfer.left)
            if (
                client._coming
                and client._coming + size > 4 * self.world.chunk + client.spec.down * self.world.delay * 2
            ):
                client._held_up[self.id] = self
                self._sending.append(transfer)
                continue
            client._coming += size
            transfer.left -= size
            self.sent += size
            if transfer.left:
                self._sending.append(transfer)
            self._link_busy = True
            self.world.after(size / self.spec.up, self._sent, transfer, size, not transfer.left)
            return

    def _sent(self, transfer: Transfer, size: int, last: bool) -> None:
        self._link_busy = False
        client, world = transfer.client, self.world
        arrives = max(world.now + world.delay, client._free_at) + size / client.spec.down
        client._free_at = arrives
        world.after(arrives - world.now, client._took, transfer, size, last)
        if last and not transfer.dead:
            transfer.dead = True
            self.tickets.get(client.id, [transfer]).remove(transfer)
            self._admit(self.uploads.done(transfer))
            if self.chooser is not None and transfer.block == world.geometry.blocks(transfer.block.piece)[-1]:
                self.chooser.served(client.id, transfer.block.piece)
                self._suggest(client)
        self.pump()

    def _took(self, transfer: Transfer, size: int, last: bool) -> None:
        self._coming -= size
        held_up, self._held_up = self._held_up, {}
        for sender in held_up.values():
            sender.pump()
        if last and self.world.linked(self, transfer.server):
            self.arrived(transfer)


def picture(scheduler: Scheduler) -> object:
    """All that a scheduler remembers, to compare before and after."""
    sources = {
        peer: (
            s.has,
            tuple(s.suggested),
            s.suggests,
            s.suggested_at,
            s.paused_until,
            s.rate,
            s.last_arrival,
            s.failures,
            s.corrupt,
        )
        for peer, s in scheduler._sources.items()
    }
    active = {
        piece: (tuple(a.todo), frozenset(a.missing), a.owner, frozenset(a.senders))
        for piece, a in scheduler._begun._pieces.items()
    }
    rest = (
        scheduler._begun.unbegun,
        frozenset(scheduler._begun._alone),
        frozenset(scheduler._banned),
        scheduler._patience.until(alone=False),
        scheduler.have.bits,
    )
    levels = tuple(scheduler._availability._levels)
    return (
        sources,
        active,
        rest,
        levels,
        tuple(scheduler._ledger.entries()),
        scheduler._rng.getstate(),
        numbers(scheduler.have.bits),
    )
