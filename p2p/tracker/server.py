"""The tracker's listening side: who may connect, the clock that ticks each second, and a stop that loses
nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from p2p.model import Address
from p2p.protocol.codec import by_op
from p2p.protocol.peer_messages import Request
from p2p.protocol.tracker_messages import TRACKER_OPS
from p2p.tracker.committer import Committer
from p2p.tracker.connection import READ_SIZE, Connection
from p2p.tracker.handout import LOOPBACK, kind_of
from p2p.tracker.listener import BURST, Listener
from p2p.tracker.service import TrackerService
from p2p.value import frozen

Trace = Callable[[str, str, bytes], None]
"""Told of each line: `sent` or `received`, the other side's address, the line without its end."""

LOGGED_PER_SECOND: Final = 5
"""Most log lines a second about what others do wrong; the rest are counted."""

log: Final = logging.getLogger(__name__)


@frozen
class ServerConfig:
    """How a server listens, and what it lets a connection do. Times are seconds."""

    host: str = "0.0.0.0"
    port: int = 6969
    """0 takes a free port."""
    max_connections: int = 20_000
    """Over it, as over any other bound, one that has said nothing yet gives way, or the newcomer is told
    `busy`."""
    max_per_host: int = 1_024
    """Connections from one address; loopback may use all there are."""
    silent_timeout: float = 0.1
    """How long a connection may say nothing before it gives way where there is no room for another."""
    message_timeout: float = 10.0
    """From the first byte of a line (or, for the first line, from the start) until all of it is here."""
    write_timeout: float = 30.0
    """How long the other side may not read what waits for it."""
    idle_ttls: int = 10
    """A connection without a session is closed when it was idle for so many ttls."""
    tick: float = 1.0
    """Between two looks at deadlines and leases."""


class TrackerServer:
    """Serves one `TrackerService` on sockets, until it is stopped. Belongs to the loop that calls `start`;
    the store stays the caller's.

    `now` is the clock of leases and deadlines, in seconds: the one by which the store was opened.
    """

    def __init__(
        self,
        service: TrackerService,
        config: ServerConfig | None = None,
        trace: Trace | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.config = config or ServerConfig()
        self.trace = trace
        self.now = now
        self.ops: Mapping[str, type[Request]] = by_op(TRACKER_OPS)
        self.idle_timeout = float(self.config.idle_ttls * service.ttl)
        self.committer = Committer(service.store)
        self.busy = 0
        """Connections that had more to say than one turn allows, and have another coming."""
        self._connections: set[Connection] = (
            set()
        )  # also those that are just being told that there are too many
        self._silent: dict[Connection, None] = {}  # those that have said nothing whole, the first first
        self._per_host: Counter[str] = Counter()
        self._listener = Listener(lambda: Connection(self), self.note_refusal)
        self._ticker: asyncio.Task[None] | None = None
        self._shared_buffer: bytearray | None = None
        self._logged = 0

    # -- start and stop
    # ------------------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[Address, ...]:
        """Listen, and return where. Raises `UsageError` when the address cannot be had."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):
            self._shared_buffer = bytearray(READ_SIZE)
        addresses = await self._listener.start(self.config.host, self.config.port)
        self._ticker = loop.create_task(self._tick())
        return addresses

    async def stop(self) -> None:
        """Stop listening, write what was promised, end all connections; takes less than two seconds. The
        store may be closed afterwards."""
        self._listener.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        await self.committer.stop(0.7)
        for connection in list(self._connections):
            connection.close()
        for _ in range(10):
            if not self._connections:
                return
            await asyncio.sleep(0.03)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.config.tick)
            try:
                self._look_at_all(self.now())
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the server; it is logged
                self.note_bug(error)

    def _look_at_all(self, now: float) -> None:
        if self._logged > LOGGED_PER_SECOND:
            log.warning("%d more of the kind", self._logged - LOGGED_PER_SECOND)
        self._logged = 0
        self.service.expire(now)
        self.committer.kick()
        for connection in list(self._connections):
            connection.check(now)

    # -- for connections
    # -----------------------------------------------------------------------------------------------------------

    def read_buffer(self) -> bytearray:
        """Where a connection reads to. A loop that reads when something is there needs but one for all; one
        that starts reading ahead of it (Windows) needs one each."""
        return self._shared_buffer if self._shared_buffer is not None else bytearray(READ_SIZE)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, unless there are too many in all or from its host."""
        host = connection.host
        self._connections.add(connection)
        if self._per_host[host] >= self.config.max_per_host and kind_of(host) != LOOPBACK:
            room = self._give_way(host)
        else:
            room = self.service.connections < self.config.max_connections or self._give_way()
        if not room:
            return False
        self._silent[connection] = None
        self._per_host[host] += 1
        self.service.connections += 1
        return True

    def heard(self, connection: Connection) -> None:
        """A connection has said something whole: it need not give way any more."""
        self._silent.pop(connection, None)

    def _give_way(self, host: str = "") -> bool:
        """End the connection, of a host if one is named, that has said nothing for longest, if that is long;
        says whether there was one."""
        until = self.now() - self.config.silent_timeout
        for connection in self._silent:
            if connection.opened > until:
                return False
            if host in ("", connection.host):
                del self._silent[connection]
                connection.abort()
                return True
        return False

    def release(self, connection: Connection, *, admitted: bool) -> None:
        """Forget a connection that is over."""
        self._connections.discard(connection)
        self._silent.pop(connection, None)
        if not admitted:
            return
        self.service.connections -= 1
        self._per_host[connection.host] -= 1
        if not self._per_host[connection.host]:
            del self._per_host[connection.host]

    def note_fault(self, other: Address, code: str) -> None:
        """Log that a connection was ended for its fault; never what it sent."""
        if self._may_log():
            log.info("closed %s: %s", other, code)

    def note_refusal(self, error: OSError) -> None:
        """Log that the system gives us no more connections, and make room for those that wait."""
        for _ in range(BURST):
            if not self._give_way():
                break
        if self._may_log():
            log.warning("cannot accept connections now: %s", error.strerror or error)

    def note_bug(self, error: Exception) -> None:
        """Log a fault of ours, with its place."""
        if self._may_log():
            log.error("internal error", exc_info=error)

    def _may_log(self) -> bool:
        self._logged += 1
        return self._logged <= LOGGED_PER_SECOND
