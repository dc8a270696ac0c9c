"""What a tracker remembers: sessions, peers, contents, and who has what; the values and the duties of every
store.

A *lease* of a peer is its `seen` plus the ttl: `expire` takes out all that is over. Time is the caller's
monotonic clock in seconds and never goes back. A store is used from one thread; `commit` alone may run in
another, one call at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol
from unicodedata import normalize

from p2p.model import ContentId, PeerId, is_loopback
from p2p.value import frozen


@frozen
class Caps:
    """How much a store keeps at most; beyond it new entries are `Refused("quota")`."""

    contents_per_peer: int = 100_000
    peers: int = 100_000
    pairs: int = 5_000_000
    sessions: int = 100_000
    of_host: float = 0.1
    """The part of peers, pairs and sessions that one host may have, so that none can lock the others out;
    loopback may have all."""

    def at(self, host: str, cap: int) -> int:
        """How many of `cap` a host may have. A host that is not known may have all."""
        return cap if not host or is_loopback(host) else max(1, int(cap * self.of_host))


EVICT_IDLE: Final = 3600.0
"""When sessions are at their cap, one without peers that was idle for so long (seconds) makes room: filling
up must not lock people out."""

SESSION_IDLE: Final = 30 * 86400.0
"""A session without peers ends after so many idle seconds."""


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
    """The host it wants to be handed out instead."""
    listen: dict[str, int]
    """Port of each transport."""
    room: int
    """Bytes it accepts by upload; 0: it accepts none."""
    seen: float
    contents: int = 0
    """How many contents it has announced."""
    order: tuple[str, str] = ("", "")
    """Its place when peers are listed: folded name, id."""


class Claim(NamedTuple):
    """What a peer says of one content: `have` of `size` bytes."""

    id: ContentId
    name: str
    size: int
    have: int


@dataclass(slots=True, eq=False)
class ContentRecord:
    """A content that at least one live peer has. Name and size are those of its first live announcer.
    Read-only for all but the store."""

    id: ContentId
    name: str
    size: int
    seeds: int
    """Peers that say they have all of it."""
    folded: str
    """The name as search sees it."""
    holders: dict[PeerRecord, int]
    """Who has it, first announcer first, and how many bytes."""
    others: dict[PeerRecord, tuple[str, int]] | None = None
    """Name and size as said by the holders who say something else."""

    @property
    def order(self) -> tuple[str, str]:
        """Its place when contents are listed."""
        return (self.folded, self.id)


class Gone(NamedTuple):
    """How many peers, and (content, peer) pairs, left with what was dropped."""

    peers: int
    pairs: int


class Totals(NamedTuple):
    """The figures of a store; `bytes` counts each content once."""

    sessions: int
    peers: int
    contents: int
    pairs: int
    bytes: int


def fold(text: str) -> str:
    """A name as search and order see it: compatible forms made one, without case."""
    folded = text.lower() if text.isascii() else normalize("NFKC", normalize("NFKC", text).casefold())
    return text if folded == text else folded


class TrackerStore(Protocol):
    """The duties of a store; `tests/contract/test_tracker_store.py` proves them for each."""

    # -- sessions

    def put_session(self, key: str, user: str, now: float, host: str = "") -> None:
        """Keep a new session, opened from `host`. Raises `Refused("quota")`."""

    def session(self, key: str) -> SessionRecord | None:
        """The session with this key."""

    def touch_session(self, key: str, now: float) -> None:
        """Note that a session was resumed."""

    def drop_session(self, key: str) -> Gone:
        """Take out a session with all its peers and what they announced; nothing happens when it is not
        there."""

    # -- peers

    def put_peer(self, record: PeerRecord) -> None:
        """Keep a new peer, or the new state of a known one, whose contents and session stay. Raises
        `Refused("quota")`.

        The session must exist.
        """

    def touch_peer(self, peer: PeerRecord, now: float) -> None:
        """Renew a lease."""

    def peer(self, peer_id: PeerId) -> PeerRecord | None:
        """The peer with this id."""

    def drop_peer(self, peer: PeerRecord) -> int:
        """Take out a known peer with all that it announced; return how many contents that was."""

    def peers(self) -> Sequence[PeerRecord]:
        """All peers in the order of `PeerRecord.order`. Not to be kept across a change."""

    def accepting(self) -> Iterable[PeerRecord]:
        """Peers with room, the one that was placed at longest ago first. Not to be kept across a change."""

    def placed(self, peer_id: PeerId) -> None:
        """Note that a copy was placed at this peer: it moves to the end of `accepting`."""

    # -- contents

    def put_claims(self, peer: PeerRecord, claims: Sequence[Claim]) -> None:
        """Keep what a known peer says it has: all, or nothing and `Refused("quota")`."""

    def drop_claims(self, peer: PeerRecord, ids: Iterable[ContentId]) -> int:
        """Take contents of a peer out; return how many were there."""

    def content(self, content_id: ContentId) -> ContentRecord | None:
        """The content with this id."""

    def contents_of(self, peer: PeerRecord) -> Iterable[ContentRecord]:
        """What a peer has. Not to be kept across a change."""

    def contents(self) -> Sequence[ContentRecord]:
        """All contents in the order of `ContentRecord.order`. Not to be kept across a change."""

    def find(self, words: Sequence[str]) -> Sequence[ContentRecord]:
        """Contents whose folded name holds every word, which are folded too, in the order of `contents`."""

    def totals(self) -> Totals:
        """The figures, counted as things change and not when asked."""

    # -- time

    def expire(self, now: float, ttl: float) -> float:
        """Drop peers whose lease of `ttl` seconds is over at `now`, and idle sessions; return a time before
        which nothing more is due."""

    # -- disk; a store without one has nothing unsaved and nothing to commit

    @property
    def unsaved(self) -> bool:
        """Whether something that was changed is not on disk yet. Until it is, no answer may promise it."""

    def take_pending(self) -> Mapping[Any, Any]:
        """Take all changes that wait, for one `commit`."""

    def commit(self, changes: Mapping[Any, Any]) -> None:
        """Write changes to disk: all or none. Blocks for seconds at worst. Raises
        `Refused("unavailable")`."""

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        """Say how the commit ended; what was not written waits again, behind nothing that is newer."""

    def close(self) -> None:
        """Give up files and locks. Changes that wait are lost; commit them first."""

    def interrupt(self) -> None:
        """Make a commit that waits for a lock give up soon; may be called from any thread."""
