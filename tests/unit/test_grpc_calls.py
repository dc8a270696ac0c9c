"""When the asking side of gRPC begins a call, and when it finds that one under way will do."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from p2p.model import Address, BlockSpan, ContentId
from tests.kit.virtual_time import in_virtual_time
from transports.grpc.client import CALLS, GrpcDataConnection

CONTENT = ContentId("ab" * 32)


class NoChannel:
    """Stands for a connection on which nothing is ever asked."""

    def unary_stream(self, *_args: object, **_options: object) -> None:
        return None

    async def close(self) -> None:
        return None


def test_a_block_that_is_wanted_in_the_turn_in_which_all_calls_end_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever looks for calls under way then must not find those that look for blocks no more."""

    async def work() -> None:
        channel: Any = NoChannel()
        lane = GrpcDataConnection(channel, Address("10.0.0.1", 7000), None)
        go = asyncio.Event()

        async def ask(left: deque[Any]) -> None:
            await go.wait()
            while left:
                lane._here(left)

        monkeypatch.setattr(lane, "_ask", ask)

        async def fetch(piece: int) -> None:
            await lane.fetch(CONTENT, BlockSpan(piece, 0, 4), memoryview(bytearray(4)))

        async def fetch_when_all_end() -> None:
            await go.wait()
            await fetch(CALLS)

        fetching = []
        for piece in range(CALLS):
            fetching.append(asyncio.create_task(fetch(piece)))
            await asyncio.sleep(0.1)  # so that each has a call of its own
        assert len(lane._calls) == CALLS
        fetching.append(asyncio.create_task(fetch_when_all_end()))
        await asyncio.sleep(0.1)
        go.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*fetching)
        await lane.close()
        await asyncio.sleep(0)
        assert not lane._calls

    in_virtual_time(work)
