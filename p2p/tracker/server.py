"""Starts and stops a tracker, and checks deadlines and leases once a tick. A stop loses nothing."""

from __future__ import annotations

import asyncio
import time

from p2p.model import Address
from p2p.net.admission import Admission
from p2p.protocol.codec import by_op
from p2p.protocol.tracker_messages import TRACKER_OPS
from p2p.tracker.committer import Committer
from p2p.tracker.connection import READ_BYTES, Clock, Connection, Shared, Trace
from p2p.tracker.fault_log import FaultLog
from p2p.tracker.limits import TrackerLimits, TrackerTimeouts
from p2p.tracker.listener import Listener
from p2p.tracker.service import TrackerService
from p2p.tracker.store.interface import TrackerStore

_STOP_STEP_S = 0.03


class TrackerServer:
    """Serves one `TrackerService`, on the directory of `store`, until it is stopped. Belongs to the loop that
    calls `start`. It does not close the store."""

    def __init__(
        self,
        service: TrackerService,
        store: TrackerStore,
        limits: TrackerLimits | None = None,
        timeouts: TrackerTimeouts | None = None,
        *,
        trace: Trace | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`clock` is that of leases and deadlines: the one by which the store was opened."""
        limits, timeouts = limits or TrackerLimits(), timeouts or TrackerTimeouts()
        self._service = service
        self._timeouts = timeouts
        self._clock = clock
        self._log = FaultLog(limits.log_lines)
        self._committer = Committer(store, timeouts.commit_retry_s)
        self._shared = Shared(
            service,
            self._committer,
            by_op(TRACKER_OPS),
            limits,
            timeouts,
            clock,
            self._log,
            Admission(limits.admission),
            trace,
        )
        self._listener = Listener(lambda: Connection(self._shared), self._on_accept_failed, limits)
        self._ticker: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many connections are open, also those that are being refused."""
        return len(self._shared.open)

    async def start(self, host: str = "0.0.0.0", port: int = 6969) -> tuple[Address, ...]:
        """Listen on all addresses of `host`, and return them. Port 0 takes a free port. Raises `UsageError`
        when an address cannot be had."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):
            self._shared.buffer = bytearray(READ_BYTES)
        addresses = await self._listener.start(host, port)
        self._ticker = loop.create_task(self._tick())
        return addresses

    async def stop(self) -> None:
        """Stop listening, write what was promised, end all connections; takes less than two seconds. The
        store may be closed afterwards."""
        self._listener.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        await self._committer.stop(self._timeouts.stop_commit_s)
        for connection in list(self._shared.open):
            connection.close()
        for _ in range(round(self._timeouts.stop_write_s / _STOP_STEP_S)):
            if not self._shared.open:
                return
            await asyncio.sleep(_STOP_STEP_S)
        for connection in list(self._shared.open):
            connection.abort()
        await asyncio.sleep(0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._timeouts.tick_s)
            try:
                self._on_tick(self._clock())
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the server; it is logged
                self._log.on_bug(error)

    def _on_tick(self, now: float) -> None:
        self._log.on_tick()
        self._service.expire(now)
        self._committer.start()
        for connection in list(self._shared.open):
            connection.on_tick(now)

    def _on_accept_failed(self, error: OSError) -> None:
        """The system gives no more connections: evict idle ones, so that waiting clients can be accepted."""
        for _ in range(self._shared.limits.accept.burst):
            if not self._shared.evict_idle():
                break
        self._log.on_accept_failed(error)
