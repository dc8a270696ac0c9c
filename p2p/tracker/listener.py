"""Listens for the tracker: on all addresses of a host with one port, with a protocol for each connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from p2p.errors import UsageError
from p2p.model import Address, canonical_host
from p2p.net.acceptor import Acceptor, listening
from p2p.tracker.limits import TrackerLimits


class Listener:
    """Accepts connections and gives each a protocol of its own. `on_failure` is called with the system's
    reason when it gives no connection."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        on_failure: Callable[[OSError], None],
        limits: TrackerLimits,
    ) -> None:
        self._factory = factory
        self._on_failure = on_failure
        self._limits = limits
        self._acceptors: list[Acceptor] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[Address, ...]:
        """Listen on all addresses of `host` (empty: of this machine), with one port for all. Raises
        `UsageError`."""
        loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            found = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, name in dict.fromkeys(found):
                sock = listening(family, (name[0], port, *name[2:]), self._limits.backlog)
                sockets.append(sock)
                port = sock.getsockname()[1]
        except (OSError, UnicodeError) as error:
            for sock in sockets:
                sock.close()
            raise UsageError(
                f"cannot listen on {Address(host, port)}: {getattr(error, 'strerror', None) or error};"
                " choose another --host or --port"
            ) from error
        names = [sock.getsockname() for sock in sockets]
        self._acceptors = [
            Acceptor(sock, self._on_accepted, self._on_failure, self._limits.accept) for sock in sockets
        ]
        return tuple(Address(canonical_host(name[0]), name[1]) for name in names)

    def close(self) -> None:
        """Accept no more. Connections that were accepted stay open."""
        for task in self._tasks:
            task.cancel()
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    def _on_accepted(self, sock: socket.socket, _host: str) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(sock))
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._on_connected(task, sock))

    def _on_connected(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # perhaps before its first step
            sock.close()

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, sock)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            self._on_failure(error)
