"""One content on this peer, and the links that take part in its swarm: who is told what.

No decision is made here: the scheduler says what to fetch, the chooser what to suggest; this carries the news
between them and links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Final, Protocol

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.errors import ProtocolError
from p2p.model import BlockSpan, ContentId, FileSpan, Manifest, PeerKey
from p2p.peer.control import ControlConnection
from p2p.protocol.peer_messages import PIECES_PER_HAVE, Have
from p2p.swarm.events import Event, PeerGained, PeerHas, PeerJoined, PeerLeft, Suggested
from p2p.swarm.super_seeding import SuperSeeding
from p2p.swarm.topology import TELL_MOST, tell_time

LATE_FACTOR: Final = 16
"""A loop that runs late is a processor with too much to do: there, the time between two lines grows to
`LATE_FACTOR` times the delay, `TELL_MOST` at most. With one seed and 8 receivers on two cores, each line
costs two processes a turn: to tell less often moved 15 % more bytes a second."""


class Storage(Protocol):
    """Where the bytes of a content are."""

    def opened(self, block: BlockSpan) -> AbstractContextManager[list[FileSpan]]:
        """The file spans of a block, open while they are sent."""

    def scattered(self, block: BlockSpan) -> bool:
        """Whether it takes long to open a block, since it lies in many files; else it may be done in the
        loop."""


class LocalContent:
    """A content that this peer has all or some of. `have` are its verified pieces, shared with the scheduler
    while it is fetched."""

    def __init__(
        self,
        content: ContentId,
        manifest: Manifest,
        data: bytes,
        have: Bitmap,
        storage: Storage,
        path: Path,
        rng: Random,
    ) -> None:
        """`data` are the manifest's canonical bytes; `path` is where the content lies, or will lie."""
        self.id = content
        self.manifest = manifest
        self.data = data
        self.geometry = Geometry(manifest.size, manifest.piece_length)
        self.have = have
        self.storage = storage
        self.path = path
        self.sent = 0
        """Bytes sent to others."""
        self.news: Callable[[Event], None] | None = None
        """Told what happens in the swarm while the content is fetched."""
        self.whole = asyncio.Event()
        """Set when there is nothing to wait for: all of it is there under its final name, or it is served no
        more."""
        if have.full:
            self.whole.set()
        self._rng = rng
        self._members: dict[PeerKey, tuple[ControlConnection, Bitmap]] = {}
        self._callers: dict[str, PeerKey] = {}
        """By what a member's requests for blocks are known."""
        self._sent_to: dict[PeerKey, int] = {}
        self._chooser = SuperSeeding(self.geometry.pieces, rng) if have.full else None
        self._verified: list[int] = []
        self._told_at = float("-inf")
        self._tell_time = 0.0
        """Seconds between two lines that the lateness of this loop asks for."""

    @property
    def bytes_here(self) -> int:
        """How much of the content is verified, in bytes."""
        if self.have.full:
            return self.manifest.size
        last = self.geometry.pieces - 1
        short = self.manifest.piece_length - self.geometry.piece_size(last) if last in self.have else 0
        return self.have.count * self.manifest.piece_length - short

    @property
    def members(self) -> int:
        """How many peers of this swarm are linked."""
        return len(self._members)

    def member(self, peer: PeerKey) -> ControlConnection | None:
        """The link to a peer of this swarm."""
        found = self._members.get(peer)
        return found[0] if found else None

    def pieces_at(self, peer: PeerKey) -> int:
        """How many pieces a peer of this swarm has, as it told us."""
        found = self._members.get(peer)
        return found[1].count if found else 0

    def sent_to(self, peer: PeerKey) -> int:
        """Bytes that were sent to a peer since it has taken part in this swarm."""
        return self._sent_to.get(peer, 0)

    def introduce(self, link: ControlConnection) -> None:
        """Tell a link what we have, which is also the question what it has."""
        link.send_have(self._all_of_it())

    def heard(self, link: ControlConnection, have: Have) -> None:
        """A link told what it has. Raises `ProtocolError` when it names pieces that this content has not."""
        if link.wire.closed:
            return  # it lost its place to another link; what it said before must not push that one out
        bits = self._bits_of(have)
        known = self._members.get(link.key)
        if have.none:
            if known is not None and known[0] is link:
                self.left(link)
            return
        if known is None or known[0] is not link:
            known = self._members[link.key] = (link, Bitmap(self.geometry.pieces))
            self._callers[link.client_id] = link.key
            self._tell_news(PeerJoined(link.key))
            self.introduce(link)
        members_bits = known[1]
        new = (
            Bitmap(self.geometry.pieces, bits)
            if bits is not None
            else members_bits | Bitmap.of(self.geometry.pieces, have.add)
        )
        self._members[link.key] = (link, new)
        self._tell_news(PeerHas(link.key, new.bits) if bits is not None else PeerGained(link.key, have.add))
        if have.suggest:
            self._tell_news(Suggested(link.key, have.suggest))
        if self._chooser is not None:
            self._chooser.has(link.key, new.bits)
            self._suggest()

    def left(self, link: ControlConnection) -> None:
        """A link is gone, or wants no more of this content."""
        known = self._members.get(link.key)
        if known is None or known[0] is not link:
            return
        del self._members[link.key]
        self._sent_to.pop(link.key, None)
        if self._callers.get(link.client_id) == link.key:
            del self._callers[link.client_id]
        if self._chooser is not None:
            self._chooser.left(link.key)
        self._tell_news(PeerLeft(link.key))

    def served(self, client: str, span: BlockSpan) -> None:
        """A block was sent."""
        self.sent += span.length
        key = self._callers.get(client)
        if key is not None:
            self._sent_to[key] = self._sent_to.get(key, 0) + span.length
        if self._chooser is None:
            return
        last = span.offset + span.length == self.geometry.piece_size(span.piece)
        if self._chooser.served(key, span.piece, whole=last):
            self._suggest()

    def verified(self, piece: int) -> None:
        """A piece is here: tell everybody, those of some hundredths of a second in one line."""
        if not self._verified:
            loop = asyncio.get_running_loop()
            due = max(self._told_at + max(self._tell_time, tell_time(len(self._members))), loop.time())
            loop.call_at(due, self._tell_verified, due)
        self._verified.append(piece)

    def complete(self, storage: Storage, path: Path) -> None:
        """The content is whole, under its final name: from now on this peer is a seed and chooses what to
        give to whom."""
        self.storage = storage
        self.path = path
        self.news = None
        self.whole.set()
        self._chooser = SuperSeeding(self.geometry.pieces, self._rng)
        for link, bits in list(self._members.values()):
            self._chooser.has(link.key, bits.bits)
            self.introduce(link)

    def withdraw(self) -> None:
        """Tell everybody not to ask for it any more."""
        for link, _ in self._members.values():
            link.send_have(Have(id=self.id, none=True))
        self._members.clear()
        self._sent_to.clear()
        self._chooser = None
        self._callers.clear()
        self.whole.set()

    def _tell_verified(self, due: float) -> None:
        now = self._told_at = asyncio.get_running_loop().time()
        self._tell_time = min((self._tell_time + LATE_FACTOR * (now - due)) / 2, TELL_MOST)
        pieces, self._verified = tuple(self._verified), []
        for start in range(0, len(pieces), PIECES_PER_HAVE):
            have = Have(id=self.id, add=pieces[start : start + PIECES_PER_HAVE])
            for link, _ in list(self._members.values()):
                link.send_have(have)

    def admits(self, client: str, piece: int, *, crowded: bool) -> bool:
        """Whether `client` should have this piece from us, and not from others that we gave it to."""
        key = self._callers.get(client)
        return self._chooser is None or key is None or self._chooser.admits(key, piece, crowded=crowded)

    def _suggest(self) -> None:
        for key, pieces in self._chooser.choose() if self._chooser is not None else ():
            self._members[key][0].send_have(Have(id=self.id, suggest=pieces))

    def _all_of_it(self) -> Have:
        if self.have.full:
            return Have(id=self.id, all=True)
        return Have(id=self.id, pieces=self.have.to_bytes())

    def _bits_of(self, have: Have) -> int | None:
        """All that a side says it has, or None when it only adds. Raises `ProtocolError` for pieces that
        there are not."""
        n = self.geometry.pieces
        for piece in (*have.add, *have.suggest):
            if piece >= n:
                raise ProtocolError(
                    "bad_field", f"have: this content has {n} pieces, counted from 0", fatal=True
                )
        if have.all:
            return Bitmap.all(n).bits
        if have.none:
            return 0
        if have.pieces is not None:
            return Bitmap.from_bytes(have.pieces, n).bits | Bitmap.of(n, have.add).bits
        return None

    def _tell_news(self, news: Event) -> None:
        if self.news is not None:
            self.news(news)
