"""A store in memory: dictionaries of sessions, peers and contents, and two sorted views for pages and for
search.

There is no index from terms to contents. A word matches when it is part of the folded name, so an index would
have to be scanned for terms that hold the word, and real directories have about as many terms as names
(numbers, dates). A plain scan of 100,000 usual names takes about 10 ms and 3 ms a word; announces stay cheap,
and memory small: about 100 bytes a (content, peer) pair.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, repeat
from operator import attrgetter, contains
from typing import Any, Final

from p2p.errors import Refused
from p2p.model import ContentId, PeerId
from p2p.tracker.store.base import (
    EVICT_IDLE,
    SESSION_IDLE,
    Caps,
    Claim,
    ContentRecord,
    Gone,
    PeerRecord,
    SessionRecord,
    Totals,
    fold,
)
from p2p.tracker.store.view import Sorted

_FOLDED: Final = attrgetter("folded")
_LONG: Final = 12
"""Longer words are looked for by `re`, whose time is linear: that of `in` grows with the word's length too
where much nearly matches."""
_BLOCK: Final = 1024
"""A search looks for all words in so many names before it goes on to the next, so that they stay in the
processor's cache."""


class Directory:
    """`TrackerStore` in memory. A store that also writes to disk overrides `_session_changed`,
    `_peer_changed` and `_claim_changed`."""

    _loading = False
    """Whether what comes was kept before, so that no bound of a host may refuse it."""

    def __init__(self, caps: Caps | None = None) -> None:
        self._caps = caps or Caps()
        self._sessions: OrderedDict[str, SessionRecord] = OrderedDict()  # longest unused first
        self._peers: OrderedDict[PeerId, PeerRecord] = OrderedDict()  # longest unseen first
        self._accepting: OrderedDict[PeerId, PeerRecord] = OrderedDict()
        self._contents: dict[ContentId, ContentRecord] = {}
        self._contents_of: dict[PeerRecord, dict[ContentRecord, None]] = {}
        self._sorted_peers: Sorted[PeerRecord] = Sorted()
        self._sorted_contents: Sorted[ContentRecord] = Sorted()
        self._sessions_at: dict[
            str, OrderedDict[str, SessionRecord]
        ] = {}  # of each host, in the order in which they were looked at
        self._peers_at: Counter[str] = Counter()
        self._pairs_at: Counter[str] = Counter()
        self._pairs = 0
        self._bytes = 0

    # -- sessions
    # ------------------------------------------------------------------------------------------------------------------

    def put_session(self, key: str, user: str, now: float, host: str = "") -> None:
        """Keep a new session. Raises `Refused("quota")`."""
        mine: OrderedDict[str, SessionRecord] = self._sessions_at.get(host, OrderedDict())
        if len(mine) >= self._caps.at(host, self._caps.sessions):
            self._evict_of_host(mine, now)
        if len(self._sessions) >= self._caps.sessions:
            self._evict_session(now)
        self._sessions[key] = record = SessionRecord(key, user, now, now, host=host)
        if host:
            self._sessions_at.setdefault(host, mine)[key] = record
        self._session_changed(record, alive=True)

    def session(self, key: str) -> SessionRecord | None:
        """The session with this key."""
        return self._sessions.get(key)

    def touch_session(self, key: str, now: float) -> None:
        """Note that a session was resumed."""
        record = self._sessions.get(key)
        if record is not None:
            record.used = now
            self._sessions.move_to_end(key)

    def drop_session(self, key: str) -> Gone:
        """Take out a session with all its peers and what they announced."""
        record = self._sessions.pop(key, None)
        if record is None:
            return Gone(0, 0)
        if record.host:
            mine = self._sessions_at[record.host]
            del mine[key]
            if not mine:
                del self._sessions_at[record.host]
        peers = [self._peers[peer_id] for peer_id in record.peers]
        pairs = sum([self.drop_peer(peer) for peer in peers])
        self._session_changed(record, alive=False)
        return Gone(len(peers), pairs)

    def _evict_session(self, now: float) -> None:
        oldest = self._oldest_session(now)
        if oldest is None or oldest.used + EVICT_IDLE > now:
            raise Refused("quota", "the tracker keeps no more sessions; ask again later")
        self.drop_session(oldest.key)

    def _evict_of_host(self, mine: OrderedDict[str, SessionRecord], now: float) -> None:
        """Make room among the sessions of one host. It looks at one of them, for who is at its cap may ask
        for this all day."""
        record = next(iter(mine.values()))
        if record.peers or record.used + EVICT_IDLE > now:
            mine.move_to_end(record.key)
            raise Refused(
                "quota", "your host has more sessions than the tracker keeps for one; ask again later"
            )
        self.drop_session(record.key)

    def _oldest_session(self, now: float) -> SessionRecord | None:
        """The session without peers that is unused for longest. Those with peers are in use and move to the
        end as they are met."""
        for _ in range(len(self._sessions)):
            record = next(iter(self._sessions.values()))
            if not record.peers:
                return record
            self.touch_session(record.key, now)
        return None

    # -- peers
    # ---------------------------------------------------------------------------------------------------------------------

    def put_peer(self, record: PeerRecord) -> None:
        """Keep a new peer, or the new state of a known one. Raises `Refused("quota")`."""
        record.order = (fold(record.name), record.id)
        known = self._peers.get(record.id)
        if known is None:
            if len(self._peers) >= self._caps.peers:
                raise Refused("quota", "the tracker keeps no more peers; ask again later")
            if (
                self._peers_at[record.host] >= self._caps.at(record.host, self._caps.peers)
                and not self._loading
            ):
                raise Refused(
                    "quota", "your host has more peers than the tracker keeps for one; ask again later"
                )
            self._peers_at[record.host] += 1
            self._peers[record.id] = record
            self._contents_of[record] = {}
            self._sessions[record.session].peers.add(record.id)
            self._sorted_peers.add(record)
        else:
            self._renew_peer(known, record)
            record = known
        if not record.room:
            self._accepting.pop(record.id, None)
        elif record.id not in self._accepting:
            self._accepting[record.id] = record
        self._peer_changed(record, alive=True)

    def _renew_peer(self, known: PeerRecord, fresh: PeerRecord) -> None:
        if known.order != fresh.order:
            self._sorted_peers.view()  # settles it: an entry that is in view under its old order must leave before it gets a new one
            self._sorted_peers.remove(known)
            self._sorted_peers.view()
            known.order = fresh.order
            self._sorted_peers.add(known)
        if known.host != fresh.host:
            self._count(known.host, -1, -known.contents)
            self._count(fresh.host, 1, known.contents)
        known.name, known.host, known.advertised = fresh.name, fresh.host, fresh.advertised
        known.listen, known.room = fresh.listen, fresh.room
        self.touch_peer(known, fresh.seen)

    def _count(self, host: str, peers: int, pairs: int) -> None:
        """Note that a host has more peers and pairs, or fewer."""
        for counter, change in ((self._peers_at, peers), (self._pairs_at, pairs)):
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

    def peers(self) -> Sequence[PeerRecord]:
        """All peers by name."""
        return self._sorted_peers.view()

    def accepting(self) -> Iterable[PeerRecord]:
        """Peers with room, the one that was placed at longest ago first."""
        return self._accepting.values()

    def placed(self, peer_id: PeerId) -> None:
        """Move a peer to the end of `accepting`."""
        if peer_id in self._accepting:
            self._accepting.move_to_end(peer_id)

    def drop_peer(self, peer: PeerRecord) -> int:
        """Take out a known peer with all that it announced; return how many contents that was."""
        del self._peers[peer.id]
        self._accepting.pop(peer.id, None)
        contents = self._contents_of.pop(peer)
        for content in contents:
            self._unhold(content, peer)
        self._pairs -= len(contents)
        self._count(peer.host, -1, -len(contents))
        session = self._sessions.get(peer.session)
        if session is not None:
            session.peers.discard(peer.id)
        self._sorted_peers.remove(peer)
        self._peer_changed(peer, alive=False)
        return len(contents)

    # -- contents
    # ------------------------------------------------------------------------------------------------------------------

    def put_claims(self, peer: PeerRecord, claims: Sequence[Claim]) -> None:
        """Keep what a known peer says it has: all, or nothing and `Refused("quota")`."""
        mine = self._contents_of[peer]
        new = len({claim.id for claim in claims if peer not in self._holders(claim.id)})
        if new and len(mine) + new > self._caps.contents_per_peer:
            raise Refused("quota", f"a peer may announce at most {self._caps.contents_per_peer} contents")
        if new and self._pairs + new > self._caps.pairs:
            raise Refused("quota", "the tracker keeps no more contents; ask again later")
        if (
            new
            and self._pairs_at[peer.host] + new > self._caps.at(peer.host, self._caps.pairs)
            and not self._loading
        ):
            raise Refused(
                "quota", "your host announces more contents than the tracker keeps for one; ask again later"
            )
        for claim in claims:
            content = self._contents.get(claim.id)
            if content is None:
                content = ContentRecord(claim.id, claim.name, claim.size, 0, fold(claim.name), {})
                self._contents[claim.id] = content
                self._bytes += content.size
                self._sorted_contents.add(content)
            if self._hold(content, peer, claim):
                self._claim_changed(peer, claim.id, claim)
            mine[content] = None
        self._pairs += len(mine) - peer.contents
        self._count(peer.host, 0, len(mine) - peer.contents)
        peer.contents = len(mine)

    def _holders(self, content_id: ContentId) -> Mapping[PeerRecord, int]:
        content = self._contents.get(content_id)
        return content.holders if content is not None else {}

    def _hold(self, content: ContentRecord, peer: PeerRecord, claim: Claim) -> bool:
        """Note a claim; return whether it says anything new."""
        said = (claim.name, claim.size)
        old = content.holders.get(peer)
        others = content.others or {}
        if old is not None:
            old_said = others.get(peer, (content.name, content.size))
            if old == claim.have and said == old_said:
                return False
            content.seeds -= old >= old_said[1]
        # the same int object for all seeds of a content: 32 bytes a pair less
        content.holders[peer] = content.size if claim.have == content.size else claim.have
        content.seeds += claim.have >= claim.size
        if said != (content.name, content.size):
            content.others = others
            others[peer] = said
        else:
            others.pop(peer, None)
        if next(iter(content.holders)) is peer:
            self._retitle(content)
        return True

    def _unhold(self, content: ContentRecord, peer: PeerRecord) -> None:
        have = content.holders.pop(peer)
        size = content.size
        if content.others:
            size = content.others.pop(peer, (content.name, size))[1]
        content.seeds -= have >= size
        if not content.holders:
            del self._contents[content.id]
            self._bytes -= content.size
            self._sorted_contents.remove(content)
        elif content.others:
            self._retitle(content)

    def _retitle(self, content: ContentRecord) -> None:
        """Give a content the name and size that its first live announcer says; the others' are then what
        differs from that."""
        others = content.others or {}
        said = others.pop(next(iter(content.holders)), None)
        if said is None:
            content.others = others or None
            return
        for peer in content.holders:
            others.setdefault(peer, (content.name, content.size))
        del others[next(iter(content.holders))]
        content.others = {peer: other for peer, other in others.items() if other != said} or None
        self._bytes += said[1] - content.size
        if said[0] != content.name:
            self._sorted_contents.view()  # as for a peer's name: out under the old order, in under the new one
            self._sorted_contents.remove(content)
            self._sorted_contents.view()
            content.name, content.folded = said[0], fold(said[0])
            self._sorted_contents.add(content)
        content.size = said[1]

    def drop_claims(self, peer: PeerRecord, ids: Iterable[ContentId]) -> int:
        """Take contents of a peer out; return how many were there."""
        mine = self._contents_of[peer]
        before = len(mine)
        for content_id in ids:
            content = self._contents.get(content_id)
            if content is not None and peer in content.holders:
                self._unhold(content, peer)
                del mine[content]
                self._claim_changed(peer, content_id, None)
        peer.contents = len(mine)
        self._pairs -= before - len(mine)
        self._count(peer.host, 0, len(mine) - before)
        return before - len(mine)

    def content(self, content_id: ContentId) -> ContentRecord | None:
        """The content with this id."""
        return self._contents.get(content_id)

    def contents_of(self, peer: PeerRecord) -> Iterable[ContentRecord]:
        """What a peer has."""
        return self._contents_of[peer]

    def contents(self) -> Sequence[ContentRecord]:
        """All contents by name."""
        return self._sorted_contents.view()

    def find(self, words: Sequence[str]) -> Sequence[ContentRecord]:
        """Contents whose folded name holds every word, by name."""
        contents = self._sorted_contents.view()
        if not words:
            return contents
        # The longest word is likely to be the rarest, and leaves the others few names to look at.
        ordered = sorted(words, key=len, reverse=True)
        found: list[ContentRecord] = []
        for start in range(0, len(contents), _BLOCK):
            found += _holding(ordered, contents[start : start + _BLOCK])
        return found

    def totals(self) -> Totals:
        """The figures."""
        return Totals(len(self._sessions), len(self._peers), len(self._contents), self._pairs, self._bytes)

    # -- time
    # ----------------------------------------------------------------------------------------------------------------------

    def expire(self, now: float, ttl: float) -> float:
        """Drop peers whose lease is over and idle sessions; return a time before which nothing more is
        due."""
        while self._peers:
            peer = next(iter(self._peers.values()))
            if peer.seen + ttl > now:
                break
            session = self._sessions.get(peer.session)
            self.drop_peer(peer)
            if session is not None and not session.peers:
                self.touch_session(session.key, now)
        due = next(iter(self._peers.values())).seen + ttl if self._peers else now + ttl
        while self._sessions and next(iter(self._sessions.values())).used + SESSION_IDLE <= now:
            oldest = self._oldest_session(now)
            if oldest is not None and oldest.used + SESSION_IDLE <= now:
                self.drop_session(oldest.key)
        idle = next(iter(self._sessions.values())).used + SESSION_IDLE if self._sessions else now + ttl
        return min(due, idle)

    # -- disk
    # ----------------------------------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> bool:
        """Nothing ever waits for a disk here."""
        return False

    def take_pending(self) -> Mapping[Any, Any]:
        """Nothing to take."""
        return {}

    def commit(self, changes: Mapping[Any, Any]) -> None:
        """Nothing to write."""

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        """Nothing to note."""

    def close(self) -> None:
        """Nothing to give up."""

    def interrupt(self) -> None:
        """Nothing waits."""

    def _session_changed(self, record: SessionRecord, *, alive: bool) -> None:
        """A session came or went."""

    def _peer_changed(self, record: PeerRecord, *, alive: bool) -> None:
        """A peer came, changed or went, and with it all that it announced."""

    def _claim_changed(self, peer: PeerRecord, content_id: ContentId, claim: Claim | None) -> None:
        """A peer says something new of a content, or (None) has it no more."""


def _holding(words: list[str], contents: list[ContentRecord]) -> list[ContentRecord]:
    """Those of the contents whose names hold every word. A word that leaves none moves to the front: it may
    be rare elsewhere too."""
    names = list(map(_FOLDED, contents))
    for at, word in enumerate(words):
        # `map` goes through the names in C; a comprehension is slower with many words, and twice as slow
        # where lines are traced.
        test = (
            map(re.compile(re.escape(word)).search, names)
            if len(word) > _LONG
            else map(contains, names, repeat(word))
        )
        held = list(test)
        if not any(held):
            words.insert(0, words.pop(at))
            return []
        if not all(held):
            contents, names = list(compress(contents, held)), list(compress(names, held))
    return contents
