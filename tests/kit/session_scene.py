"""A tracker session without a network: carries out its effects against a model of a tracker, in time that is
a number.

scene = SessionScene()
scene.start()
scene.set(share(1))
scene.run(seconds=30)
assert scene.tracker.shares == {share(1).id: share(1)}
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from p2p.errors import EnjambreError, Refused, Unreachable
from p2p.model import Address, ContentId, PeerId
from p2p.peer.announcements import Identity
from p2p.peer.reports import Report, SessionChanged, Warned
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
from p2p.peer.tracker_session import SessionTimeouts, TrackerSession
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

TRACKER = Address("10.0.0.1", 6969)
PEER = PeerId("5f" * 16)
NEW_PEER = PeerId("6e" * 16)
LATENCY = 0.001
"""Seconds from a request to its answer."""

Fault = Callable[[Request], EnjambreError | None]


def share(number: int, have: int = 7) -> Share:
    """A content of seven bytes, of which so many are here."""
    return Share(id=ContentId(f"{number:064x}"), name=f"{number}.bin", size=7, have=have)


def away(request: Request) -> EnjambreError | None:
    """The fault of a tracker that cannot be reached."""
    return Unreachable(f"tracker {TRACKER} cannot be reached")


def well(request: Request) -> EnjambreError | None:
    """No fault."""
    return None


class FakeTracker:
    """A model of a tracker: sessions, and the contents of the one peer there is."""

    def __init__(self, ttl: int = 30) -> None:
        self.ttl = ttl
        self.sessions: set[str] = set()
        self.shares: dict[ContentId, Share] = {}
        self.logins = 0
        self.fault: Fault = well

    def answer(self, request: Request, token: str | None) -> Answer:
        """Answer a request on a connection that shows `token`. Raises `Refused`, `Unreachable`."""
        fault = self.fault(request)
        if fault is not None:
            raise fault
        match request:
            case Login():
                self.logins += 1
                token = f"{self.logins:032x}"
                self.sessions.add(token)
                return LoginAnswer(session=token, ttl=self.ttl)
            case _ if token not in self.sessions:
                raise Refused("login_needed", "log in first")
            case Announce():
                self.shares.update({share.id: share for share in request.contents})
                return AnnounceAnswer(ttl=self.ttl, known=len(self.shares))
            case Withdraw():
                gone = [self.shares.pop(content, None) for content in request.ids or list(self.shares)]
                return WithdrawAnswer(withdrawn=len(gone) - gone.count(None))
            case Logout():
                return LogoutAnswer(peers=1, contents=len(self.shares))
        raise AssertionError(request)

    def forget(self) -> None:
        """Lose all sessions and contents, as a restart without a store does."""
        self.sessions.clear()
        self.shares.clear()


class SessionScene:
    """A session, its tracker, its session file and its clock."""

    def __init__(self, ttl: int = 30, *, seed: int = 1, file: tuple[str, str] | None = None) -> None:
        """`file` is the user and the token in the session file."""
        self.now = 1000.0
        self.tracker = FakeTracker(ttl)
        self.timeouts = SessionTimeouts()
        identity = Identity(PEER, "lab-07", {"tcp": 6970})
        self.session = TrackerSession(TRACKER, identity, lambda: 7, Random(seed), self.timeouts)
        self.file = file
        self.file_fault: EnjambreError | None = None
        self.token: str | None = None
        self.reports: list[Report] = []
        self.renewed = 0
        """How often the peer took a new id."""
        self.ended: EnjambreError | None = None
        self.asked: list[tuple[float, Request]] = []
        self.under_way: tuple[float, Request] | None = None
        """When the request under way will be answered, and the request."""

    # -- what the peer does

    def start(self, user: str = "lab-07", *, required: bool = True) -> None:
        """Open the session, with the token in the file if that is of this user; returns when it is
        settled."""
        token = self.file[1] if self.file is not None and self.file[0] == user else None
        self.handle(Start(user, token, required))
        while not self.session.settled:
            self.run(LATENCY)

    def set(self, one: Share, *, urgent: bool = True) -> None:
        self.handle(SetShare(one, urgent))

    def drop(self, one: Share) -> None:
        self.handle(DropShare(one.id))

    def stop(self) -> None:
        """Call off what is under way, and leave."""
        self.under_way = None
        self.handle(Stop())
        self.run(2 * LATENCY)

    def hang_up(self) -> None:
        """End the connection from the tracker's side."""
        self.handle(HungUp(Unreachable(f"tracker {TRACKER} hung up")))

    # -- time, and effects

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while True:
            answer_at = self.under_way[0] if self.under_way is not None else None
            due = [when for when in (answer_at, self.session.next_wakeup()) if when is not None]
            if not due or min(due) > end:
                self.now = end
                return
            self.now = max(self.now, min(due))
            if answer_at is not None and answer_at <= self.now:
                self._answer()
            else:
                self.handle(Tick())

    def handle(self, event: Event) -> None:
        """Hand in an event, and carry out what comes of it."""
        effects = deque(self.session.handle(event, self.now))
        while effects:
            then = self._carry_out(effects.popleft())
            if then is not None:
                effects += self.session.handle(then, self.now)

    def _carry_out(self, effect: Effect) -> Event | None:
        match effect:
            case Send(request):
                assert self.under_way is None, "two requests at once"
                self.asked.append((self.now, request))
                self.under_way = (self.now + LATENCY, request)
            case UseToken(token):
                self.token = token
            case ReadSession() if self.file_fault is None:
                return SessionRead(*self.file) if self.file is not None else SessionRead()
            case SaveSession(user, token) if self.file_fault is None:
                self.file = (user, token)
                return SessionSaved()
            case ReadSession() | SaveSession():
                assert self.file_fault is not None
                return Failed(self.file_fault)
            case RenewId():
                self.renewed += 1
                return IdRenewed(NEW_PEER)
            case Tell(report):
                self.reports.append(report)
            case End(error):
                assert self.ended is None
                self.ended = error
        return None

    def _answer(self) -> None:
        assert self.under_way is not None
        _, request = self.under_way
        self.under_way = None
        try:
            answer = self.tracker.answer(request, self.token)
        except EnjambreError as error:
            self.handle(Failed(error))
        else:
            self.handle(Answered(answer))

    # -- what was seen

    @property
    def states(self) -> list[str]:
        """The changes of the session that were reported."""
        return [report.state for report in self.reports if isinstance(report, SessionChanged)]

    @property
    def warnings(self) -> list[str]:
        return [report.message for report in self.reports if isinstance(report, Warned)]

    def sent(self, kind: type[Request] = Request) -> list[float]:
        """When requests of a kind were sent."""
        return [time for time, request in self.asked if isinstance(request, kind)]

    @property
    def last(self) -> Request:
        """The last request that was sent."""
        return self.asked[-1][1]
