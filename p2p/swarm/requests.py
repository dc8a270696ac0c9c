"""Open requests: which block from which peer, since when and until when."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from p2p.model import BlockSpan, PeerKey
from p2p.value import frozen


@frozen
class BlockRequest:
    """One open request; times in seconds of the caller's clock."""

    peer: PeerKey
    block: BlockSpan
    asked: float
    until: float


class Requests:
    """Open requests, by peer and by block. In the end-game a block may be requested from several peers.

    Requests are opened in the order of their `until`, so the oldest one is overdue first.
    """

    __slots__ = ("_by_block", "_by_peer", "_entries")

    def __init__(self) -> None:
        self._by_peer: dict[PeerKey, dict[BlockSpan, BlockRequest]] = {}
        self._by_block: dict[BlockSpan, set[PeerKey]] = {}
        self._entries: dict[tuple[PeerKey, BlockSpan], BlockRequest] = {}

    def open(self, peer: PeerKey, block: BlockSpan, now: float, until: float) -> None:
        """`block` is requested from `peer`, from which it is not requested yet."""
        request = self._entries[peer, block] = BlockRequest(peer, block, now, until)
        self._by_peer.setdefault(peer, {})[block] = request
        self._by_block.setdefault(block, set()).add(peer)

    def close(self, peer: PeerKey, block: BlockSpan) -> BlockRequest | None:
        """Take out one request; None when there is none, as for a late answer."""
        request = self._entries.pop((peer, block), None)
        if request is None:
            return None
        of_peer = self._by_peer[peer]
        del of_peer[block]
        if not of_peer:
            del self._by_peer[peer]
        asked = self._by_block[block]
        asked.discard(peer)
        if not asked:
            del self._by_block[block]
        return request

    def of(self, peer: PeerKey) -> list[BlockRequest]:
        """Open requests at `peer`, oldest first."""
        return list(self._by_peer.get(peer, {}).values())

    def count(self, peer: PeerKey) -> int:
        """How many requests are open at `peer`."""
        return len(self._by_peer.get(peer, ()))

    def asked(self, block: BlockSpan) -> frozenset[PeerKey]:
        """The peers from which `block` is requested."""
        return frozenset(self._by_block.get(block, ()))

    def entries(self) -> Iterable[BlockRequest]:
        """All open requests, oldest first; for as long as none is opened or closed."""
        return self._entries.values()

    def overdue(self, now: float) -> list[BlockRequest]:
        """Requests whose time is up, oldest first."""
        return list(takewhile(lambda request: request.until <= now, self._entries.values()))

    def oldest(self) -> BlockRequest | None:
        """The request that was opened first, and will be overdue first."""
        return next(iter(self._entries.values()), None)

    def __len__(self) -> int:
        return len(self._entries)
