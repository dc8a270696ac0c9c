"""Crowds of light clients, thousands in one process: idle, slow, short-lived, reading, or announcing."""

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

from tests.load.rig import LOOPBACK

BLOCK: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: a close sends a reset, and the port is free at once."""


class Client(asyncio.Protocol):
    """One connection of a crowd: when it was opened and closed, and the beginning of what it received."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self.transport: asyncio.Transport | None = None
        self.opened = 0.0
        self.ended: float | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first bytes."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.opened = time.monotonic()
        if self._first:
            transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        """Keep the first 1024 bytes."""
        self.received = (self.received + data)[:1024]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the time."""
        self.ended = time.monotonic()

    @property
    def refused(self) -> bool:
        """Whether the answer was `busy`."""
        return b'"busy"' in self.received


class Crowd:
    """Connections that are held open until the target or the end of the `async with` block closes them."""

    def __init__(self, port: int, host: str = LOOPBACK) -> None:
        self._place = (host, port)
        self.clients: list[Client] = []
        self.failed = 0

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            if client.transport is not None:
                client.transport.abort()
        await asyncio.sleep(0)
        while self.held:  # noqa: ASYNC110 (a turn or two)
            await asyncio.sleep(0.01)

    async def open(self, count: int, first: bytes = b"", at_once: int = 50) -> None:
        """Open `count` connections, `at_once` at a time. Failures are counted in `failed`."""
        loop = asyncio.get_running_loop()

        async def one() -> None:
            try:
                async with asyncio.timeout(20):
                    _, client = await loop.create_connection(lambda: Client(first), *self._place)
                self.clients.append(client)
            except OSError:
                self.failed += 1

        for start in range(0, count, at_once):
            await asyncio.gather(*(one() for _ in range(min(at_once, count - start))))

    @property
    def held(self) -> int:
        """The number of open connections."""
        return sum(1 for client in self.clients if client.ended is None)

    @property
    def refused(self) -> int:
        """The number of connections that were answered `busy`."""
        return sum(1 for client in self.clients if client.refused)

    @property
    def longest(self) -> float:
        """The longest time that the target kept a connection open, in seconds."""
        now = time.monotonic()
        return max((((client.ended or now) - client.opened) for client in self.clients), default=0.0)

    @asynccontextmanager
    async def trickling(self, text: bytes, every: float) -> AsyncIterator[None]:
        """While the block runs, send one byte of `text` on each connection every `every` seconds."""
        task = asyncio.create_task(self._trickle(text, every))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _trickle(self, text: bytes, every: float) -> None:
        for at in range(1 << 30):
            await asyncio.sleep(every)
            for client in self.clients:
                if client.ended is None and client.transport is not None:
                    client.transport.write(text[at % len(text) :][:1])


async def churn(port: int, rate: float, seconds: float, lines: Iterable[bytes] = (b"",)) -> tuple[int, int]:
    """Connect `rate` times a second, send one of the `lines` and close, every second time with a reset.

    Returns the number of connections and of failures. The connections come from eight addresses of loopback,
    because one does not have enough ports for all that were closed a moment ago.
    """
    loop = asyncio.get_running_loop()
    choices = list(lines)
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
                if line := choices[number % len(choices)]:
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
    """Connections that read random blocks of a content while the `async with` block runs."""

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
    """Light peers of a tracker, each with a connection, a session and a content, that register when asked
    to."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._sessions: list[str | None] = [None] * count
        self._writers: list[asyncio.StreamWriter | None] = [None] * count
        self.tries = 0
        self.last = 0.0
        """Time at which the last one was registered."""

    async def come(self, over: float, rng: random.Random) -> None:
        """Register all of them at random times within `over` seconds. A failure is tried again after a
        second, then with doubled delays."""
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
        answer = await ask(
            op="announce",
            peer=f"{number:032x}",
            name=f"lab-{number}",
            listen={"tcp": 6970},
            contents=[content],
        )
        if not answer["ok"]:
            raise ValueError(answer["error"])

    def _hang_up(self, number: int) -> None:
        writer, self._writers[number] = self._writers[number], None
        if writer is not None:
            writer.transport.abort()

    async def leave(self) -> None:
        """Close all connections."""
        for number in range(len(self._writers)):
            self._hang_up(number)
        await asyncio.sleep(0.05)


async def ask_once(port: int, message: dict[str, Any]) -> dict[str, Any]:
    """One request on a connection of its own. Raises `OSError` or `ValueError`."""
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
