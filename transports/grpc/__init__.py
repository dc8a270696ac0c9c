"""Blocks over gRPC (an extra): the service of `protos/transfer.proto`, on a port of its own."""

from __future__ import annotations

from p2p.model import MIB, Address, PeerId
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts
from p2p.net.wire import WireTrace
from p2p.peer.transport import BlockSource, Control
from p2p.storage.disk_io import DiskIO
from transports.grpc.client import GrpcDataConnection, connect
from transports.grpc.limits import GRPC_LIMITS, GRPC_TIMEOUTS, GrpcLimits, GrpcTimeouts
from transports.grpc.server import GrpcServer


class GrpcTransport:
    """Moves blocks by calls of `Transfer.Read`. There is no control here, so `control` and `trace` have no
    use."""

    name = "grpc"

    def __init__(
        self,
        io: DiskIO,
        trace: WireTrace | None = None,
        *,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
        call_timeouts: GrpcTimeouts = GRPC_TIMEOUTS,
        call_limits: GrpcLimits = GRPC_LIMITS,
    ) -> None:
        """gRPC has its own bounds, `call_limits`, in place of `limits`."""
        self._io = io
        self._timeouts = timeouts
        self._call_timeouts = call_timeouts
        self._call_limits = call_limits
        _keep_large_buffers()

    async def listen(
        self, source: BlockSource, address: Address, control: Control | None = None
    ) -> GrpcServer:
        """Serve blocks at `address`. Raises `OSError` when it cannot be had."""
        return GrpcServer(
            source, address, self._io, self._timeouts.stall_s, self._call_timeouts, self._call_limits
        )

    async def connect(self, address: Address, me: PeerId | None = None) -> GrpcDataConnection:
        """Reach a peer. Raises `Unreachable`."""
        return await connect(address, me, self._timeouts, self._call_timeouts, self._call_limits)


def _keep_large_buffers() -> None:
    """Make the C library keep memory of a few MiB for the next chunk, rather than give it back to the system
    and fault it in anew.

    gRPC allocates each chunk of 1 MiB by itself. glibc takes one block this large, asked for and given back,
    as the sign that more will come (mallopt(3), M_MMAP_THRESHOLD). Then 1 GiB is received with 29,000 page
    faults, not 280,000, and in nine tenths of the time. The block is not touched, so it costs nothing; other
    C libraries do not mind.
    """
    bytearray(8 * MIB)
