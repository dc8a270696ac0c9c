"""The pieces of a download that were begun and are not verified: what of each is still to be asked for, and
which peer goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import BlockSpan, PeerKey


@dataclass(slots=True)
class Piece:
    """One that was begun: its blocks not yet asked for, those that have not come, who goes on with it, and
    who sent some of it."""

    todo: list[BlockSpan]
    missing: set[BlockSpan]
    owner: PeerKey | None
    senders: set[PeerKey] = field(default_factory=set)
    late: int = 0
    """How often a block of it was not there in time."""


class PiecesInProgress:
    """Keeps them in the order in which they were begun."""

    __slots__ = ("_alone", "_geometry", "_pieces", "unbegun")

    def __init__(self, geometry: Geometry, have: Bitmap) -> None:
        self._geometry = geometry
        self._pieces: dict[int, Piece] = {}
        self._alone: set[int] = set()
        """Pieces that came corrupt from several peers: to be fetched from one only, so that the next fault
        has a name."""
        self.unbegun = have.missing().bits
        """A bit for each piece that we lack and that was not begun."""

    def get(self, piece: int) -> Piece | None:
        """One of them; None if it was not begun, or is done with."""
        return self._pieces.get(piece)

    def wants(self, piece: int) -> bool:
        """Whether some of a begun piece is still to be asked for."""
        found = self._pieces.get(piece)
        return found is not None and bool(found.todo)

    def shareable(self, piece: int) -> bool:
        """Whether a second peer may be asked for a block that one has not brought yet."""
        return piece not in self._alone

    def count(self, peer: PeerKey) -> int:
        """How many pieces a peer is bringing, or has brought and they are not verified yet."""
        return sum(1 for piece in self._pieces.values() if piece.owner == peer or peer in piece.senders)

    def begin(self, piece: int, peer: PeerKey) -> BlockSpan:
        """Let `peer` begin with a piece; returns its first block."""
        first, *rest = self._geometry.blocks(piece)
        self.unbegun &= ~(1 << piece)
        self._pieces[piece] = Piece(rest, {first, *rest}, peer)
        return first

    def go_on(self, peer: PeerKey, has: int) -> BlockSpan | None:
        """The next block of a piece that `peer` began, or that nobody goes on with, of those it has; None if
        there is none."""
        for number, piece in self._pieces.items():
            if piece.todo and piece.owner in (None, peer) and has >> number & 1:
                piece.owner = peer
                return piece.todo.pop(0)
        return None

    def arrived(self, peer: PeerKey, block: BlockSpan) -> None:
        """Note that `peer` sent a block."""
        piece = self._pieces[block.piece]
        piece.missing.discard(block)
        piece.senders.add(peer)

    def give_back(self, block: BlockSpan) -> None:
        """Note that nobody is asked for a block any more; who comes first may go on with its piece."""
        piece = self._pieces.get(block.piece)
        if piece is None or block not in piece.missing or block in piece.todo:
            return
        piece.todo.append(block)
        piece.todo.sort()
        self._disown(block.piece, piece)

    def leave(self, peer: PeerKey, has: Callable[[int], object] = lambda _piece: False) -> None:
        """Let others go on with the pieces of `peer`, which it `has` no more."""
        for number, piece in self._pieces.items():
            if piece.owner == peer and not has(number):
                self._disown(number, piece)

    def verified(self, piece: int) -> Piece | None:
        """Take out a piece that is here."""
        self.unbegun &= ~(1 << piece)
        self._alone.discard(piece)
        return self._pieces.pop(piece, None)

    def corrupt(self, piece: int) -> Piece | None:
        """Take out a piece that came wrong, and is to be begun again."""
        found = self._pieces.pop(piece, None)
        if found is not None:
            self.unbegun |= 1 << piece
            if len(found.senders) > 1:
                self._alone.add(piece)
        return found

    def _disown(self, number: int, piece: Piece) -> None:
        """Let any peer go on with a piece; to fetch it from one peer only comes second to fetching it at all.

        As long as nothing of it has come, another can still be the one: who only says "busy" must not undo
        what finds out a liar.
        """
        piece.owner = None
        if piece.senders:
            self._alone.discard(number)
