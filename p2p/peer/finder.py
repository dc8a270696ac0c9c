"""Finds the peers of one swarm: asks the tracker, and dials those that it names, again and again.

Which of them are dialled, and when again, is decided in `candidates.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2p.errors import EnjambreError, NotFound, Refused, Unreachable
from p2p.model import Address, ContentId, PeerKey, peer_key
from p2p.peer.candidates import Candidates, FinderTimeouts
from p2p.peer.control import ControlConnection, ControlConnections
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import Contact, Lookup, LookupAnswer
from p2p.swarm.topology import LOOKUP


class Finder:
    """The search for peers of one content."""

    def __init__(
        self,
        content: ContentId,
        tracker: TrackerClient,
        controls: ControlConnections,
        wanted: Callable[[PeerKey], bool],
        timeouts: FinderTimeouts,
    ) -> None:
        """`wanted` says whether a peer is worth dialling (it is not banned)."""
        self.listed: int | None = None
        """How many other peers the tracker named at the last lookup; None when it could not be asked."""
        self._content = content
        self._tracker = tracker
        self._controls = controls
        self._timeouts = timeouts
        self._candidates = Candidates(wanted, timeouts)
        self._sources: dict[PeerKey, Contact] = {}
        self._dials: dict[PeerKey, asyncio.Task[None]] = {}

    @property
    def more(self) -> bool:
        """Whether the tracker knows more peers than were ever connected or dialled."""
        return self._candidates.more

    def reasons(self) -> list[str]:
        """Return why peers could not be reached, a sentence each."""
        return self._candidates.reasons()

    @property
    def dials(self) -> list[asyncio.Task[None]]:
        """The dials under way."""
        return list(self._dials.values())

    async def look(self) -> None:
        """Ask the tracker once, and begin to dial. Raises `NotFound` when no peer has the content,
        `Unreachable`, `Refused`."""
        await self._ask()
        self._dial(len(self._connected()), eager=True)

    async def run(
        self,
        *,
        members: Callable[[], int],
        eager: Callable[[], bool],
        on_named: Callable[[ControlConnection], None],
        on_listed: Callable[[int | None], None],
    ) -> None:
        """Look again and again until cancelled, for a download that is fed by `members()` connected peers,
        and wants more soon if it is `eager()`.

        `on_named` is called with each connection to a peer that the tracker names: that peer may have the
        content only since it was connected. `on_listed` is called after each lookup with `listed`.

        Begin when the tracker knows of us: of two peers that start at once, the one that announced last then
        finds the other.
        """
        while True:
            try:
                await self._ask()
            except EnjambreError:
                pass  # `listed` says it; the download goes on with the peers that it has
            else:
                self._dial(members(), eager=eager())
                for connection in self._connected().values():
                    on_named(connection)
            on_listed(self.listed)
            await asyncio.sleep(self._timeouts.eager if eager() else self._timeouts.calm)

    async def close(self) -> None:
        """Stop dialling."""
        tasks = self.dials
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self) -> None:
        request = Lookup(id=self._content, limit=LOOKUP, peer=self._controls.me.peer)
        try:
            answer = await self._tracker.expect(request, LookupAnswer)
        except Refused as refused:
            self.listed = 0
            if refused.code == "not_found":
                raise NotFound(f"nobody has {self._content}") from refused
            raise
        except Unreachable:
            self.listed = None
            raise
        self._sources = {_key(source): source for source in answer.sources if "tcp" in source.listen}
        hosts = {key: source.host for key, source in self._sources.items()}
        self.listed = self._candidates.on_listed(hosts, self._connected(), answer.content.peers)

    def _connected(self) -> dict[PeerKey, ControlConnection]:
        """The connections to peers that the tracker named at the last lookup."""
        found = ((key, self._controls.get(key)) for key in self._sources)
        return {key: connection for key, connection in found if connection is not None}

    def _dial(self, members: int, *, eager: bool) -> None:
        now = asyncio.get_running_loop().time()
        for key in self._candidates.to_dial(self._connected(), members, now, eager=eager):
            self._dials[key] = asyncio.create_task(self._connect(key, self._sources[key]))

    async def _connect(self, key: PeerKey, source: Contact) -> None:
        try:
            await self._controls.connect(_place(source), source.peer)
        except Unreachable as error:
            self._candidates.on_failed(key, str(error), asyncio.get_running_loop().time())
        else:
            self._candidates.on_connected(key)
        finally:
            self._candidates.on_dialled(key)
            self._dials.pop(key, None)


def _place(source: Contact) -> Address:
    return Address(source.host, source.listen["tcp"])


def _key(source: Contact) -> PeerKey:
    return peer_key(source.peer, _place(source))
