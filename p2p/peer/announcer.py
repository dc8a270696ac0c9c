"""Carries out a tracker session: sends its requests, reads and writes the session file, and keeps its time.

What is said and when is decided in `tracker_session.py`. This loop decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from p2p.errors import EnjambreError
from p2p.model import ContentId, PeerId
from p2p.peer.announcements import Identity
from p2p.peer.reports import Report
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
from p2p.peer.session_file import StoredSession, load_session, save_session
from p2p.peer.tracker_client import TrackerClient
from p2p.peer.tracker_session import SessionTimeouts, State, TrackerSession
from p2p.protocol.peer_messages import Request
from p2p.protocol.tracker_messages import Share


class Announcer:
    """One peer's session with its tracker, as long as the peer runs: `start` it, tell it what is shared,
    `stop` it."""

    def __init__(
        self,
        client: TrackerClient,
        identity: Identity,
        user: str | None,
        room: Callable[[], int],
        report: Callable[[Report], None],
        rng: Random,
        state: Path,
        renew: Callable[[], PeerId],
        timeouts: SessionTimeouts,
    ) -> None:
        """`user` was asked to log in; None: the user of the stored session, or else one with the peer's name.

        `room` returns how many bytes of uploads this peer accepts at the moment. `state` is the folder of the
        session file. `renew` gives this peer another id and returns it.
        """
        self.ended: asyncio.Future[EnjambreError] = asyncio.get_running_loop().create_future()
        """Done when the session is over although nobody stopped it; its result is the reason."""
        self._client = client
        self._user = user
        self._name = identity.name
        self._report = report
        self._state = state
        self._renew = renew
        self._timeouts = timeouts
        self._session = TrackerSession(client.address, identity, room, rng, self._timeouts)
        self._effects: deque[Effect] = deque()
        self._settled = asyncio.Event()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        client.watch(lambda fault: self._handle(HungUp(fault)))

    async def start(self, *, require: bool) -> None:
        """Log in and announce; then keep at it. Raises `DiskError` for a session file that cannot be read,
        and with `require` what keeps the tracker from being told now: `Unreachable`, `Refused`,
        `DiskError`."""
        stored = load_session(self._state, self._client.address)
        if stored is not None and self._user in (None, stored.user):
            self._handle(Start(stored.user, stored.token, required=require))
        else:
            self._handle(Start(self._user or self._name, required=require))
        await self._carry_out()
        if require and self.ended.done():
            raise self.ended.result()
        self._task = asyncio.create_task(self._run())

    def set(self, share: Share, *, urgent: bool = True) -> None:
        """Announce a content, or more of it: at once, or with the next heartbeat."""
        self._handle(SetShare(share, urgent))

    def drop(self, content: ContentId) -> None:
        """Withdraw a content."""
        self._handle(DropShare(content))

    async def known(self, seconds: float) -> None:
        """Wait until the tracker knows all that is urgent, at most for so long; not at all while it is
        away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._settled.wait()

    async def stop(self) -> None:
        """Leave the tracker at once, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._effects.clear()
        self._handle(Stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeouts.leave):
                await self._carry_out()

    def _handle(self, event: Event) -> None:
        self._effects += self._session.handle(event, asyncio.get_running_loop().time())
        if self._session.settled:
            self._settled.set()
        else:
            self._settled.clear()
        self._woken.set()

    async def _run(self) -> None:
        while self._session.state is not State.ENDED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._session.next_wakeup()):
                    await self._woken.wait()
            self._handle(Tick())
            await self._carry_out()
            self._woken.clear()

    async def _carry_out(self) -> None:
        """Carry out the effects there are, and those that come of them."""
        while self._effects:
            match self._effects.popleft():
                case Send(request):
                    self._handle(await self._ask(request))
                case UseToken(token, reconnect):
                    if reconnect:
                        await self._client.close()
                    self._client.use_session(token)
                case ReadSession():
                    self._handle(self._read_session())
                case SaveSession(user, token):
                    self._handle(self._save_session(user, token))
                case RenewId():
                    self._handle(IdRenewed(self._renew()))
                case Tell(report):
                    self._report(report)
                case End(error):
                    self.ended.set_result(error)

    async def _ask(self, request: Request) -> Event:
        try:
            return Answered(await self._client.ask(request))
        except EnjambreError as error:
            return Failed(error)

    def _read_session(self) -> Event:
        try:
            stored = load_session(self._state, self._client.address)
        except EnjambreError as error:
            return Failed(error)
        return SessionRead() if stored is None else SessionRead(stored.user, stored.token)

    def _save_session(self, user: str, token: str) -> Event:
        try:
            save_session(self._state, StoredSession(self._client.address, user, token))
        except EnjambreError as error:
            return Failed(error)
        return SessionSaved()
