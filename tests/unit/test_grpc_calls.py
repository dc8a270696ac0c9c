"""When a gRPC data connection begins a call, and when it finds that one under way will do."""

from __future__ import annotations

import asyncio
from typing import Any

from p2p.model import Address, BlockSpan, ContentId
from protos.transfer_pb2 import Chunk, ReadRequest
from tests.kit.virtual_time import in_virtual_time
from transports.grpc.client import _END, GrpcDataConnection
from transports.grpc.limits import GRPC_TIMEOUTS, GrpcLimits

CONTENT = ContentId("ab" * 32)
LIMITS = GrpcLimits(calls=2)


class FakeCall:
    """Answers with the blocks that were asked for, once `go` is set."""

    def __init__(self, request: ReadRequest, go: asyncio.Event) -> None:
        self._go = go
        self._messages: list[Any] = [
            *(Chunk(data=bytes(block.length)).SerializeToString() for block in request.blocks),
            _END,
        ]

    async def read(self) -> Any:
        await self._go.wait()
        return self._messages.pop(0)

    def cancel(self) -> None:
        pass


class FakeChannel:
    """A connection whose calls all wait for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.calls = 0

    def unary_stream(self, *_args: object, **_options: object) -> Any:
        def begin(request: ReadRequest, timeout: float) -> FakeCall:
            self.calls += 1
            return FakeCall(request, self.go)

        return begin

    async def close(self) -> None:
        pass


def test_a_block_wanted_in_the_turn_in_which_all_calls_end_is_asked_for() -> None:
    """A fetch that looks for calls under way then must not count those that ask for nothing more."""

    async def work() -> None:
        channel = FakeChannel()
        data = GrpcDataConnection(channel, Address("10.0.0.1", 7000), None, 20.0, GRPC_TIMEOUTS, LIMITS)

        async def fetch(piece: int) -> None:
            await data.fetch(CONTENT, BlockSpan(piece, 0, 4), memoryview(bytearray(4)))

        async def fetch_when_all_end() -> None:
            await channel.go.wait()
            await fetch(LIMITS.calls)

        fetching = []
        for piece in range(LIMITS.calls):
            fetching.append(asyncio.create_task(fetch(piece)))
            await asyncio.sleep(0.1)  # so that each has a call of its own
        assert data.calls == LIMITS.calls
        fetching.append(asyncio.create_task(fetch_when_all_end()))
        await asyncio.sleep(0.1)
        channel.go.set()
        await asyncio.gather(*fetching)
        assert channel.calls == LIMITS.calls + 1
        await data.close()
        await asyncio.sleep(0)
        assert data.calls == 0

    in_virtual_time(work)
