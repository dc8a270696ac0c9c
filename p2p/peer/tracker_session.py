"""Decides what a peer says to its tracker, and when: one session, from the login to the leave.

Pure. `handle(event, now)` returns the effects, `next_wakeup()` the time of the next `Tick`. `announcer.py`
carries the effects out. Times are seconds of one monotonic clock that the caller owns. Events and effects are
values of `session_events.py`.

The session is one table, `TRANSITIONS`:

    logged out ─login─▶ logging in ─request─▶ announcing ─all told─▶ current
        any state of these ─lost─▶ waiting ─login or request─▶ logging in, announcing

Each round of requests tells the tracker all that is new (`announcements.py`). A round begins with the
heartbeat, a third of the tracker's `ttl` after the round before, and at once for an urgent change.

A lost tracker is tried again after a pause that doubles each time. Chance adds up to half as much, so that a
thousand peers do not come back at once. All of them see in the same moment that the tracker hung up, so the
first pause after that may be as long as a heartbeat (state `HUNG_UP`).

A token that the tracker does not know is replaced by a new login, once for each try. A token that the user
keeps in a file may have been renewed by another process of this user, so the file is read first (state
`RELOADING`).

At most one job is under way. `Send`, `ReadSession` and `SaveSession` each begin one, and one event ends it:
`Answered`, `SessionRead`, `SessionSaved`, or `Failed` for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from random import Random
from typing import Final

from p2p.errors import EnjambreError, Refused, Unreachable
from p2p.model import Address
from p2p.peer.announcements import Announcements, Identity
from p2p.peer.reports import SessionChanged, Warned
from p2p.peer.session_events import (
    Answered,
    DropShare,
    Effect,
    End,
    Event,
    Failed,
    HungUp,
    IdRenewed,
    ReadSession,
    RenewId,
    SaveSession,
    Send,
    SessionRead,
    SessionSaved,
    SetShare,
    Start,
    Stop,
    Tell,
    Tick,
    UseToken,
)
from p2p.protocol.peer_messages import Answer, Request
from p2p.protocol.tracker_messages import (
    Announce,
    AnnounceAnswer,
    Login,
    LoginAnswer,
    Logout,
    Withdraw,
    WithdrawAnswer,
)
from p2p.value import frozen


@frozen
class SessionTimeouts:
    """Times of a session with a tracker, in seconds."""

    retry_first: float = 1.0
    """Pause before a lost tracker is tried again, doubled for each further try."""
    retry_longest: float = 10.0
    """Longest such pause. Chance may add half as much to each."""
    first_heartbeat: float = 10.0
    """Time between heartbeats until the tracker has told its `ttl`."""
    full: float = 60.0
    """A tracker without room for all our contents is offered the rest again after this."""
    leave: float = 1.5
    """Longest wait for the answer to the last request. Without it the tracker forgets us after its `ttl`."""


class State(Enum):
    """What a session is doing."""

    LOGGED_OUT = "logged out"
    """Nothing was sent yet."""
    LOGGING_IN = "logging in"
    """A login is under way, or its token is written to the session file."""
    RELOADING = "reloading"
    """The tracker does not know the token, and the session file is read for a newer one."""
    ANNOUNCING = "announcing"
    """An announce or a withdrawal is under way."""
    CURRENT = "current"
    """The tracker knows all that it was to be told. The next heartbeat is due at the next wake-up."""
    WAITING = "waiting"
    """The tracker cannot be reached, or cannot answer now. The next try is due at the next wake-up."""
    HUNG_UP = "hung up"
    """As `WAITING`, after the connection ended by itself: there may be time to leave in good order."""
    LEAVING = "leaving"
    """The last request is under way."""
    ENDED = "ended"


class Step(Enum):
    """What moves a session from one state to the next."""

    LOGIN = "login is sent"
    REQUEST = "announce or withdrawal is sent"
    RELOAD = "token is not known, and may stand in the file anew"
    ALL_TOLD = "tracker has confirmed all"
    LOST = "tracker is lost"
    HANG_UP = "tracker hung up"
    LEAVE = "last request is sent"
    END = "session is over"


TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = {
    (State.LOGGED_OUT, Step.LOGIN): State.LOGGING_IN,
    (State.LOGGED_OUT, Step.REQUEST): State.ANNOUNCING,
    (State.LOGGED_OUT, Step.END): State.ENDED,
    (State.LOGGING_IN, Step.REQUEST): State.ANNOUNCING,
    (State.LOGGING_IN, Step.LOST): State.WAITING,
    (State.LOGGING_IN, Step.LEAVE): State.LEAVING,
    (State.LOGGING_IN, Step.END): State.ENDED,
    (State.RELOADING, Step.LOGIN): State.LOGGING_IN,
    (State.RELOADING, Step.REQUEST): State.ANNOUNCING,
    (State.RELOADING, Step.LOST): State.WAITING,
    (State.RELOADING, Step.LEAVE): State.LEAVING,
    (State.RELOADING, Step.END): State.ENDED,
    (State.ANNOUNCING, Step.REQUEST): State.ANNOUNCING,
    (State.ANNOUNCING, Step.ALL_TOLD): State.CURRENT,
    (State.ANNOUNCING, Step.LOGIN): State.LOGGING_IN,
    (State.ANNOUNCING, Step.RELOAD): State.RELOADING,
    (State.ANNOUNCING, Step.LOST): State.WAITING,
    (State.ANNOUNCING, Step.HANG_UP): State.HUNG_UP,
    (State.ANNOUNCING, Step.LEAVE): State.LEAVING,
    (State.ANNOUNCING, Step.END): State.ENDED,
    (State.CURRENT, Step.REQUEST): State.ANNOUNCING,
    (State.CURRENT, Step.HANG_UP): State.HUNG_UP,
    (State.CURRENT, Step.LEAVE): State.LEAVING,
    (State.WAITING, Step.LOGIN): State.LOGGING_IN,
    (State.WAITING, Step.REQUEST): State.ANNOUNCING,
    (State.WAITING, Step.END): State.ENDED,
    (State.HUNG_UP, Step.LOGIN): State.LOGGING_IN,
    (State.HUNG_UP, Step.REQUEST): State.ANNOUNCING,
    (State.HUNG_UP, Step.LEAVE): State.LEAVING,
    (State.LEAVING, Step.END): State.ENDED,
}
"""All that may happen. A step that is not here is a fault of this module."""

SETTLED: Final = frozenset({State.CURRENT, State.WAITING, State.HUNG_UP, State.LEAVING, State.ENDED})


class Backoff:
    """Pauses before a lost tracker is tried again."""

    def __init__(self, timeouts: SessionTimeouts, rng: Random) -> None:
        self._timeouts = timeouts
        self._rng = rng
        self._next = timeouts.retry_first

    def reset(self) -> None:
        """The tracker was there for a while: the next pause is short again."""
        self._next = self._timeouts.retry_first

    def pause(self, spread: float = 0.0) -> float:
        """Return the seconds until the next try, up to `spread` if that is more than chance adds anyway."""
        longest = max(1.5 * self._next, min(spread, self._timeouts.retry_longest))
        pause = self._rng.uniform(self._next, longest)
        self._next = min(2 * self._next, self._timeouts.retry_longest)
        return pause


class TrackerSession:
    """One peer's session with one tracker; `state` says what it is doing."""

    def __init__(
        self,
        tracker: Address,
        identity: Identity,
        room: Callable[[], int],
        rng: Random,
        timeouts: SessionTimeouts,
    ) -> None:
        """`room` returns how many bytes of uploads this peer accepts at the moment."""
        self.state = State.LOGGED_OUT
        self._tracker = tracker
        self._identity = identity
        self._user = identity.name
        self._room = room
        self._rng = rng
        self._timeouts = timeouts
        self._announcements = Announcements()
        self._backoff = Backoff(timeouts, rng)
        self._token: str | None = None
        self._kept = False
        """Whether the token is the one in the session file, which outlives this peer."""
        self._required = False
        self._request: Request | None = None
        self._heartbeat = timeouts.first_heartbeat
        self._wake_at: float | None = None
        self._lost = False
        """From the loss of the tracker until all is told again."""
        self._fault: Unreachable | None = None
        """Why the connection ended since the last request was sent."""
        self._may_log_in = False
        """Whether this try may replace a token that the tracker does not know. One that is brand-new, or was
        good at the last heartbeat, is replaced after a pause only."""
        self._new_id = False
        """Whether the tracker has not accepted the present id yet, which replaced one that it refused."""

    @property
    def settled(self) -> bool:
        """Whether the tracker knows all that is urgent, or is out of reach."""
        return self._lost or self.state in SETTLED

    def next_wakeup(self) -> float | None:
        """When to hand in the next `Tick`; None if only another event can change anything."""
        return self._wake_at

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of what happened, and return what is to be done, in this order."""
        if self.state is State.ENDED:
            return []
        match event:
            case Start(user, token, required):
                return self._start(user, token, now, required=required)
            case SetShare(share, urgent):
                self._announcements.set(share)
                return self._begin_round(now) if urgent and self.state is State.CURRENT else []
            case DropShare(content):
                dropped = self._announcements.drop(content)
                return self._begin_round(now) if dropped and self.state is State.CURRENT else []
            case Answered(answer):
                return self._on_answer(answer, now)
            case Failed(error):
                return self._on_failure(error, now)
            case SessionRead(user, token):
                return self._on_session_read(user, token, now)
            case SessionSaved():
                return self._open(now)
            case IdRenewed(peer):
                self._identity = replace(self._identity, peer=peer)
                return []
            case HungUp(error):
                return self._on_hung_up(error, now)
            case Tick():
                return self._on_tick(now)
            case Stop():
                return self._leave()

    # -- opening the session, and rounds

    def _start(self, user: str, token: str | None, now: float, *, required: bool) -> list[Effect]:
        self._user = user
        self._required = required
        if token is None:
            return self._enter(now)
        self._token = token
        self._kept = True
        return [UseToken(token), *self._enter(now)]

    def _on_tick(self, now: float) -> list[Effect]:
        if self._wake_at is None or now < self._wake_at:
            return []
        return self._begin_round(now) if self.state is State.CURRENT else self._enter(now)

    def _enter(self, now: float) -> list[Effect]:
        """Try to open the session, or to go on with it."""
        self._may_log_in = True
        return self._open(now)

    def _open(self, now: float) -> list[Effect]:
        if self._token is None:
            self._step(Step.LOGIN)
            return [self._send(Login(user=self._user))]
        self._announcements.begin(everything=True)
        return self._next_request(now)

    def _begin_round(self, now: float) -> list[Effect]:
        self._may_log_in = False
        self._announcements.begin(everything=False)
        return self._next_request(now)

    def _next_request(self, now: float) -> list[Effect]:
        request = self._announcements.next_request(self._identity, self._room(), now)
        if request is not None:
            self._step(Step.REQUEST)
            return [self._send(request)]
        if self._fault is not None:
            return self._lose(self._fault, now, Step.HANG_UP)
        self._step(Step.ALL_TOLD)
        self._required = False
        self._wake_at = now + self._heartbeat * self._rng.uniform(0.9, 1.0)
        if not self._lost:
            # Not at the first round after a loss: a tracker that answers and hangs up each time would be
            # tried every second.
            self._backoff.reset()
            return []
        self._lost = False
        return [Tell(SessionChanged("resumed", self._user))]

    def _send(self, request: Request) -> Send:
        self._request = request
        self._fault = None  # a broken connection is replaced for this request
        self._wake_at = None
        return Send(request)

    # -- what ends a job

    def _on_answer(self, answer: Answer, now: float) -> list[Effect]:
        request, self._request = self._request, None
        if self.state is State.LEAVING:
            return self._end()
        match request, answer:
            case Login(), LoginAnswer(session=token):
                self._token = token
                self._may_log_in = False
                then = [SaveSession(self._user, token)] if self._kept else self._open(now)
                return [UseToken(token), *then]
            case Announce(), AnnounceAnswer():
                self._new_id = False
                self._heartbeat = max(answer.ttl / 3, 0.2)
                self._announcements.on_announced(request, answer.known)
            case Withdraw(), WithdrawAnswer():
                self._announcements.on_withdrawn(request, answer.withdrawn)
            case _:
                op = request.OP if request is not None else "nothing"
                return self._lose(
                    Unreachable(f"tracker {self._tracker} answers {op} with something else"), now
                )
        return self._next_request(now)

    def _on_failure(self, error: EnjambreError, now: float) -> list[Effect]:
        request, self._request = self._request, None
        if self.state is State.LEAVING:
            return self._end()
        if isinstance(error, Refused):
            return self._on_refused(request, error, now)
        return self._lose(error, now)

    def _on_refused(self, request: Request | None, refused: Refused, now: float) -> list[Effect]:
        warning = Tell(Warned(f"tracker {self._tracker} refuses: {refused}"))
        match refused.code:
            case "login_needed" if self.state is State.ANNOUNCING:
                if self._kept:
                    self._step(Step.RELOAD)
                    return [ReadSession()]
                return self._replace_token(self._token, now)
            case "quota" if isinstance(request, Announce) and not self._required:
                told_before = self._announcements.full(now)
                self._announcements.on_full(now + self._timeouts.full)
                return [*([] if told_before else [warning]), *self._next_request(now)]
            case "login_needed" | "quota" | "unavailable" | "busy" | "internal":
                return self._lose(refused, now)
            case "not_allowed" if not self._new_id and not self._required:
                # Ids are no secret: after a restart of the tracker another peer may be first to announce
                # ours.
                self._new_id = True
                why = Unreachable("another has our id at the tracker; this peer has a new one")
                return [warning, RenewId(), *self._lose(why, now)]
        return [*([] if self._required else [warning]), *self._end(refused)]

    def _on_session_read(self, user: str | None, token: str | None, now: float) -> list[Effect]:
        """Go on with the token in the file, unless the user logged out, or another user logged in: that one
        has not asked for our contents to be theirs."""
        if token is None or user != self._user:
            why = f"the session of {self._user} was ended by a logout, or by the login of another"
            ended = Tell(SessionChanged("ended", self._user))
            return [ended, *self._end(Refused("login_needed", why))]
        return self._replace_token(token, now)

    def _replace_token(self, found: str | None, now: float) -> list[Effect]:
        """Go on without the token that the tracker does not know: with the one that was found, or a new
        login."""
        if not self._may_log_in:
            self._token = found
            lost = self._lose(Unreachable("the tracker does not know our session any more"), now)
            return [UseToken(found, reconnect=True), *lost]
        self._token = None if found == self._token else found
        return [UseToken(self._token, reconnect=True), *self._open(now)]

    # -- losing the tracker, and the end

    def _on_hung_up(self, error: Unreachable, now: float) -> list[Effect]:
        if self.state is State.CURRENT:
            return self._lose(error, now, Step.HANG_UP)
        self._fault = error  # a request under way may have been answered before, or fails by itself
        return []

    def _lose(self, error: EnjambreError, now: float, step: Step = Step.LOST) -> list[Effect]:
        if self._required:
            return self._end(error)
        told_before, self._lost = self._lost, True
        self._fault = None
        self._step(step)
        self._wake_at = now + self._backoff.pause(self._heartbeat if step is Step.HANG_UP else 0.0)
        if told_before:
            return []
        return [Tell(SessionChanged("lost", self._user)), Tell(Warned(f"{error}; trying again"))]

    def _leave(self) -> list[Effect]:
        """Log out of a session of this peer alone; leave one that the user keeps."""
        reachable = self.state is State.HUNG_UP or not self._lost
        if self._token is None or not reachable or self.state is State.LEAVING:
            return self._end()
        self._step(Step.LEAVE)
        return [self._send(Withdraw(peer=self._identity.peer) if self._kept else Logout())]

    def _end(self, error: EnjambreError | None = None) -> list[Effect]:
        self._step(Step.END)
        self._wake_at = None
        return [] if error is None else [End(error)]

    def _step(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state, step]
