"""An accept loop that keeps calm when descriptors run out, and that can be ended at any moment.

asyncio's server goes on through its whole backlog after the first "too many open files", with a log line, a
traceback and a timer for each round; its `sock_accept`, cancelled in the round in which somebody connects,
loses that connection and complains of an invalid state (seen in 3.11). Here one failure means one pause;
connections that are open already are served meanwhile.

To serve them takes descriptors too: of files, and of sockets that a thread sends through. So a part of them
is kept free of newcomers; without it a crowd at the door that says nothing would end every download that is
under way.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from p2p.net.descriptors import descriptor_limit

PAUSE: Final = 0.1
"""Seconds without accepting after the system refused."""
KEPT: Final = 128
"""Descriptors that are kept for those who are in, or a quarter of all where these are few."""


def listening(family: int, name: tuple[Any, ...], backlog: int) -> socket.socket:
    """A socket that listens at `name`, and for IPv6 at nothing else. Raises what the system says, `OSError`
    mostly."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


class Acceptor:
    """Accepts on one listening socket, which it owns from now on.

    `welcome` is given each connection and the host that it came from, and must not raise; `refused` is told
    why the system gave none. `burst` connections at most are accepted before the loop looks at others.
    """

    def __init__(
        self,
        sock: socket.socket,
        welcome: Callable[[socket.socket, str], None],
        refused: Callable[[OSError], None],
        burst: int = 1,
    ) -> None:
        self._sock = sock
        self._welcome = welcome
        self._refused = refused
        self._burst = burst
        self._loop = asyncio.get_running_loop()
        self._pausing: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        sock.setblocking(False)
        try:
            self._loop.add_reader(sock, self._ready)
        except NotImplementedError:  # Windows' own loop watches no sockets; it accepts by itself
            self._task = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more. What was accepted lives on. To close again changes nothing."""
        if self._sock.fileno() < 0:
            return
        if self._task is not None:
            self._task.cancel()
        elif self._pausing is not None:
            self._pausing.cancel()
        else:
            self._loop.remove_reader(self._sock)
        self._sock.close()

    def _ready(self) -> None:
        for _ in range(self._burst):
            try:
                _check_room(self._sock)
                sock, remote = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it gave up before it was accepted
                continue
            except OSError as error:
                self._loop.remove_reader(self._sock)
                self._pausing = self._loop.call_later(PAUSE, self._resume)
                self._refused(error)
                return
            self._welcome(sock, str(remote[0]))
            if self._sock.fileno() < 0:  # closed by whoever was told
                return

    def _resume(self) -> None:
        self._pausing = None
        self._loop.add_reader(self._sock, self._ready)

    async def _accept(self) -> None:
        while True:
            try:
                sock, remote = await self._loop.sock_accept(self._sock)
            except ConnectionError:
                continue
            except OSError as error:
                self._refused(error)
                await asyncio.sleep(PAUSE)
                continue
            self._welcome(sock, str(remote[0]))
            await asyncio.sleep(0)


def _check_room(sock: socket.socket) -> None:
    """Raise `OSError` when only the descriptors that are kept are left: the lowest free number tells how many
    are in use."""
    limit = descriptor_limit()
    if limit is None:
        return
    lowest = os.dup(sock.fileno())
    os.close(lowest)
    if lowest >= limit - min(KEPT, limit // 4):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
