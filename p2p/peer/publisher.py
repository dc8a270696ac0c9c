"""Sharing what lies on the disk: hash it unless that is remembered, make its manifest, put it in the
library."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry, choose_piece_length
from p2p.content.manifest import build, content_id, to_bytes
from p2p.errors import DiskError, Refused
from p2p.model import ContentId, Manifest
from p2p.peer.library import Library
from p2p.peer.local_content import LocalContent
from p2p.peer.reports import Progress, Report, Shared, Warned, Withdrawn
from p2p.peer.uploads import Uploads
from p2p.storage.cache import HashCache, ReplicaCache
from p2p.storage.hashing import HashPool
from p2p.storage.scan import Scanned
from p2p.storage.shared_content import SharedContent
from p2p.swarm.participant import Participant


class Publisher:
    """Publishes and retracts files and folders. `hash_name` is used for what is hashed anew; with `rehash`
    nothing that is remembered is believed."""

    def __init__(
        self,
        library: Library,
        hashing: HashPool,
        hashes: HashCache,
        replicas: ReplicaCache,
        uploads: Uploads,
        rng: Random,
        report: Callable[[Report], None],
        *,
        hash_name: str,
        rehash: bool = False,
    ) -> None:
        self._library = library
        self._hashing = hashing
        self._hash_cache = hashes
        self._replica_cache = replicas
        self._uploads = uploads
        self._rng = rng
        self._report = report
        self._hash_name = hash_name
        self._rehash = rehash

    def held_at(self, path: Path) -> ContentId | None:
        """The content that is shared from `path`, if there is one."""
        local = self._library.at(path)
        return local.id if local is not None else None

    def holds(self, content: ContentId) -> bool:
        """Whether the whole of a content is shared, from whatever path."""
        local = self._library.find(content)
        return local is not None and local.have.full

    async def publish(self, scanned: Scanned) -> ContentId:
        """Share what was scanned. Raises `DiskError`."""
        hint = await self._hashing.run(lambda: self._replica_cache.recall(scanned))
        manifest = hint.manifest if hint is not None else None
        if hint is not None and manifest is not None and await self._matches(hint.scanned, manifest):
            data, scanned = hint.data, hint.scanned
        else:
            manifest = await self._manifest_of(scanned)
            data = await self._hashing.run(lambda: to_bytes(manifest))
        content = content_id(data)
        if self._library.find(content) is None:
            self._library.publish(self._local(content, manifest, data, scanned))
            await self._library.announced()
        self._report(Shared(manifest.name, content, manifest.size, scanned.root))
        return content

    def retract(self, content: ContentId, path: Path) -> None:
        """Share no more what lies at `path`. A download that is to end there goes on."""
        local = self._library.find(content)
        if local is not None and local.path == path and local.settled.is_set():
            self._library.retract(local)
            self._report(Withdrawn(local.manifest.name, local.id))

    async def still_there(self, local: LocalContent) -> bool:
        """Look at the files of a whole content; a content whose files have changed is retracted."""
        storage = local.storage
        if isinstance(storage, SharedContent) and not await self._hashing.run(storage.unchanged):
            self.on_changed(local)
        return local in self._library

    def on_changed(self, local: LocalContent) -> None:
        """The files of a content are not what they were."""
        if local in self._library:
            self.retract(local.id, local.path)

    def _local(self, content: ContentId, manifest: Manifest, data: bytes, scanned: Scanned) -> LocalContent:
        geometry = Geometry(manifest.size, manifest.piece_length)
        now = asyncio.get_running_loop().time()
        have = Bitmap.all(geometry.pieces)
        participant = Participant(geometry, have, self._uploads.queue, self._rng, now)
        storage = SharedContent(manifest, scanned.root, scanned.files, self._hashing.io)
        return LocalContent(content, manifest, data, storage, scanned.root, participant, self._uploads)

    async def _matches(self, scanned: Scanned, manifest: Manifest) -> bool:
        hashes = await self._hashes(scanned, manifest.hash_name, manifest.piece_length)
        return hashes == manifest.pieces

    async def _manifest_of(self, scanned: Scanned) -> Manifest:
        piece_length = choose_piece_length(scanned.size)
        return build(
            name=scanned.name,
            kind=scanned.kind,
            hash_name=self._hash_name,
            piece_length=piece_length,
            files=scanned.entries,
            folders=scanned.folders,
            pieces=await self._hashes(scanned, self._hash_name, piece_length),
        )

    async def _hashes(self, scanned: Scanned, name: str, piece_length: int) -> tuple[bytes, ...]:
        loop = asyncio.get_running_loop()
        if not self._rehash:
            known = await self._hashing.run(lambda: self._hash_cache.recall(scanned, name, piece_length))
            if known is not None:
                return known
        began, began_at = loop.time(), time.time()

        def progress(done: int) -> None:
            rate = done / max(loop.time() - began, 1e-3)
            self._report(Progress("hashing", done, scanned.size, rate, 0))

        pieces = await self._hashing.hash_content(scanned, name, piece_length, progress)
        try:
            await self._hashing.run(
                lambda: self._hash_cache.keep(scanned, name, piece_length, pieces, began_at)
            )
        except (DiskError, Refused) as error:
            self._report(Warned(f"it will be hashed again next time: {error}"))
        return pieces
