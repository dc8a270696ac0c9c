"""Blocks over gRPC (an extra): the service of `protos/transfer.proto`, on a port of its own."""

from __future__ import annotations

from p2p.model import Address, PeerId
from p2p.peer.transport import Control, Source
from p2p.peer.wire import WireTrace
from p2p.system import DiskIO
from transports.grpc.door import GrpcDoor
from transports.grpc.lane import GrpcLane, connect


class GrpcTransport:
    """Moves blocks by calls of `Transfer.Read`. There is no control here: `control` and `trace` have no use."""

    name = "grpc"

    def __init__(self, io: DiskIO, trace: WireTrace | None = None) -> None:
        self._io = io

    async def listen(self, source: Source, address: Address, control: Control | None = None) -> GrpcDoor:
        """Serve blocks at `address`. Raises `OSError` when it cannot be had."""
        return GrpcDoor(source, address, self._io)

    async def connect(self, address: Address, me: PeerId | None = None) -> GrpcLane:
        """Reach a peer. Raises `Unreachable`."""
        return await connect(address, me)
