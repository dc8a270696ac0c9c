"""Bring a manifest that matches its id: find peers, ask one, and soon another if the first says nothing.

What counts is what comes: who sends bytes is waited for as long as it may be here in time, and who does not
makes room for others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from random import Random
from typing import Final

from p2p.content.manifest import content_id, parse
from p2p.errors import EnjambreError, IntegrityError, ProtocolError, Refused, Unreachable
from p2p.model import ContentId, Manifest, PeerKey
from p2p.net.limits import TIMEOUTS
from p2p.peer.control import ControlConnection, ControlConnections
from p2p.peer.finder import Finder
from p2p.storage.hashing import HashPool
from p2p.swarm.topology import EAGER_TIME
from p2p.value import frozen

MANIFEST_TIME: Final = TIMEOUTS.manifest_s
ROUNDS: Final = 3
"""How often all listed peers are tried before a download that never began says that nobody can be reached.
Where the tracker knows of more that were not tried yet, it goes on for as long as its patience lasts: the one
honest seed may be hidden among many that are made up."""
HEDGE_TIME: Final = 0.5
"""Seconds to wait for a manifest before another peer is asked for it too."""
AT_ONCE: Final = 4
"""Peers that send one at once; a manifest may have 32 MiB."""
BESIDE: Final = 2
"""The same where one of them is about to bring it: several long manifests at once share our own link, and
none would be here in time."""
QUIET: Final = 2.0
"""Seconds after which one that has said nothing is thought to be one of many: the more there are of them, the
more are asked at once."""
PATIENCE: Final = 10.0
"""Seconds that one may say nothing before it is hung up on, where the tracker knows of more; and that those
who send have undisturbed."""
OVERTIME: Final = 10.0
"""Seconds for which those that we dialled are still asked when the patience is over, and the others not: they
come without end."""


@frozen
class Found:
    """A manifest and its canonical bytes, checked against the id."""

    data: bytes
    manifest: Manifest


class _Unusable(IntegrityError):
    """The id is that of bytes that are no valid manifest, so that no peer can have another for it."""


class _Asking:
    """One link that is asked: since when, and what has come. Bytes are seen from outside, as what is missing
    of a body that comes."""

    __slots__ = ("came", "link", "missing", "moved_at", "since")

    def __init__(self, link: ControlConnection, now: float) -> None:
        self.link = link
        self.since = self.moved_at = now
        self.missing = 0
        self.came: tuple[float, int] | None = None
        """Since when a body comes, and how much of it has come; None before it does."""

    def look(self, now: float) -> None:
        """See what has come."""
        missing = self.link.wire.session.body_missing
        if missing != self.missing:
            since, count = self.came or (now, 0)
            self.came = (since, count + max(0, self.missing - missing))
            self.moved_at, self.missing = now, missing

    def ends(self, now: float) -> float:
        """When all of it will be here, at the rate until now; infinity where nothing comes."""
        if self.came is None or now - self.moved_at > PATIENCE:
            return math.inf
        since, count = self.came
        if now - since < HEDGE_TIME:
            return (
                self.since + MANIFEST_TIME
            )  # too soon to tell: in time, perhaps, and after all that are known to be
        return now + self.missing * (now - since) / count if count else math.inf


class ManifestSearch:
    """The search for the manifest of one content. `bad` are the peers that sent another or nothing, and why
    that is."""

    def __init__(
        self,
        content: ContentId,
        links: ControlConnections,
        pool: HashPool,
        finder: Finder,
        progress: Callable[[str], None],
        patience: float,
        rng: Random,
    ) -> None:
        """`progress` is told of each phase: searching, connecting. `patience` is in seconds."""
        self.bad: dict[PeerKey, str] = {}
        self._content = content
        self._links = links
        self._pool = pool
        self._finder = finder
        self._progress = progress
        self._patience = patience
        self._rng = rng
        self._corrupt = False
        self._refused: dict[PeerKey, str] = {}

    async def run(self, first: ControlConnection | None = None) -> Found:
        """Bring it, from `first` if that has it. Raises `NotFound`, `Unreachable`, `IntegrityError`,
        `Refused`."""
        self._progress("searching")
        if first is not None:
            try:
                return await self._from(first)
            except _Unusable:
                raise
            except EnjambreError:
                pass  # others may have it
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        rounds = 0
        while (
            loop.time() < until + OVERTIME if rounds < ROUNDS else self._finder.more and loop.time() < until
        ):
            if rounds:
                await asyncio.sleep(EAGER_TIME)
            rounds += 1
            await self._finder.look()
            self._progress("connecting")
            found = await self._ask_all(until)
            if found is not None:
                return found
            if self._finder.listed == 0:
                break
        if self._corrupt:
            raise IntegrityError(
                f"no peer has a manifest that matches the id: {'; '.join(self.bad.values())}"
            )
        reasons = [*self.bad.values(), *self._finder.reasons(), *self._refused.values()]
        raise Unreachable(f"no peer that has it can be reached: {'; '.join(reasons[:4]) or 'none is listed'}")

    async def _ask_all(self, until: float) -> Found | None:
        """Ask each link as it opens, until one brings the manifest; None when all dials have ended and none
        did, or time is over.

        Who is asked then and about to bring it may end.
        """
        loop = asyncio.get_running_loop()
        settled = asyncio.create_task(self._finder.settled())
        asked: set[PeerKey] = set()
        asking: dict[asyncio.Task[Found], _Asking] = {}
        try:
            while True:
                ended, now = settled.done(), loop.time()
                best = self._best(asking, now)
                if now > until + OVERTIME and best is None:
                    self._note_silent(asking)
                    return None
                fresh = self._fresh(asked, now, until)
                chosen = self._chosen(fresh, self._wanted(asking, best, now))
                self._make_room(asking, best, now, waiting=len(fresh) > len(chosen))
                for link in chosen:
                    asked.add(link.key)
                    asking[asyncio.create_task(self._from(link))] = _Asking(link, now)
                if ended and not asking:
                    return None
                if asking:
                    await asyncio.wait(asking, timeout=HEDGE_TIME, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.wait([settled], timeout=0.05)
                for task in [task for task in asking if task.done()]:
                    found = self._came(task, asking.pop(task))
                    if found is not None:
                        return found
        finally:
            settled.cancel()
            for task in asking:
                task.cancel()
            await asyncio.gather(settled, *asking, return_exceptions=True)

    def _fresh(self, asked: set[PeerKey], now: float, until: float) -> list[ControlConnection]:
        if now > until + OVERTIME:
            return []
        late = now > until
        return [
            link
            for link in self._links.all()
            if link.key not in asked and link.key not in self.bad and (link.dialled or not late)
        ]

    @staticmethod
    def _wanted(
        asking: dict[asyncio.Task[Found], _Asking], best: asyncio.Task[Found] | None, now: float
    ) -> int:
        """How many more to ask now: one at a time, and more where many say nothing. Who says nothing costs
        nothing."""
        sending = sum(1 for one in asking.values() if one.came is not None)
        if sending >= (AT_ONCE if best is None else BESIDE):
            return 0
        return 1 + sum(1 for one in asking.values() if one.came is None and now - one.since > QUIET) // 4

    def _chosen(self, fresh: list[ControlConnection], count: int) -> list[ControlConnection]:
        """Whom to ask next: those that we dialled, since the tracker named them, and then by chance those
        that came to us.

        Who opens hundreds of links and says nothing on them must not come before everybody else.
        """
        dialled = [link for link in fresh if link.dialled][:count]
        others = [link for link in fresh if not link.dialled]
        return dialled + self._rng.sample(others, min(count - len(dialled), len(others)))

    @staticmethod
    def _best(asking: dict[asyncio.Task[Found], _Asking], now: float) -> asyncio.Task[Found] | None:
        """The one that brings it first, if it does so in time by what has come until now."""
        for one in asking.values():
            one.look(now)
        best = min(asking, key=lambda task: asking[task].ends(now), default=None)
        return (
            best
            if best is not None and asking[best].ends(now) <= asking[best].since + MANIFEST_TIME
            else None
        )

    def _make_room(
        self,
        asking: dict[asyncio.Task[Found], _Asking],
        best: asyncio.Task[Found] | None,
        now: float,
        *,
        waiting: bool,
    ) -> None:
        """Hang up on who would be the last to bring it, where too many send, or as many as may and others
        wait; never on the best."""
        sending = sorted(
            (one for task, one in asking.items() if one.came and task is not best),
            key=lambda one: one.ends(now),
        )
        places = AT_ONCE if best is None else BESIDE - 1
        for one in sending[AT_ONCE - (best is not None) :]:
            one.link.close()
        if waiting and len(sending) >= places and now - sending[-1].since > PATIENCE:
            sending[-1].link.close()
        if self._finder.more:  # those that say nothing keep us from dialling others
            for one in asking.values():
                if one.came is None and now - one.since > PATIENCE:
                    one.link.close()

    def _note_silent(self, asking: dict[asyncio.Task[Found], _Asking]) -> None:
        for one in asking.values():
            self._refused[one.link.key] = f"{one.link.name} does not answer"

    def _came(self, task: asyncio.Task[Found], asked: _Asking) -> Found | None:
        link = asked.link
        try:
            return task.result()
        except _Unusable:
            raise
        except IntegrityError as error:
            self._corrupt = True
            self.bad[link.key] = f"{link.name}: {error}"
        except ProtocolError as error:
            self.bad[link.key] = f"{link.name}: {error}"
        except (Refused, Unreachable) as error:
            # What broke while bytes came, or was refused, may go better another time.
            silent = (
                isinstance(error, Unreachable)
                and asked.came is None
                and asyncio.get_running_loop().time() - asked.since > PATIENCE
            )
            (self.bad if silent else self._refused)[link.key] = f"{link.name}: {error}"
        return None

    async def _from(self, link: ControlConnection) -> Found:
        data = await link.manifest(self._content)
        return Found(data, await self._pool.run(lambda: _parsed(data, self._content)))


def _parsed(data: bytes, content: ContentId) -> Manifest:
    try:
        return parse(data, content)
    except ProtocolError as error:
        if content_id(data) != content:
            raise
        raise _Unusable(f"{content} is the id of a content that cannot be: {error}") from error
