"""Fetches blocks over gRPC: one connection to a peer, a few calls at once, and chunks copied straight into
the buffer of the fetch."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc import aio

from p2p.errors import ProtocolError, Refused, Unreachable
from p2p.model import Address, BlockSpan, ContentId, PeerId
from p2p.net.limits import Timeouts
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
from transports.grpc.limits import GrpcLimits, GrpcTimeouts

MAX_DETAILS: Final = 256
"""Characters that are kept of what a peer says when it refuses."""

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Each data connection is one of its own, not one shared with others to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy for the web is no way to a peer.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # What to do about a fault is decided above, for all peers together.
    ("grpc.enable_retries", 0),
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


async def connect(
    address: Address,
    me: PeerId | None,
    timeouts: Timeouts,
    call_timeouts: GrpcTimeouts,
    call_limits: GrpcLimits,
) -> GrpcDataConnection:
    """Reach a gRPC server. Raises `Unreachable`."""
    # An attempt to connect is given up after this; by itself gRPC would take 20 s.
    attempt = ("grpc.min_reconnect_backoff_ms", int(timeouts.dial_s * 1000))
    channel: Any = aio.insecure_channel(_target(address), options=(*OPTIONS, attempt))
    try:
        async with asyncio.timeout(timeouts.dial_s):
            await _ready(channel)
    except (TimeoutError, Unreachable) as error:
        await channel.close()
        raise Unreachable(
            f"peer {address} cannot be reached over gRPC: {str(error) or 'no answer in time'}"
        ) from error
    except BaseException:
        await channel.close()
        raise
    return GrpcDataConnection(channel, address, me, timeouts.stall_s, call_timeouts, call_limits)


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
class _Fetch:
    """A block that was asked of the connection, until it is settled."""

    content: ContentId
    span: BlockSpan
    into: memoryview | None
    """Where it goes; None: the fetch was cancelled."""
    done: asyncio.Future[None]
    outcome: Exception | bool = False
    """True when the block is here, or why it will not come. `done` is told when all that were asked for
    before are settled."""


class GrpcDataConnection:
    """One connection on which blocks are asked for. Blocks that wait together are asked for in one call.
    Fetches end in the order asked."""

    def __init__(
        self,
        channel: Any,
        address: Address,
        me: PeerId | None,
        stall_s: float,
        timeouts: GrpcTimeouts,
        limits: GrpcLimits,
    ) -> None:
        self._channel = channel
        self._address = address
        self._me = me or ""
        self._stall_s = stall_s
        self._timeouts = timeouts
        self._limits = limits
        self._read = channel.unary_stream(READ, request_serializer=ReadRequest.SerializeToString)
        self._waiting: deque[_Fetch] = deque()
        """Fetches that no call asks for yet."""
        self._unsettled: deque[_Fetch] = deque()
        """All fetches in the order asked, until they are settled."""
        self._calls: set[asyncio.Task[None]] = set()
        self._fault: Unreachable | None = None

    @property
    def calls(self) -> int:
        """Tasks that ask for blocks now."""
        return len(self._calls)

    async def fetch(self, content: ContentId, span: BlockSpan, into: memoryview) -> None:
        """Fill `into` with the block. Raises `Refused`, `Unreachable` (`DataConnectionClosed` is one),
        `ProtocolError`."""
        if self._fault is not None:
            raise DataConnectionClosed(str(self._fault))
        fetch = _Fetch(content, span, into, asyncio.get_running_loop().create_future())
        self._waiting.append(fetch)
        self._unsettled.append(fetch)
        if len(self._calls) < self._limits.calls:
            task = asyncio.create_task(self._ask_for_all())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        try:
            await fetch.done
        finally:
            fetch.into = None

    async def close(self) -> None:
        """Hang up; what is under way raises `DataConnectionClosed`."""
        self._fail(DataConnectionClosed(f"connection to {self._address} was closed"))
        me = asyncio.current_task()
        await asyncio.gather(*(task for task in self._calls if task is not me), return_exceptions=True)
        await self._channel.close()

    def _fail(self, error: Unreachable) -> None:
        """The connection has ended, and so has all that is under way."""
        if self._fault is not None:
            return
        self._fault = error
        self._waiting.clear()
        for fetch in self._unsettled:
            fetch.outcome = fetch.outcome or error
        self._settle()
        me = asyncio.current_task()
        for task in self._calls:
            if task is not me:
                task.cancel()

    def _settle(self) -> None:
        while self._unsettled and (outcome := self._unsettled[0].outcome):
            fetch = self._unsettled.popleft()
            if fetch.done.done():
                continue
            if isinstance(outcome, Exception):
                fetch.done.set_exception(outcome)
            else:
                fetch.done.set_result(None)

    def _take_batch(self) -> list[_Fetch]:
        """The blocks to ask for in one call: those of one content that have waited longest."""
        batch: list[_Fetch] = []
        while (
            self._waiting
            and len(batch) < self._limits.blocks
            and (not batch or self._waiting[0].content == batch[0].content)
        ):
            fetch = self._waiting.popleft()
            if fetch.into is None:
                fetch.outcome = True
            else:
                batch.append(fetch)
        self._settle()
        return batch

    async def _ask_for_all(self) -> None:
        """Ask for what waits, until nothing does."""
        me = asyncio.current_task()
        try:
            while batch := self._take_batch():
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
            # Not only when the task is over: a fetch that comes between would count this task as one that
            # asks for it.
            if me is not None:
                self._calls.discard(me)

    async def _ask(self, left: deque[_Fetch]) -> None:
        """Receive the blocks of one call; each leaves `left` when it is here."""
        blocks = [Block(piece=one.span.piece, offset=one.span.offset, length=one.span.length) for one in left]
        clock = asyncio.get_running_loop().time
        limit = self._timeouts.turn_s + self._timeouts.block_s * len(blocks)
        call = self._read(ReadRequest(id=left[0].content, blocks=blocks, peer=self._me), timeout=limit)
        got = 0
        try:
            async with asyncio.timeout(limit) as deadline:
                while (message := await call.read()) is not _END:
                    data = data_of(message)
                    fetch = left[0]
                    length = fetch.span.length
                    if got == length or got + len(data) > length:
                        raise _not_as_asked(length, "more")
                    if len(data) < min(MIN_CHUNK, length - got):
                        raise ProtocolError("bad_body", f"a chunk has only {len(data)} bytes", fatal=True)
                    if fetch.into is not None:
                        fetch.into[got : got + len(data)] = data
                    got += len(data)
                    deadline.reschedule(clock() + (self._stall_s if got < length else limit))
                    if got == length and len(left) > 1:
                        self._on_arrived(left)
                        got = 0
            if got < left[0].span.length:
                raise _not_as_asked(left[0].span.length, str(got))
            # The last block counts only now: until its end, the call might have sent too much.
            self._on_arrived(left)
        except aio.AioRpcError as error:
            raise self._error_of(error) from None
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

    def _on_arrived(self, left: deque[_Fetch]) -> None:
        left.popleft().outcome = True
        self._settle()

    def _error_of(self, error: Any) -> Exception:
        """The error of ours for the status of a call."""
        details = "".join(c if c.isprintable() else "?" for c in str(error.details() or "")[:MAX_DETAILS])
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
        status = error.code().name.lower()
        return Unreachable(f"connection to {self._address} broke: {status}{': ' if details else ''}{details}")


def _not_as_asked(asked: int, came: str) -> ProtocolError:
    return ProtocolError("bad_body", f"body: {asked} bytes were asked for, {came} came", fatal=True)
