"""What crosses the wire over gRPC besides the generated messages: a chunk as bytes, our error codes as
statuses, and how large a chunk may be. Pure.

A chunk is written and read here, not by protobuf, because protobuf copies what it packs and what it unpacks:
for a message that is nothing but one bytes field of 1 MiB that costs more than all the rest
(`bench/transports.py` has the figures). The bytes on the wire are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from p2p.errors import WIRE_CODES, ProtocolError
from p2p.model import MAX_BLOCK
from protos.transfer_pb2 import DESCRIPTOR, Chunk

SERVICE: Final[str] = DESCRIPTOR.services_by_name["Transfer"].full_name
READ: Final = f"/{SERVICE}/Read"
CODE_KEY: Final = "enjambre-code"
"""The trailer that holds the error code of a refusal by its own name."""

MAX_CHUNK: Final = MAX_BLOCK
"""Bytes of data in a chunk, at most."""
MIN_CHUNK: Final = 1024
"""The same at least, but for the last chunk of a block: else a block could come as a million messages, or
never in an endless stream of empty ones, each of which looks like progress."""
MAX_MESSAGE: Final = MAX_CHUNK + 64
"""Bytes of a chunk as a message, at most: the data, a tag and a length, and room for fields that a later
version may add."""
NO_COMPRESSION: Final = ("grpc.compression_enabled_algorithms_bitset", 1)
"""An option for both sides: messages come as they are. gRPC 1.60 looks at a message's bound before it unpacks
it, and not after."""
MAX_BLOCKS: Final = 16
"""Blocks that one call may ask for."""
MAX_REQUEST: Final = 4096
"""Bytes of a request, at most; with 16 blocks ours take about 350."""

STATUS_OF_CODE: Final[dict[str, StatusCode]] = {
    "bad_field": StatusCode.INVALID_ARGUMENT,
    "unsupported": StatusCode.UNIMPLEMENTED,
    "login_needed": StatusCode.UNAUTHENTICATED,
    "not_allowed": StatusCode.PERMISSION_DENIED,
    "not_found": StatusCode.NOT_FOUND,
    "bad_range": StatusCode.OUT_OF_RANGE,
    "busy": StatusCode.RESOURCE_EXHAUSTED,
    "quota": StatusCode.FAILED_PRECONDITION,
    "disk": StatusCode.ABORTED,
    "integrity": StatusCode.DATA_LOSS,
    "unavailable": StatusCode.UNAVAILABLE,
    "internal": StatusCode.INTERNAL,
}
"""One status for each code that can be said of a call. The other three, `line_too_long`, `bad_json` and
`bad_body`, are faults of lines."""
CODE_OF_STATUS: Final[dict[StatusCode, str]] = {status: code for code, status in STATUS_OF_CODE.items()}

_OF_GRPC: Final = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Statuses that gRPC gives by itself for a broken connection, a late answer, a passed bound, or a server that
is no peer of ours."""


def code_of(status: StatusCode, trailer: str | None) -> str | None:
    """Our error code for the status of a call, or None when it is not the other peer that refused but gRPC
    that failed.

    `trailer` is what came under `CODE_KEY`. It decides, for a peer may say `unavailable` as gRPC does of a
    broken connection; a server without it is understood by its status where gRPC never says that by itself. A
    code that we do not know means `internal` to us.
    """
    if trailer is not None:
        return trailer if trailer in WIRE_CODES else "internal"
    return None if status in _OF_GRPC else CODE_OF_STATUS.get(status)


def chunk(parts: Iterable[memoryview], size: int) -> bytes:
    """The message of a `Chunk` whose data is `parts`, `size` bytes together: copied once."""
    return b"".join((b"\x0a", _varint(size), *parts))


def data_of(message: bytes) -> memoryview:
    """The data of a chunk's message, not copied. Raises `ProtocolError("bad_body")`.

    The usual form, one field and nothing else, is read here; any other that protobuf allows is left to
    protobuf.
    """
    view = memoryview(message)
    if message[:1] == b"\x0a":
        size = shift = 0
        for at, byte in enumerate(view[1:6], start=2):
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if at + size == len(view):
                    return view[at:]
                break
    try:
        return memoryview(Chunk.FromString(message).data)
    except DecodeError as error:
        raise ProtocolError("bad_body", "a chunk is no message of transfer.proto", fatal=True) from error


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class ChunkSize:
    """How much to put into one chunk for one client. It grows while chunks are taken quickly, and shrinks
    when they are not.

    A chunk arrives as a whole or not at all, so on a slow link a large one looks like silence. On a fast link
    each one costs time of its own.
    """

    SMALLEST: Final = 16 * 1024
    QUICK: Final = 0.05
    SLOW: Final = 0.5

    def __init__(self) -> None:
        self.bytes = self.SMALLEST

    def took(self, seconds: float) -> None:
        """A chunk of this size was taken in so many seconds."""
        if seconds < self.QUICK:
            self.bytes = min(self.bytes * 4, MAX_CHUNK)
        elif seconds > self.SLOW:
            self.bytes = max(self.bytes // 4, self.SMALLEST)
