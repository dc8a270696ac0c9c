"""Control connections: one for each pair of peers, used in both directions whichever side dialled.

An id is no secret: any peer that has seen it can give it as its own. So a control connection belongs to a
peer *at a place* (`PeerKey`): the host it was reached at or came from, and the port it listens on. A peer
that gives another's id from elsewhere is a peer of its own here. It takes no other's place and spoils no name
but its own.

`ControlConnection` is one open connection to a known peer. `ControlConnections` is the registry of all of
them, and handles what comes on the listening port that is no request for a block.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from p2p.errors import WIRE_CODES, EnjambreError, ProtocolError, Refused, Unreachable
from p2p.model import Address, ContentId, PeerId, PeerKey, client_id, peer_key
from p2p.net.admission import Admission
from p2p.net.channel import RequestChannel
from p2p.net.dial import dial
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.sending import FileSender, SpanSender
from p2p.net.tasks import TaskSet
from p2p.net.wire import Wire, WireTrace, broken
from p2p.peer.conversation import converse
from p2p.peer.transport import BlockSource
from p2p.protocol.codec import by_op
from p2p.protocol.peer_messages import (
    PEER_OPS,
    VERSION,
    AskManifest,
    Have,
    Hello,
    HelloAnswer,
    ManifestAnswer,
    Ping,
    PingAnswer,
    Replicate,
    ReplicateAnswer,
    Request,
)
from p2p.protocol.session import Answered, Asked, Event
from p2p.value import frozen


@frozen
class Me:
    """What this peer says of itself."""

    peer: PeerId
    name: str
    listen: dict[str, int]


class Handler(Protocol):
    """Handles what control connections bring."""

    def on_connected(self, connection: ControlConnection) -> None:
        """A control connection is open."""

    def on_disconnected(self, connection: ControlConnection) -> None:
        """A control connection is closed."""

    def on_have(self, connection: ControlConnection, have: Have) -> None:
        """A peer told what it has."""

    def manifest(self, content: ContentId) -> bytes:
        """The manifest's bytes. Raises `Refused("not_found")`."""

    def replicate(self, connection: ControlConnection, request: Replicate) -> Awaitable[object]:
        """Accept to fetch a content, or raise `Refused`. What is returned ends when the content is verified,
        or raises."""


class ControlConnection:
    """One open control connection to a known peer. It pings from its making to `on_closed`."""

    def __init__(
        self,
        wire: Wire,
        peer: PeerId,
        name: str,
        listen: dict[str, int],
        dialled_at: Address | None = None,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        """`dialled_at` is the address at which this side reached it; None where the other side dialled."""
        self.wire = wire
        self.peer = peer
        self.name = name
        self.listen = listen
        self.dialled = dialled_at is not None
        self.key = peer_key(peer, dialled_at or Address(wire.remote.host, listen.get("tcp", 0)))
        """Tells this peer from others that give the same id."""
        self.client_id = client_id(peer, wire.remote.host)
        """The client that its requests for blocks come from, on connections of their own."""
        self.copying: dict[ContentId, asyncio.Task[None]] = {}
        """The replicas that the other side asked us to make and whose end it waits for."""
        self._timeouts = timeouts
        self._channel = RequestChannel(wire, name, timeouts=timeouts, limits=limits)
        self._heartbeat = asyncio.create_task(self._channel.keep_alive())

    @property
    def host(self) -> str:
        """Where the other side is, as the socket says."""
        return self.wire.remote.host

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self.wire.closed

    @property
    def outbox_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._channel.outbox_bytes

    def address(self, transport: str) -> Address:
        """Where this peer listens for a transport. Raises `KeyError` if it does not."""
        return Address(self.wire.remote.host, self.listen[transport])

    def send_have(self, have: Have) -> None:
        """Tell what we have; written soon, in order. A peer that reads too slowly is disconnected."""
        if not self.wire.closed:
            self._channel.post(self.wire.session.notify(have))

    async def manifest(self, content: ContentId) -> bytes:
        """Fetch a manifest's bytes, unchecked. Raises `Refused`, `Unreachable`."""
        reply = await self._channel.ask(AskManifest(id=content), self._timeouts.manifest_s)
        return reply.body

    async def replicate(self, request: Replicate, accepted: Callable[[], None]) -> None:
        """Ask the peer to make a replica. `accepted` is called when it will, and this returns when it has
        verified all. Raises as `manifest`."""
        told = False

        def on_accepted() -> None:
            nonlocal told
            if not told:
                told = True
                accepted()

        await self._channel.ask(request, self._timeouts.answer_s, on_accepted)
        on_accepted()  # for a peer that has it already and says `verified` at once

    async def on_answered(self, event: Answered) -> None:
        """An answer came, and its body follows. Raises `OSError`, `ProtocolError`."""
        await self._channel.on_answered(event)

    def close(self) -> None:
        """Hang up."""
        self.wire.close()

    def on_closed(self) -> None:
        """The connection is over: all that waits on it fails."""
        self._heartbeat.cancel()
        for task in self.copying.values():
            task.cancel()
        self._channel.end()


class ControlConnections:
    """All control connections of this peer, by peer and by wire (a `Control` and the registry in one).

    Of two peers that dial each other at once, both keep the connection that the peer with the smaller id
    dialled.
    """

    def __init__(
        self,
        me: Callable[[], Me],
        handler: Handler,
        source: BlockSource,
        spans: SpanSender,
        trace: WireTrace | None = None,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        """`me` tells what this peer says of itself now: its ports are known when it listens, and its id may
        be renewed."""
        self._me = me
        self._handler = handler
        self._source = source
        self._trace = trace
        self._timeouts = timeouts
        self._limits = limits
        self._files = FileSender(spans, limits.control_threads)
        self._admission: Admission[Wire] = Admission(limits.control_connections)
        self._by_key: dict[PeerKey, ControlConnection] = {}
        self._by_wire: dict[Wire, ControlConnection] = {}
        self._tasks = TaskSet()

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def me(self) -> Me:
        """What this peer says of itself now."""
        return self._me()

    def get(self, peer: PeerKey) -> ControlConnection | None:
        """The connection to a peer, if there is one."""
        return self._by_key.get(peer)

    def all(self) -> list[ControlConnection]:
        """Every open connection."""
        return list(self._by_key.values())

    async def connect(self, address: Address, peer: PeerId) -> ControlConnection:
        """Open a connection to the peer that listens there. Raises `Unreachable`, naming the address; also
        when it is another peer."""
        sock = await dial(address, timeouts=self._timeouts, limits=self._limits)
        try:
            wire = Wire(sock, by_op(PEER_OPS), timeouts=self._timeouts, files=self._files, trace=self._trace)
        except OSError as error:
            raise broken(error, f"peer {address}") from error
        try:
            name, listen = await self._introduce(wire, address, peer)
        except BaseException as error:
            wire.close()
            if isinstance(error, (OSError, ProtocolError)):
                raise broken(error, f"peer {address}") from error
            raise
        connection = self._connection(wire, peer, name, listen, address)
        self._admission.on_dialled(wire, wire.remote.host)
        kept = self._keep(connection)
        self._tasks.add(converse(wire, self._source, self, self._timeouts, self._limits))
        return kept

    async def _introduce(self, wire: Wire, address: Address, peer: PeerId) -> tuple[str, dict[str, int]]:
        """Say hello; returns the name and the ports of the peer, if it is the one that was expected there."""
        me = self._me()
        _, line = wire.session.ask(Hello(version=VERSION, peer=me.peer, name=me.name, listen=me.listen))
        await wire.send([line])
        event = await wire.next_event(self._timeouts.answer_s)
        answer = event.answer if isinstance(event, Answered) else None
        if isinstance(answer, Refused):
            raise Unreachable(f"peer {address} refuses: {answer}")
        if not isinstance(answer, HelloAnswer) or answer.peer is None or answer.listen is None:
            raise Unreachable(f"peer {address} does not speak as a peer")
        if answer.peer == me.peer:
            raise Unreachable(f"peer {address} is this peer itself")
        if answer.peer != peer:
            raise Unreachable(f"peer {address} is another peer by now")
        return answer.name, answer.listen

    # -- what a connection brings

    async def on_event(self, wire: Wire, event: Event) -> None:
        """Handle one event that is no request for a block."""
        match event:
            case Asked(Hello() as hello, seq):
                await self._on_hello(wire, hello, seq)
            case Asked(Ping(), seq):
                await wire.send(wire.session.answer(PingAnswer(), seq))
            case Asked(request, seq):
                try:
                    await self._on_request(wire, request, seq)
                except Refused as refused:
                    await wire.send([wire.session.refuse(refused, seq)])
                except ProtocolError as fault:
                    await wire.send([wire.session.refuse(fault, seq)])
                    raise
            case Answered():
                connection = self._by_wire.get(wire)
                if connection is None:
                    raise ProtocolError("bad_field", "ok: nothing was asked", fatal=True)
                await connection.on_answered(event)

    def on_closed(self, wire: Wire) -> None:
        """A connection is over."""
        self._admission.on_closed(wire)
        connection = self._by_wire.pop(wire, None)
        if connection is None:
            return
        if self._by_key.get(connection.key) is connection:
            del self._by_key[connection.key]
        connection.on_closed()
        self._handler.on_disconnected(connection)

    async def _on_hello(self, wire: Wire, hello: Hello, seq: int | None) -> None:
        if hello.version != VERSION:
            refused = Refused("unsupported", f"version: {VERSION} is spoken here")
            await wire.send([wire.session.refuse(refused, seq)])
            return
        me = self._me()
        answer = HelloAnswer(version=VERSION, role="peer", name=me.name, peer=me.peer, listen=me.listen)
        await wire.send(wire.session.answer(answer, seq))
        if hello.peer is None or hello.listen is None:
            return
        if hello.peer == me.peer or not self._admit(wire):
            raise ProtocolError("busy", "no control connection is wanted", fatal=True)
        self._keep(self._connection(wire, hello.peer, hello.name or hello.peer[:8], hello.listen))

    async def _on_request(self, wire: Wire, request: Request, seq: int | None) -> None:
        if isinstance(request, AskManifest):
            manifest = self._handler.manifest(request.id)
            await wire.send(wire.session.answer(ManifestAnswer(), seq, manifest))
            return
        connection = self._by_wire.get(wire)
        if connection is None:
            raise Refused(
                "not_allowed", f"{request.OP}: only on a link; say hello with peer and listen first"
            )
        self._admission.on_active(wire)
        match request:
            case Have():
                self._handler.on_have(connection, request)
            case Replicate():
                await self._on_replicate(connection, request, seq)

    # -- which connections there are

    def _admit(self, wire: Wire) -> bool:
        """Whether a connection that came in may be a control connection. The oldest on which nothing was ever
        told or asked is closed for it: a host that opens hundreds and says nothing shuts nobody out."""
        now = asyncio.get_running_loop().time()
        verdict = self._admission.admit(wire, wire.remote.host, now)
        if verdict.evicted is not None:
            verdict.evicted.close()
        return verdict.admitted

    def _connection(
        self, wire: Wire, peer: PeerId, name: str, listen: dict[str, int], dialled_at: Address | None = None
    ) -> ControlConnection:
        return ControlConnection(wire, peer, name, listen, dialled_at, self._timeouts, self._limits)

    def _keep(self, new: ControlConnection) -> ControlConnection:
        """Keep one connection for each pair of peers; returns the one that is kept."""
        old = self._by_key.get(new.key)
        crossed = old is not None and not old.closed and old.dialled != new.dialled
        if old is not None and crossed and old.dialled == (self._me().peer < new.peer):
            new.close()
            new.on_closed()
            return old
        self._by_wire[new.wire] = new
        self._by_key[new.key] = new
        if old is not None:
            old.close()
        self._handler.on_connected(new)
        return new

    async def close(self) -> None:
        """Close every connection."""
        for connection in self.all():
            connection.close()
        await self._tasks.close()
        self._files.close()

    # -- replicas

    async def _on_replicate(self, connection: ControlConnection, request: Replicate, seq: int | None) -> None:
        """Answer a `replicate`, and wait for its end in a task. One connection has few of these, and one for
        each content."""
        if request.id in connection.copying:
            raise Refused("busy", "this copy was asked for on this link already; wait for its end")
        if len(connection.copying) >= self._limits.copies:
            raise Refused(
                "busy", f"this link waits for {self._limits.copies} copies already; ask again later"
            )
        work = asyncio.ensure_future(self._handler.replicate(connection, request))
        # The other side may be gone before the end, and then nobody asks how it ended.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        wire = connection.wire
        await wire.send(wire.session.answer(ReplicateAnswer(state="accepted"), seq))
        task = connection.copying[request.id] = self._tasks.start(_answer_at_end(wire, work, seq))
        task.add_done_callback(lambda _: connection.copying.pop(request.id, None))


async def _answer_at_end(wire: Wire, work: Awaitable[object], seq: int | None) -> None:
    """Send the second answer to a `replicate`, when the replica is verified or has failed."""
    error: Exception | None = None
    try:
        await work
    except EnjambreError as failed:
        code = failed.code if failed.code in WIRE_CODES else "unavailable"
        # Only a refusal is told as it is: other errors name paths of this machine.
        error = Refused(code, str(failed) if isinstance(failed, Refused) else WIRE_CODES[code])
    with contextlib.suppress(OSError):
        if error is None:
            await wire.send(wire.session.answer(ReplicateAnswer(state="verified"), seq))
        else:
            await wire.send([wire.session.refuse(error, seq)])
