"""One content on this peer: its files, and its part in the swarm of that content.

It is the shell of a `Participant`: feeds it events, wakes it in time, and carries its effects out. `have`
lines go over control connections, uploads to the upload queue's shell, and what concerns a download to the
`Fetcher` that runs it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.errors import ProtocolError
from p2p.model import BlockSpan, ContentId, FileSpan, Manifest, PeerKey
from p2p.peer.control import ControlConnection
from p2p.peer.uploads import Uploads
from p2p.protocol.peer_messages import PIECES_PER_HAVE, Have
from p2p.storage.shared_content import SharedContent
from p2p.swarm.events import (
    Abort,
    Effect,
    Event,
    FetchEffect,
    Grant,
    Introduce,
    MemberJoined,
    MemberLeft,
    PeerGained,
    PeerHas,
    Published,
    Refuse,
    SendHave,
    SendNone,
    Suggest,
    Suggested,
    Tick,
    Withdrawn,
)
from p2p.swarm.participant import Participant
from p2p.swarm.picker import as_bits


class Storage(Protocol):
    """Where the bytes of a content are."""

    def opened(self, block: BlockSpan) -> AbstractContextManager[list[FileSpan]]:
        """The file spans of a block, open while they are sent."""

    def scattered(self, block: BlockSpan) -> bool:
        """Whether a block lies in so many files that it is opened in a thread."""


class LocalContent:
    """A content that this peer has, whole or in part, and the connections to the members of its swarm."""

    def __init__(
        self,
        content: ContentId,
        manifest: Manifest,
        data: bytes,
        storage: Storage,
        path: Path,
        participant: Participant,
        uploads: Uploads,
        *,
        on_fetch: Callable[[FetchEffect], None] | None = None,
        note: Callable[[Event | Effect], None] | None = None,
    ) -> None:
        """`data` are the manifest's canonical bytes; `path` is where the content lies, or will lie.
        `on_fetch` carries out what a download wants; `note` is told of everything, for those who watch."""
        self.id = content
        self.manifest = manifest
        self.data = data
        self.geometry = Geometry(manifest.size, manifest.piece_length)
        self.storage = storage
        self.path = path
        self.participant = participant
        self.settled = asyncio.Event()
        """Set when there is nothing to wait for: the content has its final name, or is shared no more."""
        self._uploads = uploads
        self._on_fetch = on_fetch
        self._note = note
        self._connections: dict[PeerKey, ControlConnection] = {}
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        if on_fetch is None:
            self.settled.set()

    # -- what there is

    @property
    def have(self) -> Bitmap:
        """The verified pieces."""
        return self.participant.have

    @property
    def bytes_here(self) -> int:
        """How much of the content is verified, in bytes."""
        if self.have.full:
            return self.manifest.size
        last = self.geometry.pieces - 1
        short = self.manifest.piece_length - self.geometry.piece_size(last) if last in self.have else 0
        return self.have.count * self.manifest.piece_length - short

    def serves(self, block: BlockSpan) -> bool:
        """Whether there is such a block, and it is here."""
        if block.piece not in self.have:
            return False
        size = self.geometry.piece_size(block.piece)
        return block.length > 0 and 0 <= block.offset <= size - block.length

    def connection(self, peer: PeerKey) -> ControlConnection | None:
        """The connection to a member of this swarm."""
        return self._connections.get(peer)

    # -- the participant

    def handle(self, event: Event) -> None:
        """Feed the participant and carry out its effects. An event that an effect brings waits its turn."""
        if self._handling:
            self._events.append(event)
            return
        self._handling = True
        try:
            self._handle(event)
            while self._events:
                self._handle(self._events.popleft())
        finally:
            self._handling = False
        self._wake_at(self.participant.next_wakeup())
        self._uploads.schedule()

    def _handle(self, event: Event) -> None:
        if self._note is not None:
            self._note(event)
        for effect in self.participant.handle(event, self._loop.time()):
            if self._note is not None:
                self._note(effect)
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Introduce(peer):
                self.introduce(self._connections[peer])
            case SendHave(pieces):
                for start in range(0, len(pieces), PIECES_PER_HAVE):
                    have = Have(id=self.id, add=pieces[start : start + PIECES_PER_HAVE])
                    for connection in list(self._connections.values()):
                        connection.send_have(have)
            case Suggest(peer, pieces):
                self._connections[peer].send_have(Have(id=self.id, suggest=pieces))
            case SendNone(peers):
                for peer in peers:
                    self._connections[peer].send_have(Have(id=self.id, none=True))
            case Grant() | Refuse() | Abort():
                self._uploads.carry_out(effect)
            case _:
                if self._on_fetch is not None:
                    self._on_fetch(effect)

    def _wake_at(self, when: float | None) -> None:
        """Tick at `when` at the latest. A timer that is too early does no harm, and most events only make it
        later."""
        timer = self._timer
        if timer is not None:
            if when is not None and timer.when() <= when:
                return
            timer.cancel()
        elif when is None:
            return
        self._timer = None if when is None else self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.handle(Tick())

    # -- control connections

    def introduce(self, connection: ControlConnection) -> None:
        """Send everything that we have, which is also the question what the other side has."""
        if self.have.full:
            connection.send_have(Have(id=self.id, all=True))
        else:
            connection.send_have(Have(id=self.id, pieces=self.have.to_bytes()))

    def on_have(self, connection: ControlConnection, have: Have) -> None:
        """A peer said what it has. Raises `ProtocolError` for pieces that there are not."""
        if connection.wire.closed:
            return  # another connection of this peer took its place, and must not lose it to an old line
        key = connection.key
        bits = self._bits_of(have)
        known = self._connections.get(key) is connection
        if have.none:
            if known:
                self.on_disconnected(connection)
            return
        if not known:
            self._connections[key] = connection
            self.handle(MemberJoined(key, connection.client_id))
        if bits is not None:
            self.handle(PeerHas(key, bits))
        elif have.add or not have.suggest:
            self.handle(PeerGained(key, as_bits(have.add)))
        if have.suggest:
            self.handle(Suggested(key, have.suggest))

    def on_disconnected(self, connection: ControlConnection) -> None:
        """A peer is gone, or does not take part any more."""
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]
            self.handle(MemberLeft(connection.key))

    def _bits_of(self, have: Have) -> int | None:
        """Everything that a peer says it has, as bits; None when it only adds. Raises `ProtocolError` for
        pieces that there are not."""
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
            return Bitmap.from_bytes(have.pieces, n).bits | as_bits(have.add)
        return None

    # -- coming and going

    def publish(self, storage: Storage, path: Path) -> None:
        """The content is whole and has its final name: from now on this peer is a seed."""
        self.storage = storage
        self.path = path
        self.settled.set()
        self.handle(Published())

    def withdraw(self) -> None:
        """Tell every member that this content is shared no more."""
        self.handle(Withdrawn())
        self._connections.clear()
        self.close()

    def close(self) -> None:
        """Close the files, and wake nobody any more."""
        self.settled.set()
        self._wake_at(None)
        if isinstance(self.storage, SharedContent):  # a part file is closed by its download
            self.storage.close()
