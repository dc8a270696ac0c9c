"""The named trace events of a swarm, made from the events and effects of a participant."""

from __future__ import annotations

from p2p.model import ContentId, PeerId, peer_of
from p2p.peer.trace import Asked, Completed, Corrupt, Dropped, Fetched, Joined, Left, SwarmEvent, Verified
from p2p.swarm.events import (
    BlockArrived,
    Drop,
    Effect,
    Event,
    Fetch,
    Finished,
    MemberJoined,
    MemberLeft,
    PieceCorrupt,
    PieceVerified,
)


def swarm_event(me: PeerId, content: ContentId, happened: Event | Effect) -> SwarmEvent | None:
    """The named event for what happened at peer `me`, or None for what is of no interest to a watcher."""
    match happened:
        case MemberJoined(peer, _):
            return Joined(peer_of(peer), content)
        case MemberLeft(peer):
            return Left(peer_of(peer), content)
        case Fetch(peer, block):
            return Asked(me, peer_of(peer), block.piece, block.offset, block.length)
        case BlockArrived(peer, block):
            return Fetched(me, peer_of(peer), block.piece, block.offset, block.length)
        case PieceVerified(piece):
            return Verified(me, piece)
        case PieceCorrupt(piece):
            return Corrupt(me, piece)
        case Drop(peer, why, _):
            return Dropped(me, peer_of(peer), why)
        case Finished():
            return Completed(me, content)
        case _:
            return None
