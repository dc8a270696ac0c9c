"""The library: what is announced of its contents, and which connections they hear of. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import Refused
from p2p.model import ContentId
from p2p.peer.library import ANNOUNCE_TIMEOUT_S, Library
from p2p.peer.local_content import LocalContent
from p2p.peer.uploads import Uploads
from p2p.protocol.peer_messages import Have
from p2p.protocol.tracker_messages import Share
from p2p.swarm.events import PieceVerified
from tests.kit.local_contents import CONTENT, LENGTH, FakeAnnouncements, FakeConnection, local_content
from tests.kit.virtual_time import in_virtual_time

OTHER = ContentId("cd" * 32)
NONE = Have(id=CONTENT, none=True)


class Scene:
    """A library, and what it announces."""

    def __init__(self) -> None:
        self.announcements = FakeAnnouncements()
        self.library = Library(self.announcements)
        self.uploads = Uploads(asyncio.get_running_loop().time)

    def seed(self, content: ContentId = CONTENT, path: Path = Path("x")) -> LocalContent:
        """A whole content of two pieces."""
        return local_content(self.uploads, 2, content=content, path=path)

    def partial(self, have: int = 0b01, content: ContentId = CONTENT) -> LocalContent:
        """A content of two pieces that is being fetched."""
        return local_content(self.uploads, 2, have, content=content, on_fetch=lambda _: None)


def play(work: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        await work(scene)
        scene.library.close()

    in_virtual_time(run)


def connection(key: str = "peer") -> Any:
    return FakeConnection(key)


def share(have: int, content: ContentId = CONTENT) -> Share:
    return Share(id=content, name="x", size=2 * LENGTH, have=have)


def test_a_content_is_found_by_its_id_and_a_whole_one_by_its_path() -> None:
    async def work(scene: Scene) -> None:
        seed, partial = scene.seed(), scene.partial(content=OTHER)
        scene.library.publish(seed)
        scene.library.publish(partial)
        assert scene.library.get(CONTENT) is scene.library.find(CONTENT) is seed
        assert scene.library.find(OTHER) is partial
        assert scene.library.at(Path("x")) is seed
        assert scene.library.at(Path("y")) is None
        assert seed in scene.library
        assert list(scene.library) == [seed, partial]
        assert len(scene.library) == 2

    play(work)


def test_a_path_with_a_partial_content_is_not_taken_for_shared() -> None:
    async def work(scene: Scene) -> None:
        scene.library.publish(scene.partial())
        assert scene.library.at(Path("x")) is None

    play(work)


def test_a_content_that_is_not_here_is_refused_as_not_found() -> None:
    async def work(scene: Scene) -> None:
        with pytest.raises(Refused) as refused:
            scene.library.get(CONTENT)
        assert refused.value.code == "not_found"
        assert scene.library.find(CONTENT) is None
        assert scene.seed() not in scene.library

    play(work)


def test_a_published_content_is_announced_at_once() -> None:
    async def work(scene: Scene) -> None:
        scene.library.publish(scene.partial())
        assert scene.announcements.changes == [(share(LENGTH), True)]

    play(work)


def test_a_content_that_grows_is_announced_with_the_next_announce() -> None:
    async def work(scene: Scene) -> None:
        local = scene.partial()
        scene.library.on_grown(local)
        assert scene.announcements.changes == [], "it is not shared"
        scene.library.publish(local)
        local.handle(PieceVerified(1))
        scene.library.on_grown(local)
        assert scene.announcements.changes[1:] == [(share(2 * LENGTH), False)]

    play(work)


def test_a_retracted_content_is_withdrawn_from_members_and_tracker() -> None:
    async def work(scene: Scene) -> None:
        local, member = scene.seed(), connection()
        scene.library.publish(local)
        scene.library.on_have(member, Have(id=CONTENT, all=True))
        assert scene.library.retract(local)
        assert member.lines[-1] == NONE
        assert scene.announcements.changes[-1] == CONTENT
        assert len(scene.library) == 0
        assert not scene.library.retract(local), "it is not shared any more"
        assert scene.announcements.changes.count(CONTENT) == 1

    play(work)


def test_a_content_that_another_has_replaced_is_not_retracted() -> None:
    async def work(scene: Scene) -> None:
        old, new = scene.seed(), scene.seed()
        scene.library.publish(old)
        scene.library.publish(new)
        assert not scene.library.retract(old)
        assert scene.library.get(CONTENT) is new

    play(work)


def test_a_whole_content_that_is_replaced_is_closed() -> None:
    async def work(scene: Scene) -> None:
        former, new = scene.seed(), scene.partial()
        closed: list[bool] = []
        former.close = lambda: closed.append(True)  # type: ignore[method-assign]
        scene.library.publish(former)
        scene.library.publish(former)
        assert not closed
        scene.library.publish(new)
        assert closed == [True]
        scene.library.publish(scene.partial())
        assert not new.settled.is_set(), "a download that another one replaces goes on"

    play(work)


def test_a_new_connection_is_asked_only_for_what_is_being_fetched() -> None:
    async def work(scene: Scene) -> None:
        scene.library.publish(scene.seed())
        scene.library.publish(scene.partial(content=OTHER))
        peer = connection()
        scene.library.on_connected(peer)
        assert [have.id for have in peer.lines] == [OTHER]

    play(work)


def test_a_have_line_goes_to_its_content_and_a_closed_connection_to_all() -> None:
    async def work(scene: Scene) -> None:
        locals_ = [scene.seed(), scene.partial(content=OTHER)]
        peer = connection()
        for local in locals_:
            scene.library.publish(local)
            scene.library.on_have(peer, Have(id=local.id, add=(0,)))
        assert [local.participant.pieces_of(peer.key) for local in locals_] == [0b01, 0b01]
        scene.library.on_disconnected(peer)
        assert [local.participant.members for local in locals_] == [(), ()]

    play(work)


def test_a_peer_that_asks_for_an_unknown_content_is_told_that_it_is_not_here() -> None:
    async def work(scene: Scene) -> None:
        peer = connection()
        scene.library.on_have(peer, Have(id=CONTENT, all=True))
        assert peer.lines == [NONE]
        scene.library.on_have(peer, NONE)
        assert peer.lines == [NONE], "two peers that have nothing do not tell it each other for ever"

    play(work)


def test_the_library_waits_for_the_tracker_only_so_long() -> None:
    async def work(scene: Scene) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        scene.announcements.known_after = 1.0
        await scene.library.announced()
        assert clock() - began == pytest.approx(1)
        scene.announcements.known_after = float("inf")
        await scene.library.announced()
        assert clock() - began == pytest.approx(1 + ANNOUNCE_TIMEOUT_S)

    play(work)


def test_a_library_that_closes_announces_nothing() -> None:
    async def work(scene: Scene) -> None:
        local, member = scene.seed(), connection()
        scene.library.publish(local)
        scene.library.on_have(member, Have(id=CONTENT, all=True))
        changes, lines = len(scene.announcements.changes), len(member.lines)
        scene.library.close()
        await asyncio.sleep(3600)
        assert (len(scene.announcements.changes), len(member.lines)) == (changes, lines)

    play(work)
