"""What a peer tells the tracker, and what it does when the tracker is away, says no, or has forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from p2p.errors import DiskError, EnjambreError, Refused, Unreachable
from p2p.model import Address, ContentId, PeerId
from p2p.peer import announcer as module
from p2p.peer.announcer import RETRY_FIRST, RETRY_MOST, Announcer, Identity
from p2p.peer.reports import Report, SessionChanged, Warned
from p2p.peer.session_file import StoredSession, forget_session, load_session, save_session
from p2p.protocol.peer_messages import Answer, Request
from p2p.protocol.tracker_messages import (
    Announce,
    AnnounceAnswer,
    Login,
    LoginAnswer,
    Logout,
    LogoutAnswer,
    Share,
    Withdraw,
    WithdrawAnswer,
)
from tests.kit.virtual_time import in_virtual_time

TRACKER = Address("10.0.0.1", 6969)
PEER = PeerId("5f" * 16)
A = TypeVar("A", bound=Answer)


class FakeTracker:
    """A client and a tracker in one: remembers what it was asked, when, and who is in."""

    def __init__(self, ttl: int = 30) -> None:
        self.address = TRACKER
        self.session: str | None = None
        self.ttl = ttl
        self.asked: list[tuple[float, Request]] = []
        self.shares: dict[ContentId, Share] = {}
        self.sessions: set[str] = set()
        self.fault: Callable[[Request], EnjambreError | None] = lambda request: None
        self._on_broken: Callable[[Unreachable], None] = lambda error: None
        self.logins = 0

    def watch(self, on_broken: Callable[[Unreachable], None]) -> None:
        self._on_broken = on_broken

    async def ask(self, request: Request) -> Answer:
        self.asked.append((asyncio.get_running_loop().time(), request))
        await asyncio.sleep(0.001)
        fault = self.fault(request)
        if fault is not None:
            raise fault
        match request:
            case Login():
                self.logins += 1
                token = f"{self.logins:032x}"
                self.sessions.add(token)
                return LoginAnswer(session=token, ttl=self.ttl)
            case _ if self.session not in self.sessions:
                raise Refused("login_needed", "log in first")
            case Announce():
                self.shares.update({share.id: share for share in request.contents})
                return AnnounceAnswer(ttl=self.ttl, known=len(self.shares))
            case Withdraw():
                return WithdrawAnswer(
                    withdrawn=sum(self.shares.pop(content, None) is not None for content in request.ids)
                )
            case Logout():
                return LogoutAnswer(peers=1, contents=len(self.shares))
        raise AssertionError(request)

    async def expect(self, request: Request, kind: type[A]) -> A:
        answer = await self.ask(request)
        assert isinstance(answer, kind)
        return answer

    async def close(self) -> None:
        pass

    def forget(self) -> None:
        """Start anew, as with the memory store."""
        self.sessions.clear()
        self.shares.clear()

    def hang_up(self) -> None:
        """End the connection while nothing is asked."""
        self._on_broken(Unreachable(f"tracker {TRACKER} hung up"))

    def times(self, kind: type[Request] = Request) -> list[float]:
        return [time for time, request in self.asked if isinstance(request, kind)]


class Scene:
    """An announcer with its fake tracker and its reports."""

    def __init__(self, state: Path, ttl: int = 30, seed: int = 1, user: str | None = None) -> None:
        self.tracker = FakeTracker(ttl)
        self.reports: list[Report] = []
        client: Any = self.tracker
        identity = Identity(PEER, "lab-07", user, {"tcp": 6970})
        self.announcer = Announcer(
            client, identity, lambda: 7, self.reports.append, Random(seed), state, lambda: PeerId("6e" * 16)
        )

    @property
    def states(self) -> list[str]:
        return [report.state for report in self.reports if isinstance(report, SessionChanged)]


def share(number: int, have: int = 7) -> Share:
    return Share(id=ContentId(f"{number:064x}"), name=f"{number}.bin", size=7, have=have)


def away(request: Request) -> EnjambreError:
    return Unreachable(f"tracker {TRACKER} cannot be reached")


def test_hundreds_of_shares_are_told_in_batches_and_then_settled(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in range(200):
            scene.announcer.set(share(number))
        await scene.announcer.start(require=True)
        await scene.announcer.known(1)
        assert len(scene.tracker.shares) == 200
        assert len(scene.tracker.times(Announce)) == 4
        await scene.announcer.stop()

    in_virtual_time(work)


def test_heartbeats_come_three_times_a_lease_and_carry_nothing_when_nothing_is_new(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, ttl=30)
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)
        await asyncio.sleep(300)
        beats = [(time, request) for time, request in scene.tracker.asked if isinstance(request, Announce)][
            1:
        ]
        gaps = [later[0] - earlier[0] for earlier, later in pairwise(beats)]
        assert all(8.9 < gap < 10.1 for gap in gaps), gaps
        assert all(
            request.contents == () and request.room == 7
            for _, request in beats
            if isinstance(request, Announce)
        )
        await scene.announcer.stop()

    in_virtual_time(work)


def test_what_is_new_is_told_at_once_and_what_is_not_urgent_with_the_next_heartbeat(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        await scene.announcer.start(require=True)
        scene.announcer.set(share(1))
        await asyncio.sleep(0.1)
        assert share(1).id in scene.tracker.shares
        scene.announcer.set(share(2), urgent=False)
        await asyncio.sleep(1)
        assert share(2).id not in scene.tracker.shares
        await asyncio.sleep(10)
        assert share(2).id in scene.tracker.shares
        await scene.announcer.stop()

    in_virtual_time(work)


def test_what_is_dropped_is_withdrawn_at_once_and_a_quick_return_is_not(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in (1, 2):
            scene.announcer.set(share(number))
        await scene.announcer.start(require=True)
        scene.announcer.drop(share(1).id)
        scene.announcer.drop(share(2).id)
        scene.announcer.set(share(2))
        await scene.announcer.known(1)
        assert set(scene.tracker.shares) == {share(2).id}
        await scene.announcer.stop()

    in_virtual_time(work)


def test_what_was_dropped_while_the_tracker_was_away_is_withdrawn_when_it_is_back_with_all_it_knew(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in (1, 2):
            scene.announcer.set(share(number))
        await scene.announcer.start(require=True)
        scene.tracker.fault = away
        scene.announcer.drop(share(1).id)
        await asyncio.sleep(30)
        scene.tracker.fault = lambda request: None
        await asyncio.sleep(30)
        assert set(scene.tracker.shares) == {share(2).id}
        await scene.announcer.stop()

    in_virtual_time(work)


def test_what_comes_back_while_its_withdrawal_fails_is_announced_and_not_withdrawn_afterwards(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)

        def fails(request: Request) -> EnjambreError | None:
            if not isinstance(request, Withdraw):
                return None
            scene.announcer.set(share(1))  # while the question is under way
            scene.tracker.fault = lambda request: None
            return away(request)

        scene.tracker.fault = fails
        scene.announcer.drop(share(1).id)
        await asyncio.sleep(3)
        assert scene.states == ["lost", "resumed"]
        assert set(scene.tracker.shares) == {share(1).id}
        assert len(scene.tracker.times(Withdraw)) == 1
        await scene.announcer.stop()

    in_virtual_time(work)


def test_case_21_a_lost_tracker_is_tried_again_later_and_later_and_never_faster_than_once_a_second(
    tmp_path: Path,
) -> None:

    async def work() -> None:
        scene = Scene(tmp_path)
        await scene.announcer.start(require=True)
        scene.tracker.fault = away
        await asyncio.sleep(120)
        times = scene.tracker.times()[-8:]
        gaps = [later - earlier for earlier, later in pairwise(scene.tracker.times()[2:])]
        assert min(gaps) >= RETRY_FIRST
        assert max(gaps) <= 1.5 * RETRY_MOST + 0.01
        assert times[-1] - times[-2] >= RETRY_MOST
        scene.tracker.fault = lambda request: None
        scene.announcer.set(share(1))
        await asyncio.sleep(16)
        assert share(1).id in scene.tracker.shares
        assert scene.states == ["lost", "resumed"]
        assert len([report for report in scene.reports if isinstance(report, Warned)]) == 1, "once is enough"
        await scene.announcer.stop()

    in_virtual_time(work)


def test_case_21_a_thousand_peers_do_not_come_back_at_once(tmp_path: Path) -> None:

    async def work() -> None:
        scenes = [Scene(tmp_path, seed=number) for number in range(100)]
        for scene in scenes:
            await scene.announcer.start(require=True)
            scene.tracker.fault = away
        await asyncio.sleep(60)
        last = sorted(scene.tracker.times()[-1] for scene in scenes)
        assert last[-1] - last[0] > RETRY_MOST / 2
        for scene in scenes:
            await scene.announcer.stop()

    in_virtual_time(work)


@pytest.mark.parametrize("ttl", [1, 30, 600, 86_400])
def test_case_40_a_tracker_that_hung_up_is_told_everything_again_soon_however_rare_heartbeats_are(
    tmp_path: Path, ttl: int
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, ttl=ttl)
        for number in range(100):
            scene.announcer.set(share(number))
        await scene.announcer.start(require=True)
        scene.tracker.forget()
        scene.tracker.hang_up()
        await asyncio.sleep(29)
        assert len(scene.tracker.shares) == 100
        assert scene.states == ["lost", "resumed"]
        await scene.announcer.stop()

    in_virtual_time(work)


@pytest.mark.parametrize("ttl", [30, 86_400])
def test_case_21_peers_whose_tracker_hangs_up_on_all_at_once_come_back_spread_over_seconds_and_none_within_one(
    tmp_path: Path, ttl: int
) -> None:
    async def work() -> None:
        scenes = [Scene(tmp_path, ttl=ttl, seed=number) for number in range(200)]
        for scene in scenes:
            await scene.announcer.start(require=True)
        now = asyncio.get_running_loop().time()
        for scene in scenes:
            scene.tracker.hang_up()
        await asyncio.sleep(29)
        back = [min(time for time in scene.tracker.times() if time > now) - now for scene in scenes]
        assert min(back) >= RETRY_FIRST
        assert max(back) <= RETRY_MOST + 0.01
        for second in range(1, 10):
            assert sum(second <= time < second + 1 for time in back) < len(back) / 4
        for scene in scenes:
            await scene.announcer.stop()

    in_virtual_time(work)


def test_case_21_a_tracker_that_answers_and_then_hangs_up_each_time_is_tried_later_and_later(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, ttl=1)

        def hang_up_soon(request: Request) -> None:
            asyncio.get_running_loop().call_later(0.01, scene.tracker.hang_up)

        await scene.announcer.start(require=True)
        scene.tracker.fault = hang_up_soon
        await asyncio.sleep(120)
        gaps = [later - earlier for earlier, later in pairwise(scene.tracker.times()[3:])]
        assert min(gaps) >= RETRY_FIRST
        assert min(gaps[5:]) >= RETRY_MOST
        scene.tracker.fault = lambda request: None
        await asyncio.sleep(20)
        scene.tracker.hang_up()
        await asyncio.sleep(1.6)
        assert scene.states[-1] == "resumed", "it was there for a while, and is trusted again"
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_peer_that_stops_when_its_tracker_has_just_hung_up_still_takes_its_leave(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        await scene.announcer.start(require=True)
        scene.tracker.hang_up()
        await asyncio.sleep(0.5)
        assert scene.states == ["lost"]
        await scene.announcer.stop()
        assert isinstance(scene.tracker.asked[-1][1], Logout)

    in_virtual_time(work)


def test_a_tracker_that_has_forgotten_everything_is_told_everything_again(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in range(100):
            scene.announcer.set(share(number))
        await scene.announcer.start(require=True)
        scene.tracker.forget()
        await asyncio.sleep(15)
        assert len(scene.tracker.shares) == 100
        scene.tracker.shares.clear()  # it lost the shares and kept the session
        await asyncio.sleep(11)
        assert len(scene.tracker.shares) == 100
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_stored_session_is_used_and_renewed_in_its_file_when_the_tracker_forgot_it(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        save_session(tmp_path, StoredSession(TRACKER, "alice", "ab" * 16))
        scene.tracker.sessions.add("ab" * 16)
        await scene.announcer.start(require=True)
        assert scene.tracker.logins == 0
        scene.tracker.forget()
        await asyncio.sleep(15)
        stored = load_session(tmp_path, TRACKER)
        assert stored is not None
        assert stored.user == "alice"
        assert stored.token in scene.tracker.sessions
        await scene.announcer.stop()
        assert isinstance(scene.tracker.asked[-1][1], Withdraw), "the user's session stays"

    in_virtual_time(work)


def test_a_session_that_another_process_renewed_is_taken_over_and_not_taken_for_a_logout(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        save_session(tmp_path, StoredSession(TRACKER, "alice", "ab" * 16))
        scene.tracker.sessions.add("ab" * 16)
        await scene.announcer.start(require=True)
        scene.tracker.forget()
        scene.tracker.sessions.add("cd" * 16)
        save_session(tmp_path, StoredSession(TRACKER, "alice", "cd" * 16))
        await asyncio.sleep(30)
        assert not scene.announcer.ended.done()
        assert scene.tracker.session == "cd" * 16
        assert scene.tracker.logins == 0
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_logout_ends_a_peer_of_the_stored_session(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        save_session(tmp_path, StoredSession(TRACKER, "alice", "ab" * 16))
        scene.tracker.sessions.add("ab" * 16)
        await scene.announcer.start(require=True)
        scene.tracker.forget()
        forget_session(tmp_path, TRACKER)
        await asyncio.sleep(11)
        assert isinstance(scene.announcer.ended.result(), Refused)
        assert scene.states == ["ended"]
        asked = len(scene.tracker.asked)
        await scene.announcer.stop()
        assert len(scene.tracker.asked) == asked, "there is nothing to leave"

    in_virtual_time(work)


def test_a_login_of_somebody_else_ends_a_peer_of_the_session_before_it(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        save_session(tmp_path, StoredSession(TRACKER, "alice", "ab" * 16))
        scene.tracker.sessions.add("ab" * 16)
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)
        scene.tracker.forget()
        scene.tracker.sessions.add("cd" * 16)
        save_session(tmp_path, StoredSession(TRACKER, "bob", "cd" * 16))
        await asyncio.sleep(11)
        assert scene.announcer.ended.done()
        ended = scene.announcer.ended.result()
        assert isinstance(ended, Refused)
        assert ended.code == "login_needed"
        assert "alice" in str(ended)
        assert scene.states == ["ended"]
        assert scene.tracker.shares == {}, "bob has what was alice's"
        await scene.announcer.stop()
        assert load_session(tmp_path, TRACKER) == StoredSession(TRACKER, "bob", "cd" * 16)

    in_virtual_time(work)


def test_who_was_said_to_log_in_gets_a_session_of_his_own_beside_the_stored_one_of_another(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, user="bob")
        alice = StoredSession(TRACKER, "alice", "ab" * 16)
        save_session(tmp_path, alice)
        scene.tracker.sessions.add("ab" * 16)
        await scene.announcer.start(require=True)
        scene.tracker.forget()
        await asyncio.sleep(30)
        assert [request.user for _, request in scene.tracker.asked if isinstance(request, Login)] == [
            "bob",
            "bob",
        ]
        assert load_session(tmp_path, TRACKER) == alice
        await scene.announcer.stop()
        assert isinstance(scene.tracker.asked[-1][1], Logout), "nobody keeps it"

    in_virtual_time(work)


def test_who_was_said_to_log_in_and_has_a_stored_session_goes_on_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path, user="alice")
        save_session(tmp_path, StoredSession(TRACKER, "alice", "ab" * 16))
        scene.tracker.sessions.add("ab" * 16)
        await scene.announcer.start(require=True)
        assert scene.tracker.logins == 0
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_disk_that_refuses_the_session_file_does_not_silence_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise DiskError("disk full")

    async def work() -> None:
        scene = Scene(tmp_path)
        save_session(tmp_path, StoredSession(TRACKER, "alice", "ab" * 16))
        scene.tracker.sessions.add("ab" * 16)
        scene.announcer.set(share(1))
        await scene.announcer.start(require=True)
        monkeypatch.setattr(module, "save_session", full)
        scene.tracker.forget()
        await asyncio.sleep(60)
        monkeypatch.undo()
        await asyncio.sleep(30)
        assert share(1).id in scene.tracker.shares
        await scene.announcer.stop()

    in_virtual_time(work)


@pytest.mark.parametrize("code", ["busy", "unavailable", "internal"])
def test_a_tracker_that_cannot_answer_now_is_tried_again(tmp_path: Path, code: str) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        await scene.announcer.start(require=True)
        scene.tracker.fault = lambda request: Refused(code, "later")
        scene.announcer.set(share(1))
        await asyncio.sleep(20)
        scene.tracker.fault = lambda request: None
        await asyncio.sleep(20)
        assert share(1).id in scene.tracker.shares
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_peer_whose_id_another_has_taken_goes_on_under_a_new_one(tmp_path: Path) -> None:
    """Whoever listened knows all ids, and may be first after a restart of the tracker (hostile case 40)."""

    def taken(request: Request) -> EnjambreError | None:
        mine = isinstance(request, Announce) and request.peer == PEER
        return Refused("not_allowed", "peer: belongs to another session") if mine else None

    async def work() -> None:
        scene = Scene(tmp_path)
        await scene.announcer.start(require=True)
        scene.announcer.set(share(1))
        await asyncio.sleep(1)
        scene.tracker.forget()
        scene.tracker.fault = taken
        await asyncio.sleep(20)
        assert not scene.announcer.ended.done()
        assert share(1).id in scene.tracker.shares
        assert scene.states == ["lost", "resumed"]
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_session_file_that_cannot_be_read_for_a_moment_does_not_end_a_peers_announcing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a descriptor to spare, in the moment in which the tracker has forgotten the session."""
    save_session(tmp_path, StoredSession(TRACKER, "alice", "a1" * 16))

    async def work() -> None:
        scene = Scene(tmp_path)
        scene.tracker.sessions.add("a1" * 16)
        await scene.announcer.start(require=True)
        scene.announcer.set(share(1))
        await asyncio.sleep(1)
        scene.tracker.forget()

        def broken(*_: object) -> None:
            raise DiskError("cannot open the session file: too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(module, "load_session", broken)
            await asyncio.sleep(30)
            assert not scene.announcer.ended.done()
        scene.tracker.sessions.add("a1" * 16)
        await asyncio.sleep(30)
        assert share(1).id in scene.tracker.shares
        await scene.announcer.stop()

    in_virtual_time(work)


def test_a_tracker_that_is_full_keeps_what_it_has_and_is_offered_the_rest_once_a_minute(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        for number in range(3):
            scene.announcer.set(share(number))
        full = Refused("quota", "your host announces more contents than the tracker keeps for one")
        scene.tracker.fault = lambda request: (
            full if isinstance(request, Announce) and request.contents else None
        )
        await scene.announcer.start(require=False)
        await scene.announcer.known(5)
        await asyncio.sleep(300)
        offers = [
            at for at, request in scene.tracker.asked if isinstance(request, Announce) and request.contents
        ]
        assert 3 <= len(offers) <= 10
        assert (
            sum(isinstance(report, Warned) and "refuses" in report.message for report in scene.reports) <= 10
        )
        began = asyncio.get_running_loop().time()
        await scene.announcer.known(5)
        assert asyncio.get_running_loop().time() - began < 0.1, "nobody waits for what it has no room for"
        scene.tracker.fault = lambda request: None
        await asyncio.sleep(100)
        assert len(scene.tracker.shares) == 3
        await scene.announcer.stop()
        assert isinstance(scene.tracker.asked[-1][1], Logout), "it is in contact, and takes its leave"

    in_virtual_time(work)


def test_a_tracker_that_forbids_it_ends_the_session_with_its_reason(tmp_path: Path) -> None:
    async def work() -> None:
        scene = Scene(tmp_path)
        await scene.announcer.start(require=True)
        scene.tracker.fault = lambda request: Refused("not_allowed", "peer: belongs to another session")
        await asyncio.sleep(16)
        assert "another session" in str(scene.announcer.ended.result())
        await scene.announcer.stop()

    in_virtual_time(work)


def test_with_require_a_tracker_that_is_away_is_an_error_and_without_it_is_not(tmp_path: Path) -> None:
    async def work() -> None:
        strict, patient = Scene(tmp_path), Scene(tmp_path)
        strict.tracker.fault = patient.tracker.fault = away
        with pytest.raises(Unreachable):
            await strict.announcer.start(require=True)
        await patient.announcer.start(require=False)
        began = asyncio.get_running_loop().time()
        patient.announcer.set(share(1))
        await patient.announcer.known(5)
        assert asyncio.get_running_loop().time() - began < 1
        assert patient.states == ["lost"]
        await patient.announcer.stop()
        await strict.announcer.stop()

    in_virtual_time(work)
