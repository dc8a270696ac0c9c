"""Crowds of light clients, thousands in one process: idle, slow, coming and going, reading, or announcing
themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from bench.soaking.rig import LOOPBACK

BLOCK: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)
"""To linger for no time: a close is a reset, and the port is free at once."""


class Member(asyncio.Protocol):
    """One connection of a crowd: when it was opened and ended, and the first that it heard."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self.transport: asyncio.Transport | None = None
        self.opened = 0.0
        self.ended: float | None = None
        self.heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say the first."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (what a stream's protocol is given)
        self.transport = transport
        self.opened = time.monotonic()
        if self._first:
            transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        """Keep the beginning."""
        self.heard = (self.heard + data)[:1024]

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.ended = time.monotonic()

    @property
    def refused(self) -> bool:
        """Whether it was told that there is no room."""
        return b'"busy"' in self.heard


class Crowd:
    """Connections that are opened and then held, until the other side or the end of the `async with` ends
    them."""

    def __init__(self, port: int, host: str = LOOPBACK) -> None:
        self._place = (host, port)
        self.members: list[Member] = []
        self.failed = 0

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            if member.transport is not None:
                member.transport.abort()
        await asyncio.sleep(0)
        while self.held:  # noqa: ASYNC110 (a turn or two)
            await asyncio.sleep(0.01)

    async def open(self, count: int, first: bytes = b"", at_once: int = 50) -> None:
        """Open so many, a few at a time; those that cannot be are counted in `failed`."""
        loop = asyncio.get_running_loop()

        async def one() -> None:
            try:
                async with asyncio.timeout(20):
                    _, member = await loop.create_connection(lambda: Member(first), *self._place)
                self.members.append(member)
            except OSError:
                self.failed += 1

        for start in range(0, count, at_once):
            await asyncio.gather(*(one() for _ in range(min(at_once, count - start))))

    @property
    def held(self) -> int:
        """How many are open."""
        return sum(1 for member in self.members if member.ended is None)

    @property
    def refused(self) -> int:
        """How many were told that there is no room."""
        return sum(1 for member in self.members if member.refused)

    @property
    def longest(self) -> float:
        """The longest that one was held by the other side, in seconds."""
        now = time.monotonic()
        return max((((member.ended or now) - member.opened) for member in self.members), default=0.0)

    @asynccontextmanager
    async def trickling(self, text: bytes, every: float) -> AsyncIterator[None]:
        """While this lasts, send one byte of `text` on each, every so many seconds."""
        task = asyncio.create_task(self._trickle(text, every))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _trickle(self, text: bytes, every: float) -> None:
        for at in range(1 << 30):
            await asyncio.sleep(every)
            for member in self.members:
                if member.ended is None and member.transport is not None:
                    member.transport.write(text[at % len(text) :][:1])


async def churn(port: int, rate: float, seconds: float, lines: Iterable[bytes] = (b"",)) -> tuple[int, int]:
    """Connect, say one of the `lines` and hang up, so often a second; half of them with a reset. Returns how
    many, and how many failed.

    They come from several addresses of loopback, for one has not enough ports for all that have just been
    closed.
    """
    loop = asyncio.get_running_loop()
    said = list(lines)
    began, made, failed = loop.time(), 0, 0

    async def one(number: int) -> None:
        nonlocal failed
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if hasattr(socket, "IP_BIND_ADDRESS_NO_PORT"):
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{2 + number % 8}", 0))
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            async with asyncio.timeout(10):
                await loop.sock_connect(sock, (LOOPBACK, port))
                if line := said[number % len(said)]:
                    await loop.sock_sendall(sock, line)
        except OSError:
            failed += 1
        finally:
            sock.close()

    while loop.time() - began < seconds:
        due = int((loop.time() - began) * rate)
        batch = min(due - made, 200)
        if batch > 0:
            await asyncio.gather(*(one(made + number) for number in range(batch)))
            made += batch
        else:
            await asyncio.sleep(0.002)
    return made, failed


class Readers:
    """Connections that read blocks of a content, one after the other, as long as the `async with` lasts."""

    def __init__(
        self, port: int, content: str, pieces: int, count: int, rng: random.Random, length: int = BLOCK
    ) -> None:
        self._port = port
        self._content = content
        self._pieces = pieces
        self._count = count
        self._length = length
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self.blocks = 0
        self.refusals: dict[str, int] = {}
        self.broken = 0

    async def __aenter__(self) -> Readers:
        self._tasks = [asyncio.create_task(self._read()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            try:
                await self._once()
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.broken += 1
                await asyncio.sleep(0.2)

    async def _once(self) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        try:
            peer = f"{self._rng.getrandbits(128):032x}"
            writer.write(_line({"op": "hello", "version": 1, "peer": peer, "seq": 0}))
            await reader.readline()
            while True:
                piece = self._rng.randrange(self._pieces)
                writer.write(
                    _line(
                        {
                            "op": "read",
                            "id": self._content,
                            "piece": piece,
                            "offset": 0,
                            "length": self._length,
                            "seq": 1,
                        }
                    )
                )
                answer = json.loads(await reader.readline())
                if answer["ok"]:
                    await reader.readexactly(answer["body"])
                    self.blocks += 1
                else:
                    self.refusals[answer["error"]] = self.refusals.get(answer["error"], 0) + 1
                    await asyncio.sleep(0.2)
        finally:
            writer.transport.abort()


class Registered:
    """Light peers of a tracker, each with a connection, a session and one content of its own, that come back
    when they are told to."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._sessions: list[str | None] = [None] * count
        self._writers: list[asyncio.StreamWriter | None] = [None] * count
        self.tries = 0
        self.last = 0.0
        """When the last one was registered."""

    async def come(self, over: float, rng: random.Random) -> None:
        """Register all, each at a moment by chance within so many seconds; who fails waits a second, then
        longer each time."""
        await asyncio.gather(
            *(self._one(number, rng.uniform(0, over), rng) for number in range(len(self._sessions)))
        )

    async def _one(self, number: int, delay: float, rng: random.Random) -> None:
        retry = 1.0
        while True:
            await asyncio.sleep(delay)
            self.tries += 1
            try:
                async with asyncio.timeout(10):
                    await self._register(number)
                self.last = time.monotonic()
                return
            except (OSError, ValueError, KeyError, asyncio.IncompleteReadError):
                self._hang_up(number)
            delay, retry = retry * rng.uniform(1.0, 1.5), min(retry * 2, 10.0)

    async def _register(self, number: int) -> None:
        self._hang_up(number)
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        self._writers[number] = writer

        async def ask(**message: Any) -> dict[str, Any]:
            writer.write(_line(message))
            answer: dict[str, Any] = json.loads(await reader.readline())
            return answer

        session = self._sessions[number]
        if session is None or not (await ask(op="hello", version=1, session=session))["ok"]:
            self._sessions[number] = str((await ask(op="login", user=f"user-{number}"))["session"])
        content = {"id": f"{number:064x}", "name": f"file-{number}.img", "size": 1 << 30, "have": 1 << 30}
        told = await ask(
            op="announce",
            peer=f"{number:032x}",
            name=f"lab-{number}",
            listen={"tcp": 6970},
            contents=[content],
        )
        if not told["ok"]:
            raise ValueError(told["error"])

    def _hang_up(self, number: int) -> None:
        writer, self._writers[number] = self._writers[number], None
        if writer is not None:
            writer.transport.abort()

    async def leave(self) -> None:
        """Hang up on all."""
        for number in range(len(self._writers)):
            self._hang_up(number)
        await asyncio.sleep(0.05)


async def ask_once(port: int, message: dict[str, Any]) -> dict[str, Any]:
    """One question on a connection of its own. Raises `OSError`, `ValueError`."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(_line(message))
        async with asyncio.timeout(10):
            answer: dict[str, Any] = json.loads(await reader.readline())
        return answer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
