"""Waits until a socket has bytes to read, cheaply, again and again.

A control connection waits for every line. `loop.sock_recv` registers the socket with the selector for each
wait and takes it out again, and `asyncio.timeout` makes and cancels a timer: together that costs more than to
decode the line. In a swarm of 32 a peer receives some hundred lines a second. Here the socket stays
registered from one wait to the next, and one timer moves with the deadline.

It needs a loop that watches sockets (`add_reader`). The one of Windows does not, and `Wire` uses
`loop.sock_recv` there.
"""

from __future__ import annotations

import asyncio
import socket


class Readiness:
    """The readiness of one non-blocking socket, for one task at a time.

    Call `pause` before anything else of the loop reads from the socket, and `pause` before it is closed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._registered = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, deadline: float | None) -> None:
        """Return when the socket may have bytes or has ended, and now and then too early. Raises
        `TimeoutError` at `deadline`, in seconds of the loop's clock, and `NotImplementedError` for a loop
        that watches no sockets."""
        if not self._registered:
            self._loop.add_reader(self._sock, self._on_readable)
            self._registered = True
        self._deadline = deadline
        if deadline is not None and (self._timer is None or deadline < self._timer.when()):
            self._set_timer(deadline)
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def pause(self) -> None:
        """Watch the socket no more, until the next `wait`."""
        if self._registered:
            self._registered = False
            self._loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_readable(self) -> None:
        if self._waiter is None or self._waiter.done():
            self.pause()  # nobody waits for these bytes now, and the loop would call again at once
        else:
            self._waiter.set_result(None)

    def _on_timer(self) -> None:
        """The deadline may have moved since the timer was set."""
        self._timer = None
        if self._waiter is None or self._waiter.done() or self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
        else:
            self._waiter.set_exception(TimeoutError())
