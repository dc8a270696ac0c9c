"""What a transport offers: it listens with a source and hands out blocks, and it connects and fetches blocks
into buffers.

Duties that `tests/contract/test_transport.py` proves of every transport:

- `fetch` fills exactly the buffer it is given with exactly the bytes asked for, or raises; never less, never
  other bytes.
- What the source refuses arrives as `Refused` with the same code. A data connection that breaks raises
  `Unreachable` for all it had under way, and `DataConnectionClosed`, which is one, for what is asked of it
  later. One that the listener refuses raises `DataConnectionRefused` for both.
- After a cancelled `fetch` its buffer is not written to any more. The other fetches of the connection go on
  or fail; none hangs.
- `close` may be called at any time, again, and from within; it ends what is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from p2p.errors import Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, FileSpan, PeerId

if TYPE_CHECKING:
    from p2p.net.limits import Limits, Timeouts
    from p2p.net.wire import Wire, WireTrace
    from p2p.protocol.session import Event
    from p2p.storage.disk_io import DiskIO


class DataConnectionClosed(Unreachable):
    """The data connection was closed on this side, or had ended before this block was asked for. No peer is
    to blame; open another."""


class DataConnectionRefused(Refused):
    """The other side has no room for this data connection now (`busy`, `unavailable`). It has ended; open
    another later."""


class BlockSource(Protocol):
    """Where a listening transport gets blocks from."""

    def blocks(
        self, client: str, content: ContentId, spans: Sequence[BlockSpan]
    ) -> AbstractAsyncContextManager[list[list[FileSpan]]]:
        """Admit what `client` (as `model.client_id` writes it) asks for, and open the files of the first
        block, and of those behind it that may be sent in the same turn. They stay open until the context is
        left.

        Entering waits for a free upload slot. Raises `Refused` for the first block: `not_found`, `bad_range`,
        `busy`.
        """

    def throttle(self, count: int, client: str) -> None:
        """Called in a worker thread when `count` bytes were sent to `client`; sleeps to keep the upload
        rate."""


class Control(Protocol):
    """Handles all that is no request for a block, on the port that it shares with the TCP transport."""

    async def on_event(self, wire: Wire, event: Event) -> None:
        """Handle one event of a connection. A `ProtocolError` or `ConnectionError` raised here ends the
        connection."""

    def on_closed(self, wire: Wire) -> None:
        """A connection is over."""


class DataConnection(Protocol):
    """A way to fetch blocks from one peer. Several fetches may be under way; they are served in the order
    asked."""

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        """Fill `into`, which is as long as the block. Raises `Refused`, `Unreachable` (`DataConnectionClosed`
        is one), `ProtocolError`."""

    async def close(self) -> None:
        """End it; what is under way raises `DataConnectionClosed`."""


class Listener(Protocol):
    """A port on which a transport serves blocks."""

    @property
    def port(self) -> int:
        """The port that is listened on."""

    async def close(self) -> None:
        """Stop listening, and close all connections that came in."""


class Transport(Protocol):
    """One way to move blocks."""

    name: str

    async def listen(self, source: BlockSource, address: Address, control: Control | None = None) -> Listener:
        """Serve blocks at `address`, whose port may be 0. Raises `OSError` when it cannot be had."""

    async def connect(self, address: Address, me: PeerId | None = None) -> DataConnection:
        """Reach a peer. Raises `Unreachable`, naming the address and why."""


class LoadTransport(Protocol):
    """Makes transports by name."""

    def __call__(
        self, name: str, io: DiskIO, trace: WireTrace | None, *, timeouts: Timeouts, limits: Limits
    ) -> Transport:
        """Return a new transport. Raises `TransportUnavailable`."""
