"""Tests of p2p/peer/finder.py: lookups and dials in virtual time. Whom to dial is tested in
`test_peer_candidates.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from p2p.errors import NotFound, Refused, Unreachable
from p2p.model import Address, ContentId, PeerId, PeerKey, peer_key
from p2p.peer.candidates import FinderTimeouts
from p2p.peer.finder import Finder
from p2p.protocol.peer_messages import Answer
from p2p.protocol.tracker_messages import Contact, HitRow, Lookup, LookupAnswer
from p2p.swarm.topology import CONNECTIONS
from tests.kit.virtual_time import in_virtual_time

CONTENT = ContentId("ab" * 32)
TIMES = FinderTimeouts()
A = TypeVar("A", bound=Answer)


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


@dataclass
class FakeConnection:
    key: PeerKey


@dataclass
class World:
    """A tracker and a network: which peers are listed, who answers where, and what was dialled when."""

    listed: list[Contact] = field(default_factory=list)
    at: dict[Address, PeerId] = field(default_factory=dict)
    connections: dict[PeerKey, FakeConnection] = field(default_factory=dict)
    dialled: list[Address] = field(default_factory=list)
    fault: Exception | None = None
    dial_time: float = 0.01
    under_way: int = 0
    most_under_way: int = 0
    lookups: int = 0
    members: int = 0
    eager: bool = True
    told: list[int | None] = field(default_factory=list)
    named: list[PeerKey] = field(default_factory=list)

    class me:  # noqa: N801 (as `ControlConnections` calls it)
        peer = PeerId("ff" * 16)

    def add(self, number: int, answers: int | None = None) -> PeerKey:
        """List a peer; at its address this one answers, or another."""
        address = Address(f"10.0.0.{number}", 6970)
        listen = {"tcp": address.port}
        source = Contact(peer=peer(number), name=f"p{number}", host=address.host, listen=listen, have=7)
        self.listed.append(source)
        self.at[address] = peer(number if answers is None else answers)
        return peer_key(peer(number), address)

    async def expect(self, request: Lookup, kind: type[A]) -> A:
        self.lookups += 1
        if self.fault is not None:
            raise self.fault
        hit = HitRow(id=CONTENT, name="x", size=7, seeds=1, peers=len(self.listed))
        answer: Any = LookupAnswer(content=hit, sources=tuple(self.listed))
        assert isinstance(answer, kind)
        return answer

    def get(self, key: PeerKey) -> FakeConnection | None:
        return self.connections.get(key)

    async def connect(self, address: Address, expected: PeerId) -> FakeConnection:
        self.dialled.append(address)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.dial_time)
        finally:
            self.under_way -= 1
        if self.at[address] != expected:
            raise Unreachable(f"peer {address} is another peer by now")
        key = peer_key(expected, address)
        self.members += 1
        made = self.connections[key] = FakeConnection(key)
        return made

    async def search(self, finder: Finder, seconds: float) -> None:
        """Let it run for so long."""
        task = asyncio.create_task(
            finder.run(
                members=lambda: self.members,
                eager=lambda: self.eager,
                on_named=lambda connection: self.named.append(connection.key),
                on_listed=self.told.append,
            )
        )
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def play(act: Callable[[World, Finder], Coroutine[Any, Any, None]]) -> None:
    """Play with a finder in its world, in virtual time; it is closed afterwards."""

    async def work() -> None:
        world: Any = World()
        finder = Finder(CONTENT, world, world, lambda key: True, TIMES)
        await act(world, finder)
        await finder.close()

    in_virtual_time(work)


def test_every_listed_peer_that_speaks_tcp_is_dialled_once() -> None:
    async def act(world: World, finder: Finder) -> None:
        all_of_them = {world.add(number) for number in range(5)}
        world.listed.append(Contact(peer=peer(9), name="x", host="10.0.0.9", listen={"grpc": 7000}, have=7))
        await world.search(finder, 30)
        assert set(world.connections) == all_of_them
        assert len(world.dialled) == 5
        assert world.told[0] == 5
        assert finder.reasons() == []

    play(act)


def test_a_peer_at_whose_address_another_answers_is_given_up_with_a_reason() -> None:
    async def act(world: World, finder: Finder) -> None:
        world.add(1, answers=2)
        await world.search(finder, 300)
        assert finder.reasons() == ["peer 10.0.0.1:6970 is another peer by now"]
        assert 300 / TIMES.redial_longest * 0.7 < len(world.dialled) < 300 / TIMES.redial_longest + 3

    play(act)


def test_of_many_peers_enough_are_dialled_and_all_of_them_at_once() -> None:
    """One after the other, those that accept and say nothing would hold up the rest."""

    async def act(world: World, finder: Finder) -> None:
        for number in range(100):
            world.add(number)
        world.dial_time, world.eager = 0.5, False
        await world.search(finder, 60)
        assert len(world.connections) == CONNECTIONS
        assert world.most_under_way == CONNECTIONS

    play(act)


def test_a_download_with_enough_members_dials_no_peer() -> None:
    async def act(world: World, finder: Finder) -> None:
        world.add(1)
        world.members, world.eager = CONNECTIONS, False
        await world.search(finder, 30)
        assert not world.dialled

    play(act)


def test_connections_to_named_peers_are_told_after_each_lookup() -> None:
    async def act(world: World, finder: Finder) -> None:
        key = world.add(1)
        await world.search(finder, 2.5 * TIMES.eager)
        assert world.named == [key, key], "at the first lookup it was not connected yet"

    play(act)


def test_lookups_are_frequent_while_more_peers_are_wanted_and_rare_otherwise() -> None:
    async def act(world: World, finder: Finder) -> None:
        world.add(1)
        await world.search(finder, 59)
        eager, world.lookups, world.eager = world.lookups, 0, False
        await world.search(finder, 59)
        assert (eager, world.lookups) == (60 // TIMES.eager, 60 // TIMES.calm)

    play(act)


def test_a_tracker_that_is_away_or_knows_no_peer_does_not_end_the_search() -> None:
    async def act(world: World, finder: Finder) -> None:
        world.fault = Unreachable("away")
        await world.search(finder, 5)
        assert set(world.told) == {None}
        world.told, world.fault = [], Refused("not_found", "no peer has it")
        await world.search(finder, 5)
        assert set(world.told) == {0}
        with pytest.raises(NotFound):
            await finder.look()
        world.fault = Refused("busy", "later")
        with pytest.raises(Refused):
            await finder.look()

    play(act)


def test_closing_ends_the_dials_under_way() -> None:
    async def act(world: World, finder: Finder) -> None:
        world.dial_time = 100
        for number in range(30):
            world.add(number)
        await finder.look()
        await asyncio.sleep(1)
        assert world.under_way == 30
        await finder.close()
        assert world.under_way == 0
        assert world.connections == {}

    play(act)


def test_the_dials_under_way_are_known() -> None:
    async def act(world: World, finder: Finder) -> None:
        for number in range(3):
            world.add(number)
        await finder.look()
        assert len(finder.dials) == 3
        await asyncio.wait(finder.dials)
        assert len(world.connections) == 3
        assert finder.dials == []
        assert not finder.more

    play(act)
