"""Whom a download dials, and when again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from p2p.errors import NotFound, Refused, Unreachable
from p2p.model import Address, ContentId, PeerId, PeerKey, peer_of
from p2p.peer.finder import RETRY_MOST, RETRY_TIME, Finder
from p2p.protocol.peer_messages import Answer
from p2p.protocol.tracker_messages import Contact, HitRow, Lookup, LookupAnswer
from p2p.swarm.topology import CALM_TIME, EAGER_TIME, ENOUGH, HUNGRY
from tests.kit.virtual_time import in_virtual_time

CONTENT = ContentId("ab" * 32)
A = TypeVar("A", bound=Answer)


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


@dataclass
class FakeLink:
    peer: PeerId


@dataclass
class World:
    """A tracker and a network: who is listed, who answers where, and what was dialled when."""

    listed: list[Contact] = field(default_factory=list)
    at: dict[Address, PeerId] = field(default_factory=dict)
    links: dict[PeerId, FakeLink] = field(default_factory=dict)
    dialled: list[tuple[float, Address]] = field(default_factory=list)
    fault: Exception | None = None
    takes: float = 0.01
    under_way: int = 0
    most_under_way: int = 0
    looks: list[float] = field(default_factory=list)

    class me:  # noqa: N801
        peer = PeerId("ff" * 16)

    def add(self, number: int, host: str | None = None, answers: int | None = None) -> None:
        address = Address(host or f"10.0.0.{number}", 6970)
        self.listed.append(
            Contact(peer=peer(number), name=f"p{number}", host=address.host, listen={"tcp": 6970}, have=7)
        )
        self.at[address] = peer(number if answers is None else answers)

    async def expect(self, request: Lookup, kind: type[A]) -> A:
        self.looks.append(asyncio.get_running_loop().time())
        if self.fault is not None:
            raise self.fault
        hit = HitRow(id=CONTENT, name="x", size=7, seeds=1, peers=len(self.listed))
        answer: Any = LookupAnswer(content=hit, sources=tuple(self.listed))
        assert isinstance(answer, kind)
        return answer

    def get(self, who: PeerKey) -> FakeLink | None:
        link = self.links.get(peer_of(who))
        return (
            link
            if link is not None
            and self.at.get(Address(who.partition("@")[2].partition(":")[0], 6970)) == link.peer
            else None
        )

    async def connect(self, address: Address, who: PeerId) -> FakeLink:
        self.dialled.append((asyncio.get_running_loop().time(), address))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.under_way -= 1
        if address not in self.at:
            raise Unreachable(f"peer {address} cannot be reached: no answer in time")
        if self.at[address] != who:
            raise Unreachable(f"peer {address} is another peer by now")
        link = self.links[self.at[address]] = FakeLink(self.at[address])
        return link

    def __len__(self) -> int:
        return len(self.links)

    def finder(self, unwanted: frozenset[PeerId] = frozenset()) -> Finder:
        fake: Any = self
        return Finder(CONTENT, fake, fake, lambda who: peer_of(who) not in unwanted)


async def looking(finder: Finder, seconds: float) -> list[int | None]:
    """Let it look for so long; returns what it told."""
    told: list[int | None] = []
    task = asyncio.create_task(finder.run(told.append))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await finder.close()
    return told


def test_every_listed_peer_is_dialled_once_and_those_already_linked_are_not() -> None:
    async def work() -> None:
        world = World()
        for number in range(5):
            world.add(number)
        world.links[peer(3)] = FakeLink(peer(3))
        finder = world.finder()
        await looking(finder, 30)
        assert sorted(str(address) for _, address in world.dialled) == [
            f"10.0.0.{n}:6970" for n in (0, 1, 2, 4)
        ]
        assert finder.reasons() == []

    in_virtual_time(work)


def test_a_peer_that_is_not_wanted_or_speaks_no_tcp_is_not_dialled() -> None:
    async def work() -> None:
        world = World()
        world.add(1)
        world.listed.append(Contact(peer=peer(2), name="x", host="10.0.0.2", listen={"grpc": 7000}, have=7))
        finder = world.finder(frozenset({peer(1)}))
        told = await looking(finder, 5)
        assert world.dialled == []
        assert told[0] == 0

    in_virtual_time(work)


def test_case_55_a_peer_that_is_away_is_dialled_again_later_and_later_and_never_later_than_ten_seconds() -> (
    None
):
    """After ten minutes without a network a download goes on within seconds."""

    async def work() -> None:
        world = World()
        world.add(1)
        world.at.clear()
        finder = world.finder()
        await looking(finder, 600)
        times = [time for time, _ in world.dialled]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[0] >= RETRY_TIME
        assert RETRY_MOST <= gaps[-1] <= RETRY_MOST + EAGER_TIME + 0.1
        assert "10.0.0.1:6970" in finder.reasons()[0]

    in_virtual_time(work)


def test_a_peer_that_was_away_and_has_a_new_address_is_dialled_there_at_once() -> None:
    async def work() -> None:
        world = World()
        world.add(1)
        world.at.clear()
        finder = world.finder()
        await finder.look()
        await finder.settled()
        world.listed.clear()
        world.add(1, host="10.0.0.99")
        await finder.look()
        await finder.settled()
        assert peer(1) in world.links
        assert finder.reasons() == []

    in_virtual_time(work)


def test_a_peer_at_whose_address_another_lives_by_now_is_given_up_with_a_reason() -> None:

    async def work() -> None:
        world = World()
        world.add(1, host="10.0.0.9")
        world.add(2, host="10.0.0.9", answers=2)
        finder = world.finder()
        await looking(finder, 300)
        assert set(world.links) == {peer(2)}
        assert finder.reasons() == ["peer 10.0.0.9:6970 is another peer by now"]
        assert len(world.dialled) <= 2 + 300 / RETRY_MOST + 3

    in_virtual_time(work)


def test_links_that_have_nothing_to_do_with_this_content_do_not_count() -> None:
    """A peer that serves a hundred others can still fetch something for itself."""

    async def work() -> None:
        world = World()
        world.links = {peer(number): FakeLink(peer(number)) for number in range(1000, 1100)}
        world.add(1)
        await looking(world.finder(), 5)
        assert peer(1) in world.links

    in_virtual_time(work)


def test_of_many_peers_only_enough_are_dialled_and_those_at_once() -> None:
    async def work() -> None:
        world = World(takes=0.5)
        for number in range(100):
            world.add(number)
        finder = world.finder()
        await finder.look()
        await finder.settled()
        finder.eager = False
        await looking(finder, 60)
        assert len(world.links) == ENOUGH
        assert world.most_under_way == ENOUGH, (
            "together, so that those that accept and say nothing hold nobody up"
        )

    in_virtual_time(work)


def test_a_download_that_too_few_feed_goes_on_dialling_a_few_at_a_time() -> None:
    async def work() -> None:
        world = World()
        for number in range(100):
            world.add(number)
        await looking(world.finder(), 2.5 * EAGER_TIME)
        assert len(world.links) == ENOUGH + 2 * HUNGRY

    in_virtual_time(work)


def test_who_has_enough_links_for_a_content_dials_nobody_whom_the_tracker_names_besides() -> None:
    async def work() -> None:
        world = World()
        world.add(1)
        finder = world.finder()
        finder.members, finder.eager = (lambda: ENOUGH), False
        await looking(finder, 30)
        assert not world.links

    in_virtual_time(work)


def test_it_looks_often_while_more_peers_are_wanted_and_seldom_otherwise() -> None:
    async def work() -> None:
        world = World()
        world.add(1)
        finder = world.finder()
        await looking(finder, 60)
        eager = len(world.looks)
        world.looks.clear()
        finder.eager = False
        await looking(finder, 60)
        assert (eager, len(world.looks)) == (60 // EAGER_TIME, 60 // CALM_TIME)

    in_virtual_time(work)


def test_a_tracker_that_is_away_or_knows_nobody_is_told_and_does_not_end_the_search() -> None:
    async def work() -> None:
        world = World(fault=Unreachable("away"))
        finder = world.finder()
        assert set(await looking(finder, 5)) == {None}
        world.fault = Refused("not_found", "nobody has it")
        assert set(await looking(finder, 5)) == {0}
        with pytest.raises(NotFound):
            await finder.look()
        world.fault = Refused("busy", "later")
        with pytest.raises(Refused):
            await finder.look()

    in_virtual_time(work)


def test_closing_ends_the_dials_under_way() -> None:
    async def work() -> None:
        world = World(takes=100)
        for number in range(30):
            world.add(number)
        finder = world.finder()
        await finder.look()
        await asyncio.sleep(1)
        await finder.close()
        assert world.under_way == 0
        assert world.links == {}

    in_virtual_time(work)


def test_those_that_are_linked_or_cannot_be_dialled_are_not_waited_for_as_untried() -> None:
    async def work() -> None:
        world = World(takes=0.1)
        for number in range(3):
            world.add(number)
        world.listed.append(Contact(peer=peer(9), name="x", host="10.0.0.9", listen={"grpc": 7000}, have=7))
        finder = world.finder()
        await finder.look()
        await finder.settled()
        await finder.look()
        assert not finder.more
        await finder.close()

    in_virtual_time(work)
