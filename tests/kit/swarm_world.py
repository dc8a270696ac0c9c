"""A world of virtual time in which real schedulers, choosers and upload queues meet: links with rate and
delay, and peers of bad conduct.

Nothing here sleeps or reads a clock, so a scenario and its seed always give the same story. A link carries
messages in order after `delay` seconds. Bytes go in chunks: an uplink sends in turn to all whom it serves, a
downlink takes them one after the other, and a sender waits while more is on its way than the receiver can
take, as with TCP.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from p2p.content.geometry import Geometry
from p2p.model import PeerKey
from p2p.swarm.peer_stats import Policy
from tests.kit.swarm_node import Node, Spec

MOST_EVENTS = 3_000_000


class World:
    """Peers, their links, and the events to come. `run` returns when every fetching peer has finished, given
    up or left."""

    def __init__(
        self,
        geometry: Geometry,
        specs: list[Spec],
        seed: int,
        *,
        delay: float = 0.001,
        policy: Policy | None = None,
        rejoins: float | None = 5.0,
        chunk: int | None = None,
    ) -> None:
        self.geometry, self.seed, self.delay, self.rejoins = geometry, seed, delay, rejoins
        self.policy = policy or Policy()
        self.rng = Random(seed)
        self.chunk = chunk or max(16 * 1024, geometry.block_length // 8)
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._links: dict[tuple[PeerKey, PeerKey], int] = {}
        self._generation = 0
        self.nodes: dict[PeerKey, Node] = {}
        for spec in specs:
            node = Node(self, spec)
            self.nodes[node.id] = node
            self.after(spec.joins, node.join)
            if spec.leaves is not None:
                self.after(spec.leaves, node.leave)

    def after(self, seconds: float, what: Callable[..., None], *about: Any) -> None:
        self._generation += 1
        heapq.heappush(self._heap, (self.now + seconds, self._generation, what, about))

    def run(self, until: float = 1e9) -> None:
        while self._heap and self._heap[0][0] <= until and any(node.busy for node in self.nodes.values()):
            self.now, _, what, about = heapq.heappop(self._heap)
            self.events += 1
            self.must(self.events < MOST_EVENTS, "the world does not come to an end")
            what(*about)

    def must(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise AssertionError(f"{sentence} (seed {self.seed}, at {self.now:.6f} s)")

    # -- links
    # ---------------------------------------------------------------------------------------------------------------------

    def linked(self, one: Node, other: Node) -> bool:
        return (one.id, other.id) in self._links

    def link(self, one: Node, other: Node) -> None:
        banned = other.id in one.banned or one.id in other.banned
        if banned or self.linked(one, other) or not (one.here and other.here):
            return
        self._generation += 1
        self._links[one.id, other.id] = self._links[other.id, one.id] = self._generation
        for here, there in ((one, other), (other, one)):
            here.met(there)
            self.send(there, here, here.heard_all, there, there.told_at_first())

    def unlink(self, one: Node, other: Node) -> None:
        """`one` closes the link and knows; `other` learns it later. What is on its way is lost."""
        if self._links.pop((one.id, other.id), None) is None:
            return
        del self._links[other.id, one.id]
        one.cut(other)
        self.after(self.delay, other.lost, one)

    def send(self, sender: Node, receiver: Node, what: Callable[..., None], *about: Any) -> None:
        link = self._links.get((sender.id, receiver.id))
        if link is not None:
            self.after(self.delay, self._deliver, sender.id, receiver.id, link, what, about)

    def _deliver(
        self, sender: PeerKey, receiver: PeerKey, link: int, what: Callable[..., None], about: tuple[Any, ...]
    ) -> None:
        if self._links.get((sender, receiver)) == link:
            what(*about)

    # -- what is asked of a world afterwards
    # -----------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        return self.nodes[PeerKey(name)]

    def slowest(self) -> float:
        return max(node.ended for node in self.nodes.values() if node.finished)

    def copies(self, name: str) -> float:
        """Bytes that this peer sent, as a multiple of the content's size."""
        return self.node(name).sent / self.geometry.size
