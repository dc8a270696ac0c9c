"""A network that fails, between two real sockets: a proxy of loopback that delays, slows, slices, cuts,
resets, or swallows what passes.

async with FaultyNetwork(target, lambda number: Fault(cut_after=17)) as network:
    ...  # dial network.address instead of target

It stands above TCP, so lost, doubled and reordered packets are seen here as what TCP makes of them: pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Final

from p2p.model import Address

_READ: Final = 65_536
_IN_LINE: Final = 4096
"""Parts that are under way in one direction, at most."""


@dataclass(frozen=True)
class Fault:
    """What happens to one connection. Bytes are counted in each direction by itself; times in seconds."""

    delay: float = 0.0
    """Each part is passed on so much later."""
    rate: float = 0.0
    """Bytes a second at most; 0: no limit."""
    slices: int = 0
    """What comes is passed on in parts of so many bytes; 0: as it comes."""
    pauses: float = 0.0
    """The chance that a part, and all behind it, waits for `pause` more, as when a packet is lost and sent
    again."""
    pause: float = 0.3
    cut_after: int | None = None
    """The connection ends after exactly so many bytes."""
    direction: str = "both"
    """Where `cut_after` is counted: `up` is from who dialled, `down` is to them."""
    reset: bool = False
    """Whether it ends by a reset and not politely."""
    half_open: bool = False
    """Whether it does not end at all there, but passes nothing on any more."""


NONE: Final = Fault()


@dataclass(eq=False)
class _Connection:
    fault: Fault
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    passed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    over: bool = False


class FaultyNetwork:
    """A proxy in the running loop. `faults` tells what happens to each connection by its number, from 0."""

    def __init__(
        self, target: Address, faults: Callable[[int], Fault] = lambda _: NONE, seed: int = 0
    ) -> None:
        self.target = target
        self.faults = faults
        self.passed = {"up": 0, "down": 0}
        """Bytes that went through, of all connections that are over or open."""
        self.count = 0
        """Connections so far."""
        self.flowing = asyncio.Event()
        """While this is not set nothing passes, in either direction, and nobody is told: a black hole."""
        self.flowing.set()
        self._rng = Random(seed)
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Address:
        """What to dial."""
        assert self._server is not None
        return Address("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> FaultyNetwork:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._open):
            await self._end(connection, reset=True)

    def break_all(self) -> None:
        """Reset every connection that is open."""
        for connection in self._open:
            for writer in (connection.near, connection.far):
                if writer is not None:
                    _reset(writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection = _Connection(self.faults(self.count), writer)
        self.count += 1
        self._open.add(connection)
        try:
            far_reader, connection.far = await asyncio.open_connection(self.target.host, self.target.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(connection, "up", reader, connection.far))
                group.create_task(self._pump(connection, "down", far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            await self._end(connection, reset=connection.fault.reset or not connection.over)

    async def _pump(
        self, connection: _Connection, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction: what is read waits in a line, with the time at which it is due at the other end."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_LINE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_in(connection.fault, reader, line))
            group.create_task(self._hand_on(connection, way, line, writer))

    async def _take_in(
        self, fault: Fault, reader: asyncio.StreamReader, line: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        free = 0.0
        while data := await reader.read(_READ):
            step = fault.slices or len(data)
            for at in range(0, len(data), step):
                part = data[at : at + step]
                free = max(free, loop.time()) + (len(part) / fault.rate if fault.rate else 0.0)
                lost = fault.pauses and self._rng.random() < fault.pauses
                await line.put((free + fault.delay + (fault.pause if lost else 0.0), part))
        await line.put((free, b""))

    async def _hand_on(
        self,
        connection: _Connection,
        way: str,
        line: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, part = await line.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self.flowing.wait()
            if not part:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            await self._pass(connection, way, part, writer)
            if connection.over:
                raise ConnectionAbortedError

    async def _pass(
        self, connection: _Connection, way: str, part: bytes, writer: asyncio.StreamWriter
    ) -> None:
        """Pass a part on, or what of it goes before the end."""
        fault = connection.fault
        left = None
        if fault.cut_after is not None and fault.direction in ("both", way):
            left = max(fault.cut_after - connection.passed[way], 0)
            part = part[:left] if len(part) >= left else part
        if part:
            writer.write(part)
            await writer.drain()
        connection.passed[way] += len(part)
        self.passed[way] += len(part)
        if left is not None and len(part) >= left:
            if fault.half_open:
                await asyncio.Event().wait()
            connection.over = True
            await self._end(connection, reset=fault.reset)

    async def _end(self, connection: _Connection, *, reset: bool) -> None:
        connection.over = True
        self._open.discard(connection)
        for writer in (connection.near, connection.far):
            if writer is None or writer.transport.is_closing():
                continue
            if reset:
                _reset(writer)
            else:
                writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other side sees a reset."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
