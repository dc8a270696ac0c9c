"""The messages to the tracker: one frozen dataclass each, with its limits, and one example line above it."""

from __future__ import annotations

from typing import ClassVar, Final

from p2p.model import ContentId, PeerId
from p2p.protocol.peer_messages import (
    BYTES,
    CONTENT_ID,
    COUNT,
    HOST,
    LIMIT,
    LISTEN,
    NAME,
    OFFSET,
    PAGE,
    PEER_ID,
    SECONDS,
    SESSION,
    SHORT_NAME,
    Answer,
    Hello,
    Ping,
    Request,
)
from p2p.protocol.schema import ListOf, Record, Text, wire
from p2p.value import frozen

SHARES_PER_ANNOUNCE: Final = 64
IDS_PER_WITHDRAW: Final = 256


@frozen
class Share:
    """One content that a peer has, or has a part of."""

    id: ContentId = wire(CONTENT_ID, about="content id")
    name: str = wire(NAME, about="the content's name")
    size: int = wire(BYTES, about="all of it")
    have: int = wire(BYTES, about="how much of it this peer has verified")


@frozen
class HitRow:
    """One content as the tracker lists it."""

    id: ContentId = wire(CONTENT_ID, about="content id")
    name: str = wire(NAME, about="its name")
    size: int = wire(BYTES, about="all of it")
    seeds: int = wire(COUNT, about="peers that have all of it")
    peers: int = wire(COUNT, about="peers that have any of it, seeds included")


@frozen
class Contact:
    """A peer and where to dial it."""

    peer: PeerId = wire(PEER_ID, about="who it is")
    name: str = wire(SHORT_NAME, about="what people call it")
    host: str = wire(HOST, about="address to dial, as the asker can reach it")
    listen: dict[str, int] = wire(LISTEN, about="port of each transport")
    have: int = wire(BYTES, 0, about="how much of the content it has")


@frozen
class PeerRow:
    """A peer as the tracker lists it."""

    peer: PeerId = wire(PEER_ID, about="who it is")
    name: str = wire(SHORT_NAME, about="what people call it")
    user: str = wire(SHORT_NAME, about="whose session it belongs to")
    host: str = wire(HOST, about="address to dial")
    listen: dict[str, int] = wire(LISTEN, about="port of each transport")
    contents: int = wire(COUNT, about="how many contents it announces")
    age: int = wire(SECONDS, about="since its last heartbeat")
    room: int = wire(BYTES, 0, about="how much it accepts by upload")


# {"ok":true,"session":"9c…","ttl":30,"seq":3}
@frozen
class LoginAnswer(Answer):
    """The session that was opened; this connection is in it from now on."""

    session: str = wire(
        SESSION, about="secret that names the session; a later connection shows it in `hello`"
    )
    ttl: int = wire(SECONDS, about="a peer that does not announce for this long is forgotten")


# {"op":"login","user":"alice","seq":3}
@frozen
class Login(Request):
    """Opens a session."""

    OP: ClassVar[str] = "login"
    ANSWER: ClassVar[type[Answer] | None] = LoginAnswer

    user: str = wire(SHORT_NAME, about="who logs in")


# {"ok":true,"peers":1,"contents":4,"seq":9}
@frozen
class LogoutAnswer(Answer):
    """What left the directory with the session."""

    peers: int = wire(COUNT, about="peers that are gone")
    contents: int = wire(COUNT, about="shares that are gone")


# {"op":"logout","seq":9}
@frozen
class Logout(Request):
    """Ends the session; its peers and their contents leave the directory at once."""

    OP: ClassVar[str] = "logout"
    ANSWER: ClassVar[type[Answer] | None] = LogoutAnswer


# {"ok":true,"ttl":30,"known":1,"seq":4}
@frozen
class AnnounceAnswer(Answer):
    """Noted."""

    ttl: int = wire(SECONDS, about="announce again well before this has passed")
    known: int = wire(
        COUNT,
        about="how many contents of this peer the tracker knows now;"
        " fewer than expected: announce them all again",
    )


# {"op":"announce","peer":"5f…","name":"lab-07","listen":{"tcp":6970},
#  "contents":[{"id":"ab…","name":"lab.img","size":7,"have":7}],"seq":4}
@frozen
class Announce(Request):
    """Says where a peer listens and what it has; with no contents, it is the heartbeat of all that was
    announced before."""

    OP: ClassVar[str] = "announce"
    ANSWER: ClassVar[type[Answer] | None] = AnnounceAnswer

    peer: PeerId = wire(PEER_ID, about="who announces")
    name: str = wire(SHORT_NAME, about="what people call it")
    listen: dict[str, int] = wire(LISTEN, about="port of each transport")
    advertise: str | None = wire(
        HOST, None, about="host to hand out instead of the one seen; only where the operator allows it"
    )
    room: int = wire(BYTES, 0, about="how much it accepts by upload; 0: it accepts none")
    contents: tuple[Share, ...] = wire(
        ListOf(Record(Share), SHARES_PER_ANNOUNCE), (), about="what is new or has changed"
    )


# {"ok":true,"withdrawn":1,"seq":5}
@frozen
class WithdrawAnswer(Answer):
    """What was taken out."""

    withdrawn: int = wire(COUNT, about="how many of the ids were there")


# {"op":"withdraw","peer":"5f…","ids":["ab…"],"seq":5}
@frozen
class Withdraw(Request):
    """Takes contents of a peer, or the peer itself, out of the directory."""

    OP: ClassVar[str] = "withdraw"
    ANSWER: ClassVar[type[Answer] | None] = WithdrawAnswer

    peer: PeerId = wire(PEER_ID, about="whose contents")
    ids: tuple[ContentId, ...] = wire(
        ListOf(CONTENT_ID, IDS_PER_WITHDRAW), (), about="which contents; none: the peer leaves, with all"
    )


# {"ok":true,"content":{"id":"ab…","name":"lab.img","size":7,"seeds":1,"peers":1},"sources":[{…}],"seq":6}
@frozen
class LookupAnswer(Answer):
    """A bounded choice of peers, best first."""

    content: HitRow = wire(Record(HitRow), about="what it is")
    sources: tuple[Contact, ...] = wire(ListOf(Record(Contact), PAGE), about="who has it")


# {"op":"lookup","id":"ab…","limit":50,"peer":"5f…","seq":6}
@frozen
class Lookup(Request):
    """Who has this content?"""

    OP: ClassVar[str] = "lookup"
    ANSWER: ClassVar[type[Answer] | None] = LookupAnswer

    id: ContentId = wire(CONTENT_ID, about="which content")
    limit: int = wire(LIMIT, 50, about="most sources wanted")
    peer: PeerId | None = wire(PEER_ID, None, about="who asks, so that it is not handed to itself")


# {"ok":true,"total":1,"hits":[{"id":"ab…","name":"lab.img","size":7,"seeds":1,"peers":1}],"seq":7}
@frozen
class HitsAnswer(Answer):
    """A page of contents."""

    total: int = wire(COUNT, about="how many match in all")
    hits: tuple[HitRow, ...] = wire(ListOf(Record(HitRow), PAGE), about="this page")
    next: int | None = wire(OFFSET, None, about="offset of the next page; absent on the last")


# {"op":"search","text":"linux iso","offset":0,"limit":50,"seq":7}
@frozen
class Search(Request):
    """Contents whose name holds all these words, in any order and any case."""

    OP: ClassVar[str] = "search"
    ANSWER: ClassVar[type[Answer] | None] = HitsAnswer

    text: str = wire(Text(256), about="the words; none: everything")
    offset: int = wire(OFFSET, 0, about="matches to pass over")
    limit: int = wire(LIMIT, 50, about="most matches wanted")


# {"op":"list","offset":0,"limit":50,"seq":7}
@frozen
class List(Request):
    """All contents, by name."""

    OP: ClassVar[str] = "list"
    ANSWER: ClassVar[type[Answer] | None] = HitsAnswer

    offset: int = wire(OFFSET, 0, about="contents to pass over")
    limit: int = wire(LIMIT, 50, about="most contents wanted")


# {"ok":true,"total":1,"peers":[{"peer":"5f…","name":"lab-07","user":"alice","host":"10.0.0.7",
#  "listen":{"tcp":6970},"contents":4,"age":3}]}
@frozen
class PeersAnswer(Answer):
    """A page of peers."""

    total: int = wire(COUNT, about="how many there are in all")
    peers: tuple[PeerRow, ...] = wire(ListOf(Record(PeerRow), PAGE), about="this page")
    next: int | None = wire(OFFSET, None, about="offset of the next page; absent on the last")


# {"op":"peers","offset":0,"limit":50,"seq":8}
@frozen
class Peers(Request):
    """All peers, by name."""

    OP: ClassVar[str] = "peers"
    ANSWER: ClassVar[type[Answer] | None] = PeersAnswer

    offset: int = wire(OFFSET, 0, about="peers to pass over")
    limit: int = wire(LIMIT, 50, about="most peers wanted")


# {"ok":true,"targets":[{"peer":"77…","name":"lab-08","host":"10.0.0.8","listen":{"tcp":6970}}],"seq":10}
@frozen
class PlaceAnswer(Answer):
    """Peers for new copies; fewer than asked for, when fewer accept."""

    targets: tuple[Contact, ...] = wire(ListOf(Record(Contact), PAGE), about="whom to send `replicate`")


# {"op":"place","id":"ab…","size":7,"copies":2,"seq":10}
@frozen
class Place(Request):
    """Picks peers for new copies, round robin over those that accept uploads, have room and lack the
    content."""

    OP: ClassVar[str] = "place"
    ANSWER: ClassVar[type[Answer] | None] = PlaceAnswer

    id: ContentId = wire(CONTENT_ID, about="which content")
    size: int = wire(BYTES, about="how much room a copy needs")
    copies: int = wire(LIMIT, 1, about="how many peers")
    exclude: tuple[PeerId, ...] = wire(
        ListOf(PEER_ID, PAGE), (), about="peers not to pick: the asker itself, those that refused"
    )


# {"ok":true,"version":"0.1.0","uptime":60,"peers":3,"contents":4,"shares":9,"bytes":28,"sessions":3,
#  "requests":120,"user":"alice","seq":11}
@frozen
class StatsAnswer(Answer):
    """The tracker's figures, and the asker's session."""

    version: str = wire(Text(64), about="software version")
    uptime: int = wire(SECONDS, about="since it started")
    peers: int = wire(COUNT, about="peers alive")
    contents: int = wire(COUNT, about="contents announced")
    shares: int = wire(COUNT, about="(content, peer) pairs")
    bytes: int = wire(COUNT, about="size of all contents, each counted once")
    sessions: int = wire(COUNT, about="sessions open")
    connections: int = wire(COUNT, 0, about="connections open")
    requests: int = wire(COUNT, about="requests answered since it started")
    user: str | None = wire(
        SHORT_NAME, None, about="user of this connection's session; absent when it has none"
    )


# {"op":"stats","seq":11}
@frozen
class Stats(Request):
    """The tracker's figures."""

    OP: ClassVar[str] = "stats"
    ANSWER: ClassVar[type[Answer] | None] = StatsAnswer


TRACKER_OPS: Final[tuple[type[Request], ...]] = (
    Hello,
    Ping,
    Login,
    Logout,
    Announce,
    Withdraw,
    Lookup,
    Search,
    List,
    Peers,
    Place,
    Stats,
)
