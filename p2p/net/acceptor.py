"""Accepts connections, pauses while the system has no descriptors for them, and can be closed at any moment.

asyncio's own server goes on through its whole backlog after the first "too many open files", with a log line,
a traceback and a timer for each round. Its `sock_accept`, cancelled in the round in which a client connects,
loses that connection and complains of an invalid state (seen in 3.11). Here one failure means one pause, and
open connections are served meanwhile.

To serve them takes descriptors too: of files, and of sockets that a thread sends through. So some are kept
free of new connections. Without that, many idle clients would end every download that is under way.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from p2p.net.descriptors import descriptor_limit
from p2p.value import frozen


@frozen
class AcceptLimits:
    """How an acceptor takes turns with the rest of the program."""

    burst: int = 1
    """Connections accepted in a row before the loop turns to others."""
    pause_s: float = 0.1
    """Seconds without accepting after the system refused. Without a pause the loop would do nothing but be
    refused."""
    spare_descriptors: int = 128
    """Descriptors that are kept for open connections, or a quarter of all where these are few."""


def listening(family: int, name: tuple[Any, ...], backlog: int) -> socket.socket:
    """A socket that listens at `name`, and for IPv6 at nothing else. Raises `OSError` mostly."""
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

    `on_accepted` is called with each connection and its remote host, and must not raise. `on_failed` is
    called with the system's reason when it gave none. `limit` returns how many descriptors the process may
    have; None: there is no limit.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_accepted: Callable[[socket.socket, str], None],
        on_failed: Callable[[OSError], None],
        limits: AcceptLimits | None = None,
        limit: Callable[[], int | None] = descriptor_limit,
    ) -> None:
        self._sock = sock
        self._on_accepted = on_accepted
        self._on_failed = on_failed
        self._limits = limits or AcceptLimits()
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._pausing: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        sock.setblocking(False)
        try:
            self._loop.add_reader(sock, self._on_ready)
        except NotImplementedError:  # Windows' own loop watches no sockets; it accepts by itself
            self._task = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more. Accepted connections stay open. To close again changes nothing."""
        if self._sock.fileno() < 0:
            return
        if self._task is not None:
            self._task.cancel()
        elif self._pausing is not None:
            self._pausing.cancel()
        else:
            self._loop.remove_reader(self._sock)
        self._sock.close()

    def _on_ready(self) -> None:
        for _ in range(self._limits.burst):
            try:
                self._check_descriptors()
                sock, remote = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it was closed before it was accepted
                continue
            except OSError as error:
                self._loop.remove_reader(self._sock)
                self._pausing = self._loop.call_later(self._limits.pause_s, self._resume)
                self._on_failed(error)
                return
            self._on_accepted(sock, str(remote[0]))
            if self._sock.fileno() < 0:  # the callback has closed this acceptor
                return

    def _resume(self) -> None:
        self._pausing = None
        self._loop.add_reader(self._sock, self._on_ready)

    async def _accept(self) -> None:
        while True:
            try:
                sock, remote = await self._loop.sock_accept(self._sock)
            except ConnectionError:
                continue
            except OSError as error:
                self._on_failed(error)
                await asyncio.sleep(self._limits.pause_s)
                continue
            self._on_accepted(sock, str(remote[0]))
            await asyncio.sleep(0)

    def _check_descriptors(self) -> None:
        """Raise `OSError` when only spare descriptors are left. The lowest free number tells how many are in
        use."""
        limit = self._limit()
        if limit is None:
            return
        lowest = os.dup(self._sock.fileno())
        os.close(lowest)
        if lowest >= limit - min(self._limits.spare_descriptors, limit // 4):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
