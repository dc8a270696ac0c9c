"""A running peer: builds its parts, starts and stops them, and offers what the commands need."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom

from p2p.errors import EnjambreError, UsageError
from p2p.model import Address, ContentId, PeerId, PeerKey, peer_key
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.wire import WireTrace
from p2p.peer.announcements import Identity
from p2p.peer.announcer import Announcer
from p2p.peer.block_server import BlockServer
from p2p.peer.control import ControlConnection, ControlConnections, Me
from p2p.peer.data import DataPool
from p2p.peer.download import Download
from p2p.peer.library import Library
from p2p.peer.local_content import LocalContent
from p2p.peer.publisher import Publisher
from p2p.peer.replicas import ReplicaLimits, Replicas
from p2p.peer.reports import Downloaded, Listening, Report, Shared, Warned
from p2p.peer.services import Services
from p2p.peer.settings import NodeSettings
from p2p.peer.trace import SwarmEvent
from p2p.peer.tracker_client import TrackerClient
from p2p.peer.transport import Listener, LoadTransport, Transport
from p2p.peer.uploads import Uploads
from p2p.peer.watcher import Watcher
from p2p.protocol.peer_messages import Have, Replicate
from p2p.protocol.tracker_messages import Share
from p2p.storage.cache import HashCache, ReplicaCache
from p2p.storage.disk_io import disk_io
from p2p.storage.hashing import HashPool
from p2p.storage.scan import scan
from p2p.swarm.peer_stats import Policy
from p2p.swarm.rate_limit import TokenBucket
from p2p.swarm.upload_queue import UploadLimits


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
        policy: Policy | None = None,
        upload_limits: UploadLimits | None = None,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        """`load` makes transports by name; `report` is told what happens, `trace` of control lines, `note` of
        the swarm. `policy` is by default that of the settings.

        Raises `TransportUnavailable`.
        """
        self.settings = settings
        self.peer = _new_id()
        self.tracker = TrackerClient(settings.tracker, trace, timeouts, limits)
        self._report = report
        self._rng = rng or Random(SystemRandom().getrandbits(64))
        io = disk_io(settings.portable)
        names = ["tcp"] if settings.transport == "tcp" else [settings.transport, "tcp"]
        self._transports: list[Transport] = [
            load(name, io, trace, timeouts=timeouts, limits=limits) for name in names
        ]
        self._listeners: list[Listener] = []
        self._hashing = HashPool(io=io)
        replica_cache = ReplicaCache(settings.state / "kept")
        self.uploads = Uploads(asyncio.get_running_loop().time, settings.limit_up, upload_limits)
        self.library = Library(self)
        self.publisher = Publisher(
            self.library,
            self._hashing,
            HashCache(settings.state / "hashes"),
            replica_cache,
            self.uploads,
            self._rng,
            report,
            hash_name=settings.hash_name,
            rehash=settings.rehash,
        )
        self._block_server = BlockServer(self.library, self.uploads, self.publisher.on_changed)
        self.data = DataPool(self._transports, lambda: self.peer, timeouts, limits)
        self._me = Me(self.peer, settings.name, {})
        self.controls = ControlConnections(
            lambda: self._me, self, self._block_server, io, trace, timeouts, limits
        )
        self._services = Services(
            controls=self.controls,
            data=self.data,
            hashing=self._hashing,
            library=self.library,
            uploads=self.uploads,
            tracker=self.tracker,
            rng=self._rng,
            rate_limit=TokenBucket(settings.limit_down),
            policy=policy or policy_of(settings.patience),
            finder_timeouts=settings.finder_timeouts,
            search_limits=settings.search_limits,
            report=report,
            note=note,
        )
        self.replicas = Replicas(
            settings.folder,
            ReplicaLimits(quota=settings.accept_uploads),
            self._services,
            replica_cache,
            self._still_there,
        )
        self._watcher = Watcher(self.publisher, self._hashing, report, settings.watch_limits)
        self._announcer: Announcer | None = None

    # -- coming and going

    async def start(self, *, announce: bool = True, require_tracker: bool = False) -> Listening:
        """Listen, and begin to announce. Raises `UsageError` for a port that is taken, and with
        `require_tracker` as `Announcer.start`."""
        ports: dict[str, int] = {}
        for transport in reversed(self._transports):
            listener = await self._listen(transport, ports)
            self._listeners.append(listener)
            ports[transport.name] = listener.port
        self._me = Me(self.peer, self.settings.name, self._dialled_at(ports))
        if announce:
            settings, advertise = self.settings, self.settings.advertise
            identity = Identity(
                self.peer, settings.name, self._me.listen, advertise.host if advertise else None
            )
            self._announcer = Announcer(
                self.tracker,
                identity,
                settings.user,
                lambda: self.replicas.room,
                self._report,
                self._rng,
                settings.state,
                self._renew,
                settings.session_timeouts,
            )
            await self._announcer.start(require=require_tracker)
        listening = Listening(Address(self.settings.host, ports["tcp"]), ports)
        self._report(listening)
        return listening

    def _renew(self) -> PeerId:
        """Go on under a new id. Links are opened anew, so that both sides of each know the same one."""
        self.peer = _new_id()
        self._me = replace(self._me, peer=self.peer)
        for connection in self.controls.all():
            connection.close()
        return self.peer

    def _dialled_at(self, ports: dict[str, int]) -> dict[str, int]:
        advertise = self.settings.advertise
        return ports if advertise is None else {**ports, "tcp": advertise.port or ports["tcp"]}

    async def _listen(self, transport: Transport, ports: dict[str, int]) -> Listener:
        """Listen: TCP at the port that was asked for, any other transport at the port after it, so that a
        firewall can be told, or at a free one."""
        settings = self.settings
        own = transport.name == "tcp"
        wanted = settings.port if own or not settings.port else min(ports["tcp"] + 1, 65_535)
        control = self.controls if own else None
        try:
            try:
                return await transport.listen(self._block_server, Address(settings.host, wanted), control)
            except OSError as error:
                taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
                if not taken or not wanted or (own and settings.port_is_fixed):
                    raise
                return await transport.listen(self._block_server, Address(settings.host, 0), control)
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
        await self.replicas.close()
        if self._announcer is not None:
            await self._announcer.stop()
        await self.tracker.close()
        self._block_server.close()
        await self.controls.close()
        await self.data.close_all()  # after the control connections, without which none is opened
        for listener in self._listeners:
            await listener.close()
        self.library.close()
        self._hashing.close()

    # -- sharing

    async def share(self, path: Path) -> Shared:
        """Hash a file or folder and share it; returns when the tracker knows of it, or is out of reach.
        Raises `DiskError`."""
        loop = asyncio.get_running_loop()

        def warn(message: str) -> None:
            loop.call_soon_threadsafe(self._report, Warned(message))

        scanned = await self._hashing.run(lambda: scan(path, warn))
        local = self.library.get(await self.publisher.publish(scanned))
        return Shared(local.manifest.name, local.id, local.manifest.size, local.path)

    async def watch(self, folder: Path, ready: Callable[[], None] = lambda: None) -> None:
        """Share what is directly in a folder, until cancelled; `ready` is called after each look. Raises
        `DiskError`."""
        await self._watcher.watch_folder(folder, ready)

    async def watch_paths(self, paths: Sequence[Path], ready: Callable[[], None] = lambda: None) -> None:
        """Share these paths, until cancelled."""
        await self._watcher.watch_paths(paths, ready)

    async def _still_there(self, local: LocalContent) -> bool:
        if await self.publisher.still_there(local):
            return True
        self._watcher.forget(local.path)
        return False

    # -- fetching

    async def download(
        self, content: ContentId, folder: Path, *, overwrite: bool = False, keep: bool = True
    ) -> Downloaded:
        """Fetch a content into a folder; without `keep` it is served no more when it is whole, as by a peer
        that is about to leave.

        Raises `NotFound`, `Unreachable`, `IntegrityError`, `DiskError`, `Refused`.
        """
        async with Download(content, self._services) as download:
            found = await download.manifest()
            await download.prepare(found, folder, overwrite=overwrite)
            done = await download.fetch(keep=keep)
        self._report(done)
        return done

    async def manifest_of(self, content: ContentId) -> bytes:
        """Bring a manifest's bytes, checked against the id, without fetching the content. Raises as
        `download`."""
        async with Download(content, self._services) as download:
            return (await download.manifest()).data

    def sent(self, content: ContentId) -> int:
        """Bytes of a content that this peer has sent to others."""
        local = self.library.find(content)
        return local.participant.sent if local is not None else 0

    def sent_to(self, content: ContentId, peer: PeerKey) -> int:
        """Bytes of a content that this peer has sent to a member of its swarm."""
        local = self.library.find(content)
        return local.participant.sent_to(peer) if local is not None else 0

    def copied(self, content: ContentId, peer: PeerKey) -> int:
        """How many pieces of a content that we share another peer has, as it says."""
        local = self.library.find(content)
        return local.participant.pieces_of(peer).bit_count() if local is not None else 0

    async def link_to(self, peer: PeerId, address: Address) -> ControlConnection:
        """The control connection to a peer, or a new one to the peer that listens at this address. Raises
        `Unreachable`."""
        found = self.controls.get(peer_key(peer, address))
        if found is not None and not found.wire.closed:
            return found
        return await self.controls.connect(address, peer)

    # -- what the library announces

    def set(self, share: Share, *, urgent: bool = True) -> None:
        """Announce a content, or how much of it is here."""
        if self._announcer is not None:
            self._announcer.set(share, urgent=urgent)

    def drop(self, content: ContentId) -> None:
        """Withdraw a content."""
        if self._announcer is not None:
            self._announcer.drop(content)

    async def known(self, seconds: float) -> None:
        """Wait until the tracker knows everything; at most so many seconds."""
        if self._announcer is not None:
            await self._announcer.known(seconds)

    # -- what control connections bring (a `Handler`)

    def on_connected(self, connection: ControlConnection) -> None:
        """A peer is connected."""
        self.library.on_connected(connection)

    def on_disconnected(self, connection: ControlConnection) -> None:
        """A peer is gone, unless another connection to it has taken the place of this one."""
        if self.controls.get(connection.key) is None:
            self.data.forget(connection.key)
        self.library.on_disconnected(connection)

    def on_have(self, connection: ControlConnection, have: Have) -> None:
        """A peer said what it has."""
        self.library.on_have(connection, have)

    def manifest(self, content: ContentId) -> bytes:
        """The manifest's bytes. Raises `Refused("not_found")`."""
        return self.library.get(content).data

    def replicate(self, connection: ControlConnection, request: Replicate) -> Awaitable[object]:
        """Accept to keep a replica, or raise `Refused`."""
        return self.replicas.accept(connection, request)


def policy_of(patience: float) -> Policy:
    """The policy of a user with so many seconds of patience. To be cut off is waited out for longer, unless
    less than usual was asked for."""
    usual = Policy()
    if patience >= usual.stall_timeout:
        return Policy(stall_timeout=patience, offline_timeout=max(usual.offline_timeout, patience))
    alone = min(usual.alone_timeout, patience)
    return Policy(stall_timeout=patience, offline_timeout=patience, alone_timeout=alone)


def _new_id() -> PeerId:
    return PeerId(f"{SystemRandom().getrandbits(128):032x}")
