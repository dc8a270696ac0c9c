"""The pieces of a download that were started and are not verified: what of each is still to be requested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import BlockSpan, PeerKey


@dataclass(slots=True)
class PieceInProgress:
    """A started piece. Each block is unrequested, requested, or arrived; `missing` holds the first two
    kinds."""

    unrequested: list[BlockSpan]
    missing: set[BlockSpan]
    owner: PeerKey | None
    """The peer that goes on with it; None: any peer may."""
    senders: set[PeerKey] = field(default_factory=set)
    """Peers that sent some of it."""
    late: int = 0
    """How often a block of it was late."""


class PiecesInProgress:
    """Keeps the pieces in the order in which they were started."""

    __slots__ = ("_geometry", "_pieces", "_single_source", "unrequested", "unstarted")

    def __init__(self, geometry: Geometry, have: Bitmap) -> None:
        self._geometry = geometry
        self._pieces: dict[int, PieceInProgress] = {}
        self._single_source: set[int] = set()
        """Pieces that came corrupt from several peers: they are fetched again from one peer each, so that the
        next fault has a name."""
        self.unstarted = have.missing().bits
        """Bit `i`: piece `i` is lacking and was not started."""
        self.unrequested = 0
        """Bit `i`: piece `i` was started, and some of it is to be requested."""

    def get(self, piece: int) -> PieceInProgress | None:
        """A started piece; None if it was not started, or is verified."""
        return self._pieces.get(piece)

    def may_hedge(self, piece: int) -> bool:
        """Whether a second peer may be asked for a block of this piece."""
        return piece not in self._single_source

    def count(self, peer: PeerKey) -> int:
        """How many unverified pieces a peer sends, or has sent something of."""
        return sum(1 for piece in self._pieces.values() if piece.owner == peer or peer in piece.senders)

    def start(self, piece: int, peer: PeerKey) -> BlockSpan:
        """Let `peer` start a piece; returns its first block."""
        first, *rest = self._geometry.blocks(piece)
        self.unstarted &= ~(1 << piece)
        self._pieces[piece] = PieceInProgress(rest, {first, *rest}, peer)
        if rest:
            self.unrequested |= 1 << piece
        return first

    def next_block(self, peer: PeerKey, has: int) -> BlockSpan | None:
        """The next block of a piece that `peer` owns or that has no owner, of those it `has`; None if there
        is none."""
        if not self.unrequested & has:
            return None
        for number, piece in self._pieces.items():
            if piece.unrequested and piece.owner in (None, peer) and has >> number & 1:
                piece.owner = peer
                block = piece.unrequested.pop(0)
                if not piece.unrequested:
                    self.unrequested &= ~(1 << number)
                return block
        return None

    def on_arrived(self, peer: PeerKey, block: BlockSpan) -> None:
        """`peer` sent a block."""
        piece = self._pieces[block.piece]
        piece.missing.discard(block)
        piece.senders.add(peer)

    def return_block(self, block: BlockSpan) -> None:
        """No request for this block is open any more; any peer may go on with its piece."""
        piece = self._pieces.get(block.piece)
        if piece is None or block not in piece.missing or block in piece.unrequested:
            return
        piece.unrequested.append(block)
        piece.unrequested.sort()
        self.unrequested |= 1 << block.piece
        self._disown(block.piece, piece)

    def on_left(self, peer: PeerKey, has: Callable[[int], object] = lambda _piece: False) -> None:
        """Let other peers go on with the pieces of `peer` that it does not have (any more)."""
        for number, piece in self._pieces.items():
            if piece.owner == peer and not has(number):
                self._disown(number, piece)

    def on_verified(self, piece: int) -> PieceInProgress | None:
        """Take out a piece that matches its hash."""
        self.unstarted &= ~(1 << piece)
        self._single_source.discard(piece)
        return self._remove(piece)

    def on_corrupt(self, piece: int) -> PieceInProgress | None:
        """Take out a piece that does not match its hash, and is to be started again."""
        found = self._remove(piece)
        if found is not None:
            self.unstarted |= 1 << piece
            if len(found.senders) > 1:
                self._single_source.add(piece)
        return found

    def _remove(self, piece: int) -> PieceInProgress | None:
        self.unrequested &= ~(1 << piece)
        return self._pieces.pop(piece, None)

    def _disown(self, number: int, piece: PieceInProgress) -> None:
        """Let any peer go on with a piece. To fetch it from one peer only comes second to fetching it at all.

        While nothing of it has come, another peer can still be the only one. So a liar that answers "busy"
        does not undo what would find it out.
        """
        piece.owner = None
        if piece.senders:
            self._single_source.discard(number)
