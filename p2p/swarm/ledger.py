"""What was asked of whom, since when and until when."""

from __future__ import annotations

from p2p.frozen import frozen
from p2p.model import BlockSpan, PeerKey


@frozen
class Entry:
    """One request under way; times in seconds of the caller's clock."""

    peer: PeerKey
    block: BlockSpan
    asked: float
    until: float


class Ledger:
    """Requests under way, by peer and by block. A block may be asked of several peers at the tail of a download."""

    __slots__ = ("_by_block", "_by_peer", "_total")

    def __init__(self) -> None:
        self._by_peer: dict[PeerKey, dict[BlockSpan, Entry]] = {}
        self._by_block: dict[BlockSpan, set[PeerKey]] = {}
        self._total = 0

    def open(self, peer: PeerKey, block: BlockSpan, now: float, until: float) -> None:
        """Note that `peer`, which is not asked for it already, is asked for `block`."""
        self._total += 1
        self._by_peer.setdefault(peer, {})[block] = Entry(peer, block, now, until)
        self._by_block.setdefault(block, set()).add(peer)

    def close(self, peer: PeerKey, block: BlockSpan) -> Entry | None:
        """Take out one request; None when there was none, as for an answer that comes after its time."""
        entry = self._by_peer.get(peer, {}).pop(block, None)
        if entry is None:
            return None
        self._total -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        asked = self._by_block[block]
        asked.discard(peer)
        if not asked:
            del self._by_block[block]
        return entry

    def of(self, peer: PeerKey) -> list[Entry]:
        """Requests under way at `peer`, oldest first."""
        return list(self._by_peer.get(peer, {}).values())

    def count(self, peer: PeerKey) -> int:
        """How many requests are under way at `peer`."""
        return len(self._by_peer.get(peer, ()))

    def asked(self, block: BlockSpan) -> frozenset[PeerKey]:
        """Who is asked for `block`."""
        return frozenset(self._by_block.get(block, ()))

    def entries(self) -> list[Entry]:
        """All requests under way."""
        return [entry for entries in self._by_peer.values() for entry in entries.values()]

    def overdue(self, now: float) -> list[Entry]:
        """Requests whose time is over."""
        return [entry for entry in self.entries() if entry.until <= now]

    def earliest(self) -> float | None:
        """When the next request will be overdue; each peer is asked in order of time, so its oldest request tells."""
        return min((next(iter(entries.values())).until for entries in self._by_peer.values()), default=None)

    def __len__(self) -> int:
        return self._total
