"""The network of a simulated swarm: each peer behind a link with a rate each way, all joined by a core that
is never full.

Blocks go in chunks. An uplink sends in turn to all whom it serves; a downlink takes what comes in the order
in which it was sent. What a chunk takes is its time on the narrower of the two links and a delay: the second
link begins to take it while the first still sends. Bytes of control lines take time of their link too, ahead
of the next chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from p2p.model import BlockSpan
from p2p.sim.clock import Clock

if TYPE_CHECKING:
    from p2p.sim.peer import SimPeer

HEADERS: Final = 1514 / 1448
"""Bytes on the link for each byte of a block: Ethernet, IP and TCP with timestamps, in full packets."""
ACK: Final = 66 / (2 * 1448)
"""Bytes that go back for each byte that came: an empty packet for every second full one."""
LINE: Final = 66 + 110
"""Bytes of a packet with one short control line, such as a `have`."""


@dataclass(slots=True, eq=False)
class Transfer:
    """One block on its way from one peer to another; also the ticket in the upload queue. `good`: its bytes
    are right."""

    server: SimPeer
    client: SimPeer
    block: BlockSpan
    left: int
    good: bool = True
    over: bool = False


class Access:
    """The link of one peer: `up` and `down` in bytes a second, `chunk` the bytes that are sent in one go,
    `delay` in seconds."""

    __slots__ = (
        "_busy",
        "_clock",
        "_debt",
        "_free_at",
        "_queue",
        "_sent",
        "chunk",
        "delay",
        "down",
        "sent",
        "up",
    )

    def __init__(
        self,
        clock: Clock,
        up: float,
        down: float,
        *,
        chunk: int,
        delay: float,
        sent: Callable[[Transfer], None],
    ) -> None:
        """`sent` is told when the last byte of a transfer has left."""
        self.up, self.down, self.chunk, self.delay = up, down, chunk, delay
        self.sent = 0
        """Bytes of blocks that were sent."""
        self._clock = clock
        self._sent = sent
        self._queue: deque[Transfer] = deque()
        self._busy = False
        self._free_at = 0.0
        """When the downlink will have taken all that is on its way."""
        self._debt = 0.0
        """Bytes of control lines and acknowledgements that the next chunk waits for."""

    def line(self, count: int = LINE) -> None:
        """A control line leaves."""
        self._debt += count

    def begin(self, transfer: Transfer) -> None:
        """Send a block."""
        self._queue.append(transfer)
        if not self._busy:
            self._next()

    def stop(self, transfer: Transfer) -> None:
        """Send no more of a block."""
        transfer.over = True

    def take(self, size: int, soonest: float) -> float:
        """Take a chunk whose last byte comes to this link at `soonest`; returns when it is through."""
        self._debt += size * ACK
        self._free_at = max(soonest, self._free_at + size * HEADERS / self.down)
        return self._free_at

    def close(self) -> None:
        """The peer is gone, and what it had to send with it."""
        self._queue.clear()

    def _next(self) -> None:
        queue = self._queue
        while queue and queue[0].over:
            queue.popleft()
        if not queue:
            self._busy = False
            return
        self._busy = True
        transfer = queue.popleft()
        size = min(self.chunk, transfer.left)
        transfer.left -= size
        self.sent += size
        took = (size * HEADERS + self._debt) / self.up
        self._debt = 0.0
        self._clock.after(took, self._gone, transfer, size)

    def _gone(self, transfer: Transfer, size: int) -> None:
        clock = self._clock
        arrives = transfer.client.access.take(size, clock.now + self.delay)
        if transfer.left:
            self._queue.append(transfer)
        elif not transfer.over:
            transfer.over = True
            clock.after(arrives - clock.now, transfer.client.arrived, transfer)
            self._sent(transfer)
        self._next()
