"""What a holding tells its members, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from p2p.content.bitmap import Bitmap
from p2p.model import KIB, BlockSpan, ContentId, FileEntry, Manifest
from p2p.peer.local_content import LocalContent
from p2p.protocol.peer_messages import PIECES_PER_HAVE, Have
from p2p.swarm.topology import TELL_MOST, TELL_TIME
from tests.kit.virtual_time import in_virtual_time

CONTENT = ContentId("ab" * 32)
PIECES = 3000
LENGTH = 64 * KIB


@dataclass
class FakeLink:
    """A link that writes down what it is told, and when."""

    key: str
    told: list[tuple[float, Have]] = field(default_factory=list)
    wire: Any = field(default_factory=lambda: SimpleNamespace(closed=False))

    @property
    def client_id(self) -> str:
        return self.key

    def send_have(self, have: Have) -> None:
        self.told.append((asyncio.get_running_loop().time(), have))


def play(work: Callable[[LocalContent, FakeLink], Awaitable[None]]) -> None:
    """Run `work` with a holding of which nothing is there yet, and one member that was told so."""

    async def run() -> None:
        size = PIECES * LENGTH
        manifest = Manifest(
            "x", "file", "blake2b-256", LENGTH, (FileEntry("x", size),), (), (bytes(32),) * PIECES
        )
        storage: Any = None
        holding = LocalContent(CONTENT, manifest, b"", Bitmap(PIECES), storage, Path("x"), Random(1))
        link: Any = FakeLink("peer")
        holding.heard(link, Have(id=CONTENT, all=True))
        link.told.clear()
        await work(holding, link)

    in_virtual_time(run)


def test_a_piece_on_its_own_is_told_in_the_same_moment() -> None:
    async def work(holding: LocalContent, link: FakeLink) -> None:
        now = asyncio.get_running_loop().time()
        holding.verified(7)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert link.told == [(now, Have(id=CONTENT, add=(7,)))]

    play(work)


def test_pieces_that_come_fast_share_a_line_and_none_waits_longer_than_the_time_between_two() -> None:
    async def work(holding: LocalContent, link: FakeLink) -> None:
        verified: dict[int, float] = {}
        for piece in range(500):
            verified[piece] = asyncio.get_running_loop().time()
            holding.verified(piece)
            await asyncio.sleep(TELL_TIME / 20)
        await asyncio.sleep(2 * TELL_TIME)
        told = {piece: at for at, have in link.told for piece in have.add}
        assert sorted(told) == list(range(500))
        assert sum(len(have.add) for _, have in link.told) == 500
        assert max(told[piece] - verified[piece] for piece in told) <= TELL_TIME + 1e-6
        assert len(link.told) <= 500 / 20 + 2

    play(work)


def test_more_pieces_than_a_line_holds_are_told_in_several() -> None:
    async def work(holding: LocalContent, link: FakeLink) -> None:
        for piece in range(PIECES):
            holding.verified(piece)
        await asyncio.sleep(TELL_TIME)
        assert [piece for _, have in link.told for piece in have.add] == list(range(PIECES))
        assert max(len(have.add) for _, have in link.told) <= PIECES_PER_HAVE

    play(work)


def test_a_loop_that_runs_late_tells_less_often_and_goes_back_when_it_is_quick_again() -> None:
    async def work(holding: LocalContent, link: FakeLink) -> None:
        loop: Any = asyncio.get_running_loop()

        async def told_in(seconds: float, late: float, piece: int) -> int:
            """How many lines are told, where each turn of the loop takes so long."""
            link.told.clear()
            until = loop.time() + seconds
            while loop.time() < until:
                holding.verified(piece % PIECES)
                piece += 1
                loop.call_soon(loop.pass_time, late)
                await asyncio.sleep(TELL_TIME / 4)
            return len(link.told)

        quick = await told_in(4.0, 0.0, 0)
        busy = await told_in(4.0, 0.03, 1000)
        after = await told_in(4.0, 0.0, 2000)
        assert 4.0 / TELL_MOST - 2 <= busy <= quick / 3
        assert after > quick / 2

    play(work)


def test_what_is_withdrawn_is_suggested_to_nobody_any_more() -> None:
    async def work(holding: LocalContent, link: FakeLink) -> None:
        for piece in range(PIECES):
            holding.have.add(piece)
        holding.complete(holding.storage, holding.path)
        other: Any = FakeLink("other")
        holding.heard(other, Have(id=CONTENT, none=False, pieces=holding.have.to_bytes()))
        holding.withdraw()
        again: Any = FakeLink("again")
        holding.heard(again, Have(id=CONTENT, add=(1,)))
        assert not any(have.suggest for _, have in again.told)
        assert holding.members == 1

    play(work)


def test_what_each_peer_was_sent_is_counted_for_it_alone_and_until_it_leaves() -> None:
    async def work(holding: LocalContent, link: FakeLink) -> None:
        one: Any = link
        other: Any = FakeLink("other")
        holding.heard(other, Have(id=CONTENT, pieces=holding.have.to_bytes()))
        block = BlockSpan(0, 0, 100)
        for client in (one.client_id, one.client_id, other.client_id, "a stranger"):
            holding.served(client, block)
        assert (holding.sent_to(one.key), holding.sent_to(other.key), holding.sent) == (200, 100, 400)
        holding.left(one)
        assert (holding.sent_to(one.key), holding.sent_to(other.key)) == (0, 100)
        holding.withdraw()
        assert holding.sent_to(other.key) == 0

    play(work)


def test_links_that_say_they_have_nothing_and_follow_nothing_do_not_keep_an_honest_one_from_a_crowded_seed() -> (
    None
):
    """They hold all suggestions, and strangers of the same host, who need no link, keep the line full with
    parts of pieces."""

    async def work(holding: LocalContent, link: FakeLink) -> None:
        for piece in range(PIECES):
            holding.have.add(piece)
        holding.complete(holding.storage, holding.path)
        for number in range(40):
            idler: Any = FakeLink(f"idler {number}")
            holding.heard(idler, Have(id=CONTENT, add=()))
        honest: Any = FakeLink("honest")
        holding.heard(honest, Have(id=CONTENT, add=()))
        assert not any(have.suggest for _, have in honest.told)
        assert not holding.admits("honest", 7, crowded=True)
        for _ in range(1000):
            holding.served("stranger", BlockSpan(0, 0, 1))
        assert any(have.suggest for _, have in honest.told)
        assert holding.admits("honest", 7, crowded=True), "nobody who follows is kept from anything by it"

    play(work)
