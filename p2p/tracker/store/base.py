"""The values that every store keeps (sessions, peers, contents), and its limits.

A session is opened by `login`. A peer belongs to the session that announced it first. A *share* is one
content of one peer. A peer's *lease* ends `ttl` seconds after its last announce. Time is the caller's
monotonic clock in seconds, which never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from unicodedata import normalize

from p2p.model import ContentId, PeerId, is_loopback
from p2p.value import frozen


@frozen
class StoreLimits:
    """How much a store keeps at most. Beyond it, new entries are `Refused("quota")`."""

    contents_per_peer: int = 100_000
    peers: int = 100_000
    shares: int = 5_000_000
    sessions: int = 100_000
    host_part: float = 0.1
    """The part of peers, shares and sessions that one host may have, so that none locks out the others.
    Loopback may have all of them."""
    session_evictable_s: float = 3600.0
    """A session without peers that was idle for so long makes room for a new one when sessions are at their
    limit. Without this, a client that fills the table once would lock out all others."""
    session_idle_s: float = 30 * 86400.0
    """A session without peers ends after so many idle seconds."""
    pending_rows: int = 200_000
    """Changed rows that may wait for the disk. Beyond it, new entries are `Refused("unavailable")`, so that
    a disk that hangs costs bounded memory."""

    def of_host(self, host: str, limit: int) -> int:
        """How many of `limit` a host may have. A host that is not known may have all."""
        return limit if not host or is_loopback(host) else max(1, int(limit * self.host_part))


@dataclass(slots=True, eq=False)
class SessionRecord:
    """An open session. `key` is a digest of its secret, which no store ever sees. Read-only for all but the
    store."""

    key: str
    user: str
    created: float
    used: float
    """When it was last opened, resumed, or left by its last peer."""
    host: str = ""
    """The address that opened it, if that is known."""
    peers: set[PeerId] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class PeerRecord:
    """A peer that is alive. Read-only for all but the store."""

    id: PeerId
    session: str
    """The key of its session."""
    name: str
    user: str
    host: str
    """The address it was seen at, canonical."""
    advertised: str | None
    """The host that it wants to be handed out instead."""
    listen: dict[str, int]
    """Port of each transport."""
    room: int
    """Bytes it accepts by upload; 0: it accepts none."""
    seen: float
    """When it announced last."""
    contents: int = 0
    """How many contents it has announced."""
    order: tuple[str, str] = ("", "")
    """Its place when peers are listed: folded name, id."""


Title = tuple[str, int]
"""Name and size of a content, as one peer says. The id is the hash of both, so honest peers agree."""


@dataclass(slots=True, eq=False)
class ContentRecord:
    """A content that at least one live peer has. Read-only for all but the store."""

    id: ContentId
    name: str
    """That of its first live announcer, as the size."""
    size: int
    """Bytes."""
    folded: str
    """The name as search sees it."""
    seeds: int = 0
    """Peers that say they have all of it."""
    peers: dict[PeerRecord, int] = field(default_factory=dict)
    """The peers that have any of it, first announcer first, and how many bytes."""
    titles: dict[PeerRecord, Title] | None = None
    """The title that each peer says; None while all say the same, which costs nothing."""

    @property
    def title(self) -> Title:
        """Its name and size."""
        return (self.name, self.size)

    @property
    def order(self) -> tuple[str, str]:
        """Its place when contents are listed."""
        return (self.folded, self.id)


class Dropped(NamedTuple):
    """How many peers and shares left with what was dropped."""

    peers: int
    shares: int


class Totals(NamedTuple):
    """The figures of a store; `bytes` counts each content once."""

    sessions: int
    peers: int
    contents: int
    shares: int
    bytes: int


def fold(text: str) -> str:
    """A name as search and order see it: compatible forms made one, without case."""
    folded = text.lower() if text.isascii() else normalize("NFKC", normalize("NFKC", text).casefold())
    return text if folded == text else folded
