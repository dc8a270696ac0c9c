"""A running peer: joins the parts, and offers what the commands need. No decision of its own.

It listens, keeps links and lanes, holds contents, announces them, downloads, keeps copies for others, and
leaves in good order.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import choose_piece_length
from p2p.content.manifest import build, content_id, to_bytes
from p2p.errors import DiskError, EnjambreError, Refused, UsageError
from p2p.model import Address, ContentId, Manifest, PeerId, PeerKey, peer_key
from p2p.net.wire import WireTrace
from p2p.peer.announcer import Announcer, Identity
from p2p.peer.block_server import BlockServer
from p2p.peer.control import ControlConnection, ControlConnections, Me
from p2p.peer.data import DataPool
from p2p.peer.download import Download
from p2p.peer.fetcher import Tools
from p2p.peer.finder import Finder
from p2p.peer.local_content import LocalContent
from p2p.peer.replicas import Replicas
from p2p.peer.reports import Downloaded, Listening, Progress, Report, Shared, Warned, Withdrawn
from p2p.peer.settings import NodeSettings
from p2p.peer.trace import SwarmEvent
from p2p.peer.tracker_client import TrackerClient
from p2p.peer.transport import Listener, LoadTransport, Transport
from p2p.peer.watcher import Watcher
from p2p.protocol.peer_messages import Have, Replicate
from p2p.protocol.tracker_messages import Share
from p2p.storage.disk_io import disk_io
from p2p.storage.hash_cache import HashCache
from p2p.storage.hashing import HashPool
from p2p.storage.replica_cache import ReplicaCache
from p2p.storage.scan import Scanned, scan
from p2p.storage.shared_content import SharedContent
from p2p.swarm.peer_stats import Policy
from p2p.swarm.rate_limit import TokenBucket

SETTLE_TIME: Final = 5.0
"""Seconds that a share may wait for the tracker to know of it."""


class Node:
    """One peer. Make it in the loop it will run in; `start` it, use it, `stop` it."""

    def __init__(
        self,
        settings: NodeSettings,
        load: LoadTransport,
        report: Callable[[Report], None],
        trace: WireTrace | None = None,
        note: Callable[[SwarmEvent], None] | None = None,
        rng: Random | None = None,
    ) -> None:
        """`load` makes transports by name; `report` is told what happens, `trace` of control lines, `note` of
        the swarm.

        Raises `TransportUnavailable`.
        """
        self.settings = settings
        self.peer = _new_id()
        self.tracker = TrackerClient(settings.tracker, trace)
        self._report = report
        self._rng = rng or Random(SystemRandom().getrandbits(64))
        self._io = disk_io(settings.portable)
        names = ["tcp"] if settings.transport == "tcp" else [settings.transport, "tcp"]
        self._transports: list[Transport] = [load(name, self._io, trace) for name in names]
        self._listeners: list[Listener] = []
        self._pool = HashPool(io=self._io)
        self._remembered = HashCache(settings.state / "hashes")
        self._kept = ReplicaCache(settings.state / "kept")
        self._serving = BlockServer(self._files_changed, settings.limit_up)
        self._lanes = DataPool(self._transports, self.peer)
        self._links = ControlConnections(
            Me(self.peer, settings.name, {}), self, self._serving, self._io, trace
        )
        self._keeper = Replicas(
            settings.folder,
            settings.accept_uploads,
            self._serving.holdings,
            self._fetch_copy,
            self._still_here,
            report,
        )
        self._announcer: Announcer | None = None
        self._watcher = Watcher(self, self._pool, report)
        self._tools = Tools(
            links=self._links,
            lanes=self._lanes,
            pool=self._pool,
            finder=lambda content, wanted: Finder(content, self.tracker, self._links, wanted),
            register=self._register,
            unregister=self._unregister,
            changed=self._register,
            grown=lambda holding: self._announce(holding, urgent=False),
            announced=self._announced_all,
            report=report,
            note=note,
            rng=self._rng,
            pace=TokenBucket(settings.limit_down),
            policy=_policy(settings.patience),
        )

    # -- coming and going
    # ----------------------------------------------------------------------------------------------------------

    async def start(self, *, announce: bool = True, require_tracker: bool = False) -> Listening:
        """Listen, and begin to announce. Raises `UsageError` for a port that is taken, and with
        `require_tracker` as `Announcer.start`."""
        ports: dict[str, int] = {}
        for transport in reversed(self._transports):
            listener = await self._listen(transport, ports)
            self._listeners.append(listener)
            ports[transport.name] = listener.port
        self._links.me = Me(self.peer, self.settings.name, self._dialled_at(ports))
        if announce:
            settings, advertise = self.settings, self.settings.advertise
            identity = Identity(
                self.peer,
                settings.name,
                settings.user,
                self._links.me.listen,
                advertise.host if advertise else None,
            )
            self._announcer = Announcer(
                self.tracker,
                identity,
                lambda: self._keeper.room,
                self._report,
                self._rng,
                settings.state,
                self._renew,
            )
            await self._announcer.start(require=require_tracker)
        listening = Listening(Address(self.settings.host, ports["tcp"]), ports)
        self._report(listening)
        return listening

    def _renew(self) -> PeerId:
        """Go on under a new id. Links are opened anew, so that both sides of each know the same one."""
        self.peer = _new_id()
        self._links.me = replace(self._links.me, peer=self.peer)
        self._lanes.me = self.peer
        for link in self._links.all():
            link.close()
        return self.peer

    def _dialled_at(self, ports: dict[str, int]) -> dict[str, int]:
        advertise = self.settings.advertise
        return ports if advertise is None else {**ports, "tcp": advertise.port or ports["tcp"]}

    async def _listen(self, transport: Transport, ports: dict[str, int]) -> Listener:
        """Open a door: TCP where it was asked for, any other at the port after it, so that a firewall can be
        told, or at a free one."""
        settings = self.settings
        own = transport.name == "tcp"
        wanted = settings.port if own or not settings.port else min(ports["tcp"] + 1, 65_535)
        control = self._links if own else None
        try:
            try:
                return await transport.listen(self._serving, Address(settings.host, wanted), control)
            except OSError as error:
                taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
                if not taken or not wanted or (own and settings.port_is_fixed):
                    raise
                return await transport.listen(self._serving, Address(settings.host, 0), control)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            address = Address(settings.host, wanted)
            raise UsageError(
                f"cannot listen on {address}: {why.lower()}; choose another --host or --port"
            ) from error

    async def ended(self) -> EnjambreError:
        """Wait until the session was ended by somebody else, and return the reason."""
        if self._announcer is None:
            raise UsageError("this peer announces nothing")
        return await asyncio.shield(self._announcer.ended)

    async def stop(self) -> None:
        """Leave the directory at once, then close everything."""
        await self._keeper.close()
        if self._announcer is not None:
            await self._announcer.stop()
        await self.tracker.close()
        self._serving.close()
        await self._links.close()
        await self._lanes.close_all()  # after the links, without which none is opened any more
        for listener in self._listeners:
            await listener.close()
        for holding in list(self._serving.holdings.values()):
            if isinstance(holding.storage, SharedContent):
                holding.storage.close()
        self._pool.close()

    # -- sharing
    # -------------------------------------------------------------------------------------------------------------------

    async def share(self, path: Path) -> Shared:
        """Hash a file or folder and share it; returns when the tracker knows of it, or is out of reach.
        Raises `DiskError`."""
        loop = asyncio.get_running_loop()

        def warn(message: str) -> None:
            loop.call_soon_threadsafe(self._report, Warned(message))

        scanned = await self._pool.run(lambda: scan(path, warn))
        holding = self._serving.holdings[await self.publish(scanned)]
        return Shared(holding.manifest.name, holding.id, holding.manifest.size, holding.path)

    async def watch(self, folder: Path, ready: Callable[[], None] = lambda: None) -> None:
        """Share what is directly in a folder, until cancelled; `ready` is called after each look. Raises
        `DiskError`."""
        await self._watcher.watch_folder(folder, ready)

    async def watch_paths(self, paths: Sequence[Path], ready: Callable[[], None] = lambda: None) -> None:
        """Share these paths, until cancelled."""
        await self._watcher.watch_paths(paths, ready)

    def held_at(self, path: Path) -> ContentId | None:
        """The content that is shared from `path`, if one is."""
        for holding in self._serving.holdings.values():
            if holding.path == path and holding.have.full:
                return holding.id
        return None

    def holds(self, content: ContentId) -> bool:
        """Whether all of a content is shared, from whatever path."""
        holding = self._serving.holdings.get(content)
        return holding is not None and holding.have.full

    async def publish(self, scanned: Scanned) -> ContentId:
        """Hash what was scanned, unless that is remembered, and share it. Raises `DiskError`."""
        hint = await self._pool.run(lambda: self._kept.recall(scanned))
        kept = hint and hint.manifest
        if (
            hint
            and kept
            and await self._hashes(hint.scanned, kept.hash_name, kept.piece_length) == kept.pieces
        ):
            manifest, data, scanned = kept, hint.data, hint.scanned
        else:
            manifest = await self._manifest_of(scanned)
            data = await self._pool.run(lambda: to_bytes(manifest))
        content = content_id(data)
        if content not in self._serving.holdings:
            storage = SharedContent(manifest, scanned.root, scanned.files, self._io)
            have = Bitmap.all(len(manifest.pieces))
            self._register(LocalContent(content, manifest, data, have, storage, scanned.root, self._rng))
            await self._announced_all()
        self._report(Shared(manifest.name, content, manifest.size, scanned.root))
        return content

    async def _manifest_of(self, scanned: Scanned) -> Manifest:
        name, piece_length = self.settings.hash_name, choose_piece_length(scanned.size)
        return build(
            name=scanned.name,
            kind=scanned.kind,
            hash_name=name,
            piece_length=piece_length,
            files=scanned.entries,
            folders=scanned.folders,
            pieces=await self._hashes(scanned, name, piece_length),
        )

    async def _hashes(self, scanned: Scanned, name: str, piece_length: int) -> tuple[bytes, ...]:
        loop = asyncio.get_running_loop()
        if not self.settings.rehash:
            known = await self._pool.run(lambda: self._remembered.recall(scanned, name, piece_length))
            if known is not None:
                return known
        began, began_at = loop.time(), time.time()

        def progress(done: int) -> None:
            rate = done / max(loop.time() - began, 1e-3)
            self._report(Progress("hashing", done, scanned.size, rate, 0))

        pieces = await self._pool.hash_content(scanned, name, piece_length, progress)
        try:
            await self._pool.run(lambda: self._remembered.keep(scanned, name, piece_length, pieces, began_at))
        except (DiskError, Refused) as error:
            self._report(Warned(f"it will be hashed again next time: {error}"))
        return pieces

    def retract(self, content: ContentId, path: Path) -> None:
        """Stop sharing what lies at `path`."""
        holding = self._serving.holdings.get(content)
        if holding is not None and holding.path == path:
            self._unregister(holding)
            self._report(Withdrawn(holding.manifest.name, holding.id))

    def _files_changed(self, holding: LocalContent) -> None:
        if self._serving.holdings.get(holding.id) is holding:
            self.retract(holding.id, holding.path)

    async def _still_here(self, holding: LocalContent) -> bool:
        """Look at the files of a whole content; if one is not what it was, it is shared no more, as after a
        look of the watcher."""
        storage = holding.storage
        if isinstance(storage, SharedContent) and not await self._pool.run(storage.unchanged):
            self._files_changed(holding)
            self._watcher.forget(holding.path)
        return self._serving.holdings.get(holding.id) is holding

    async def _announced_all(self) -> None:
        """Wait until the tracker knows what we have; not for ever, since it may be out of reach."""
        if self._announcer is not None:
            await self._announcer.known(SETTLE_TIME)

    def _register(self, holding: LocalContent) -> None:
        self._serving.holdings[holding.id] = holding
        self._announce(holding, urgent=True)

    def _announce(self, holding: LocalContent, *, urgent: bool) -> None:
        if self._announcer is not None:
            share = Share(
                id=holding.id, name=holding.manifest.name, size=holding.manifest.size, have=holding.bytes_here
            )
            self._announcer.set(share, urgent=urgent)

    def _unregister(self, holding: LocalContent) -> None:
        if self._serving.holdings.get(holding.id) is not holding:
            return
        del self._serving.holdings[holding.id]
        holding.withdraw()
        if isinstance(holding.storage, SharedContent):
            holding.storage.close()
        if self._announcer is not None:
            self._announcer.drop(holding.id)

    # -- fetching
    # ------------------------------------------------------------------------------------------------------------------

    async def download(
        self, content: ContentId, folder: Path, *, overwrite: bool = False, keep: bool = True
    ) -> Downloaded:
        """Fetch a content into a folder; without `keep` it is served no more when it is whole, as by a peer
        that is about to leave.

        Raises `NotFound`, `Unreachable`, `IntegrityError`, `DiskError`, `Refused`.
        """
        result = await Download(content, folder, self._tools, overwrite=overwrite, keep=keep).run()
        self._report(result)
        return result

    async def _fetch_copy(
        self,
        content: ContentId,
        folder: Path,
        link: ControlConnection,
        admit: Callable[[Manifest], None],
        made: Callable[[], None],
    ) -> Downloaded:
        done = await Download(content, folder, self._tools, first=link, admit=admit, made=made).run()
        holding = self._serving.holdings.get(content)
        if holding is not None:
            try:
                await self._pool.run(lambda: self._kept.keep(done.path, holding.data))
            except (DiskError, Refused) as error:
                self._report(Warned(f"after a restart this copy may be shared under another id: {error}"))
        return done

    async def manifest_of(self, content: ContentId) -> bytes:
        """Bring a manifest's bytes, checked against the id, without fetching the content. Raises as
        `download`."""
        return await Download(content, Path(), self._tools).bring_manifest()

    def sent(self, content: ContentId) -> int:
        """Bytes of a content that this peer has sent to others."""
        holding = self._serving.holdings.get(content)
        return holding.sent if holding is not None else 0

    def sent_to(self, content: ContentId, peer: PeerKey) -> int:
        """Bytes of a content that this peer has sent to one other, for as long as that takes part in its
        swarm."""
        holding = self._serving.holdings.get(content)
        return holding.sent_to(peer) if holding is not None else 0

    def copied(self, content: ContentId, peer: PeerKey) -> int:
        """How many pieces of a content that we share another peer has, as it told us."""
        holding = self._serving.holdings.get(content)
        return holding.pieces_at(peer) if holding is not None else 0

    async def link_to(self, peer: PeerId, address: Address) -> ControlConnection:
        """The link to a peer, or a new one to whoever listens at its address. Raises `Unreachable`."""
        link = self._links.get(peer_key(peer, address))
        return link if link is not None and not link.wire.closed else await self._links.connect(address, peer)

    # -- what links bring (a `Handler`)
    # --------------------------------------------------------------------------------------------

    def on_connected(self, link: ControlConnection) -> None:
        """Ask a new peer what it has of what we are fetching."""
        for holding in self._serving.holdings.values():
            if holding.news is not None:
                holding.introduce(link)

    def on_disconnected(self, link: ControlConnection) -> None:
        """A peer is gone, unless another link to it has taken the place of this one."""
        if self._links.get(link.key) is None:
            self._lanes.forget(link.key)
        for holding in list(self._serving.holdings.values()):
            holding.left(link)

    def on_have(self, link: ControlConnection, have: Have) -> None:
        """A peer told what it has."""
        holding = self._serving.holdings.get(have.id)
        if holding is not None:
            holding.heard(link, have)
        elif not have.none:
            link.send_have(Have(id=have.id, none=True))

    def manifest(self, content: ContentId) -> bytes:
        """The manifest's bytes. Raises `Refused("not_found")`."""
        return self._serving.get(content).data

    def replicate(self, link: ControlConnection, request: Replicate) -> Awaitable[object]:
        """Accept to keep a copy, or raise `Refused`."""
        return self._keeper.accept(link, request)


def _policy(patience: float) -> Policy:
    """The policy of someone with so much patience. To be cut off is waited out for longer, unless less than
    usual was asked for."""
    usual = Policy()
    if patience >= usual.patience:
        return Policy(patience=patience, patience_offline=max(usual.patience_offline, patience))
    return Policy(
        patience=patience, patience_offline=patience, patience_alone=min(usual.patience_alone, patience)
    )


def _new_id() -> PeerId:
    return PeerId(f"{SystemRandom().getrandbits(128):032x}")
