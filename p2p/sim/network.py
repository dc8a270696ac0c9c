"""The network of a simulated swarm: each peer behind a link with a rate each way, joined by a core that is
never full.

Blocks go in chunks. An uplink sends to all its receivers in turn; a downlink takes chunks in the order in
which they were sent. A chunk takes its time on the narrower of the two links, and a delay: the second link
takes it while the first still sends. Control lines take time of their link, too, ahead of the next chunk.

A sender passes over a receiver whose downlink is `COMING` bytes behind, as the buffers of sockets and links
make it do. Otherwise eight senders would each push blocks of a MiB towards a slow downlink, none would come
in time, and to cancel them would save nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Generic, Protocol, TypeVar

from p2p.sim.clock import Clock

HEADERS: Final = 1514 / 1448
"""Bytes on the link for each byte of a block: Ethernet, IP and TCP with timestamps, in full packets."""
ACK: Final = 66 / (2 * 1448)
"""Bytes that go back for each byte that came: an empty packet for every second full one."""
LINE: Final = 66 + 110
"""Bytes of a packet with one short control line, such as a `have`."""
COMING: Final = 1 << 20
"""Bytes that are on their way to a downlink before senders wait for it: about what socket buffers hold. Much
less, and a sender would see every slow link at once, which real ones, with blocks of 64 KiB, do not."""
INSTANT: Final = 1e-6
"""Seconds too few to wait for."""


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way out of one link: how many are left to send, and whether it is over."""

    left: int
    over: bool = False


T = TypeVar("T", bound=Transfer)


class Receiver(Protocol[T]):
    """What a transfer goes to."""

    access: Access[T]

    def on_arrived(self, transfer: T) -> None:
        """The last byte of a transfer is here."""


class Access(Generic[T]):
    """The link of one peer: `up` and `down` in bytes a second, `chunk` the bytes that are sent in one go,
    `delay` in seconds."""

    __slots__ = (
        "_busy",
        "_clock",
        "_debt",
        "_free_at",
        "_moved",
        "_queue",
        "_receiver",
        "_retry_at",
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
        receiver: Callable[[T], Receiver[T]],
        moved: Callable[[T, int], None],
    ) -> None:
        """`receiver` says where a transfer goes; `moved` is told of each chunk that has left. After the last
        one the transfer is over."""
        self.up, self.down, self.chunk, self.delay = up, down, chunk, delay
        self.sent = 0
        """Bytes of blocks that were sent."""
        self._clock = clock
        self._receiver = receiver
        self._moved = moved
        self._queue: deque[T] = deque()
        self._busy = False
        self._retry_at: float | None = None
        """When the first of the receivers, all of which are behind, will take more."""
        self._free_at = 0.0
        """When the downlink will have taken all that is on its way."""
        self._debt = 0.0
        """Bytes of control lines and acknowledgements that the next chunk waits for."""

    def line(self, count: int = LINE) -> None:
        """A control line leaves."""
        self._debt += count

    def begin(self, transfer: T) -> None:
        """Send a block."""
        self._queue.append(transfer)
        if not self._busy:
            self._next()

    def stop(self, transfer: T) -> None:
        """Send no more of a block."""
        transfer.over = True

    def take(self, size: int, soonest: float) -> float:
        """Take a chunk whose last byte comes to this link at `soonest`; returns when it is through."""
        self._debt += size * ACK
        self._free_at = max(soonest, self._free_at + size * HEADERS / self.down)
        return self._free_at

    def takes_at(self) -> float:
        """From when on the downlink takes another chunk."""
        return self._free_at - COMING * HEADERS / self.down

    def close(self) -> None:
        """The peer is gone, and what it had to send with it."""
        self._queue.clear()

    def _next(self) -> None:
        now, queue = self._clock.now, self._queue
        self._busy, self._retry_at = False, None
        soonest = inf
        for _ in range(len(queue)):
            transfer = queue.popleft()
            if transfer.over:
                continue
            takes_at = self._receiver(transfer).access.takes_at()
            if takes_at <= now + INSTANT:
                self._send(transfer)
                return
            queue.append(transfer)
            soonest = min(soonest, takes_at)
        if queue:
            self._retry_at = soonest
            self._clock.after(soonest - now, self._retry, soonest)

    def _retry(self, when: float) -> None:
        if self._retry_at == when:
            self._next()

    def _send(self, transfer: T) -> None:
        self._busy = True
        size = min(self.chunk, transfer.left)
        transfer.left -= size
        self.sent += size
        took = (size * HEADERS + self._debt) / self.up
        self._debt = 0.0
        self._clock.after(took, self._left, transfer, size)

    def _left(self, transfer: T, size: int) -> None:
        clock = self._clock
        receiver = self._receiver(transfer)
        arrives = receiver.access.take(size, clock.now + self.delay)
        if transfer.left:
            self._queue.append(transfer)
            self._moved(transfer, size)
        elif not transfer.over:
            transfer.over = True
            clock.after(arrives - clock.now, receiver.on_arrived, transfer)
            self._moved(transfer, size)
        self._next()
