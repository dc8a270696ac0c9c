"""Listening sockets, and an accept loop that keeps calm when descriptors run out.

asyncio's own goes on through its whole backlog after the first "too many open files", with a log line, a traceback and a timer for each
round. Here one failure means one pause; connections that are open already are served meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from p2p.errors import UsageError
from p2p.model import Address, canonical_host

BACKLOG: Final = 1024
BURST: Final = 64
"""Connections accepted before the loop looks at others."""
PAUSE: Final = 0.5
"""Seconds without accepting after the system refused."""


class Listener:
    """Accepts connections and gives each a protocol of its own."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], on_failure: Callable[[OSError], None]) -> None:
        self._factory = factory
        self._on_failure = on_failure
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[Address, ...]:
        """Listen on all addresses of `host` (empty: of this machine), with one port for all. Raises `UsageError`."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, name in dict.fromkeys(found):
                sock = _listening(family, (name[0], port, *name[2:]))
                self._sockets.append(sock)
                port = sock.getsockname()[1]
        except OSError as error:
            self.close()
            raise UsageError(
                f"cannot listen on {Address(host, port)}: {error.strerror or error}; choose another --host or --port"
            ) from error
        for sock in self._sockets:
            self._begin(self._accept(sock))
        names = [sock.getsockname() for sock in self._sockets]
        return tuple(Address(canonical_host(name[0]), name[1]) for name in names)

    def close(self) -> None:
        """Accept no more. What was accepted lives on."""
        for task in self._tasks:
            task.cancel()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        burst = 0
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except ConnectionError:  # it gave up before it was accepted
                continue
            except OSError as error:
                self._on_failure(error)
                await asyncio.sleep(PAUSE)
                continue
            self._begin(self._adopt(sock))
            burst += 1
            if burst % BURST == 0:
                await asyncio.sleep(0)

    async def _adopt(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, sock)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            self._on_failure(error)


def _listening(family: int, name: tuple[str | int, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(name)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
