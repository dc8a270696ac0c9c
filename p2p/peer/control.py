"""Links: the control connections between peers, one a pair, used in both directions whoever dialled.

An id is no secret: whoever heard it can say it. So a link belongs to a peer at a place, the host it was
reached at or came from and the port it listens on. Who says another's id from elsewhere is a peer of its own
here, which takes no place and spoils no name but its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from p2p.errors import WIRE_CODES, EnjambreError, ProtocolError, Refused, Unreachable
from p2p.model import Address, ContentId, PeerId, PeerKey, client_id, peer_key
from p2p.net.dial import dial
from p2p.net.wire import Wire, WireTrace, broken, let_go
from p2p.peer.conversation import converse
from p2p.peer.transport import BlockSource
from p2p.protocol.codec import by_op
from p2p.protocol.peer_messages import (
    PEER_OPS,
    VERSION,
    Answer,
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
from p2p.storage.disk_io import DiskIO
from p2p.value import frozen

ANSWER_TIME: Final = 10.0
"""Seconds that another peer may take for a short answer."""
MANIFEST_TIME: Final = 60.0
PING_TIME: Final = 20.0
"""Seconds between pings, so that a link on which nothing happens is known to be alive: each side hears at
least the other's pings."""
OUTBOX: Final = 1024 * 1024
"""Bytes that may wait to be told to one peer; one that does not read them is hung up on."""
LINKS: Final = 512
"""Links open at once."""
SPEAK_TIME: Final = 1.0
"""Seconds after which a link on which the other side has told and asked nothing may have to make room for
another."""
COPIES: Final = 16
"""Copies whose end one link may wait for at once; a peer fetches half as many for all."""
SENDERS: Final = 8
"""Threads that send blocks to those whom we dialled and who ask on the link itself; our own peers ask on
lanes."""


@frozen
class Me:
    """What this peer says of itself."""

    peer: PeerId
    name: str
    listen: dict[str, int]


class Handler(Protocol):
    """Who deals with what links bring."""

    def on_connected(self, link: ControlConnection) -> None:
        """A link is open."""

    def on_disconnected(self, link: ControlConnection) -> None:
        """A link is gone."""

    def on_have(self, link: ControlConnection, have: Have) -> None:
        """A peer told what it has."""

    def manifest(self, content: ContentId) -> bytes:
        """The manifest's bytes. Raises `Refused("not_found")`."""

    def replicate(self, link: ControlConnection, request: Replicate) -> Awaitable[object]:
        """Accept to fetch a content, or raise `Refused`; what is returned ends when it is verified, or
        raises."""


class ControlConnection:
    """One open control connection to a known peer."""

    def __init__(
        self, wire: Wire, peer: PeerId, name: str, listen: dict[str, int], dialled: Address | None = None
    ) -> None:
        """`dialled` is the address at which this side reached it; None where the other side called."""
        self.peer = peer
        self.name = name
        self.listen = listen
        self.dialled = dialled is not None
        self.key = peer_key(peer, dialled or Address(wire.remote.host, listen.get("tcp", 0)))
        """Who this is, to tell it from others that say the same id."""
        self.client_id = client_id(peer, wire.remote.host)
        """By what its requests for blocks are known, which come by connections of their own."""
        self.wire = wire
        self.spoke = self.dialled
        """Whether the other side has told or asked anything, or we wanted the link ourselves."""
        self.since = asyncio.get_running_loop().time()
        """When it was opened, in seconds of the loop's clock."""
        self._waiting: dict[int, asyncio.Future[tuple[Answer | Refused, bytes]]] = {}
        self._second: dict[int, asyncio.Future[tuple[Answer | Refused, bytes]]] = {}
        """Who will wait for the second answer of a `replicate` when the first has come."""
        self.copying: dict[ContentId, asyncio.Task[None]] = {}
        """The copies that the other side asked us to keep and that it waits for."""
        self._outbox = bytearray()
        self._flushing: asyncio.Task[None] | None = None
        self._pinging = asyncio.create_task(self._ping())

    @property
    def host(self) -> str:
        """Where the other side is, as the socket says."""
        return self.wire.remote.host

    def address(self, transport: str) -> Address:
        """Where this peer listens for a transport. Raises `KeyError` if it does not."""
        return Address(self.wire.remote.host, self.listen[transport])

    def send_have(self, have: Have) -> None:
        """Tell what we have; written soon, in order. A peer that reads too slowly is hung up on."""
        if self.wire.closed:
            return
        self._outbox += self.wire.session.notify(have)
        if len(self._outbox) > OUTBOX:
            self.close()
        elif self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def manifest(self, content: ContentId) -> bytes:
        """Fetch a manifest's bytes, unchecked. Raises `Refused`, `Unreachable`."""
        _, data = await self._ask(AskManifest(id=content), MANIFEST_TIME)
        return data

    async def replicate(self, request: Replicate, accepted: Callable[[], None]) -> None:
        """Ask to keep a copy; `accepted` is called when the peer will, and this returns when it has verified.
        Raises as `manifest`."""
        seq, answer = await self._post(request)
        end = self._second[seq] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_TIME):
                first, _ = self._checked(await answer)
            accepted()
            if isinstance(first, ReplicateAnswer) and first.state == "accepted":
                self._checked(await end)
        except TimeoutError as error:
            raise Unreachable(f"{self.name} does not answer") from error
        finally:
            self._waiting.pop(seq, None)
            self._second.pop(seq, None)
            let_go(end)  # the connection may have broken while the first answer said no

    def answered(self, event: Answered, body: bytes) -> None:
        """An answer came."""
        waiting = self._waiting.pop(event.seq, None) if event.seq is not None else None
        if (
            isinstance(event.answer, ReplicateAnswer)
            and event.answer.state == "accepted"
            and event.seq is not None
        ):
            # The second answer may come right behind, before whoever asked has seen the first.
            self.wire.session.expect_more(event.seq, Replicate)
            if event.seq in self._second:
                self._waiting[event.seq] = self._second.pop(event.seq)
        if waiting is not None and not waiting.done():
            waiting.set_result((event.answer, body))

    def close(self) -> None:
        """Hang up."""
        self.wire.close()

    def ended(self) -> None:
        """The connection is over: whoever waits on it is told."""
        self._pinging.cancel()
        if self._flushing is not None:
            self._flushing.cancel()
        for task in self.copying.values():
            task.cancel()
        waiting = [*self._waiting.values(), *self._second.values()]
        self._waiting, self._second = {}, {}
        for one in waiting:
            if not one.done():
                one.set_exception(Unreachable(f"connection to {self.name} broke"))

    async def _ask(self, request: Request, seconds: float) -> tuple[Answer, bytes]:
        seq, answer = await self._post(request)
        try:
            async with asyncio.timeout(seconds):
                return self._checked(await answer)
        except TimeoutError as error:
            raise Unreachable(f"{self.name} does not answer") from error
        finally:
            self._waiting.pop(seq, None)

    async def _post(self, request: Request) -> tuple[int, asyncio.Future[tuple[Answer | Refused, bytes]]]:
        seq, line = self.wire.session.ask(request)
        waiting = self._waiting[seq] = asyncio.get_running_loop().create_future()
        try:
            await self.wire.send([line])
        except (
            BaseException
        ) as error:  # a cancel too: the connection may end before a line has its turn to be written
            self._waiting.pop(seq, None)
            let_go(waiting)
            if isinstance(error, OSError):
                raise broken(error, self.name) from error
            raise
        return seq, waiting

    @staticmethod
    def _checked(came: tuple[Answer | Refused, bytes]) -> tuple[Answer, bytes]:
        answer, body = came
        if isinstance(answer, Refused):
            raise answer
        return answer, body

    async def _flush(self) -> None:
        try:
            while self._outbox:
                lines = bytes(self._outbox)
                self._outbox.clear()
                await self.wire.send([lines])
        except OSError:
            self.close()
        finally:
            self._flushing = None

    async def _ping(self) -> None:
        """Ask for a sign of life, and hang up when none comes. An answer may be long behind a manifest, in
        either direction: there, any byte is a sign, if only the other side's own ping."""
        loop = asyncio.get_running_loop()
        pause = PING_TIME
        with contextlib.suppress(EnjambreError):
            while True:
                await asyncio.sleep(pause)
                pause = PING_TIME
                try:
                    await self._ask(Ping(), ANSWER_TIME)
                except Unreachable:
                    if (
                        self.wire.closed
                        or loop.time() - max(self.since, self.wire.moved_at) > PING_TIME + ANSWER_TIME / 2
                    ):
                        raise
                    pause -= ANSWER_TIME
        self.close()


class ControlConnections:
    """All links of this peer, and the answers to what comes on the shared port (a `Control`)."""

    def __init__(
        self, me: Me, handler: Handler, source: BlockSource, io: DiskIO, trace: WireTrace | None
    ) -> None:
        self.me = me
        self._handler = handler
        self._source = source
        self._io = io
        self._trace = trace
        self._senders = ThreadPoolExecutor(SENDERS, thread_name_prefix="send")
        self._by_key: dict[PeerKey, ControlConnection] = {}
        self._by_wire: dict[Wire, ControlConnection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, peer: PeerKey) -> ControlConnection | None:
        """The link to a peer, if there is one."""
        return self._by_key.get(peer)

    def all(self) -> list[ControlConnection]:
        """Every open link."""
        return list(self._by_key.values())

    async def connect(self, address: Address, peer: PeerId) -> ControlConnection:
        """Open a link to the peer that listens there. Raises `Unreachable`, naming the address; also when it
        is another peer."""
        sock = await dial(address)
        try:
            wire = Wire(sock, by_op(PEER_OPS), self._io, senders=self._senders, trace=self._trace)
        except OSError as error:
            raise broken(error, f"peer {address}") from error
        try:
            hello = Hello(version=VERSION, peer=self.me.peer, name=self.me.name, listen=self.me.listen)
            _, line = wire.session.ask(hello)
            await wire.send([line])
            event = await wire.next_event(ANSWER_TIME)
            answer = event.answer if isinstance(event, Answered) else None
            if isinstance(answer, Refused):
                raise Unreachable(f"peer {address} refuses: {answer}")
            if not isinstance(answer, HelloAnswer) or answer.peer is None or answer.listen is None:
                raise Unreachable(f"peer {address} does not speak as a peer")
            if answer.peer == self.me.peer:
                raise Unreachable(f"peer {address} is this peer itself")
            if answer.peer != peer:
                raise Unreachable(f"peer {address} is another peer by now")
        except BaseException as error:
            wire.close()
            if isinstance(error, (OSError, ProtocolError)):
                raise broken(error, f"peer {address}") from error
            raise
        wire.peer = answer.peer
        link = ControlConnection(wire, answer.peer, answer.name, answer.listen, address)
        kept = self._keep(link)
        task = converse(wire, self._source, self)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return kept

    async def on_event(self, wire: Wire, event: Event) -> None:
        """Deal with what a connection brought that is no block."""
        match event:
            case Asked(Hello() as hello, seq):
                await self._welcome(wire, hello, seq)
            case Asked(Ping(), seq):
                await wire.send(wire.session.answer(PingAnswer(), seq))
            case Asked(request, seq):
                try:
                    await self._asked(wire, request, seq)
                except Refused as refused:
                    await wire.send([wire.session.refuse(refused, seq)])
                except ProtocolError as fault:
                    await wire.send([wire.session.refuse(fault, seq)])
                    raise
            case Answered():
                body = await wire.read_body() if event.body else b""
                link = self._by_wire.get(wire)
                if link is None:
                    raise ProtocolError("bad_field", "ok: nothing was asked", fatal=True)
                link.answered(event, body)

    def on_closed(self, wire: Wire) -> None:
        """A connection is over."""
        link = self._by_wire.pop(wire, None)
        if link is None:
            return
        if self._by_key.get(link.key) is link:
            del self._by_key[link.key]
        link.ended()
        self._handler.on_disconnected(link)

    async def close(self) -> None:
        """Hang up on everybody."""
        for link in self.all():
            link.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._senders.shutdown(wait=False)

    async def _welcome(self, wire: Wire, hello: Hello, seq: int | None) -> None:
        if hello.version != VERSION:
            await wire.send(
                [wire.session.refuse(Refused("unsupported", f"version: {VERSION} is spoken here"), seq)]
            )
            return
        wire.peer = hello.peer
        me = self.me
        answer = HelloAnswer(version=VERSION, role="peer", name=me.name, peer=me.peer, listen=me.listen)
        await wire.send(wire.session.answer(answer, seq))
        if hello.peer is None or hello.listen is None:
            return
        if hello.peer == me.peer or (len(self._by_wire) >= LINKS and not self._make_room()):
            raise ProtocolError("busy", "no link is wanted", fatal=True)
        self._keep(ControlConnection(wire, hello.peer, hello.name or hello.peer[:8], hello.listen))

    def _make_room(self) -> bool:
        """Hang up on the oldest link of which nothing ever came; who opens hundreds and says nothing shuts
        nobody out."""
        latest = asyncio.get_running_loop().time() - SPEAK_TIME
        for link in self._by_wire.values():
            if link.since > latest:
                return False
            if not link.spoke and not link.wire.closed:
                link.close()
                return True
        return False

    def _keep(self, link: ControlConnection) -> ControlConnection:
        """Keep one link a pair: of two that were dialled at once from both sides, both sides keep the one
        dialled by the smaller id."""
        old = self._by_key.get(link.key)
        crossed = old is not None and not old.wire.closed and old.dialled != link.dialled
        if old is not None and crossed and old.dialled == (self.me.peer < link.peer):
            link.close()
            link.ended()
            return old
        self._by_wire[link.wire] = link
        self._by_key[link.key] = link
        if old is not None:
            old.close()
        self._handler.on_connected(link)
        return link

    async def _asked(self, wire: Wire, request: Request, seq: int | None) -> None:
        match request:
            case AskManifest():
                await wire.send(
                    wire.session.answer(ManifestAnswer(), seq, self._handler.manifest(request.id))
                )
                return
        link = self._by_wire.get(wire)
        if link is None:
            raise Refused(
                "not_allowed", f"{request.OP}: only on a link; say hello with peer and listen first"
            )
        link.spoke = True
        match request:
            case Have():
                self._handler.on_have(link, request)
            case Replicate():
                await self._accept(link, request, seq)

    async def _accept(self, link: ControlConnection, request: Replicate, seq: int | None) -> None:
        """Answer a `replicate`, and wait for its end in a task, of which one link has few and one content
        one."""
        if request.id in link.copying:
            raise Refused("busy", "this copy was asked for on this link already; wait for its end")
        if len(link.copying) >= COPIES:
            raise Refused("busy", f"this link waits for {COPIES} copies already; ask again later")
        work = asyncio.ensure_future(self._handler.replicate(link, request))
        work.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # whoever asked may be gone by then
        await link.wire.send(link.wire.session.answer(ReplicateAnswer(state="accepted"), seq))
        task = link.copying[request.id] = asyncio.create_task(self._replicated(link.wire, work, seq))
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            link.copying.pop(request.id, None)

        task.add_done_callback(over)

    async def _replicated(self, wire: Wire, work: Awaitable[object], seq: int | None) -> None:
        error: Exception | None = None
        try:
            await work
        except EnjambreError as failed:
            code = failed.code if failed.code in WIRE_CODES else "unavailable"
            error = Refused(
                code, str(failed) if isinstance(failed, Refused) else WIRE_CODES[code]
            )  # our paths are nobody's business
        with contextlib.suppress(OSError):
            if error is None:
                await wire.send(wire.session.answer(ReplicateAnswer(state="verified"), seq))
            else:
                await wire.send([wire.session.refuse(error, seq)])
