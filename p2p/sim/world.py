"""A whole swarm in virtual time: peers, their connections, and the real tracker service that names them to
each other.

Chance comes from one seed, so a scenario and its seed always give the same story; `trace_hash` is the hash of
all that happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from p2p.content.geometry import Geometry
from p2p.errors import EnjambreError, Refused
from p2p.model import ContentId, PeerKey
from p2p.protocol.tracker_messages import Announce, Login, Lookup, LookupAnswer, Share
from p2p.sim.clock import Clock
from p2p.sim.network import LINE
from p2p.sim.plan import Plan
from p2p.sim.shell import SimPeer
from p2p.swarm.peer_stats import Policy
from p2p.swarm.topology import CALM_INTERVAL_S, CONNECTIONS, EAGER_BELOW, EAGER_INTERVAL_S, LOOKUP, dials
from p2p.tracker.service import Client, TrackerService
from p2p.tracker.store.directory import Directory
from p2p.value import frozen

CONTENT: Final = ContentId("5e" * 32)
HEARTBEAT: Final = 10.0
TTL: Final = 30
SAMPLES: Final = 100
"""Samples in one ideal time."""


class SimulationFault(EnjambreError):
    """What must hold in every swarm did not. The message names the seed that replays it."""


@frozen
class Sample:
    """The swarm at one moment: `pieces` verified as a share of all that are to come, `done` peers as a share,
    origin copies so far."""

    time: float
    pieces: float
    done: float
    copies: float


@dataclass(slots=True)
class Conditions:
    """What a world is like. `chunk` is how finely links are shared, in bytes; `delay` from any peer to any
    other, in seconds."""

    geometry: Geometry
    ideal: float
    """Seconds that a fast link needs for the content."""
    delay: float = 0.0005
    chunk: int | None = None
    degree: int = CONNECTIONS
    accepts: int = 512
    """Connections that a peer lets others open."""
    origin_leaves: bool = False
    """Whether the first peer is killed in the moment in which the others together have all."""
    policy: Policy | None = None
    patience: float = 60.0
    """A world that takes more ideal times than this does not come to an end."""
    thorough: bool = False
    """Whether to check after every event what is costly to check."""


class World:
    """Runs one scenario to its end."""

    def __init__(self, conditions: Conditions, plans: Sequence[Plan], seed: int) -> None:
        self.conditions, self.seed = conditions, seed
        self.geometry, self.delay = conditions.geometry, conditions.delay
        self.policy = conditions.policy or Policy()
        self.chunk = conditions.chunk or self.geometry.block_length
        self.thorough = conditions.thorough
        self.rng = Random(seed)
        self.clock = Clock()
        self.samples: list[Sample] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._service = TrackerService(
            Directory(), Random(self.rng.random()), lambda: f"{self.rng.getrandbits(128):032x}", ttl=TTL
        )
        self._connections: set[tuple[PeerKey, PeerKey]] = set()
        self._clients: dict[PeerKey, Client] = {}
        self.peers: list[SimPeer] = []
        self._verified = 0
        self._spread = 0
        """Pieces that some receiver has verified, as bits."""
        for number, plan in enumerate(plans):
            peer = SimPeer(self, plan, number)
            self.peers.append(peer)
            self.clock.after(plan.joins, peer.join)
            if plan.leaves is not None:
                self.clock.after(plan.leaves, peer.leave)
        self._fetching = [peer for peer in self.peers if peer.plan.fetches]
        self._unfinished = len(self._fetching)
        self._done = 0
        self._until = 0.0

    # -- running

    def run(self) -> None:
        """Run until every download has ended or its peer is gone. Raises `SimulationFault`."""
        while self.advance(1 << 20):
            pass

    def advance(self, events: int) -> bool:
        """Let so many events happen; False when all is over, and was found in order. Raises
        `SimulationFault`."""
        if not self.samples:
            self._sample()
            self._until = self.conditions.patience * self.conditions.ideal + max(
                peer.plan.joins for peer in self.peers
            )
        for _ in range(events):
            if not self._unfinished or not self.clock.step():
                break
            if self.clock.now > self._until:
                self.must(False, "the swarm does not come to an end")
        else:
            return True
        self._sample(again=False)
        until = (
            self.clock.now + 4 * self.delay
        )  # what was said last is heard, and links that one side closed are closed
        while self.clock.due <= until and self.clock.step():
            pass
        self._check()
        return False

    def _check(self) -> None:
        for peer in self.peers:
            peer.check_clean()
        for one, other in self._connections:
            self.must((other, one) in self._connections, "a connection has two ends")

    @property
    def trace_hash(self) -> str:
        """The hash of all that has happened; the same for the same scenario and seed, on every machine."""
        return self._digest.copy().hexdigest()

    def must(self, holds: bool, sentence: str) -> None:
        """Raise `SimulationFault` unless it holds."""
        if not holds:
            raise SimulationFault(f"not so: {sentence} (seed {self.seed}, at {self.clock.now:.6f} s)")

    def copies(self) -> float:
        """Origin copies so far; the origin is the first peer."""
        return self.peers[0].access.sent / self.geometry.size

    def _sample(self, *, again: bool = True) -> None:
        to_come = max(1, len(self._fetching) * self.geometry.pieces)
        done = self._done / max(1, len(self._fetching))
        self.samples.append(Sample(self.clock.now, self._verified / to_come, done, self.copies()))
        if again:
            self.clock.after(self.conditions.ideal / SAMPLES, self._sample)

    # -- what peers report

    def verified(self, peer: SimPeer, piece: int) -> None:
        """A peer has a piece more."""
        self._verified += 1
        self._spread |= 1 << piece
        self.note(peer, "verified", str(piece))
        if self.conditions.origin_leaves and self._spread == (1 << self.geometry.pieces) - 1:
            self.clock.after(0.0, self.peers[0].leave)

    def ended(self, peer: SimPeer) -> None:
        """A download has ended, well or not."""
        self._unfinished -= 1
        self._done += peer.finished

    def left(self, peer: SimPeer) -> None:
        """A peer is gone."""
        if peer.busy:
            self._unfinished -= 1

    def note(self, peer: SimPeer, what: str, *about: str) -> None:
        """Keep account of what happened."""
        self._digest.update(f"{self.clock.now:.9f} {peer.number} {what} {' '.join(about)}\n".encode())

    # -- connections

    def connect(self, one: SimPeer, other: SimPeer) -> None:
        """Open a connection, unless there is one, it is not wanted, or either peer is gone."""
        if (
            one.key in other.banned
            or other.key in one.banned
            or (one.key, other.key) in self._connections
            or not (one.here and other.here)
        ):
            return
        if len(other.connections) >= self.conditions.accepts:
            return
        self._connections.add((one.key, other.key))
        self._connections.add((other.key, one.key))
        one.on_connected(other)
        other.on_connected(one)

    def disconnect(self, one: SimPeer, other: SimPeer) -> None:
        """`one` closes a connection; `other` learns it a little later."""
        if (one.key, other.key) not in self._connections:
            return
        self._connections.discard((one.key, other.key))
        self._connections.discard((other.key, one.key))
        one.on_disconnected(other)
        self.clock.after(self.delay, other.on_disconnected, one)

    def send(self, sender: SimPeer, receiver: SimPeer, what: Callable[..., None], *about: Any) -> None:
        """Send a control line over a connection."""
        sender.access.line(LINE)
        self.clock.after(self.delay, self._deliver, sender.key, receiver.key, what, about)

    def _deliver(
        self, sender: PeerKey, receiver: PeerKey, what: Callable[..., None], about: tuple[Any, ...]
    ) -> None:
        if (sender, receiver) in self._connections:
            what(*about)

    # -- the tracker

    def enter(self, peer: SimPeer) -> None:
        """A peer logs in, announces itself, and looks for others; again and again while it is here."""
        client = self._clients[peer.key] = Client(peer.address.host, "10.255.255.1")
        self._service.handle(Login(user=peer.plan.name), client, self.clock.now)
        self._beat(peer)
        if peer.busy:
            self._look(peer)

    def _beat(self, peer: SimPeer) -> None:
        if not peer.here:
            return
        geometry = self.geometry
        have = (
            geometry.size if peer.have.full else min(peer.have.count * geometry.piece_length, geometry.size)
        )
        share = Share(id=CONTENT, name="content", size=geometry.size, have=have)
        announce = Announce(
            peer=peer.id, name=peer.plan.name, listen={"tcp": peer.address.port}, contents=(share,)
        )
        self._service.handle(announce, self._clients[peer.key], self.clock.now)
        self.clock.after(HEARTBEAT, self._beat, peer)

    def _look(self, peer: SimPeer) -> None:
        if not peer.here or peer.ended is not None:
            return
        try:
            answer = self._service.handle(
                Lookup(id=CONTENT, limit=LOOKUP, peer=peer.id), self._clients[peer.key], self.clock.now
            )
        except Refused:
            answer = None
        sources = answer.sources if isinstance(answer, LookupAnswer) else ()
        eager = peer.sources < EAGER_BELOW
        room = dials(len(peer.connections), eager=eager, enough=self.conditions.degree)
        for source in sources:
            other = self._at(source.host)
            if room <= 0:
                break
            if other.key not in peer.connections:
                room -= 1
                self.clock.after(2 * self.delay, self.connect, peer, other)
        peer.listed(len(sources))
        self.clock.after(EAGER_INTERVAL_S if eager else CALM_INTERVAL_S, self._look, peer)

    def _at(self, host: str) -> SimPeer:
        _, high, middle, low = map(int, host.split("."))
        return self.peers[high << 16 | middle << 8 | low]
