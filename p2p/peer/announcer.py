"""Keep the tracker informed: log in, announce what is new, send heartbeats, come back after it was away, and
leave at once when told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

from p2p.errors import EnjambreError, Refused, Unreachable
from p2p.model import ContentId, PeerId
from p2p.peer.reports import Report, SessionChanged, Warned
from p2p.peer.session_file import StoredSession, load_session, save_session
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import (
    IDS_PER_WITHDRAW,
    SHARES_PER_ANNOUNCE,
    Announce,
    AnnounceAnswer,
    Login,
    LoginAnswer,
    Logout,
    Share,
    Withdraw,
    WithdrawAnswer,
)
from p2p.value import frozen

RETRY_FIRST: Final = 1.0
RETRY_MOST: Final = 10.0
"""Seconds between tries to reach a lost tracker: doubled each time, and up to half as much again by chance,
so that a thousand peers do not come back at once. All its peers see in the same moment that a tracker hung
up: then the first try may come as late as a heartbeat would."""
FULL_TIME: Final = 60.0
"""Seconds after which a tracker that had no room for all we share is offered the rest again."""
LEAVE_TIME: Final = 1.5
"""Seconds that leaving may take; a tracker that does not answer by then will forget us by itself."""


@frozen
class Identity:
    """Who this peer is to the tracker."""

    peer: PeerId
    name: str
    user: str | None
    """Who was said to log in; None: whoever's session is stored, else somebody with the peer's name."""
    listen: dict[str, int]
    advertise: str | None = None


class Announcer:
    """The tracker's knowledge of one peer. `room` tells how many bytes it accepts by upload at the moment."""

    def __init__(
        self,
        client: TrackerClient,
        identity: Identity,
        room: Callable[[], int],
        report: Callable[[Report], None],
        rng: Random,
        state: Path,
        renew: Callable[[], PeerId],
    ) -> None:
        """`renew` makes this peer known by a new id, and returns it: ids are no secret, and somebody else may
        have taken ours."""
        self._client = client
        self._identity = identity
        self._user = identity.user or identity.name
        self._room = room
        self._report = report
        self._rng = rng
        self._state = state
        self._renew = renew
        self._renewed = False
        """Whether the id is a new one that the tracker has not accepted yet."""
        self._stored = False
        """Whether the session is the one that the user keeps, and not one of this peer alone."""
        self._shares: dict[ContentId, Share] = {}
        self._news: dict[ContentId, Share] = {}
        self._gone: set[ContentId] = set()
        self._wake = asyncio.Event()
        self._beat = 10.0
        self._retry = RETRY_FIRST
        self._full_until = float("-inf")
        """Until when a tracker that had no room is not offered the rest again."""
        self._lost = False
        self._fault: Unreachable | None = None
        """Why the connection ended by itself, until that is dealt with."""
        self._hung_up = False
        """Whether the tracker is lost because it hung up, and was not tried again since."""
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self.ended: asyncio.Future[EnjambreError] = asyncio.get_running_loop().create_future()
        """Done when somebody else ended the session; its result says why."""
        client.watch(self._broke)

    async def start(self, *, require: bool) -> None:
        """Log in and announce; then keep at it. With `require`, raises `Unreachable` or `Refused` when that
        cannot be done now."""
        stored = load_session(self._state, self._client.address)
        if stored is not None and self._identity.user in (None, stored.user):
            self._stored = True
            self._client.session = stored.token
            self._user = stored.user
        try:
            await self._enter()
        except EnjambreError as error:
            if require:
                raise
            self._losing(error)
        self._task = asyncio.create_task(self._run())

    def set(self, share: Share, *, urgent: bool = True) -> None:
        """Tell of a content, or of more of it. What is not urgent waits for the next heartbeat."""
        self._shares[share.id] = self._news[share.id] = share
        self._gone.discard(share.id)
        if urgent:
            self._disturb()

    def drop(self, content: ContentId) -> None:
        """Take a content out."""
        if self._shares.pop(content, None) is not None:
            self._news.pop(content, None)
            self._gone.add(content)
            self._disturb()

    async def stop(self) -> None:
        """Leave the directory at once: log out of a session of our own, or leave a session that the user
        keeps."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._client.session is None or (self._lost and not self._hung_up) or self.ended.done():
            return
        leaving = Withdraw(peer=self._identity.peer) if self._stored else Logout()
        with contextlib.suppress(Unreachable, Refused, TimeoutError):
            async with asyncio.timeout(LEAVE_TIME):
                await self._client.ask(leaving)

    def _disturb(self) -> None:
        self._settled.clear()
        self._wake.set()

    def _broke(self, fault: Unreachable) -> None:
        """The connection ended by itself. Whoever is asking hears it too; while nothing is asked, this is how
        we know."""
        if not self._lost:
            self._fault = fault
            self._wake.set()

    # -- talking
    # -------------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._turn()
            except Refused as refused:
                try:
                    goes_on = await self._again(refused)
                except EnjambreError as error:  # the stored session cannot be read now
                    self._losing(error)
                else:
                    if not goes_on:
                        return
            except EnjambreError as error:
                self._losing(error)

    async def _turn(self) -> None:
        """Wait until there is something to say, and say it; or, while the tracker is lost, until it is time
        to try again."""
        if self._lost:
            await asyncio.sleep(self._pause())
            self._hung_up = False
            self._retry = min(self._retry * 2, RETRY_MOST)
            await self._enter()
            self._found()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat * self._rng.uniform(0.9, 1.0)):
                    await self._wake.wait()
            self._wake.clear()
            if self._fault is not None:
                self._hung_up = True
                self._losing(self._fault)
                return
            await self._say()
            # Not before: a tracker that answers and hangs up each time is tried later and later too.
            self._retry = RETRY_FIRST

    def _pause(self) -> float:
        most = 1.5 * self._retry
        return self._rng.uniform(
            self._retry, max(most, min(self._beat, RETRY_MOST)) if self._hung_up else most
        )

    def _found(self) -> None:
        """The tracker is there again."""
        self._lost = False
        self._report(SessionChanged("resumed", self._user))

    async def _again(self, refused: Refused) -> bool:
        """What to do when the tracker says no; False when the session is over."""
        if refused.code == "login_needed":
            if self._stored and not self._take_stored():
                self._report(SessionChanged("ended", self._user))
                why = f"the session of {self._user} was ended by a logout, or by the login of another"
                self.ended.set_result(Refused("login_needed", why))
                return False
            await self._client.close()
            self._losing(Unreachable("the tracker does not know our session any more"))
            return True
        if refused.code in ("unavailable", "busy", "internal"):
            self._losing(refused)
            return True
        if refused.code == "quota":
            self._over_quota(refused)
            return True
        self._report(Warned(f"tracker {self._client.address} refuses: {refused}"))
        if refused.code == "not_allowed" and not self._renewed:
            self._renewed = True
            self._identity = replace(self._identity, peer=self._renew())
            self._losing(Unreachable("another has our id at the tracker; this peer has a new one"))
            return True
        self.ended.set_result(refused)
        return False

    def _over_quota(self, refused: Refused) -> None:
        """Go on with what the tracker keeps of us, and offer it the rest again after a while."""
        now = asyncio.get_running_loop().time()
        if now >= self._full_until:
            self._report(Warned(f"tracker {self._client.address} refuses: {refused}"))
        self._full_until = now + FULL_TIME
        self._news.clear()
        self._settled.set()
        if self._lost and self._client.session is not None:
            self._found()

    def _take_stored(self) -> bool:
        """Go on with the session that is stored, which another process may have opened anew.

        False when there is none any more, or it is another user's: who logged in meanwhile has not asked for
        our contents to be his.
        """
        stored = load_session(self._state, self._client.address)
        if stored is None or stored.user != self._user:
            return False
        self._client.session = stored.token
        return True

    async def known(self, seconds: float) -> None:
        """Wait until the tracker knows all that was told to this object; at most so long, and not at all
        while it is out of reach."""
        if not self._lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._settled.wait()

    def _losing(self, error: EnjambreError) -> None:
        if not self._lost:
            self._report(SessionChanged("lost", self._user))
            self._report(Warned(f"{error}; trying again"))
        self._lost = True
        self._fault = None
        self._settled.set()

    async def _enter(self) -> None:
        """Open a session unless we have one that the tracker still knows, and announce everything."""
        try:
            await self._announce_all()
        except Refused as refused:
            tried = self._client.session
            if refused.code != "login_needed" or (self._stored and not self._take_stored()):
                raise
            await self._client.close()
            if self._client.session == tried:
                self._client.session = None
            await self._announce_all()
        self._lost = False

    async def _announce_all(self) -> None:
        if self._client.session is None:
            answer = await self._client.expect(Login(user=self._user), LoginAnswer)
            self._client.session = answer.session
            if self._stored:
                save_session(self._state, StoredSession(self._client.address, self._user, answer.session))
        # What is gone stays noted: a resumed session may have it still, and to withdraw what is not there
        # does no harm.
        self._news = dict(self._shares)
        await self._say()

    async def _say(self) -> None:
        """Tell all that is new; when nothing is, this is the heartbeat."""
        known = await self._announce()
        while self._gone:
            ids = tuple(self._gone)[:IDS_PER_WITHDRAW]
            self._gone.difference_update(ids)
            try:
                answer = await self._client.expect(
                    Withdraw(peer=self._identity.peer, ids=ids), WithdrawAnswer
                )
            except EnjambreError:
                self._gone.update(content for content in ids if content not in self._shares)
                raise
            known -= answer.withdrawn
        if (
            known < len(self._shares)
            and not self._news
            and asyncio.get_running_loop().time() >= self._full_until
        ):
            self._news = dict(self._shares)
            await self._announce()
        if not self._news and not self._gone:
            self._settled.set()

    async def _announce(self) -> int:
        me = self._identity
        while True:
            batch = dict(list(self._news.items())[:SHARES_PER_ANNOUNCE])
            answer = await self._client.expect(
                Announce(
                    peer=me.peer,
                    name=me.name,
                    listen=me.listen,
                    advertise=me.advertise,
                    room=self._room(),
                    contents=tuple(batch.values()),
                ),
                AnnounceAnswer,
            )
            self._renewed = False
            self._beat = max(answer.ttl / 3, 0.2)
            for content, share in batch.items():
                if self._news.get(content) is share:
                    del self._news[content]
            if not self._news:
                return answer.known
