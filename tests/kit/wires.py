"""Two connected sockets in one process, for tests of what stands on a `Wire`.

A socket pair moves bytes at once, without the network of the machine. So its tests also run in virtual time.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tests.kit.virtual_time import in_virtual_time

REMOTE: Final = ("127.0.0.1", 7000)


class NamedSocket(socket.socket):
    """One end of a pair, which says that it is connected to `REMOTE`."""

    def getpeername(self) -> tuple[str, int]:
        super().getpeername()
        return REMOTE


def socket_pair(buffer: int = 16_384) -> tuple[socket.socket, socket.socket]:
    """A near end for a `Wire` and a far end for the test, with small buffers between them."""
    left, right = socket.socketpair()
    near = NamedSocket(left.family, left.type, left.proto, left.detach())
    for sock in (near, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        sock.setblocking(False)
    return near, right


class FarEnd:
    """The other side of a wire, in the words of a test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._held = b""

    async def line(self) -> dict[str, Any]:
        """The next line that came."""
        while b"\n" not in self._held:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
            if not data:
                raise ConnectionResetError
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    async def say(self, body: bytes = b"", **fields: Any) -> None:
        """Write a line, and a body behind it."""
        if body:
            fields["body"] = len(body)
        await self.raw(json.dumps(fields).encode() + b"\n" + body)

    async def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


def in_virtual_time_with_sockets(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` in virtual time; a wire that was closed in it has closed its socket at the end."""

    async def settled() -> None:
        await work()
        await asyncio.sleep(1.0)

    in_virtual_time(settled)
