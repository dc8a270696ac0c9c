"""The library: which contents this peer has, whole or in part. Every change is announced to the tracker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from p2p.errors import Refused
from p2p.model import ContentId
from p2p.peer.control import ControlConnection
from p2p.peer.local_content import LocalContent
from p2p.protocol.peer_messages import Have
from p2p.protocol.tracker_messages import Share

ANNOUNCE_TIMEOUT_S: Final = 5.0


class Announcements(Protocol):
    """Where changes of the library go."""

    def set(self, share: Share, *, urgent: bool = True) -> None:
        """Announce a content, or how much of it is here; not `urgent`: with the next announce."""

    def drop(self, content: ContentId) -> None:
        """Withdraw a content."""

    async def known(self, seconds: float) -> None:
        """Wait until the tracker knows everything; at most so many seconds, since it may be out of reach."""


class Library:
    """The local contents by id."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements
        self._contents: dict[ContentId, LocalContent] = {}

    # -- look

    def get(self, content: ContentId) -> LocalContent:
        """A content. Raises `Refused("not_found")`, the same for what does not exist and what is not
        shared."""
        local = self._contents.get(content)
        if local is None:
            raise Refused("not_found", "this content is not shared here")
        return local

    def find(self, content: ContentId) -> LocalContent | None:
        """A content, if it is here."""
        return self._contents.get(content)

    def at(self, path: Path) -> LocalContent | None:
        """The whole content that is shared from `path`, if there is one."""
        for local in self._contents.values():
            if local.path == path and local.have.full:
                return local
        return None

    def __contains__(self, local: object) -> bool:
        return isinstance(local, LocalContent) and self._contents.get(local.id) is local

    def __iter__(self) -> Iterator[LocalContent]:
        return iter(list(self._contents.values()))

    def __len__(self) -> int:
        return len(self._contents)

    # -- change

    def publish(self, local: LocalContent) -> None:
        """Share a content, or announce at once that it has become whole."""
        former = self._contents.get(local.id)
        if former is not None and former is not local and former.settled.is_set():
            former.close()
        self._contents[local.id] = local
        self._announce(local, urgent=True)

    def on_grown(self, local: LocalContent) -> None:
        """A content may have more pieces than it had."""
        if local in self:
            self._announce(local, urgent=False)

    def retract(self, local: LocalContent) -> bool:
        """Share a content no more; returns whether it was shared."""
        if local not in self:
            return False
        del self._contents[local.id]
        local.withdraw()
        self._announcements.drop(local.id)
        return True

    async def announced(self) -> None:
        """Wait until the tracker knows what we have, or is out of reach."""
        await self._announcements.known(ANNOUNCE_TIMEOUT_S)

    def close(self) -> None:
        """Close the files of every content, and announce nothing: this peer is leaving."""
        for local in self:
            local.close()

    def _announce(self, local: LocalContent, *, urgent: bool) -> None:
        name, size = local.manifest.name, local.manifest.size
        self._announcements.set(
            Share(id=local.id, name=name, size=size, have=local.bytes_here), urgent=urgent
        )

    # -- control connections

    def on_connected(self, connection: ControlConnection) -> None:
        """Ask a new peer what it has of what we are fetching."""
        for local in self:
            if not local.have.full:
                local.introduce(connection)

    def on_disconnected(self, connection: ControlConnection) -> None:
        """A peer is gone."""
        for local in self:
            local.on_disconnected(connection)

    def on_have(self, connection: ControlConnection, have: Have) -> None:
        """A peer said what it has. Raises `ProtocolError` for pieces that there are not."""
        local = self._contents.get(have.id)
        if local is not None:
            local.on_have(connection, have)
        elif not have.none:
            connection.send_have(Have(id=have.id, none=True))
