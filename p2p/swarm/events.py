"""What happens to one peer in one swarm (events), and what it wants done (effects), as values.

The caller feeds a `Participant` one event at a time and carries out the effects in order; nothing else passes
between the two. An example, a download of one piece of one block from peer A, as a trace of both:

    MemberJoined(A, "a@10.0.0.7")   →
    PeerHas(A, 0b1)                 →  Fetch(A, block)
    BlockArrived(A, block)          →
    PieceVerified(0)                →  Finished()
    Tick()                          →  SendHave((0,))

Times are seconds of one monotonic clock that the caller owns.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from p2p.model import BlockSpan, PeerKey
from p2p.value import frozen

Ticket = Hashable
"""The caller's own name for one upload, from the request to the last byte."""

# -- events: members


@frozen
class MemberJoined:
    """A peer takes part in this swarm; what it has is not known yet. `client` is how its requests for blocks
    are known."""

    peer: PeerKey
    client: str


@frozen
class MemberLeft:
    """A peer takes part no more; what was requested from it will not come."""

    peer: PeerKey


@frozen
class PeerHas:
    """A peer sent all that it has: bit `i` of `bits` is piece `i`. Replaces what it sent before."""

    peer: PeerKey
    bits: int


@frozen
class PeerGained:
    """A peer has verified more pieces: bit `i` of `bits` is piece `i`."""

    peer: PeerKey
    bits: int


@frozen
class Suggested:
    """A super-seeding peer suggests that we fetch these pieces from it."""

    peer: PeerKey
    pieces: tuple[int, ...]


@frozen
class Listed:
    """The tracker named so many other peers; None: the tracker cannot be reached."""

    peers: int | None


# -- events: downloads


@frozen
class BlockArrived:
    """A block came whole. Its bytes are not verified yet."""

    peer: PeerKey
    block: BlockSpan


class Failure(Enum):
    """Why a block did not come."""

    LACKS = "lacks"
    """The peer does not have that piece."""
    BUSY = "busy"
    """The peer has no upload slot for us."""
    BROKEN = "broken"
    """The connection failed, or the peer broke the protocol."""


@frozen
class BlockFailed:
    """A block that was requested will not come."""

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
class Published:
    """The whole content has its final name: from now on this peer is a seed."""


@frozen
class Withdrawn:
    """The content is not shared any more."""


# -- events: uploads


@frozen
class BlockAsked:
    """A client requests a block. The answer is a `Grant`, now or later, or a `Refuse`."""

    ticket: Ticket
    client: str
    block: BlockSpan


@frozen
class SendBegan:
    """The files of a granted upload are open, and its first byte may leave."""

    ticket: Ticket


@frozen
class BlockSent:
    """A block of a granted upload left whole."""

    ticket: Ticket
    block: BlockSpan


@frozen
class UploadEnded:
    """An upload is over: sent, failed, or its client went away while it waited."""

    ticket: Ticket


@frozen
class Tick:
    """Time has passed; nothing else."""


SchedulerEvent = (
    MemberJoined
    | MemberLeft
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
"""What decides a download."""

Event = SchedulerEvent | Published | Withdrawn | BlockAsked | SendBegan | BlockSent | UploadEnded

# -- effects


@frozen
class Introduce:
    """Send this member everything that we have."""

    peer: PeerKey


@frozen
class SendHave:
    """Send every member the pieces that were verified since the last time."""

    pieces: tuple[int, ...]


@frozen
class Suggest:
    """Suggest to this member that it fetch these pieces from us."""

    peer: PeerKey
    pieces: tuple[int, ...]


@frozen
class SendNone:
    """Tell these peers that we share this content no more."""

    peers: tuple[PeerKey, ...]


@frozen
class Fetch:
    """Request this block from this peer."""

    peer: PeerKey
    block: BlockSpan


@frozen
class Cancel:
    """Stop waiting for this block from this peer; no event about it is expected any more."""

    peer: PeerKey
    block: BlockSpan


@frozen
class Drop:
    """Disconnect this peer. `corrupt`: it sent a piece that does not match its hash, and is banned."""

    peer: PeerKey
    why: str
    corrupt: bool


@frozen
class Finished:
    """Every piece is verified."""


@frozen
class GiveUp:
    """Nothing came for too long. `missing` are the pieces that no known peer has; when it is empty, peers
    have all pieces and do not send them."""

    missing: tuple[int, ...]


@frozen
class Grant:
    """Start this upload. Besides its first block it may send more, up to `turn` bytes in all."""

    ticket: Ticket
    turn: int


@frozen
class Refuse:
    """Answer this request with a wire error."""

    ticket: Ticket
    code: str
    message: str


@frozen
class Abort:
    """Break this upload off: its receiver is stalled, and there are too many such."""

    ticket: Ticket


FetchEffect = Fetch | Cancel | Drop | Finished | GiveUp
"""What a download wants."""

UploadEffect = Grant | Refuse | Abort
"""What the upload queue wants; it may concern an upload of another swarm of this peer."""

Effect = Introduce | SendHave | Suggest | SendNone | FetchEffect | UploadEffect
