"""A kit of peers that speak the protocol by hand: one honest, and one class a vice.

`PlainPeer` is an honest seed in plain asyncio streams, written from the specification page and not from our
code, so that a fault of ours is not mirrored here. Each vice overrides one of its methods. `announced` puts
one into a tracker's directory.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from p2p.model import Address, ContentId
from tests.kit.waiting import hang_guard

Message = dict[str, Any]
PIECE = 65_536


def encoded(message: Message) -> bytes:
    """A message as its line."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Sample:
    """A content of one file, with its manifest made by hand."""

    name: str
    data: bytes
    piece_length: int = PIECE

    @property
    def manifest(self) -> bytes:
        """The canonical form."""
        step = self.piece_length
        pieces = [
            hashlib.blake2b(self.data[at : at + step], digest_size=32).hexdigest()
            for at in range(0, len(self.data), step)
        ]
        plain = {
            "files": [{"path": self.name, "size": len(self.data)}],
            "folders": [],
            "hash": "blake2b-256",
            "kind": "file",
            "name": self.name,
            "piece_length": step,
            "pieces": pieces,
            "version": 1,
        }
        return json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    @property
    def id(self) -> ContentId:
        """The content id."""
        return ContentId(hashlib.blake2b(self.manifest, digest_size=32).hexdigest())

    @property
    def count(self) -> int:
        """How many pieces it has."""
        return -(-len(self.data) // self.piece_length)

    @classmethod
    def random(cls, name: str, size: int, seed: int = 1) -> Sample:
        """Made of bytes that chance chose."""
        return cls(name, random.Random(seed).randbytes(size))


class Talk:
    """One connection of a plain peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.told: set[str] = set()
        """Contents of which it was told what we have."""

    async def say(self, message: Message, body: bytes = b"") -> None:
        """Write a line, and a body behind it."""
        self.writer.write(encoded({**message, "body": len(body)} if body else message) + body)
        await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def hang_up(self) -> None:
        """End it at once, with a reset."""
        self.writer.transport.abort()


class PlainPeer:
    """An honest seed of one content."""

    vice: ClassVar[str] = "honest"

    def __init__(self, sample: Sample, name: str | None = None, seed: int = 0) -> None:
        self.sample = sample
        self.name = name or self.vice
        self.peer = f"{random.Random(f'{self.name} {seed} {sample.id}').getrandbits(128):032x}"
        self.port = 0
        self.reads = 0
        """Blocks it was asked for."""
        self.talks: set[Talk] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=70_000)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the door and hang up on everybody."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for talk in list(self.talks):
            talk.hang_up()
            with contextlib.suppress(OSError):
                await talk.writer.wait_closed()

    async def call(self, port: int) -> None:
        """Dial a peer of loopback, say hello, and live there as behind the own door."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=70_000)
        hello = {
            "op": "hello",
            "version": 1,
            "peer": self.peer,
            "name": self.name,
            "listen": {"tcp": self.port},
            "seq": 1,
        }
        writer.write(encoded(hello))
        await reader.readline()
        task = asyncio.create_task(self._accepted(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        talk = Talk(reader, writer)
        self.talks.add(talk)
        try:
            await self.converse(talk)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            pass
        finally:
            self.talks.discard(talk)
            talk.hang_up()

    # -- what a vice overrides

    async def converse(self, talk: Talk) -> None:
        """The life of one connection."""
        while line := await talk.reader.readline():
            message = json.loads(line)
            if "op" in message:
                await getattr(self, f"on_{message['op']}")(talk, message)

    async def on_hello(self, talk: Talk, message: Message) -> None:
        answer = {
            "ok": True,
            "version": 1,
            "role": "peer",
            "name": self.name,
            "peer": self.peer,
            "listen": {"tcp": self.port},
        }
        await talk.say({**answer, "seq": message.get("seq")})

    async def on_ping(self, talk: Talk, message: Message) -> None:
        await talk.say({"ok": True, "seq": message.get("seq")})

    async def on_manifest(self, talk: Talk, message: Message) -> None:
        await talk.say({"ok": True, "seq": message.get("seq")}, self.sample.manifest)

    async def on_have(self, talk: Talk, message: Message) -> None:
        """The first `have` of a content is the question what we have."""
        if message["id"] not in talk.told:
            talk.told.add(message["id"])
            rest = {"all": True} if message["id"] == self.sample.id else {"none": True}
            await talk.say({"op": "have", "id": message["id"], **rest})

    async def on_read(self, talk: Talk, message: Message) -> None:
        self.reads += 1
        await self.answer_read(talk, message, self.block(message))

    async def on_replicate(self, talk: Talk, message: Message) -> None:
        await talk.say(
            {"ok": False, "seq": message.get("seq"), "error": "not_allowed", "message": "no uploads here"}
        )

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        """Send a block."""
        await talk.say({"ok": True, "seq": message.get("seq")}, block)

    def block(self, message: Message) -> bytes:
        """The bytes asked for."""
        start = message["piece"] * self.sample.piece_length + message["offset"]
        return self.sample.data[start : start + message["length"]]


# -- those that send what is wrong


class BitFlipper(PlainPeer):
    """Flips one bit of one piece, each time it is asked for it."""

    vice = "bit flipper"
    piece = 0

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        if message["piece"] == self.piece:
            block = bytes([block[0] ^ 1]) + block[1:]
        await super().answer_read(talk, message, block)


class Liar(PlainPeer):
    """Sends nothing but zeros, of the right length."""

    vice = "liar"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await super().answer_read(talk, message, bytes(len(block)))


class Turncoat(PlainPeer):
    """Sends ten blocks rightly and zeros from then on."""

    vice = "turncoat"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await super().answer_read(talk, message, block if self.reads <= 10 else bytes(len(block)))


class LateLiar(Liar):
    """Sends zeros, after it has waited so long that it was given up."""

    vice = "late liar"
    delay = 1.0

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await asyncio.sleep(self.delay)
        await super().answer_read(talk, message, block)


class LinkDropper(Liar):
    """Closes its control connection when it is asked for a block, and then sends zeros on the data
    connection."""

    vice = "link dropper"

    def __init__(self, sample: Sample, name: str | None = None, seed: int = 0) -> None:
        super().__init__(sample, name, seed)
        self.links: set[Talk] = set()

    async def on_have(self, talk: Talk, message: Message) -> None:
        self.links.add(talk)
        await super().on_have(talk, message)

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        for link in self.links:
            link.writer.close()
        await asyncio.sleep(0.2)
        await super().answer_read(talk, message, block)


class DataHolder(LinkDropper):
    """Closes its control connection when it is asked for a block, and keeps the data connection, on which it
    never says a word."""

    vice = "data holder"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        for link in self.links:
            link.writer.close()
        await asyncio.Event().wait()


class ManifestForger(PlainPeer):
    """Sends the manifest of another content."""

    vice = "manifest forger"

    async def on_manifest(self, talk: Talk, message: Message) -> None:
        await talk.say(
            {"ok": True, "seq": message.get("seq")}, Sample(self.sample.name, b"something else").manifest
        )


class EndlessManifest(PlainPeer):
    """Announces a manifest of 2^62 bytes and begins to send it."""

    vice = "endless manifest"

    async def on_manifest(self, talk: Talk, message: Message) -> None:
        await talk.raw(encoded({"ok": True, "seq": message.get("seq"), "body": 2**62}))
        while True:
            await talk.raw(bytes(65_536))


class MuteManifest(PlainPeer):
    """Never answers when it is asked for the manifest."""

    vice = "mute manifest"

    async def on_manifest(self, talk: Talk, message: Message) -> None:
        pass


# -- those that send too much or too little


class LongAnswer(PlainPeer):
    """Announces a longer body than was asked for."""

    vice = "long answer"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await super().answer_read(talk, message, block + b"!")


class HugeHeader(PlainPeer):
    """Announces a body of 2^63 bytes."""

    vice = "huge header"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await talk.raw(encoded({"ok": True, "seq": message.get("seq"), "body": 2**63}) + block)


class ShortAnswer(PlainPeer):
    """Announces a shorter body than was asked for."""

    vice = "short answer"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await super().answer_read(talk, message, block[:-1])


class Overflower(PlainPeer):
    """Sends the block and goes on sending for ever."""

    vice = "overflower"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await super().answer_read(talk, message, block)
        while True:
            await talk.raw(b"x" * 65_536)


class EndlessLine(PlainPeer):
    """Answers a hello with a line that never ends."""

    vice = "endless line"

    async def on_hello(self, talk: Talk, message: Message) -> None:
        await talk.raw(b'{"ok":true,"name":"')
        while True:
            await talk.raw(b"x" * 65_536)


# -- those that send nothing, or go away


class OneByte(PlainPeer):
    """Sends one byte of each block and then nothing."""

    vice = "one byte"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await talk.raw(encoded({"ok": True, "seq": message.get("seq"), "body": len(block)}) + block[:1])
        await asyncio.Event().wait()


class AfterThree(PlainPeer):
    """Stalls after the third block."""

    vice = "after three"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        if self.reads > 3:
            await asyncio.Event().wait()
        await super().answer_read(talk, message, block)


class Refuser(PlainPeer):
    """Claims to have all, and refuses each block."""

    vice = "refuser"
    code = "not_found"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await talk.say({"ok": False, "seq": message.get("seq"), "error": self.code, "message": "no"})


class BusyRefuser(Refuser):
    """Claims to have all, and is always busy."""

    vice = "busy refuser"
    code = "busy"


class InternalRefuser(Refuser):
    """Claims to have all, and always has a fault of its own."""

    vice = "internal refuser"
    code = "internal"


class Quitter(PlainPeer):
    """Hangs up with a reset in the middle of each block."""

    vice = "quitter"

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await talk.raw(
            encoded({"ok": True, "seq": message.get("seq"), "body": len(block)}) + block[: len(block) // 2]
        )
        talk.hang_up()
        raise ConnectionAbortedError


class Cutter(PlainPeer):
    """Hangs up, politely or with a reset, after exactly so many bytes of each connection on which blocks are
    asked for."""

    vice = "cutter"
    after = 0
    reset = True

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        answer = encoded({"ok": True, "seq": message.get("seq"), "body": len(block)}) + block
        await talk.raw(answer[: self.after])
        if self.reset:
            talk.hang_up()
        else:
            talk.writer.close()
        raise ConnectionAbortedError


class Freezer(PlainPeer):
    """Honest, but while it is frozen nothing goes in or out, as behind a network that is down."""

    vice = "freezer"

    def __init__(self, sample: Sample, name: str | None = None, seed: int = 0) -> None:
        super().__init__(sample, name, seed)
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def converse(self, talk: Talk) -> None:
        await self.flowing.wait()
        while line := await talk.reader.readline():
            await self.flowing.wait()
            message = json.loads(line)
            if "op" in message:
                await getattr(self, f"on_{message['op']}")(talk, message)

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await asyncio.sleep(0.02)
        await self.flowing.wait()
        await super().answer_read(talk, message, block)


class Slow(PlainPeer):
    """Honest, and takes its time for each block."""

    vice = "slow"
    delay = 0.1

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await asyncio.sleep(self.delay)
        await super().answer_read(talk, message, block)


class SlamDoor(PlainPeer):
    """Accepts and hangs up at once."""

    vice = "slam door"

    async def converse(self, talk: Talk) -> None:
        talk.hang_up()


class DataSlammer(PlainPeer):
    """Has its links at one door, and names another for blocks: there, it hangs up as soon as somebody has
    connected."""

    vice = "data slammer"

    def __init__(self, sample: Sample, name: str | None = None, seed: int = 0) -> None:
        super().__init__(sample, name, seed)
        self.slams = 0
        """How often somebody connected there."""
        self._door: socket.socket | None = None
        self._over = False
        # In a thread, so that it has hung up before who connected has sent a word.
        self._slamming = threading.Thread(target=self._slam, name="slam")

    async def start(self) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self._slamming.start()
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        if self._door is not None:
            self._over = True
            socket.create_connection(self._door.getsockname()).close()
            self._slamming.join()
            self._door.close()

    async def on_hello(self, talk: Talk, message: Message) -> None:
        assert self._door is not None
        listen = {"tcp": self._door.getsockname()[1]}
        answer = {
            "ok": True,
            "version": 1,
            "role": "peer",
            "name": self.name,
            "peer": self.peer,
            "listen": listen,
        }
        await talk.say({**answer, "seq": message.get("seq")})

    def _slam(self) -> None:
        while self._door is not None and not self._over:
            sock, _ = self._door.accept()
            self.slams += 1
            sock.close()


class Mute(PlainPeer):
    """Accepts and never says a word."""

    vice = "mute"

    async def converse(self, talk: Talk) -> None:
        await asyncio.Event().wait()


# -- those that talk too much


class HaveFlooder(PlainPeer):
    """Tells what it has as fast as it can, for ever: rightly or for contents that nobody knows."""

    vice = "have flooder"
    unknown = False

    async def on_have(self, talk: Talk, message: Message) -> None:
        rng = random.Random(3)
        while True:
            content = f"{rng.getrandbits(256):064x}" if self.unknown else self.sample.id
            line = encoded({"op": "have", "id": content, "add": [rng.randrange(self.sample.count)]})
            await talk.raw(line * 500)


class Flapper(PlainPeer):
    """Has all, has nothing, has all, as fast as it can."""

    vice = "flapper"

    async def on_have(self, talk: Talk, message: Message) -> None:
        while True:
            for rest in ({"all": True}, {"none": True}):
                await talk.say({"op": "have", "id": self.sample.id, **rest})
            await asyncio.sleep(0.001)


class Suggester(PlainPeer):
    """Suggests pieces for ever and refuses them."""

    vice = "suggester"

    async def on_have(self, talk: Talk, message: Message) -> None:
        await super().on_have(talk, message)
        pieces = list(range(min(self.sample.count, 1000)))
        await talk.say({"op": "have", "id": self.sample.id, "suggest": pieces})

    async def answer_read(self, talk: Talk, message: Message, block: bytes) -> None:
        await talk.say({"ok": False, "seq": message.get("seq"), "error": "not_found", "message": "no"})
        await talk.say({"op": "have", "id": self.sample.id, "all": True, "suggest": [message["piece"]]})


class WrongPieces(PlainPeer):
    """Claims pieces that the content has not."""

    vice = "wrong pieces"

    async def on_have(self, talk: Talk, message: Message) -> None:
        bits = base64.b64encode(b"\xff" * (self.sample.count // 8 + 9)).decode()
        await talk.say({"op": "have", "id": self.sample.id, "pieces": bits, "add": [2**18 - 1]})


class SelfTalker(PlainPeer):
    """Answers questions that nobody asked."""

    vice = "self talker"

    async def on_hello(self, talk: Talk, message: Message) -> None:
        await super().on_hello(talk, message)
        for seq in range(100, 110):
            await talk.say({"ok": True, "seq": seq})


# -- in the directory, and on the other side


@asynccontextmanager
async def announced(tracker: Address, *peers: PlainPeer) -> AsyncIterator[None]:
    """Start peers and put them into a tracker's directory for as long as this lasts."""
    writers = []
    try:
        for peer in peers:
            await peer.start()
            reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
            writers.append(writer)
            size = len(peer.sample.data)
            share = {"id": peer.sample.id, "name": peer.sample.name, "size": size, "have": size}
            who = {"peer": peer.peer, "name": peer.name, "listen": {"tcp": peer.port}}
            for message in ({"op": "login", "user": "kit"}, {"op": "announce", **who, "contents": [share]}):
                writer.write(encoded(message))
                answer = json.loads(await reader.readline())
                assert answer["ok"], answer
        yield
    finally:
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await asyncio.gather(*(peer.stop() for peer in peers))


class Client:
    """A connection to a peer on which a test says whatever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, port: int) -> Client:
        """Connect to a port of loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=4 * 1024 * 1024))

    async def say(self, data: Message | bytes) -> None:
        """Write a message, or bytes as they are."""
        self.writer.write(data if isinstance(data, bytes) else encoded(data))
        with contextlib.suppress(OSError):
            await self.writer.drain()

    async def hear(self) -> tuple[Message, bytes] | None:
        """The next message and its body; None when the other side has hung up."""
        async with hang_guard():
            try:
                line = await self.reader.readline()
                if not line:
                    return None
                message: Message = json.loads(line)
                return message, await self.reader.readexactly(message.get("body", 0))
            except (ConnectionError, asyncio.IncompleteReadError):
                return None

    async def ask(self, message: Message) -> tuple[Message, bytes] | None:
        """Ask, and wait for the answer; what the other side tells meanwhile is passed over."""
        await self.say(message)
        while (heard := await self.hear()) is not None:
            if "op" not in heard[0]:
                return heard
        return None

    async def hello(self, peer: str, port: int = 5000) -> Message:
        """Make it a link."""
        heard = await self.ask(
            {"op": "hello", "version": 1, "peer": peer, "name": peer[:6], "listen": {"tcp": port}, "seq": 1}
        )
        assert heard is not None
        assert heard[0]["ok"], heard
        return heard[0]

    async def ended(self) -> bool:
        """Whether the other side hangs up; what it says until then is passed over."""
        with contextlib.suppress(TimeoutError):
            async with hang_guard():
                with contextlib.suppress(ConnectionError):
                    while await self.reader.read(65_536):
                        pass
                return True
        return False

    def hang_up(self) -> None:
        """End it with a reset."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """End it."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
