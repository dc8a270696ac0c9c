"""Tests of p2p/peer/announcer.py: the loop that carries out a tracker session. What is said and when is
tested in `test_peer_tracker_session.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.errors import DiskError, Refused, Unreachable
from p2p.model import PeerId
from p2p.peer.announcements import Identity
from p2p.peer.announcer import Announcer
from p2p.peer.reports import Report, SessionChanged
from p2p.peer.session_file import StoredSession, load_session, save_session
from p2p.peer.tracker_session import SessionTimeouts
from p2p.protocol.peer_messages import Answer, Request
from p2p.protocol.tracker_messages import Announce, Logout, Withdraw
from tests.kit.session_scene import NEW_PEER, PEER, TRACKER, FakeTracker, away, share
from tests.kit.virtual_time import in_virtual_time

ALICE = StoredSession(TRACKER, "alice", "ab" * 16)


class FakeClient:
    """A client of the model tracker."""

    def __init__(self) -> None:
        self.address = TRACKER
        self._session: str | None = None
        self.tracker = FakeTracker()
        self.asked: list[Request] = []
        self.closed = 0
        self.silent = False
        self._on_broken: Callable[[Unreachable], None] = lambda error: None

    def watch(self, on_broken: Callable[[Unreachable], None]) -> None:
        self._on_broken = on_broken

    def use_session(self, token: str | None) -> None:
        self._session = token

    async def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        await asyncio.sleep(3600 if self.silent else 0.001)
        return self.tracker.answer(request, self._session)

    async def close(self) -> None:
        self.closed += 1


class Scene:
    """An announcer with its client, and what it reported."""

    def __init__(self, state: Path, user: str | None = None) -> None:
        self.client = FakeClient()
        self.tracker = self.client.tracker
        self.reports: list[Report] = []
        client: Any = self.client
        self.announcer = Announcer(
            client,
            Identity(PEER, "lab-07", {"tcp": 6970}),
            user,
            lambda: 7,
            self.reports.append,
            Random(1),
            state,
            self._renew,
            SessionTimeouts(),
        )

    def _renew(self) -> PeerId:
        return NEW_PEER

    @property
    def states(self) -> list[str]:
        return [report.state for report in self.reports if isinstance(report, SessionChanged)]


def play(state: Path, act: Callable[[Scene], Coroutine[Any, Any, None]], user: str | None = None) -> None:
    """Play with an announcer in virtual time; it is stopped afterwards."""

    async def work() -> None:
        scene = Scene(state, user)
        await act(scene)
        await scene.announcer.stop()

    in_virtual_time(work)


def test_contents_are_announced_by_heartbeats_or_at_once_until_the_peer_logs_out(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)
        assert set(scene.tracker.shares) == {share(1).id}
        scene.announcer.set(share(2))
        await scene.announcer.known(1)
        assert share(2).id in scene.tracker.shares
        scene.announcer.set(share(3), urgent=False)
        scene.announcer.drop(share(2).id)
        await scene.announcer.known(1)
        assert set(scene.tracker.shares) == {share(1).id, share(3).id}
        asked = len(scene.client.asked)
        await asyncio.sleep(60)
        assert len(scene.client.asked) == asked + 6, "a heartbeat each third of 30 s"
        await scene.announcer.stop()
        assert isinstance(scene.client.asked[-1], Logout)

    play(tmp_path, act)


def test_a_required_tracker_that_is_away_is_an_error_of_the_start(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.tracker.fault = away
        with pytest.raises(Unreachable):
            await scene.announcer.start(require=True)
        assert scene.reports == []

    play(tmp_path, act)


def test_nobody_waits_for_a_tracker_that_is_away(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.tracker.fault = away
        await scene.announcer.start(require=False)
        scene.announcer.set(share(1))
        began = asyncio.get_running_loop().time()
        await scene.announcer.known(5)
        assert asyncio.get_running_loop().time() == began
        assert scene.states == ["lost"]

    play(tmp_path, act)


def test_a_stored_session_is_used_and_its_renewed_token_stored(tmp_path: Path) -> None:
    save_session(tmp_path, ALICE)

    async def act(scene: Scene) -> None:
        scene.tracker.sessions.add(ALICE.token)
        await scene.announcer.start(require=True)
        assert scene.tracker.logins == 0
        scene.tracker.forget()
        await asyncio.sleep(15)
        stored = load_session(tmp_path, TRACKER)
        assert stored is not None
        assert stored.user == "alice"
        assert stored.token in scene.tracker.sessions
        assert scene.client.closed, "a connection is of the session that it was opened in"
        await scene.announcer.stop()
        assert isinstance(scene.client.asked[-1], Withdraw)

    play(tmp_path, act)


@pytest.mark.parametrize(("user", "logins"), [("alice", 0), ("bob", 1), (None, 0)])
def test_a_stored_session_is_for_its_user_or_where_no_user_is_named(
    tmp_path: Path, user: str | None, logins: int
) -> None:
    save_session(tmp_path, ALICE)

    async def act(scene: Scene) -> None:
        scene.tracker.sessions.add(ALICE.token)
        await scene.announcer.start(require=True)
        assert scene.tracker.logins == logins
        assert load_session(tmp_path, TRACKER) == ALICE

    play(tmp_path, act, user)


def test_a_session_file_that_cannot_be_used_for_a_while_ends_no_heartbeats(tmp_path: Path) -> None:
    save_session(tmp_path, ALICE)
    (file,) = tmp_path.iterdir()
    kept = file.read_bytes()

    async def act(scene: Scene) -> None:
        scene.tracker.sessions.add(ALICE.token)
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)
        file.write_bytes(b"no session")
        scene.tracker.forget()
        await asyncio.sleep(60)
        assert not scene.announcer.ended.done()
        file.write_bytes(kept)
        await asyncio.sleep(30)
        assert share(1).id in scene.tracker.shares

    play(tmp_path, act)


def test_a_session_file_that_cannot_be_written_ends_no_heartbeats(tmp_path: Path) -> None:
    state = tmp_path / "state"
    save_session(state, ALICE)

    async def act(scene: Scene) -> None:
        scene.tracker.sessions.add(ALICE.token)
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)
        state.chmod(0o777)  # others may write there, so no secret is kept in it
        scene.tracker.forget()
        await asyncio.sleep(30)
        assert share(1).id in scene.tracker.shares
        assert load_session(state, TRACKER) == ALICE

    play(state, act)


def test_a_session_file_that_is_none_is_an_error_of_the_start(tmp_path: Path) -> None:
    save_session(tmp_path, ALICE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"no session")

    async def act(scene: Scene) -> None:
        with pytest.raises(DiskError):
            await scene.announcer.start(require=False)

    play(tmp_path, act)


def test_a_connection_that_ends_by_itself_is_opened_again(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        await scene.announcer.start(require=True)
        scene.client._on_broken(Unreachable("the tracker hung up"))
        await asyncio.sleep(29)
        assert scene.states == ["lost", "resumed"]

    play(tmp_path, act)


def test_a_peer_whose_id_was_taken_announces_its_new_one(tmp_path: Path) -> None:
    def taken(request: Request) -> Refused | None:
        mine = isinstance(request, Announce) and request.peer == PEER
        return Refused("not_allowed", "peer: belongs to another session") if mine else None

    async def act(scene: Scene) -> None:
        await scene.announcer.start(require=True)
        scene.tracker.fault = taken
        await asyncio.sleep(30)
        last = scene.client.asked[-1]
        assert isinstance(last, Announce)
        assert last.peer == NEW_PEER

    play(tmp_path, act)


def test_the_reason_of_a_session_that_was_ended_is_known(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        await scene.announcer.start(require=True)
        scene.tracker.fault = lambda request: Refused("bad_field", "name: too long")
        error = await scene.announcer.ended
        assert "name: too long" in str(error)

    play(tmp_path, act)


def test_a_tracker_that_does_not_answer_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        await scene.announcer.start(require=True)
        scene.client.silent = True
        scene.announcer.set(share(1))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await scene.announcer.stop()
        took = asyncio.get_running_loop().time() - began
        assert took == pytest.approx(SessionTimeouts().leave)

    play(tmp_path, act)
