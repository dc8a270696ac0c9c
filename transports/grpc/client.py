"""The asking side of gRPC: one connection to a peer, a few calls at once, and chunks copied straight into the
caller's buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc import aio

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, PeerId
from p2p.net.dial import DIAL_TIME
from p2p.net.wire import STALL_TIME
from p2p.peer.transport import DataConnectionClosed
from protos.transfer_pb2 import Block, ReadRequest
from transports.grpc.framing import (
    CODE_KEY,
    MAX_MESSAGE,
    MAX_REQUEST,
    MIN_CHUNK,
    NO_COMPRESSION,
    READ,
    code_of,
    data_of,
)

CALLS: Final = 2
"""Calls under way at once on one lane, so that the next block is on its way while one is taken in; more
brought nothing."""
BLOCKS: Final = 8
"""Blocks asked for in one call, at most: enough to make a call's own price small, few enough to be soon
done."""
TURN_TIME: Final = 60.0
"""Seconds that a call may take, to which each of its blocks adds `BLOCK_TIME`; then it is given up."""
BLOCK_TIME: Final = 64.0
"""Seconds that 1 MiB takes from the slowest peer that a download waits for, at 16 KiB/s."""
MESSAGE_TEXT: Final = 256
"""Characters that are kept of what a peer says when it refuses."""

OPTIONS: Final = (
    (
        "grpc.use_local_subchannel_pool",
        1,
    ),  # a lane is a connection of its own, not one shared with others to the same address
    ("grpc.enable_http_proxy", 0),  # a proxy for the web is no way to a peer
    ("grpc.service_config_disable_resolution", 1),
    (
        "grpc.min_reconnect_backoff_ms",
        int(DIAL_TIME * 1000),
    ),  # after which an attempt to connect is given up; else it lasts 20 s
    ("grpc.enable_retries", 0),  # what to do about a fault is decided above, for all peers together
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_REQUEST),
    ("grpc.max_metadata_size", 8192),
    NO_COMPRESSION,
    # What a server that was told nothing allows: a ping each five minutes. Silence that matters is noticed by
    # deadlines long before.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


_END: Final = vars(aio)["EOF"]  # the published types of grpc do not know it


async def connect(address: Address, me: PeerId | None) -> GrpcDataConnection:
    """Reach a gRPC server. Raises `Unreachable`."""
    channel: Any = aio.insecure_channel(_target(address), options=OPTIONS)
    try:
        async with asyncio.timeout(DIAL_TIME):
            await _ready(channel)
    except (TimeoutError, Unreachable) as error:
        await channel.close()
        raise Unreachable(
            f"peer {address} cannot be reached over gRPC: {str(error) or 'no answer in time'}"
        ) from error
    except BaseException:
        await channel.close()
        raise
    return GrpcDataConnection(channel, address, me)


async def _ready(channel: Any) -> None:
    """Wait for the first attempt to connect to succeed; gRPC itself would go on trying."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            raise Unreachable("nobody answers there")
        await channel.wait_for_state_change(state)


def _target(address: Address) -> str:
    kind = "ipv6" if ":" in address.host else "ipv4" if address.host.replace(".", "").isdigit() else "dns"
    host = f"[{address.host}]" if kind == "ipv6" else address.host
    return f"{kind}:{'///' if kind == 'dns' else ''}{host}:{address.port}"


@dataclass(slots=True, eq=False)
class _Wanted:
    """A block that somebody waits for."""

    content: ContentId
    span: BlockSpan
    into: memoryview | None
    """Where it goes; None: nobody wants it any more."""
    done: asyncio.Future[None]
    outcome: Exception | bool = False
    """True when it is here, or why it will not come; `done` is told when all asked for before are settled."""


class GrpcDataConnection:
    """One connection on which blocks are asked for. Blocks that wait together are asked for together; fetches
    end in the order asked."""

    def __init__(self, channel: Any, address: Address, me: PeerId | None) -> None:
        self._channel = channel
        self._address = address
        self._me = me or ""
        self._read = channel.unary_stream(READ, request_serializer=ReadRequest.SerializeToString)
        self._waiting: deque[_Wanted] = deque()
        self._unsettled: deque[_Wanted] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._fault: Unreachable | None = None

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        """Fill `into` with the block. Raises `Refused`, `Unreachable` (`DataConnectionClosed` is one),
        `ProtocolError`."""
        if self._fault is not None:
            raise DataConnectionClosed(str(self._fault))
        wanted = _Wanted(content, span, into, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        self._unsettled.append(wanted)
        if len(self._calls) < CALLS:
            task = asyncio.create_task(self._work())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        try:
            await wanted.done
        finally:
            wanted.into = None

    async def close(self) -> None:
        """Hang up; what is under way raises `DataConnectionClosed`."""
        self._fail(DataConnectionClosed(f"connection to {self._address} was closed"))
        me = asyncio.current_task()
        await asyncio.gather(*(task for task in self._calls if task is not me), return_exceptions=True)
        await self._channel.close()

    def _fail(self, error: Unreachable) -> None:
        """The lane has ended: so has all that is under way."""
        if self._fault is not None:
            return
        self._fault = error
        self._waiting.clear()
        for wanted in self._unsettled:
            wanted.outcome = wanted.outcome or error
        self._settle()
        me = asyncio.current_task()
        for task in self._calls:
            if task is not me:
                task.cancel()

    def _settle(self) -> None:
        while self._unsettled and (outcome := self._unsettled[0].outcome):
            wanted = self._unsettled.popleft()
            if wanted.done.done():
                continue
            if isinstance(outcome, Exception):
                wanted.done.set_exception(outcome)
            else:
                wanted.done.set_result(None)

    def _next(self) -> list[_Wanted]:
        """The blocks to ask for in one call: those of one content that wait longest."""
        batch: list[_Wanted] = []
        while (
            self._waiting
            and len(batch) < BLOCKS
            and (not batch or self._waiting[0].content == batch[0].content)
        ):
            wanted = self._waiting.popleft()
            if wanted.into is None:
                wanted.outcome = True
            else:
                batch.append(wanted)
        self._settle()
        return batch

    async def _work(self) -> None:
        """Ask for what waits, until nothing does."""
        me = asyncio.current_task()
        try:
            while batch := self._next():
                left = deque(batch)
                try:
                    await self._ask(left)
                except (Refused, ProtocolError, Unreachable) as error:
                    if left:
                        left.popleft().outcome = error
                    self._waiting.extendleft(reversed(left))
                    self._settle()
                    if not isinstance(error, Refused):
                        self._fail(error if isinstance(error, Unreachable) else Unreachable(str(error)))
        finally:
            # Here, and not only when the task is over: a fetch that comes between would wait for a task that
            # looks for blocks no more.
            if me is not None:
                self._calls.discard(me)

    async def _ask(self, left: deque[_Wanted]) -> None:
        """Receive the blocks of one call; each leaves `left` when it is here."""
        blocks = [Block(piece=one.span.piece, offset=one.span.offset, length=one.span.length) for one in left]
        clock = asyncio.get_running_loop().time
        limit = TURN_TIME + BLOCK_TIME * len(blocks)
        call = self._read(ReadRequest(id=left[0].content, blocks=blocks, peer=self._me), timeout=limit)
        got = 0
        try:
            async with asyncio.timeout(limit) as patience:
                while (message := await call.read()) is not _END:
                    data = data_of(message)
                    wanted = left[0]
                    length = wanted.span.length
                    if got == length or got + len(data) > length:
                        raise _not_as_asked(length, "more")
                    if len(data) < min(MIN_CHUNK, length - got):
                        raise ProtocolError("bad_body", f"a chunk has only {len(data)} bytes", fatal=True)
                    if wanted.into is not None:
                        wanted.into[got : got + len(data)] = data
                    got += len(data)
                    patience.reschedule(clock() + (STALL_TIME if got < length else limit))
                    if got == length and len(left) > 1:
                        self._here(left)
                        got = 0
            if got < left[0].span.length:
                raise _not_as_asked(left[0].span.length, str(got))
            # The last one is here only now: until its end, the call might have sent too much.
            self._here(left)
        except aio.AioRpcError as error:
            raise self._said(error) from None
        except TimeoutError:
            raise Unreachable(f"connection to {self._address} broke: no answer in time") from None
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and not me.cancelling():  # the channel was closed under the call
                raise self._fault or DataConnectionClosed(
                    f"connection to {self._address} was closed"
                ) from None
            raise
        finally:
            call.cancel()

    def _here(self, left: deque[_Wanted]) -> None:
        left.popleft().outcome = True
        self._settle()

    def _said(self, error: Any) -> Exception:
        """What a status means to us."""
        details = "".join(c if c.isprintable() else "?" for c in str(error.details() or "")[:MESSAGE_TEXT])
        trailer = next((value for key, value in error.trailing_metadata() or () if key == CODE_KEY), None)
        if (
            trailer is None
            and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            and "larger than max" in details
        ):
            return ProtocolError(
                "bad_body", f"a chunk is larger than the {MAX_MESSAGE} bytes allowed", fatal=True
            )
        code = code_of(error.code(), trailer if isinstance(trailer, str) else None)
        if code is not None:
            return Refused(code, details or code)
        return Unreachable(
            f"connection to {self._address} broke: {error.code().name.lower()}{': ' if details else ''}{details}"
        )


def _not_as_asked(asked: int, came: str) -> ProtocolError:
    return ProtocolError("bad_body", f"body: {asked} bytes were asked for, {came} came", fatal=True)
