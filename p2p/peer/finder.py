"""Find the peers of a swarm while it lasts: ask the tracker, dial who is new, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from p2p.errors import EnjambreError, NotFound, Refused, Unreachable
from p2p.model import Address, ContentId, PeerKey, peer_key
from p2p.peer.control import ControlConnection, ControlConnections
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import Contact, Lookup, LookupAnswer
from p2p.swarm.topology import CALM_TIME, EAGER_TIME, LOOKUP, dials

RETRY_TIME: Final = 2.0
RETRY_MOST: Final = 10.0
"""Seconds before a peer that could not be reached is dialled again; doubled each time; few enough to be back
soon after a network is."""


@dataclass(slots=True)
class _Failure:
    """A peer that was not found at its address: how often, when to dial again, and why it failed."""

    times: int
    again: float
    why: str


class Finder:
    """The search for peers of one content."""

    def __init__(
        self,
        content: ContentId,
        tracker: TrackerClient,
        links: ControlConnections,
        wanted: Callable[[PeerKey], bool],
    ) -> None:
        """`wanted` says whether a peer is worth dialling (it is not banned)."""
        self._content = content
        self._tracker = tracker
        self._links = links
        self._wanted = wanted
        self._failures: dict[PeerKey, _Failure] = {}
        self._dialling: dict[PeerKey, asyncio.Task[None]] = {}
        self.listed: int | None = None
        """How many other peers the tracker named at the last look; None when it could not be asked."""
        self._tried: set[PeerKey] = set()
        self._holders = 0
        self._others = False
        """Whether the last look named peers that none before had."""
        self.eager = True
        """Whether more peers are wanted soon."""
        self.members: Callable[[], int] | None = None
        """How many peers are linked for this content; until that is known, those that are linked of the ones
        that the tracker named."""
        self.greet: Callable[[ControlConnection], None] = lambda _: None
        """Told of each link to a peer that the tracker names: it may have the content only since the link was
        opened, or again."""

    async def look(self) -> None:
        """Ask the tracker once and begin to dial who is new. Raises `NotFound` when nobody has the content,
        `Unreachable`, `Refused`."""
        try:
            answer = await self._tracker.expect(
                Lookup(id=self._content, limit=LOOKUP, peer=self._links.me.peer), LookupAnswer
            )
        except Refused as refused:
            self.listed = 0
            if refused.code == "not_found":
                raise NotFound(f"nobody has {self._content}") from refused
            raise
        except Unreachable:
            self.listed = None
            raise
        places = {_key(source): source for source in answer.sources if "tcp" in source.listen}
        self.listed = sum(1 for key in places if self._wanted(key))
        self._holders = answer.content.peers
        self._others = not places.keys() <= self._tried
        self._tried.update(key for key in places if self._links.get(key) is not None)
        self._failures = {key: failure for key, failure in self._failures.items() if key in places}
        self._dial(places)
        for key in places:
            link = self._links.get(key)
            if link is not None:
                self.greet(link)

    @property
    def more(self) -> bool:
        """Whether the tracker knows of more peers than were ever linked or dialled: each look names some of
        them, by chance."""
        return self._others and self._holders > len(self._tried)

    async def run(self, told: Callable[[int | None], None]) -> None:
        """Look again and again until cancelled; `told` hears each time how many peers the tracker names.

        Begin when the tracker knows of us: of two peers that start at once, the one that announced last then
        finds the other.
        """
        while True:
            try:
                await self.look()
            except EnjambreError:
                pass  # `listed` says it: the tracker is away, or knows nobody; a running download goes on with the peers it has
            told(self.listed)
            await asyncio.sleep(EAGER_TIME if self.eager else CALM_TIME)

    async def settled(self) -> None:
        """Wait until every dial under way has ended."""
        if self._dialling:
            await asyncio.wait(list(self._dialling.values()))

    def reasons(self) -> list[str]:
        """Why peers could not be reached, a sentence each."""
        return [failure.why for failure in self._failures.values()]

    async def close(self) -> None:
        """Stop dialling."""
        tasks = list(self._dialling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _dial(self, places: Mapping[PeerKey, Contact]) -> None:
        now = asyncio.get_running_loop().time()
        linked = (
            self.members() if self.members else sum(1 for key in places if self._links.get(key) is not None)
        )
        room = dials(linked + len(self._dialling), eager=self.eager)
        for key, source in places.items():
            if room <= 0:
                return
            if key in self._dialling or self._links.get(key) is not None or not self._wanted(key):
                continue
            failure = self._failures.get(key)
            if failure is None or failure.again <= now:
                self._tried.add(key)
                self._dialling[key] = asyncio.create_task(self._connect(key, source))
                room -= 1

    async def _connect(self, key: PeerKey, source: Contact) -> None:
        try:
            await self._links.connect(_place(source), source.peer)
        except Unreachable as error:
            failure = self._failures.get(key)
            times = failure.times + 1 if failure is not None else 0
            again = asyncio.get_running_loop().time() + min(RETRY_TIME * 2**times, RETRY_MOST)
            self._failures[key] = _Failure(times, again, str(error))
        else:
            self._failures.pop(key, None)
        finally:
            self._dialling.pop(key, None)


def _place(source: Contact) -> Address:
    return Address(source.host, source.listen["tcp"])


def _key(source: Contact) -> PeerKey:
    return peer_key(source.peer, _place(source))
