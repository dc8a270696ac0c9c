"""Keeps sessions, their peers, and the contents that the peers have, in memory. Reports each change that a
restart must bring back to a `Changes`."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from p2p.errors import Refused
from p2p.model import ContentId, PeerId
from p2p.net.admission import counted_host
from p2p.protocol.tracker_messages import Share
from p2p.tracker.store.base import (
    ContentRecord,
    Dropped,
    PeerRecord,
    SessionRecord,
    StoreLimits,
    Totals,
    fold,
)
from p2p.tracker.store.contents import Contents
from p2p.tracker.store.sessions import Sessions
from p2p.tracker.store.view import SortedView


class Changes(Protocol):
    """Is called with each change, after it was made."""

    def check_room(self) -> None:
        """Asked before something new is kept. Raises `Refused("unavailable")` when too much waits."""

    def on_session(self, record: SessionRecord) -> None:
        """A session was opened."""

    def on_session_dropped(self, record: SessionRecord) -> None:
        """A session is over."""

    def on_peer(self, record: PeerRecord) -> None:
        """A peer is new, or anything of it but its lease has changed."""

    def on_peer_dropped(self, record: PeerRecord) -> None:
        """A peer has left, with all its shares."""

    def on_share(self, peer: PeerRecord, share: Share) -> None:
        """A peer has a content now, or another part of it than before."""

    def on_share_dropped(self, peer: PeerRecord, content_id: ContentId) -> None:
        """A peer has a content no more."""


class NoChanges:
    """The `Changes` of a directory that a restart empties."""

    def check_room(self) -> None:
        """There is always room."""

    def on_session(self, record: SessionRecord) -> None:
        """Not kept."""

    def on_session_dropped(self, record: SessionRecord) -> None:
        """Not kept."""

    def on_peer(self, record: PeerRecord) -> None:
        """Not kept."""

    def on_peer_dropped(self, record: PeerRecord) -> None:
        """Not kept."""

    def on_share(self, peer: PeerRecord, share: Share) -> None:
        """Not kept."""

    def on_share_dropped(self, peer: PeerRecord, content_id: ContentId) -> None:
        """Not kept."""


class Saved(NamedTuple):
    """What a directory begins with: all that an earlier one had reported to its `Changes`."""

    sessions: Iterable[SessionRecord] = ()
    """The longest unused first."""
    peers: Iterable[PeerRecord] = ()
    """The longest unseen first."""
    shares: Iterable[tuple[PeerId, Sequence[Share]]] = ()
    """The oldest first, since the first announcer's title is shown."""


class Directory:
    """All that a tracker knows of others. `saved` is taken as it is, over any limit of a host."""

    def __init__(
        self, limits: StoreLimits | None = None, changes: Changes | None = None, saved: Saved | None = None
    ) -> None:
        self._limits = limits or StoreLimits()
        self._changes = changes or NoChanges()
        self._sessions = Sessions(self._limits)
        self._peers: OrderedDict[PeerId, PeerRecord] = OrderedDict()  # longest unseen first
        self._sorted_peers: SortedView[PeerRecord] = SortedView()
        self._accepting: OrderedDict[PeerId, PeerRecord] = OrderedDict()  # longest not placed at first
        self._contents = Contents()
        self._contents_of: dict[PeerRecord, dict[ContentRecord, None]] = {}
        self._peers_at: Counter[str] = Counter()  # by host
        self._shares_at: Counter[str] = Counter()
        self._shares = 0
        if saved is not None:
            self._restore(saved)

    def _restore(self, saved: Saved) -> None:
        for session in saved.sessions:
            self._sessions.add(session)
        for peer in saved.peers:
            self._add_peer(peer)
        for peer_id, shares in saved.shares:
            self._add_shares(self._peers[peer_id], shares)

    def totals(self) -> Totals:
        """The figures, counted as things change and not when asked."""
        return Totals(
            len(self._sessions), len(self._peers), len(self._contents), self._shares, self._contents.bytes
        )

    # -- sessions

    def put_session(self, key: str, user: str, now: float, host: str = "") -> None:
        """Keep a new session, opened from `host`. Raises `Refused`: `quota`, or `unavailable` when too much
        waits for the disk."""
        self._changes.check_room()
        evicted = self._sessions.evictable(host, now)
        if evicted is not None:
            self.drop_session(evicted.key)
        record = SessionRecord(key, user, now, now, host=host)
        self._sessions.add(record)
        self._changes.on_session(record)

    def session(self, key: str) -> SessionRecord | None:
        """The session with this key."""
        return self._sessions.get(key)

    def touch_session(self, key: str, now: float) -> None:
        """Note that a session was resumed."""
        self._sessions.touch(key, now)

    def drop_session(self, key: str) -> Dropped:
        """Take out a session with all its peers and their shares; nothing happens when it is not there."""
        record = self._sessions.remove(key)
        if record is None:
            return Dropped(0, 0)
        peers = [self._peers[peer_id] for peer_id in record.peers]
        shares = sum([self.drop_peer(peer) for peer in peers])
        self._changes.on_session_dropped(record)
        return Dropped(len(peers), shares)

    # -- peers

    def put_peer(self, record: PeerRecord) -> None:
        """Keep a new peer, whose session must exist, or the new state of a known one, whose contents and
        session stay. Raises `Refused`: `quota`, or `unavailable` when too much waits for the disk."""
        self._changes.check_room()
        known = self._peers.get(record.id)
        if known is None:
            self._check_peers(record.host)
            self._add_peer(record)
        else:
            self._renew_peer(known, record)
        self._changes.on_peer(known or record)

    def _check_peers(self, host: str) -> None:
        if len(self._peers) >= self._limits.peers:
            raise Refused("quota", "the tracker keeps no more peers; ask again later")
        if self._peers_at[counted_host(host)] >= self._limits.of_host(host, self._limits.peers):
            raise Refused("quota", "your host has more peers than the tracker keeps for one; ask again later")

    def _add_peer(self, record: PeerRecord) -> None:
        record.order = (fold(record.name), record.id)
        self._sessions_peers(record).add(record.id)
        self._peers[record.id] = record
        self._contents_of[record] = {}
        self._sorted_peers.add(record)
        self._count(record.host, 1, 0)
        self._list_accepting(record)

    def _renew_peer(self, known: PeerRecord, fresh: PeerRecord) -> None:
        order = (fold(fresh.name), fresh.id)
        if known.order != order:
            with self._sorted_peers.moving(known):
                known.order = order
        if known.host != fresh.host:
            self._count(known.host, -1, -known.contents)
            self._count(fresh.host, 1, known.contents)
        known.name, known.host, known.advertised = fresh.name, fresh.host, fresh.advertised
        known.listen, known.room = fresh.listen, fresh.room
        self.touch_peer(known, fresh.seen)
        self._list_accepting(known)

    def _sessions_peers(self, record: PeerRecord) -> set[PeerId]:
        session = self._sessions.get(record.session)
        if session is None:
            raise LookupError(f"peer {record.id} belongs to no session")
        return session.peers

    def _list_accepting(self, record: PeerRecord) -> None:
        if not record.room:
            self._accepting.pop(record.id, None)
        else:
            self._accepting.setdefault(record.id, record)

    def _count(self, host: str, peers: int, shares: int) -> None:
        """Note that a host has more peers and shares, or fewer."""
        host = counted_host(host)
        for counter, change in ((self._peers_at, peers), (self._shares_at, shares)):
            counter[host] += change
            if not counter[host]:
                del counter[host]

    def touch_peer(self, peer: PeerRecord, now: float) -> None:
        """Renew a lease."""
        peer.seen = now
        self._peers.move_to_end(peer.id)

    def peer(self, peer_id: PeerId) -> PeerRecord | None:
        """The peer with this id."""
        return self._peers.get(peer_id)

    def drop_peer(self, peer: PeerRecord) -> int:
        """Take out a known peer with all its shares; return how many those were."""
        del self._peers[peer.id]
        self._accepting.pop(peer.id, None)
        contents = self._contents_of.pop(peer)
        for content in contents:
            self._contents.remove(content, peer)
        self._shares -= len(contents)
        self._count(peer.host, -1, -len(contents))
        session = self._sessions.get(peer.session)
        if session is not None:
            session.peers.discard(peer.id)
        self._sorted_peers.remove(peer)
        self._changes.on_peer_dropped(peer)
        return len(contents)

    def peers(self) -> Sequence[PeerRecord]:
        """All peers in the order of `PeerRecord.order`. Not to be kept across a change."""
        return self._sorted_peers.view()

    def accepting(self) -> Iterable[PeerRecord]:
        """Peers with room, the one that was placed at longest ago first. Not to be kept across a change."""
        return self._accepting.values()

    def on_placed(self, peer_id: PeerId) -> None:
        """Note that a copy was placed at this peer: it moves to the end of `accepting`."""
        if peer_id in self._accepting:
            self._accepting.move_to_end(peer_id)

    # -- contents

    def put_shares(self, peer: PeerRecord, shares: Sequence[Share]) -> None:
        """Keep what a known peer says it has: all of it, or nothing and `Refused`: `quota`, or `unavailable`
        when too much waits for the disk."""
        self._changes.check_room()
        self._check_shares(peer, shares)
        for share in self._add_shares(peer, shares):
            self._changes.on_share(peer, share)

    def _check_shares(self, peer: PeerRecord, shares: Sequence[Share]) -> None:
        mine = self._contents_of[peer]
        new = len({share.id for share in shares if self._contents.get(share.id) not in mine})
        if not new:
            return
        limits = self._limits
        if len(mine) + new > limits.contents_per_peer:
            raise Refused("quota", f"a peer may announce at most {limits.contents_per_peer} contents")
        if self._shares + new > limits.shares:
            raise Refused("quota", "the tracker keeps no more contents; ask again later")
        if self._shares_at[counted_host(peer.host)] + new > limits.of_host(peer.host, limits.shares):
            raise Refused(
                "quota", "your host announces more contents than the tracker keeps for one; ask again later"
            )

    def _add_shares(self, peer: PeerRecord, shares: Sequence[Share]) -> list[Share]:
        """Keep them, and return those that change anything."""
        mine = self._contents_of[peer]
        changed: list[Share] = []
        for share in shares:
            content, new = self._contents.put(peer, share)
            mine[content] = None
            if new:
                changed.append(share)
        self._set_contents(peer, len(mine))
        return changed

    def _set_contents(self, peer: PeerRecord, count: int) -> None:
        change = count - peer.contents
        if change:
            peer.contents = count
            self._shares += change
            self._count(peer.host, 0, change)

    def drop_shares(self, peer: PeerRecord, ids: Iterable[ContentId]) -> int:
        """Take contents of a peer out; return how many were there."""
        mine = self._contents_of[peer]
        before = len(mine)
        for content_id in ids:
            content = self._contents.get(content_id)
            if content in mine:
                self._contents.remove(content, peer)
                del mine[content]
                self._changes.on_share_dropped(peer, content_id)
        self._set_contents(peer, len(mine))
        return before - len(mine)

    def content(self, content_id: ContentId) -> ContentRecord | None:
        """The content with this id."""
        return self._contents.get(content_id)

    def contents_of(self, peer: PeerRecord) -> Iterable[ContentRecord]:
        """What a peer has. Not to be kept across a change."""
        return self._contents_of[peer]

    def contents(self) -> Sequence[ContentRecord]:
        """All contents in the order of `ContentRecord.order`. Not to be kept across a change."""
        return self._contents.all()

    def find(self, words: Sequence[str]) -> Sequence[ContentRecord]:
        """Contents whose folded name holds every word, which are folded too, in the order of `contents`."""
        return self._contents.find(words)

    # -- time

    def expire(self, now: float, ttl: float) -> float:
        """Drop peers whose lease of `ttl` seconds is over at `now`, and idle sessions; return a time before
        which nothing more is due."""
        due = now + ttl
        while self._peers:
            peer = next(iter(self._peers.values()))
            if peer.seen + ttl > now:
                due = peer.seen + ttl
                break
            session = self._sessions.get(peer.session)
            self.drop_peer(peer)
            if session is not None and not session.peers:
                self._sessions.touch(session.key, now)
        while (idle := self._sessions.idle(now)) is not None:
            self.drop_session(idle.key)
        return min(due, self._sessions.next_end(now))
