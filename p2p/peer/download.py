"""One download: bring the manifest, make room for the content or find its part, fetch what is missing, and
give it its final name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from p2p.content.geometry import Geometry
from p2p.errors import Refused
from p2p.model import ContentId, Manifest, PeerKey
from p2p.peer.control import ControlConnection
from p2p.peer.fetcher import Fetcher, Tools
from p2p.peer.local_content import LocalContent
from p2p.peer.manifest_search import ManifestSearch
from p2p.peer.reports import Downloaded, ManifestKnown, Progress, Warned
from p2p.storage.disk import whole_path
from p2p.storage.hashing import HashPool, PieceChecker
from p2p.storage.part_file import PartFile
from p2p.storage.shared_content import SharedContent, fingerprints


class Download:
    """The fetching of one content into one folder."""

    def __init__(
        self,
        content: ContentId,
        folder: Path,
        tools: Tools,
        *,
        overwrite: bool = False,
        keep: bool = True,
        first: ControlConnection | None = None,
        admit: Callable[[Manifest], None] | None = None,
        made: Callable[[], None] | None = None,
    ) -> None:
        """Without `keep` the content is served no more when it is whole.

        `first` is a link whose peer has the content, as when it asked us to keep a copy; `admit` sees its
        manifest before anything is written, and raises what there is against it; `made` is told when
        something of it may lie on the disk.
        """
        self.content = content
        self._folder = folder
        self._tools = tools
        self._overwrite = overwrite
        self._keep = keep
        self._first = first
        self._admit = admit
        self._made = made
        self._finder = tools.finder(content, self._wanted)
        self._search = ManifestSearch(
            content,
            tools.links,
            tools.pool,
            self._finder,
            self._progress,
            tools.policy.patience,
            tools.rng,
            tools.search_limits,
        )
        self._fetching: Fetcher | None = None
        self.manifest: Manifest | None = None

    async def run(self) -> Downloaded:
        """Fetch it all. Raises what went wrong: `NotFound`, `Unreachable`, `IntegrityError`, `DiskError`,
        `Refused`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            found = await self._search.run(self._first)
            manifest = found.manifest
            path = await self._fetch_all(found.data, manifest)
        finally:
            await self._finder.close()
        by = self._fetching
        sent, carried = (by.bytes_from, by.bytes_by) if by is not None else ({}, {})
        return Downloaded(path, self.content, manifest.size, loop.time() - began, sent, carried)

    async def bring_manifest(self) -> bytes:
        """Bring the manifest's bytes, checked against the id, and nothing else. Raises as `run`."""
        try:
            return (await self._search.run(self._first)).data
        finally:
            await self._finder.close()

    async def _fetch_all(self, data: bytes, manifest: Manifest) -> Path:
        tools = self._tools
        geometry = Geometry(manifest.size, manifest.piece_length)
        if self._admit is not None:
            self._admit(manifest)
        self.manifest = manifest
        folder = whole_path(self._folder)  # as a scan names it, so that the watcher knows it again
        tools.report(ManifestKnown(manifest.name, self.content, manifest.size, geometry.pieces))
        partial = PartFile(manifest, self.content, folder, tools.pool.io, self._overwrite)
        holding: LocalContent | None = None
        finished = False
        try:
            try:
                await tools.pool.run(partial.open)
            finally:
                if self._made is not None and partial.made:
                    self._made()
            self._warn_of_names(partial.renamed)
            have = await tools.pool.verify(partial, lambda done: self._progress("verifying", done))
            holding = LocalContent(
                self.content, manifest, data, have, partial, folder / manifest.name, tools.rng
            )
            if not have.full:
                checker = PieceChecker(tools.pool, partial, have)
                self._fetching = Fetcher(holding, checker, self._finder, tools, self._progress)
                await self._fetching.run()
            self._progress("finishing", manifest.size)
            path = await tools.pool.run(partial.finish)
            if not self._keep:
                finished = True
                holding.news = None
                return path
            marks = await tools.pool.run(lambda: fingerprints(manifest, path))
            holding.complete(SharedContent(manifest, path, marks, tools.pool.io), path)
            tools.register(holding)
            tools.changed(holding)
            finished = True
        finally:
            if not finished:
                if holding is not None:
                    holding.news = None
                    tools.unregister(holding)
                await asyncio.shield(_abandon(partial, tools.pool))
        return path

    def _warn_of_names(self, renamed: Sequence[tuple[str, str]]) -> None:
        if renamed:
            name, here = renamed[0]
            more = f" and {len(renamed) - 1} more" if len(renamed) > 1 else ""
            self._tools.report(
                Warned(
                    f"names that not every system can hold are written otherwise: {name!r} as {here!r}{more}"
                )
            )

    def _wanted(self, peer: PeerKey) -> bool:
        return peer not in self._search.bad and not (
            self._fetching is not None and self._fetching.banned(peer)
        )

    def _progress(self, phase: str, done: int = 0, rate: float = 0.0) -> None:
        size = self.manifest.size if self.manifest is not None else 0
        peers = self._fetching.sources if self._fetching is not None else 0
        self._tools.report(Progress(phase, done, size, rate, peers))


async def _abandon(partial: PartFile, pool: HashPool) -> None:
    try:
        await pool.run(partial.abandon)
    except Refused:  # no thread to be had; the lock must be given back all the same
        partial.abandon()
