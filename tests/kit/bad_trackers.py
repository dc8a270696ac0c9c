"""Bad trackers that speak the protocol by hand: one class for each fault, and one that answers as a test
says.

async with Endless() as tracker:
    ...  # ask tracker.address
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ClassVar

from p2p.model import Address

Message = dict[str, Any]


class BadTracker:
    """Listens on a free port of loopback, and answers each line by `answer`, which a subclass overrides."""

    vice: ClassVar[str] = ""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        """Answer a request; by default, do not."""

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self._server is not None
        return Address("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> BadTracker:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while text := await reader.readline():
                await self.answer(writer, json.loads(text))
        writer.transport.abort()


class Told(BadTracker):
    """Answers as a test says."""

    vice = "told"

    def __init__(self, answer: Callable[[asyncio.StreamWriter, Message], Awaitable[None]]) -> None:
        super().__init__()
        self._answer = answer

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        await self._answer(writer, message)


class Endless(BadTracker):
    """Answers with a line that never ends."""

    vice = "endless"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.write(b'{"ok":true,"seq":%d,"x":"' % message["seq"])
        await _for_ever(writer)


class Dripping(BadTracker):
    """Sends a blank now and then, and never a line."""

    vice = "dripping"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)


class Silent(BadTracker):
    """Accepts and says nothing."""

    vice = "silent"


class WithBody(BadTracker):
    """Announces a body of a terabyte where none belongs, and begins to send it."""

    vice = "with a body"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.write(line({"ok": True, "seq": message["seq"], "body": 2**40}))
        await _for_ever(writer)


class Garbage(BadTracker):
    """Answers with bytes that are no JSON."""

    vice = "garbage"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.write(b"\x00\xff\n")


class Resetting(BadTracker):
    """Resets the connection at each request."""

    vice = "resetting"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.transport.abort()


class AnotherSeq(BadTracker):
    """Answers a request that was not sent."""

    vice = "another seq"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.write(line({"ok": True, "seq": message["seq"] + 1}))


class Asking(BadTracker):
    """Sends a request instead of an answer."""

    vice = "asking"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        writer.write(line({"op": "ping", "seq": 1}))


class EndlessPages(BadTracker):
    """Always has one page more, with nothing on it."""

    vice = "endless pages"

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        page = {"total": 2**53 - 1, "next": message.get("offset", 0) + 1, "hits": []}
        writer.write(line({"ok": True, "seq": message["seq"], **page}))


class Pages(BadTracker):
    """Lists these ids, all with one name, one on a page."""

    vice = "pages"

    def __init__(self, ids: Callable[[int], str], total: int) -> None:
        super().__init__()
        self._id = ids
        self._total = total

    async def answer(self, writer: asyncio.StreamWriter, message: Message) -> None:
        offset = message.get("offset", 0)
        hit = {"id": self._id(offset), "name": "image.bin", "size": 7, "seeds": 1, "peers": 1}
        more = {"next": offset + 1} if offset + 1 < self._total else {}
        writer.write(line({"ok": True, "seq": message["seq"], "total": self._total, "hits": [hit], **more}))


USELESS = [Endless, Dripping, Silent, WithBody, Garbage, Resetting, AnotherSeq, Asking]
"""Those that never send an answer."""


def line(message: Message) -> bytes:
    """A message as its line."""
    return json.dumps(message).encode() + b"\n"


async def _for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()
