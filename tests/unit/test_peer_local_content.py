"""The shell of a participant: control connections in and out, timers, uploads. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2p.content.bitmap import Bitmap
from p2p.errors import ProtocolError, Refused
from p2p.model import BlockSpan
from p2p.peer.uploads import Uploads
from p2p.protocol.peer_messages import PIECES_PER_HAVE, Have
from p2p.swarm.events import (
    BlockAsked,
    Cancel,
    Effect,
    Event,
    Fetch,
    FetchEffect,
    GiveUp,
    Introduce,
    MemberJoined,
    PeerHas,
    PieceVerified,
    Suggested,
)
from p2p.swarm.topology import MIN_HAVE_INTERVAL
from tests.kit.local_contents import CONTENT, LENGTH, FakeConnection, local_content
from tests.kit.virtual_time import in_virtual_time

PIECES = 3000
NO_STORAGE: Any = None


class Scene:
    """A content of `PIECES` pieces, of which the last is half as long, and what it wants and notes."""

    def __init__(self, have: int = 0, *, fetching: bool = False) -> None:
        self.uploads = Uploads(asyncio.get_running_loop().time)
        self.fetched: list[FetchEffect] = []
        self.noted: list[Event | Effect] = []
        self.local = local_content(
            self.uploads,
            PIECES,
            have,
            size=PIECES * LENGTH - LENGTH // 2,
            on_fetch=self.fetched.append if fetching else None,
            note=self.noted.append,
        )

    def connect(self, key: str, have: Have | None = None) -> Any:
        """A new connection, over which the other side has sent what it has: by default nothing."""
        connection: Any = FakeConnection(key)
        self.local.on_have(connection, have or Have(id=CONTENT, add=()))
        return connection


def play(work: Callable[[Scene], Awaitable[None]], have: int = 0, *, fetching: bool = False) -> None:
    """Run `work` with a scene in virtual time."""

    async def run() -> None:
        await work(Scene(have, fetching=fetching))

    in_virtual_time(run)


EVERY = (1 << PIECES) - 1
ALL = Have(id=CONTENT, all=True)
NONE = Have(id=CONTENT, none=True)


# -- what is here


@pytest.mark.parametrize(
    ("have", "size"),
    [
        (0, 0),
        (0b101, 2 * LENGTH),
        (1 << PIECES - 1, LENGTH // 2),
        (EVERY, PIECES * LENGTH - LENGTH // 2),
    ],
)
def test_the_bytes_that_are_here_count_the_short_last_piece(have: int, size: int) -> None:
    async def work(scene: Scene) -> None:
        assert scene.local.bytes_here == size

    play(work, have)


@pytest.mark.parametrize(
    ("block", "serves"),
    [
        (BlockSpan(0, 0, LENGTH), True),
        (BlockSpan(0, LENGTH - 1, 1), True),
        (BlockSpan(0, 1, LENGTH), False),
        (BlockSpan(0, -1, 2), False),
        (BlockSpan(0, 0, 0), False),
        (BlockSpan(1, 0, 1), False),
        (BlockSpan(PIECES, 0, 1), False),
        (BlockSpan(PIECES - 1, LENGTH // 2, 1), False),
    ],
)
def test_only_blocks_of_pieces_that_are_here_are_served(block: BlockSpan, serves: bool) -> None:
    async def work(scene: Scene) -> None:
        assert scene.local.serves(block) is serves

    play(work, 1 | 1 << PIECES - 1)


# -- control connections


def test_a_new_member_is_sent_the_pieces_that_are_here() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer")
        assert connection.lines == [Have(id=CONTENT, pieces=Bitmap(PIECES, 0b101).to_bytes())]
        assert scene.local.connection(connection.key) is connection

    play(work, 0b101)


def test_a_new_member_of_a_seed_is_sent_that_all_is_here_and_suggestions() -> None:
    async def work(scene: Scene) -> None:
        first, *more = scene.connect("peer").lines
        assert first == ALL
        assert [bool(have.suggest) for have in more] == [True]

    play(work, EVERY)


@pytest.mark.parametrize(
    ("have", "pieces"),
    [
        (ALL, EVERY),
        (Have(id=CONTENT, pieces=Bitmap(PIECES, 0b110).to_bytes()), 0b110),
        (Have(id=CONTENT, pieces=Bitmap(PIECES, 0b110).to_bytes(), add=(0,)), 0b111),
        (Have(id=CONTENT, add=(2, 3)), 0b1100),
    ],
)
def test_a_have_line_becomes_what_a_member_has(have: Have, pieces: int) -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", have)
        assert scene.local.participant.pieces_of(connection.key) == pieces

    play(work)


@pytest.mark.parametrize("have", [Have(id=CONTENT, add=(PIECES,)), Have(id=CONTENT, suggest=(PIECES,))])
def test_a_piece_that_does_not_exist_is_a_protocol_error(have: Have) -> None:
    async def work(scene: Scene) -> None:
        with pytest.raises(ProtocolError, match="counted from 0"):
            scene.connect("peer", have)
        assert scene.local.participant.members == ()

    play(work)


def test_a_peer_that_has_nothing_more_is_no_member_any_more() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", ALL)
        scene.local.on_have(connection, NONE)
        assert scene.local.participant.members == ()
        assert scene.local.connection(connection.key) is None
        scene.local.on_have(connection, NONE)
        scene.local.on_disconnected(connection)

    play(work)


def test_a_second_connection_of_a_peer_takes_the_place_of_the_first() -> None:
    async def work(scene: Scene) -> None:
        old = scene.connect("peer", ALL)
        old.wire.closed = True
        new = scene.connect("peer", Have(id=CONTENT, add=(1,)))
        assert new.key == old.key
        scene.local.on_have(old, ALL)
        scene.local.on_disconnected(old)
        assert scene.local.connection(old.key) is not old
        assert scene.local.participant.pieces_of(new.key) == 0b10
        scene.local.on_disconnected(new)
        assert scene.local.participant.members == ()

    play(work)


def test_a_line_that_only_suggests_says_nothing_of_what_the_member_has() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", ALL)
        scene.noted.clear()
        scene.local.on_have(connection, Have(id=CONTENT, suggest=(77,)))
        assert scene.noted == [Suggested(connection.key, (77,))]
        assert scene.local.participant.pieces_of(connection.key) == EVERY

    play(work)


# -- effects


def test_a_verified_piece_is_sent_to_every_member_at_once() -> None:
    async def work(scene: Scene) -> None:
        connections = [scene.connect("one"), scene.connect("other")]
        now = asyncio.get_running_loop().time()
        scene.local.handle(PieceVerified(7))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for connection in connections:
            assert connection.sent[-1] == (now, Have(id=CONTENT, add=(7,)))

    play(work)


def test_more_pieces_than_a_line_holds_are_sent_in_several_lines() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer")
        connection.sent.clear()
        for piece in range(PIECES):
            scene.local.handle(PieceVerified(piece))
        await asyncio.sleep(MIN_HAVE_INTERVAL)
        assert [piece for have in connection.lines for piece in have.add] == list(range(PIECES))
        assert max(len(have.add) for have in connection.lines) == PIECES_PER_HAVE

    play(work)


def test_the_participant_is_woken_at_each_time_that_it_asks_for() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer")
        connection.sent.clear()
        for piece in range(100):
            scene.local.handle(PieceVerified(piece))
            await asyncio.sleep(MIN_HAVE_INTERVAL / 10)
        await asyncio.sleep(MIN_HAVE_INTERVAL)
        assert [piece for have in connection.lines for piece in have.add] == list(range(100))
        assert 10 <= len(connection.lines) <= 12

    play(work)


def test_events_and_effects_are_noted_in_the_order_in_which_they_happen() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", Have(id=CONTENT, pieces=Bitmap(PIECES, 1).to_bytes()))
        key = connection.key
        fetch = Fetch(key, BlockSpan(0, 0, LENGTH))
        assert scene.noted == [
            MemberJoined(key, connection.client_id),
            Introduce(key),
            PeerHas(key, 1),
            fetch,
        ]
        assert scene.fetched == [fetch]

    play(work, fetching=True)


def test_an_event_that_an_effect_brings_waits_for_its_turn() -> None:
    """An effect of the first event is carried out before the second event is handled."""

    async def work(scene: Scene) -> None:
        connection: Any = FakeConnection("peer")
        introduced: list[Have] = []

        def send_have(have: Have) -> None:
            introduced.append(have)
            scene.local.handle(PieceVerified(len(introduced)))

        connection.send_have = send_have
        scene.local.on_have(connection, ALL)
        assert [type(one) for one in scene.noted] == [MemberJoined, Introduce, PieceVerified, PeerHas]

    play(work)


def test_a_granted_upload_and_a_refused_one_get_their_answers() -> None:
    async def work(scene: Scene) -> None:
        granted, refused = scene.uploads.expect("granted"), scene.uploads.expect("refused")
        scene.local.handle(BlockAsked("granted", "client", BlockSpan(0, 0, LENGTH)))
        scene.local.handle(BlockAsked("refused", "client", BlockSpan(1, 0, LENGTH)))
        assert await granted == 0
        with pytest.raises(Refused, match="not here yet"):
            await refused

    play(work, 0b1)


# -- coming and going


def test_a_published_content_is_introduced_as_whole_to_every_member() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", ALL)
        for piece in range(PIECES):
            scene.local.handle(PieceVerified(piece))
        assert not scene.local.settled.is_set()
        connection.sent.clear()
        scene.local.publish(NO_STORAGE, Path("final name"))
        await asyncio.sleep(1)
        assert connection.lines == [ALL]
        assert scene.local.settled.is_set()
        assert scene.local.path == Path("final name")

    play(work, fetching=True)


def test_a_withdrawn_content_tells_its_members_and_sends_no_more() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", ALL)
        scene.local.handle(PieceVerified(3))
        connection.sent.clear()
        scene.fetched.clear()
        scene.local.withdraw()
        await asyncio.sleep(3600)
        assert connection.lines == [NONE]
        assert scene.local.settled.is_set(), "no request waits for its final name any more"
        assert scene.local.connection(connection.key) is None
        assert type(scene.fetched[-1]) is GiveUp, "a download would wait for ever"
        assert all(type(effect) is Cancel for effect in scene.fetched[:-1])

    play(work, fetching=True)


def test_a_closed_content_is_silent_and_wakes_nobody() -> None:
    async def work(scene: Scene) -> None:
        connection = scene.connect("peer", ALL)
        scene.local.handle(PieceVerified(3))
        connection.sent.clear()
        scene.fetched.clear()
        scene.local.close()
        await asyncio.sleep(3600)
        assert connection.lines == []
        assert scene.fetched == []

    play(work, fetching=True)
