"""One download, in three awaited steps: bring the manifest, prepare the part file, fetch what it lacks.

    async with Download(content, services) as download:
        found = await download.manifest()                  # checked against the id
        await download.prepare(found, folder)              # lock, resume, verify what is there
        done = await download.fetch()                      # all pieces, then the final name

`Replicas` looks at the manifest between the first two steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from p2p.content.geometry import Geometry
from p2p.errors import Refused
from p2p.model import ContentId, PeerKey
from p2p.peer.control import ControlConnection
from p2p.peer.fetcher import Fetcher
from p2p.peer.finder import Finder
from p2p.peer.manifest_search import Found, ManifestSearch
from p2p.peer.reports import Downloaded, ManifestKnown, Progress, Warned
from p2p.peer.services import Services
from p2p.storage.disk import whole_path
from p2p.storage.part_file import PartFile
from p2p.storage.shared_content import SharedContent, fingerprints


class Download:
    """The download of one content. Leaving its context stops the search for peers, and abandons a part file
    that is not finished: what came is kept, its lock is given back."""

    def __init__(self, content: ContentId, services: Services) -> None:
        self.content = content
        self.made = False
        """Whether something of the content may lie on the disk."""
        self._services = services
        self._began = asyncio.get_running_loop().time()
        self._finder = Finder(
            content, services.tracker, services.controls, self._wanted, services.finder_timeouts
        )
        self._search = ManifestSearch(
            content,
            services.controls,
            services.hashing,
            self._finder,
            lambda phase: services.report(Progress(phase, 0, 0, 0.0, 0)),
            services.policy.stall_timeout,
            services.rng,
            services.search_limits,
        )
        self._part: PartFile | None = None
        self._fetcher: Fetcher | None = None
        self._finished = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._finished:
                await self._give_back()
        finally:
            await self._finder.close()

    async def manifest(self, first: ControlConnection | None = None) -> Found:
        """Bring the manifest, from `first` if that peer has it. Raises `NotFound`, `Unreachable`,
        `IntegrityError`, `Refused`."""
        return await self._search.run(first)

    async def prepare(self, found: Found, folder: Path, *, overwrite: bool = False) -> None:
        """Make or resume the part file, and verify what is in it. Raises `DiskError`."""
        services, manifest = self._services, found.manifest
        folder = whole_path(folder)  # as a scan names it, so that the watcher knows it again
        pieces = Geometry(manifest.size, manifest.piece_length).pieces
        services.report(ManifestKnown(manifest.name, self.content, manifest.size, pieces))
        part = self._part = PartFile(manifest, self.content, folder, services.hashing.io, overwrite)
        try:
            await services.hashing.run(part.open)
        finally:
            self.made = part.made
        self._warn_of_names(part.renamed)

        def progress(done: int) -> None:
            services.report(Progress("verifying", done, manifest.size, 0.0, 0))

        have = await services.hashing.verify(part, progress)
        path = folder / manifest.name
        self._fetcher = Fetcher(self.content, found, part, have, path, self._finder, services)

    async def fetch(self, *, keep: bool = True) -> Downloaded:
        """Fetch what the prepared part file lacks, and give it its final name. Without `keep` the content is
        not served once it is whole, as by a peer that is about to leave.

        Raises `NotFound`, `Unreachable`, `IntegrityError`, `DiskError`.
        """
        part, fetcher, services = self._part, self._fetcher, self._services
        if part is None or fetcher is None:
            raise RuntimeError("a download is prepared before it is fetched")
        await fetcher.run()
        local = fetcher.local
        manifest = local.manifest
        services.report(Progress("finishing", manifest.size, manifest.size, 0.0, 0))
        path = await services.hashing.run(part.finish)
        if keep:
            marks = await services.hashing.run(lambda: fingerprints(manifest, path))
            local.publish(SharedContent(manifest, path, marks, services.hashing.io), path)
            services.library.publish(local)
        else:
            services.library.retract(local)
        self._finished = True
        seconds = asyncio.get_running_loop().time() - self._began
        return Downloaded(path, self.content, manifest.size, seconds, fetcher.bytes_from, fetcher.bytes_by)

    def _warn_of_names(self, renamed: Sequence[tuple[str, str]]) -> None:
        if renamed:
            name, here = renamed[0]
            more = f" and {len(renamed) - 1} more" if len(renamed) > 1 else ""
            self._services.report(
                Warned(
                    f"names that not every system can hold are written otherwise: {name!r} as {here!r}{more}"
                )
            )

    def _wanted(self, peer: PeerKey) -> bool:
        """Whether a peer is worth connecting to."""
        fetcher = self._fetcher
        banned = fetcher is not None and fetcher.local.participant.banned(peer)
        return peer not in self._search.bad and not banned

    async def _give_back(self) -> None:
        """Give back the part file and its lock, also when this task is cancelled again meanwhile."""
        if self._fetcher is not None:
            local = self._fetcher.local
            self._services.library.retract(local)
            local.close()  # another download of the same content may have taken its place in the library
        if self._part is not None:
            await asyncio.shield(self._abandon(self._part))

    async def _abandon(self, part: PartFile) -> None:
        try:
            await self._services.hashing.run(part.abandon)
        except Refused:  # no thread can be started; the lock must be given back all the same
            part.abandon()
