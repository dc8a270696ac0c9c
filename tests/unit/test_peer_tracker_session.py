"""Tests of p2p/peer/tracker_session.py: what a peer tells its tracker, and what it does when the tracker is
away, refuses, or has forgotten. Time is a number here."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import DiskError, EnjambreError, Refused, Unreachable
from p2p.model import ContentId
from p2p.peer.session_events import Answered, Start, Stop, Tick
from p2p.peer.tracker_session import TRANSITIONS, SessionTimeouts, State, Step
from p2p.protocol.peer_messages import PingAnswer, Request
from p2p.protocol.tracker_messages import Announce, AnnounceAnswer, Login, Logout, Withdraw
from tests.kit.effort import examples
from tests.kit.session_scene import NEW_PEER, PEER, SessionScene, away, share, well

TIMES = SessionTimeouts()
OLD, NEWER = "ab" * 16, "cd" * 16


def started(*numbers: int, ttl: int = 30, seed: int = 1) -> SessionScene:
    """A session of a peer that shares these contents, all told."""
    scene = SessionScene(ttl, seed=seed)
    for number in numbers:
        scene.set(share(number))
    scene.start()
    assert scene.session.state is State.CURRENT
    return scene


def started_with_file(user: str = "alice", *numbers: int) -> SessionScene:
    """The same, with a session in the file that the tracker knows."""
    scene = SessionScene(file=(user, OLD))
    scene.tracker.sessions.add(OLD)
    for number in numbers:
        scene.set(share(number))
    scene.start(user)
    return scene


# -- what is told, and when


def test_hundreds_of_contents_are_announced_in_batches() -> None:
    scene = started(*range(200))
    assert len(scene.tracker.shares) == 200
    assert [type(request) for _, request in scene.asked] == [Login] + 4 * [Announce]


def test_heartbeats_come_three_times_a_ttl_and_carry_no_contents() -> None:
    scene = started(1)
    scene.run(300)
    beats = [(time, request) for time, request in scene.asked if isinstance(request, Announce)][1:]
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(beats)]
    assert all(8.9 < gap < 10.1 for gap in gaps), gaps
    assert all((request.contents, request.room) == ((), 7) for _, request in beats)


def test_urgent_news_is_told_at_once_and_other_news_with_the_next_heartbeat() -> None:
    scene = started()
    scene.set(share(1))
    assert not scene.session.settled
    scene.run(0.1)
    assert scene.session.settled
    assert share(1).id in scene.tracker.shares
    scene.set(share(2), urgent=False)
    scene.run(1)
    assert share(2).id not in scene.tracker.shares
    scene.run(10)
    assert share(2).id in scene.tracker.shares


def test_a_dropped_content_is_withdrawn_at_once_unless_it_comes_back() -> None:
    scene = started(1, 2)
    scene.drop(share(1))
    scene.drop(share(2))
    scene.set(share(2))
    scene.run(0.1)
    assert set(scene.tracker.shares) == {share(2).id}


def test_what_is_dropped_while_another_content_is_withdrawn_is_withdrawn_too() -> None:
    scene = started(1, 2)
    scene.drop(share(1))
    while not scene.sent(Withdraw):
        scene.run(0.0005)
    scene.drop(share(2))
    scene.run(1)
    assert scene.tracker.shares == {}


def test_of_a_content_that_grows_during_an_announce_the_newest_is_told_last() -> None:
    scene = started()
    scene.set(share(1, have=3))
    scene.set(share(1, have=7))
    scene.run(0.1)
    assert scene.tracker.shares[share(1).id].have == 7


def test_what_was_dropped_while_the_tracker_was_away_is_withdrawn_later() -> None:
    scene = started(1, 2)
    scene.tracker.fault = away
    scene.drop(share(1))
    scene.run(30)
    scene.tracker.fault = well
    scene.run(30)
    assert set(scene.tracker.shares) == {share(2).id}


def test_a_content_that_comes_back_while_its_withdrawal_fails_is_not_withdrawn() -> None:
    scene = started(1)

    def fails(request: Request) -> EnjambreError | None:
        if not isinstance(request, Withdraw):
            return None
        scene.set(share(1))
        scene.tracker.fault = well
        return away(request)

    scene.tracker.fault = fails
    scene.drop(share(1))
    scene.run(3)
    assert scene.states == ["lost", "resumed"]
    assert set(scene.tracker.shares) == {share(1).id}
    assert len(scene.sent(Withdraw)) == 1


def test_a_tracker_that_lost_the_contents_and_kept_the_session_is_told_them_again() -> None:
    scene = started(*range(100))
    scene.tracker.shares.clear()
    scene.run(11)
    assert len(scene.tracker.shares) == 100
    assert scene.states == []


def test_a_tracker_that_claims_to_know_nothing_is_told_all_twice_and_not_for_ever() -> None:
    scene = started()
    scene.tracker.answer = lambda request, token: (  # type: ignore[method-assign]
        AnnounceAnswer(ttl=30, known=0) if isinstance(request, Announce) else PingAnswer()
    )
    scene.set(share(1))
    scene.run(1)
    assert [len(request.contents) for _, request in scene.asked[2:] if isinstance(request, Announce)] == [
        1,
        1,
    ]
    assert scene.session.state is State.CURRENT


def test_what_the_tracker_lacks_is_counted_without_what_was_withdrawn() -> None:
    scene = started(1, 2, 3)
    del scene.tracker.shares[share(1).id]
    scene.drop(share(2))
    scene.run(1)
    assert set(scene.tracker.shares) == {share(1).id, share(3).id}


def test_a_content_that_is_dropped_before_it_was_announced_is_not_announced() -> None:
    scene = started()
    for number in (1, 2):
        scene.set(share(number))
    scene.drop(share(2))
    scene.run(1)
    announced = [
        one.id for _, request in scene.asked if isinstance(request, Announce) for one in request.contents
    ]
    assert announced == [share(1).id]


def test_an_answer_of_another_kind_counts_as_a_lost_tracker() -> None:
    scene = started()
    scene.set(share(1))
    scene.under_way = None
    scene.handle(Answered(PingAnswer()))
    assert scene.session.state is State.WAITING
    assert "answers announce with something else" in scene.warnings[0]


# -- a tracker that is lost


def test_case_21_a_lost_tracker_is_tried_later_and_later_and_never_within_a_second() -> None:
    scene = started()
    scene.tracker.fault = away
    scene.run(120)
    gaps = [later - earlier for earlier, later in pairwise(scene.sent()[2:])]
    assert min(gaps) >= TIMES.retry_first
    assert max(gaps) <= 1.5 * TIMES.retry_longest + 0.01
    assert gaps[-1] >= TIMES.retry_longest
    scene.tracker.fault = well
    scene.set(share(1))
    scene.run(16)
    assert share(1).id in scene.tracker.shares
    assert scene.states == ["lost", "resumed"]
    assert len(scene.warnings) == 1, "once is enough"


def test_case_21_a_thousand_peers_do_not_come_back_at_once() -> None:
    scenes = [started(seed=number) for number in range(1000)]
    for scene in scenes:
        scene.tracker.fault = away
        scene.run(60)
    last = sorted(scene.sent()[-1] for scene in scenes)
    assert last[-1] - last[0] > TIMES.retry_longest / 2


@pytest.mark.parametrize("ttl", [30, 86_400])
def test_case_21_peers_come_back_spread_over_seconds_after_their_tracker_hung_up(ttl: int) -> None:
    scenes = [started(ttl=ttl, seed=number) for number in range(200)]
    back = []
    for scene in scenes:
        hung_up_at = scene.now
        scene.hang_up()
        scene.run(29)
        back.append(min(time for time in scene.sent() if time > hung_up_at) - hung_up_at)
    assert min(back) >= TIMES.retry_first
    assert max(back) <= TIMES.retry_longest + 0.01
    for second in range(1, 10):
        assert sum(second <= time < second + 1 for time in back) < len(back) / 4


def test_case_21_a_tracker_that_answers_and_hangs_up_is_tried_later_and_later() -> None:
    scene = started(ttl=1)
    for _ in range(2000):
        sent = len(scene.asked)
        scene.run(0.05)
        if len(scene.asked) > sent:
            scene.hang_up()
    gaps = [later - earlier for earlier, later in pairwise(scene.sent()[3:])]
    assert min(gaps) >= TIMES.retry_first
    assert min(gaps[5:]) >= TIMES.retry_longest
    scene.run(20)
    scene.hang_up()
    scene.run(1.6)
    assert scene.states[-1] == "resumed", "it was there for a while, and is trusted again"


def test_a_connection_that_ends_just_before_the_answer_is_handled_counts() -> None:
    scene = started()
    scene.set(share(1))
    scene.hang_up()
    scene.run(0.01)
    assert scene.session.state is State.HUNG_UP


def test_a_connection_that_ends_within_a_round_is_replaced_by_its_next_request() -> None:
    scene = started()
    for number in range(100):
        scene.set(share(number))
    scene.hang_up()
    scene.run(1)
    assert len(scene.tracker.shares) == 100
    assert scene.states == []


@pytest.mark.parametrize("ttl", [1, 30, 600, 86_400])
def test_case_40_a_tracker_that_hung_up_is_told_everything_again_soon(ttl: int) -> None:
    scene = started(*range(100), ttl=ttl)
    scene.tracker.forget()
    scene.hang_up()
    scene.run(29)
    assert len(scene.tracker.shares) == 100
    assert scene.states == ["lost", "resumed"]


def test_a_tracker_that_is_back_with_other_contents_is_told_ours_again() -> None:
    """As after its store was restored from a copy: it counts as many of ours as it should know."""
    scene = started(1)
    scene.tracker.shares = {share(2).id: share(2)}
    scene.hang_up()
    scene.run(29)
    assert share(1).id in scene.tracker.shares


@pytest.mark.parametrize("code", ["busy", "unavailable", "internal"])
def test_a_tracker_that_cannot_answer_now_is_tried_again(code: str) -> None:
    scene = started()
    scene.tracker.fault = lambda request: Refused(code, "later")
    scene.set(share(1))
    scene.run(20)
    scene.tracker.fault = well
    scene.run(20)
    assert share(1).id in scene.tracker.shares


def test_a_required_tracker_that_is_away_ends_the_session_without_a_report() -> None:
    scene = SessionScene()
    scene.tracker.fault = away
    scene.start(required=True)
    assert isinstance(scene.ended, Unreachable)
    assert scene.reports == []


def test_a_tracker_that_is_away_and_not_required_is_tried_again() -> None:
    scene = SessionScene()
    scene.tracker.fault = away
    scene.start(required=False)
    scene.set(share(1))
    assert scene.session.settled, "nobody waits for a tracker that is away"
    assert scene.states == ["lost"]
    scene.tracker.fault = well
    scene.run(5)
    assert share(1).id in scene.tracker.shares


# -- a tracker that refuses


def test_a_peer_whose_id_another_has_taken_goes_on_under_a_new_one() -> None:
    """As in hostile case 40: ids are no secret, and another peer may be first after a restart of the
    tracker."""
    scene = started(1)
    in_use = Refused("not_allowed", "peer: belongs to another session")

    def taken(request: Request) -> EnjambreError | None:
        mine = isinstance(request, Announce) and request.peer == PEER
        return in_use if mine else None

    scene.tracker.forget()
    scene.tracker.fault = taken
    scene.run(20)
    assert scene.ended is None
    assert share(1).id in scene.tracker.shares
    assert isinstance(scene.last, Announce)
    assert scene.last.peer == NEW_PEER
    assert scene.states == ["lost", "resumed"]
    scene.tracker.fault = lambda request: None if scene.renewed > 1 else in_use
    scene.run(20)
    assert scene.renewed == 2, "an id that was accepted may be taken too"
    assert scene.ended is None


def test_a_tracker_that_refuses_the_new_id_too_ends_the_session() -> None:
    scene = started()
    scene.tracker.fault = lambda request: Refused("not_allowed", "peer: belongs to another session")
    scene.run(16)
    assert "another session" in str(scene.ended)
    assert scene.session.state is State.ENDED


def test_a_full_tracker_keeps_what_it_has_and_is_offered_the_rest_each_minute() -> None:
    scene = SessionScene()
    for number in range(3):
        scene.set(share(number))
    full = Refused("quota", "your host announces more contents than the tracker keeps for one")
    scene.tracker.fault = lambda request: full if isinstance(request, Announce) and request.contents else None
    scene.start(required=False)
    assert scene.session.settled, "nobody waits for what the tracker has no room for"
    scene.run(300)
    offers = [1 for _, request in scene.asked if isinstance(request, Announce) and request.contents]
    assert 3 <= len(offers) <= 10
    assert len(scene.warnings) == len(offers)
    scene.tracker.fault = well
    scene.run(100)
    assert len(scene.tracker.shares) == 3
    scene.stop()
    assert isinstance(scene.last, Logout)


def test_contents_are_withdrawn_from_a_full_tracker_at_once() -> None:
    scene = started(1)
    full = Refused("quota", "no room")
    scene.tracker.fault = lambda request: full if isinstance(request, Announce) and request.contents else None
    scene.set(share(2))
    scene.drop(share(1))
    scene.run(1)
    assert scene.tracker.shares == {}


def test_what_a_full_tracker_refused_of_a_known_content_is_told_later() -> None:
    scene = started(1)
    scene.tracker.fault = lambda _: Refused("quota", "no room")
    scene.set(share(1, 2), urgent=True)
    scene.run(1)
    scene.tracker.fault = well
    scene.run(100)
    assert [one.have for one in scene.tracker.shares.values()] == [2]
    told = len(scene.asked)
    scene.run(100)
    later = [request for _, request in scene.asked[told:] if isinstance(request, Announce)]
    assert not any(request.contents for request in later), "once is enough"


# -- a session that the tracker does not know


def test_a_tracker_that_has_forgotten_everything_is_told_everything_again() -> None:
    scene = started(*range(100))
    scene.tracker.forget()
    scene.run(15)
    assert len(scene.tracker.shares) == 100
    assert scene.tracker.logins == 2
    assert scene.states == ["lost", "resumed"], "after a pause, so that not all peers log in at once"


def test_a_tracker_that_forgets_each_session_at_once_is_tried_later_and_later() -> None:
    scene = started()
    forgotten = Refused("login_needed", "log in first")
    scene.tracker.fault = lambda request: None if isinstance(request, Login) else forgotten
    scene.run(120)
    gaps = [later - earlier for earlier, later in pairwise(scene.sent(Login)[1:])]
    assert min(gaps) >= TIMES.retry_first
    assert gaps[-1] >= TIMES.retry_longest


def test_a_stored_session_is_used_and_renewed_in_its_file() -> None:
    scene = started_with_file()
    assert scene.tracker.logins == 0
    scene.tracker.forget()
    scene.run(15)
    assert scene.file is not None
    user, token = scene.file
    assert user == "alice"
    assert token in scene.tracker.sessions
    assert scene.states == ["lost", "resumed"]


def test_a_stored_session_of_long_ago_is_renewed_at_the_start() -> None:
    scene = SessionScene(file=("alice", OLD))
    scene.start("alice")
    assert scene.session.state is State.CURRENT
    assert scene.file is not None
    assert scene.file[1] in scene.tracker.sessions


def test_a_session_that_another_process_renewed_is_no_logout() -> None:
    scene = started_with_file()
    scene.tracker.forget()
    scene.tracker.sessions.add(NEWER)
    scene.file = ("alice", NEWER)
    scene.run(30)
    assert scene.ended is None
    assert scene.token == NEWER
    assert scene.tracker.logins == 0


@pytest.mark.parametrize("file", [None, ("bob", NEWER)], ids=["logout", "login of another"])
def test_a_logout_or_the_login_of_another_user_ends_the_session(file: tuple[str, str] | None) -> None:
    scene = started_with_file("alice", 1)
    scene.tracker.forget()
    scene.tracker.sessions.add(NEWER)
    scene.file = file
    scene.run(11)
    assert isinstance(scene.ended, Refused)
    assert scene.ended.code == "login_needed"
    assert "alice" in str(scene.ended)
    assert scene.states == ["ended"]
    assert scene.tracker.shares == {}, "another user did not ask for what alice shares"
    asked = len(scene.asked)
    scene.stop()
    assert len(scene.asked) == asked, "there is nothing to leave"
    assert scene.file == file


def test_a_user_on_the_command_line_gets_a_session_beside_the_stored_one() -> None:
    scene = SessionScene(file=("alice", OLD))
    scene.tracker.sessions.add(OLD)
    scene.start("bob")
    scene.tracker.forget()
    scene.run(30)
    assert [request.user for _, request in scene.asked if isinstance(request, Login)] == ["bob", "bob"]
    assert scene.file == ("alice", OLD)
    scene.stop()
    assert isinstance(scene.last, Logout), "no file keeps it"


@pytest.mark.parametrize("renewed", [True, False])
def test_a_session_file_that_fails_for_a_while_does_not_end_the_session(renewed: bool) -> None:
    scene = started_with_file("alice", 1)
    scene.file_fault = DiskError("too many open files")
    scene.tracker.forget()
    scene.run(60)
    assert scene.ended is None
    scene.file_fault = None
    if renewed:
        scene.file = ("alice", NEWER)
        scene.tracker.sessions.add(NEWER)
    scene.run(30)
    assert share(1).id in scene.tracker.shares


# -- the end


def test_a_peer_logs_out_of_a_session_of_its_own_and_only_leaves_a_stored_one() -> None:
    own, stored = started(1), started_with_file("alice", 1)
    for scene in (own, stored):
        scene.stop()
        assert scene.session.state is State.ENDED
    assert isinstance(own.last, Logout)
    assert stored.last == Withdraw(peer=PEER), "the user's session stays"
    assert stored.tracker.shares == {}


def test_a_peer_whose_tracker_has_just_hung_up_still_leaves() -> None:
    scene = started()
    scene.hang_up()
    scene.run(0.5)
    assert scene.states == ["lost"]
    scene.stop()
    assert isinstance(scene.last, Logout)


def test_a_peer_does_not_wait_for_a_lost_tracker_to_leave() -> None:
    scene = started()
    scene.tracker.fault = away
    scene.run(60)
    asked = len(scene.asked)
    scene.stop()
    assert len(scene.asked) == asked
    assert scene.session.state is State.ENDED


def test_a_last_request_that_fails_ends_the_session_all_the_same() -> None:
    scene = started()
    scene.tracker.fault = away
    scene.stop()
    assert scene.session.state is State.ENDED
    assert scene.session.next_wakeup() is None


def test_a_session_that_never_began_ends_without_a_word() -> None:
    scene = SessionScene()
    scene.stop()
    assert scene.session.state is State.ENDED
    assert scene.asked == []


# -- the table, and random orders of events


def test_the_table_leads_from_every_state_to_the_end_and_from_there_nowhere() -> None:
    reached = {State.ENDED}
    for _ in State:
        reached |= {before for (before, _), after in TRANSITIONS.items() if after in reached}
    assert reached == set(State)
    assert not [step for step in Step if (State.ENDED, step) in TRANSITIONS]


def test_every_state_is_reached_from_the_first() -> None:
    reached = {State.LOGGED_OUT}
    for _ in State:
        reached |= {TRANSITIONS[pair] for pair in product(reached, Step) if pair in TRANSITIONS}
    assert reached == set(State)


CODES = ["login_needed", "busy", "unavailable", "internal", "quota"]
FAULTS = st.sampled_from([well, well, away, *(lambda _, code=code: Refused(code, "no") for code in CODES)])
LATER = st.sampled_from([0.0005, 0.001, 0.0015, 0.002, 0.01, 1.0, 12.0, 70.0])
MOVES = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("drop"), st.integers(0, 2), st.none()),
    st.tuples(st.just("run"), LATER, st.none()),
    st.tuples(st.just("run"), LATER, st.none()),
    st.tuples(st.just("fault"), FAULTS, st.none()),
    st.tuples(
        st.sampled_from(["hang up", "forget", "lose contents", "tick", "renew file"]), st.none(), st.none()
    ),
)


@examples(200)
@given(st.lists(MOVES, max_size=40), st.booleans(), st.booleans(), st.integers(0, 5))
def test_after_any_events_the_tracker_knows_in_the_end_what_is_shared(
    moves: list[tuple[str, object, object]], file: bool, hasty: bool, seed: int
) -> None:
    """`SessionScene` checks that there are never two requests at once, and `TRANSITIONS` that no step is
    wrong."""
    scene = SessionScene(seed=seed, file=("alice", OLD) if file else None)
    scene.handle(Start("alice" if file else "lab-07", OLD if file else None))
    shared: dict[ContentId, int] = {}
    for move, what, how in moves:
        match move, what:
            case "set", int(number):
                shared[share(number).id] = have = 1 + len(shared)
                scene.set(share(number, have), urgent=bool(how))
            case "drop", int(number):
                shared.pop(share(number).id, None)
                scene.drop(share(number))
            case "run", float(seconds):
                scene.run(seconds)
            case "fault", _:
                scene.tracker.fault = what  # type: ignore[assignment]  # a Fault, as the strategy says
            case "hang up", _:
                scene.hang_up()
            case "forget", _:
                scene.tracker.forget()
            case "lose contents", _:
                scene.tracker.shares.clear()
            case "tick", _:
                scene.handle(Tick())
            case "renew file", _ if scene.file is not None:
                scene.file = ("alice", NEWER)
                scene.tracker.sessions.add(NEWER)
    scene.tracker.fault = well
    if not hasty:
        scene.run(200)
        assert scene.session.state is State.CURRENT
        assert {content: one.have for content, one in scene.tracker.shares.items()} == shared
    scene.under_way = None
    scene.handle(Stop())
    scene.run(5)
    assert scene.session.state is State.ENDED
    assert scene.ended is None
    tries = [time for time, request in scene.asked if isinstance(request, Login)]
    assert all(later - earlier >= TIMES.retry_first for earlier, later in pairwise(tries))
