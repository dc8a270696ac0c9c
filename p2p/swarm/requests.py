"""What was asked of whom, since when and until when."""

from __future__ import annotations

from itertools import takewhile

from p2p.model import BlockSpan, PeerKey
from p2p.value import frozen


@frozen
class Entry:
    """One request under way; times in seconds of the caller's clock."""

    peer: PeerKey
    block: BlockSpan
    asked: float
    until: float


class Requests:
    """Requests under way, by peer and by block. A block may be asked of several peers at the tail of a
    download.

    All are opened in the order of their `until`, so that the oldest is the first to be overdue.
    """

    __slots__ = ("_by_block", "_by_peer", "_entries")

    def __init__(self) -> None:
        self._by_peer: dict[PeerKey, dict[BlockSpan, Entry]] = {}
        self._by_block: dict[BlockSpan, set[PeerKey]] = {}
        self._entries: dict[tuple[PeerKey, BlockSpan], Entry] = {}

    def open(self, peer: PeerKey, block: BlockSpan, now: float, until: float) -> None:
        """Note that `peer`, which is not asked for it already, is asked for `block`."""
        entry = self._entries[peer, block] = Entry(peer, block, now, until)
        self._by_peer.setdefault(peer, {})[block] = entry
        self._by_block.setdefault(block, set()).add(peer)

    def close(self, peer: PeerKey, block: BlockSpan) -> Entry | None:
        """Take out one request; None when there was none, as for an answer that comes after its time."""
        entry = self._entries.pop((peer, block), None)
        if entry is None:
            return None
        of_peer = self._by_peer[peer]
        del of_peer[block]
        if not of_peer:
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
        """All requests under way, oldest first."""
        return list(self._entries.values())

    def overdue(self, now: float) -> list[Entry]:
        """Requests whose time is over."""
        return list(takewhile(lambda entry: entry.until <= now, self._entries.values()))

    def earliest(self) -> float | None:
        """When the next request will be overdue."""
        return next(iter(self._entries.values())).until if self._entries else None

    def __len__(self) -> int:
        return len(self._entries)
