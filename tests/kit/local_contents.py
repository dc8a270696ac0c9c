"""Local contents for tests of `p2p/peer/`: a real `LocalContent` and `Participant`, with fake connections,
storage and tracker around them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.errors import DiskError
from p2p.model import KIB, BlockSpan, ContentId, FileEntry, FileSpan, Manifest
from p2p.peer.local_content import LocalContent, Storage
from p2p.peer.uploads import Uploads
from p2p.protocol.peer_messages import Have
from p2p.protocol.tracker_messages import Share
from p2p.swarm.events import Effect, Event, FetchEffect
from p2p.swarm.participant import Participant

CONTENT = ContentId("ab" * 32)
LENGTH = 64 * KIB
"""Bytes of a piece."""


@dataclass
class FakeConnection:
    """A control connection that notes what is sent over it, and when."""

    key: str = "peer"
    host: str = "10.0.0.7"
    sent: list[tuple[float, Have]] = field(default_factory=list)
    wire: Any = field(default_factory=lambda: SimpleNamespace(closed=False))

    @property
    def name(self) -> str:
        return self.key

    @property
    def client_id(self) -> str:
        return f"{self.key}@{self.host}"

    @property
    def lines(self) -> list[Have]:
        """What was sent."""
        return [have for _, have in self.sent]

    def send_have(self, have: Have) -> None:
        self.sent.append((asyncio.get_running_loop().time(), have))


class FakeAnnouncements:
    """Notes what a library announces: each change as the share and whether it was urgent, or the id of what
    was withdrawn."""

    def __init__(self) -> None:
        self.changes: list[tuple[Share, bool] | ContentId] = []
        self.known_after = 0.0
        """Seconds until the tracker knows everything."""

    def set(self, share: Share, *, urgent: bool = True) -> None:
        self.changes.append((share, urgent))

    def drop(self, content: ContentId) -> None:
        self.changes.append(content)

    async def known(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self.known_after))


class FakeStorage:
    """Counts the blocks that are open. Raises `fault` instead of opening one."""

    def __init__(self) -> None:
        self.open = 0
        self.files = 1
        """Files of each block."""
        self.in_thread = False
        """Whether blocks are opened in a thread."""
        self.before_open: Callable[[], object] = lambda: None
        self.fault: Exception | None = None

    @contextmanager
    def opened(self, block: BlockSpan) -> Iterator[list[FileSpan]]:
        self.before_open()
        if self.fault is not None:
            raise self.fault
        self.open += 1
        try:
            yield [FileSpan(0, 0, block.length)] * self.files
        finally:
            self.open -= 1

    def scattered(self, block: BlockSpan) -> bool:
        return self.in_thread


def no_descriptors() -> DiskError:
    """What opening a file raises when this process has no descriptor left."""
    fault = DiskError("cannot open 'x'")
    fault.__cause__ = OSError(errno.EMFILE, "Too many open files")
    return fault


def local_content(
    uploads: Uploads,
    pieces: int,
    have: int | None = None,
    *,
    content: ContentId = CONTENT,
    size: int | None = None,
    path: Path = Path("x"),
    storage: Storage | None = None,
    on_fetch: Callable[[FetchEffect], None] | None = None,
    note: Callable[[Event | Effect], None] | None = None,
) -> LocalContent:
    """A content of so many pieces, of which those in the bitmap `have` are here; None: all. With `on_fetch`
    it is being fetched."""
    size = pieces * LENGTH if size is None else size
    manifest = Manifest(
        path.name,
        "file",
        "blake2b-256",
        LENGTH,
        (FileEntry(path.name, size),),
        (),
        (bytes(32),) * pieces,
    )
    participant = Participant(
        Geometry(size, LENGTH),
        Bitmap.all(pieces) if have is None else Bitmap(pieces, have),
        uploads.queue,
        Random(1),
        asyncio.get_running_loop().time(),
        fetching=on_fetch is not None,
    )
    return LocalContent(
        content,
        manifest,
        b"manifest",
        storage or FakeStorage(),
        path,
        participant,
        uploads,
        on_fetch=on_fetch,
        note=note,
    )
