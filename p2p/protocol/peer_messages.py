"""The messages between peers, and those that the tracker knows too: one frozen dataclass each with its
limits, and one example line above it. `tracker_messages.py` has the messages to the tracker.

`protos/PROTOCOL.md` says the same in words for authors of a peer in another language; its tables are made
from these classes. A request class names the class of its answer, and how large a body that answer may have.
`have` is a notification: it has no answer.
"""

from __future__ import annotations

from typing import ClassVar, Final

from p2p.model import MAX_BLOCK, MAX_PIECES, MAX_SIZE, ContentId, PeerId
from p2p.protocol.schema import Base64, Bool, Choice, Hex, Int, ListOf, MapOf, Text, wire
from p2p.value import frozen

VERSION: Final = 1
MAX_MANIFEST: Final = 32 * 1024 * 1024
"""Largest manifest body in bytes."""
PAGE: Final = 100
"""Most rows that one answer carries."""
PIECES_PER_HAVE: Final = 1024

CONTENT_ID: Final = Hex(64)
PEER_ID: Final = Hex(32)
SESSION: Final = Hex(32)
NAME: Final = Text(255, 1)
SHORT_NAME: Final = Text(64, 1)
HOST: Final = Text(255, 1)
BYTES: Final = Int(0, MAX_SIZE, "bytes")
COUNT: Final = Int(0, 2**53 - 1)
SECONDS: Final = Int(0, 2**31, "seconds")
PORT: Final = Int(1024, 65535)
LISTEN: Final = MapOf(PORT, 8)
OFFSET: Final = Int(0, 1_000_000_000)
LIMIT: Final = Int(1, PAGE)
PIECE: Final = Int(0, MAX_PIECES - 1)


@frozen
class Message:
    """What all messages have in common."""


@frozen
class Answer(Message):
    """The "yes" to a request."""

    @property
    def final(self) -> bool:
        """Whether no other answer to the same request follows."""
        return True


@frozen
class Request(Message):
    """What one side asks of the other."""

    OP: ClassVar[str]
    ANSWER: ClassVar[type[Answer] | None]
    BODY: ClassVar[int] = 0
    """Most bytes of body that the answer may have."""


# {"ok":true,"version":1,"role":"tracker","name":"enjambre 0.1.0","seq":1}
@frozen
class HelloAnswer(Answer):
    """Who answers."""

    version: int = wire(Int(1, 2**31), about="version of the protocol that is spoken from here on")
    role: str = wire(Choice(("tracker", "peer")), about="what this side is")
    name: str = wire(SHORT_NAME, about="what people call it")
    peer: PeerId | None = wire(PEER_ID, None, about="a peer's id")
    listen: dict[str, int] | None = wire(LISTEN, None, about="a peer's port of each transport")


# {"op":"hello","version":1,"peer":"5f…","name":"lab-07","listen":{"tcp":6970},"seq":1}
@frozen
class Hello(Request):
    """Opens a conversation; may be left out. Only as the first line."""

    OP: ClassVar[str] = "hello"
    ANSWER: ClassVar[type[Answer] | None] = HelloAnswer

    version: int = wire(Int(0, 2**31), about="version of the protocol the asker speaks")
    session: str | None = wire(SESSION, None, about="to a tracker: a session from `login` to go on with")
    peer: PeerId | None = wire(PEER_ID, None, about="to a peer: who the asker is")
    name: str | None = wire(SHORT_NAME, None, about="to a peer: what people call the asker")
    listen: dict[str, int] | None = wire(
        LISTEN, None, about="to a peer: port of each transport of the asker; makes this a link"
    )


# {"ok":true,"seq":2}
@frozen
class PingAnswer(Answer):
    """Alive."""


# {"op":"ping","seq":2}
@frozen
class Ping(Request):
    """Are you there?"""

    OP: ClassVar[str] = "ping"
    ANSWER: ClassVar[type[Answer] | None] = PingAnswer


# {"ok":true,"body":4213,"seq":2}
@frozen
class ManifestAnswer(Answer):
    """The manifest's canonical bytes follow as body."""


# {"op":"manifest","id":"ab…","seq":2}
@frozen
class AskManifest(Request):
    """Asks for a manifest; the asker checks it against the id before it believes a word of it."""

    OP: ClassVar[str] = "manifest"
    ANSWER: ClassVar[type[Answer] | None] = ManifestAnswer
    BODY: ClassVar[int] = MAX_MANIFEST

    id: ContentId = wire(CONTENT_ID, about="which content")


# {"op":"have","id":"ab…","all":true}   {"op":"have","id":"ab…","pieces":"8A==","suggest":[2]}
# {"op":"have","id":"ab…","add":[7,9]}
@frozen
class Have(Request):
    """Tells which pieces this side has verified, and which it would like the other to fetch from it. Told on
    a link, not answered.

    `all`, `none` and `pieces` replace what was told before; `add` adds to it. A side that has never told
    anything about a content hears the other's `have` as the question "and you?", and tells its own. `none`
    also says: do not ask me about it any more. `suggest` is how a seed chooses: it alone knows what it has
    sent, so it names to each peer pieces that it has sent least.
    """

    OP: ClassVar[str] = "have"
    ANSWER: ClassVar[type[Answer] | None] = None

    id: ContentId = wire(CONTENT_ID, about="which content")
    all: bool = wire(Bool(), False, about="every piece")
    none: bool = wire(Bool(), False, about="no piece, and none to come")
    pieces: bytes | None = wire(
        Base64(MAX_PIECES // 8),
        None,
        about="exactly these pieces, one bit each, piece 0 the highest bit of byte 0",
    )
    add: tuple[int, ...] = wire(ListOf(PIECE, PIECES_PER_HAVE), (), about="these pieces too")
    suggest: tuple[int, ...] = wire(
        ListOf(PIECE, PIECES_PER_HAVE), (), about="pieces the other side had best fetch from here"
    )


# {"ok":true,"body":65536,"seq":5}
@frozen
class ReadAnswer(Answer):
    """The block's bytes follow as body: exactly the length asked for."""


# {"op":"read","id":"ab…","piece":3,"offset":0,"length":65536,"seq":5}
@frozen
class Read(Request):
    """Asks for one block, of a piece that the other side has."""

    OP: ClassVar[str] = "read"
    ANSWER: ClassVar[type[Answer] | None] = ReadAnswer
    BODY: ClassVar[int] = MAX_BLOCK

    id: ContentId = wire(CONTENT_ID, about="which content")
    piece: int = wire(PIECE, about="which piece")
    offset: int = wire(Int(0, 16 * 1024 * 1024 - 1, "bytes"), about="where in the piece")
    length: int = wire(Int(1, MAX_BLOCK, "bytes"), about="how much")


# {"ok":true,"state":"accepted","seq":3}   and, when it is so,   {"ok":true,"state":"verified","seq":3}
@frozen
class ReplicateAnswer(Answer):
    """`accepted` at once, and a second answer with the same `seq` at the end: `verified`, or an error."""

    state: str = wire(Choice(("accepted", "verified")), about="how far it is")

    @property
    def final(self) -> bool:
        return self.state != "accepted"


# {"op":"replicate","id":"ab…","name":"lab.img","size":7,"seq":3}
@frozen
class Replicate(Request):
    """Asks a peer to fetch a content and keep it; refused unless that peer was started to accept uploads and
    has room."""

    OP: ClassVar[str] = "replicate"
    ANSWER: ClassVar[type[Answer] | None] = ReplicateAnswer

    id: ContentId = wire(CONTENT_ID, about="which content")
    name: str = wire(NAME, about="its name, for the log; the manifest decides")
    size: int = wire(BYTES, about="how much room it needs; the manifest decides")


PEER_OPS: Final[tuple[type[Request], ...]] = (Hello, Ping, AskManifest, Have, Read, Replicate)
