"""What can happen to a download (news) and what it can want (wishes), as values.

A shell tells the scheduler the news one by one and carries out the wishes; nothing else passes between the
two. Times are seconds of one monotonic clock that the caller owns.
"""

from __future__ import annotations

from enum import Enum

from p2p.model import BlockSpan, PeerKey
from p2p.value import frozen

# -- news
# ----------------------------------------------------------------------------------------------------------------------------


@frozen
class PeerJoined:
    """A peer of this swarm can be asked; nothing is known yet of what it has."""

    peer: PeerKey


@frozen
class PeerLeft:
    """A peer cannot be asked any more; what was asked of it will not come."""

    peer: PeerKey


@frozen
class PeerHas:
    """A peer told all that it has: bit `i` of `bits` is piece `i`. Replaces what it told before."""

    peer: PeerKey
    bits: int


@frozen
class PeerGained:
    """A peer told pieces that it has besides those it told before."""

    peer: PeerKey
    pieces: tuple[int, ...]


@frozen
class Suggested:
    """A peer would like us to fetch these pieces from it; from now on we take that peer's choice before our
    own."""

    peer: PeerKey
    pieces: tuple[int, ...]


@frozen
class BlockArrived:
    """A block came whole. Its bytes are not checked yet."""

    peer: PeerKey
    block: BlockSpan


class Failure(Enum):
    """Why a block did not come."""

    LACKS = "lacks"
    """The peer says it has not that piece."""
    BUSY = "busy"
    """The peer has too much to do."""
    BROKEN = "broken"
    """The connection failed, or the peer did not keep the rules."""


@frozen
class BlockFailed:
    """A block that was asked for will not come."""

    peer: PeerKey
    block: BlockSpan
    failure: Failure


@frozen
class PieceVerified:
    """A piece is whole, matches its hash and is on disk."""

    piece: int


@frozen
class PieceCorrupt:
    """A piece is whole and does not match its hash."""

    piece: int


@frozen
class Listed:
    """The tracker named so many other peers that may be asked; None: the tracker itself is out of reach."""

    peers: int | None


@frozen
class Tick:
    """Time has passed; nothing else."""


Event = (
    PeerJoined
    | PeerLeft
    | PeerHas
    | PeerGained
    | Suggested
    | BlockArrived
    | BlockFailed
    | PieceVerified
    | PieceCorrupt
    | Listed
    | Tick
)

# -- wishes
# --------------------------------------------------------------------------------------------------------------------------


@frozen
class Fetch:
    """Ask this peer for this block."""

    peer: PeerKey
    block: BlockSpan


@frozen
class Cancel:
    """Stop waiting for this block from this peer; it is too late, or came from elsewhere. No news about it is
    wanted any more."""

    peer: PeerKey
    block: BlockSpan


@frozen
class Drop:
    """Have nothing more to do with this peer."""

    peer: PeerKey
    why: str
    corrupt: bool


@frozen
class SendHave:
    """Tell all peers of this swarm that we have this piece."""

    piece: int


@frozen
class Finished:
    """Every piece is verified."""


@frozen
class GiveUp:
    """Nothing came for too long. `missing` are the pieces that no peer we know has; none: peers have them and
    do not give them."""

    missing: tuple[int, ...]


Effect = Fetch | Cancel | Drop | SendHave | Finished | GiveUp
