"""Fuzz targets of whole parts: a tracker with several connections, gRPC's framing and data connection, the
trace, and every setting."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from p2p.cli.config import DemoConfig, PeerConfig, SimConfig, TrackerConfig
from p2p.cli.options import Option
from p2p.errors import WIRE_CODES, ProtocolError, Refused, Unreachable, UsageError
from p2p.model import Address, BlockSpan, ContentId
from p2p.net.limits import TIMEOUTS
from p2p.peer.trace import Trace
from p2p.protocol.codec import by_op, decode_answer, decode_line
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.session import Asked, BadRequest, Ended, Session
from p2p.protocol.tracker_messages import TRACKER_OPS
from p2p.tracker.service import AMPLIFY, Client, TrackerService
from p2p.tracker.store.base import StoreLimits
from p2p.tracker.store.directory import Directory
from protos.transfer_pb2 import Chunk
from tests.fuzz.target import Target, check_refused, check_sentence
from transports.grpc.client import GrpcDataConnection
from transports.grpc.framing import CODE_OF_STATUS, MIN_CHUNK, chunk, code_of, data_of
from transports.grpc.limits import GRPC_LIMITS, GRPC_TIMEOUTS

# -- the tracker

_OPS: Final = by_op(TRACKER_OPS)
_CLIENTS: Final = (
    ("127.0.0.1", "127.0.0.1"),
    ("10.0.0.7", "10.0.0.1"),
    ("8.8.8.8", "9.9.9.9"),
    ("::1", "fd00::1"),
)
ONE_ROW: Final = 2048
"""Largest size in bytes of one row with the head of its answer."""


class _TrackerScene:
    """A tracker service over a small store, and four connections to it, from private and public addresses."""

    def __init__(self, trusts: bool) -> None:
        tokens = (f"{number:032x}" for number in itertools.count(1))
        limits = StoreLimits(contents_per_peer=8, peers=6, shares=24, sessions=4)
        self.store = Directory(limits)
        self.service = TrackerService(
            self.store, random.Random(1), lambda: next(tokens), ttl=30, trust_advertised=trusts
        )
        self.clients = [Client(host, reached) for host, reached in _CLIENTS]
        self.sessions = [Session(_OPS) for _ in _CLIENTS]
        self.now = 0.0

    def receive(self, number: int, line: bytes) -> None:
        session, client = self.sessions[number], self.clients[number]
        session.receive_data(line + b"\n")
        event = session.next_event()
        if isinstance(event, Asked):
            logged_in = self.service.has_session(client)
            try:
                sent = b"".join(
                    bytes_of(session.answer(self.service.handle(event.request, client, self.now), event.seq))
                )
            except (Refused, ProtocolError) as error:
                sent = session.refuse(error, event.seq)
                assert decode_line(sent[:-1]).data["error"] in WIRE_CODES
                assert len(sent) < 1024
            else:
                decode_answer(decode_line(sent[:-1]), type(event.request))
            assert len(sent) <= MAX_LINE
            assert logged_in or len(sent) <= max(AMPLIFY * (len(line) + 1), ONE_ROW)
        elif isinstance(event, BadRequest):
            session.refuse(event.error, event.seq)
        elif event is not None:
            assert isinstance(event, Ended)
        if session.closed:
            self.sessions[number] = Session(_OPS)
            self.clients[number] = Client(*_CLIENTS[number])


def bytes_of(chunks: list[Any]) -> list[bytes]:
    """The chunks of an answer without files."""
    assert all(isinstance(one, bytes) for one in chunks)
    return chunks


def tracker(data: bytes) -> None:
    """Each line is sent by the connection that its first byte names, or lets time go by. The client can read
    every answer.

    A client without a session gets no more than the amplification allows. The directory's figures stay those
    of what it holds.
    """
    scene = _TrackerScene(trusts=bool(data[:1] > b"\x7f"))
    for line in data[1:].split(b"\n")[:40]:
        if line[:1] == b"@":
            scene.now += len(line) * 5
        elif line:
            scene.receive(
                line[0] % len(_CLIENTS), line[1:].replace(b"AA", b"ab" * 32).replace(b"PP", b"cd" * 16)
            )
    store = scene.store
    totals = store.totals()
    contents, peers = store.contents(), store.peers()
    assert (totals.contents, totals.peers) == (len(contents), len(peers))
    assert (
        totals.shares
        == sum(len(content.peers) for content in contents)
        == sum(peer.contents for peer in peers)
    )
    assert totals.bytes == sum(content.size for content in contents)


def _tracker_seeds() -> Iterator[bytes]:
    login = b'0{"op":"login","user":"a"}\n'
    share = b'{"id":"AA","name":"lab.img","size":7,"have":%d}'
    announce = (
        b'0{"op":"announce","peer":"PP","name":"n","listen":{"tcp":7000},"room":9,"contents":[%s],"seq":1}\n'
        % (share % 7)
    )
    asks = (
        b'1{"op":"lookup","id":"AA"}\n2{"op":"search","text":"LAB"}\n3{"op":"list","limit":1}\n'
        b'1{"op":"peers"}\n0{"op":"stats"}\n'
        b'1{"op":"place","id":"AA","size":1,"exclude":["PP"]}\n0{"op":"place","id":"BB","size":1}\n'
    )
    yield b"\0" + login + announce + asks
    yield (
        b"\xff"
        + login
        + announce.replace(b'"room"', b'"advertise":"fd00::1%1","room"')
        + asks
        + b"@@@@@@@@\n"
        + asks
    )
    yield (
        b"\0"
        + login
        + announce
        + b'0{"op":"withdraw","peer":"PP","ids":["AA"]}\n0{"op":"withdraw","peer":"PP"}\n0{"op":"logout"}\n'
    )
    yield (
        b"\0"
        + login
        + b'1{"op":"hello","version":1,"session":"00000000000000000000000000000001"}\n'
        + b'1{"op":"stats"}\n0{"op":"logout"}\n'
    )
    yield b"\0" + login + announce.replace(b'"size":7,"have":7', b'"size":4398046511104,"have":0') + asks


# -- gRPC


def grpc_framing(data: bytes) -> None:
    """A chunk is parsed as protobuf parses it, or raises a fatal `bad_body`. Any status and trailer maps to
    one of our codes or to none."""
    try:
        expected: bytes | None = Chunk.FromString(data).data
    except DecodeError:
        expected = None
    try:
        found: bytes | None = bytes(data_of(data))
    except ProtocolError as error:
        check_refused(error, "bad_body")
        found = None
    assert found == expected
    if found is not None:
        written = chunk([memoryview(found)[:3], memoryview(found)[3:]], len(found))
        assert bytes(data_of(written)) == found
        assert Chunk.FromString(written).data == found
    trailer = data.decode("latin-1")
    for status in StatusCode:
        assert code_of(status, trailer) in WIRE_CODES
        assert code_of(status, None) in (None, CODE_OF_STATUS.get(status))


def _grpc_framing_seeds() -> Iterator[bytes]:
    yield chunk([memoryview(b"x" * 200)], 200)
    yield b"\x0a\x80\x00"
    yield b"\x0a\x01x\x0a\x02yz"
    yield b"\x12\x03abc\x0a\x01x"
    yield b"busy"


class _Call:
    """A call that yields given messages."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = iter(messages)
        self.cancelled = False

    async def read(self) -> Any:
        from grpc import aio

        return next(self._messages, vars(aio)["EOF"])

    def cancel(self) -> None:
        self.cancelled = True


class _Channel:
    """A channel whose calls share given messages."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self.calls: list[_Call] = []

    def unary_stream(self, _method: str, request_serializer: Any) -> Any:
        def begin(request: Any, timeout: float) -> _Call:
            assert len(request_serializer(request)) < 4096
            self.calls.append(_Call(self._messages))
            return self.calls[-1]

        return begin

    async def close(self) -> None:
        pass


def data_connection(data: bytes) -> None:
    """For chunks of any sizes and bytes, two blocks are filled with exactly these bytes, or the fetch fails.
    Nothing outside their buffers is written.

    A byte other than 0xff is a chunk of that many times 64 bytes. After 0xff come a length and a raw message.
    """
    asyncio.run(_fetch(_messages(data)))


async def _fetch(messages: list[bytes]) -> None:
    size, guard = 4 * MIN_CHUNK, b"G" * 64
    buffers = [bytearray(guard + bytes(size) + guard) for _ in range(2)]
    channel = _Channel(messages)
    opened = GrpcDataConnection(
        channel, Address("10.0.0.1", 7000), None, TIMEOUTS.stall_s, GRPC_TIMEOUTS, GRPC_LIMITS
    )
    views = [memoryview(buffer)[64:-64] for buffer in buffers]
    fetches = (
        opened.fetch(ContentId("ab" * 32), BlockSpan(piece, 0, size), view)
        for piece, view in enumerate(views)
    )
    results = await asyncio.gather(*fetches, return_exceptions=True)
    await opened.close()
    assert all(call.cancelled for call in channel.calls)
    for buffer, result in zip(buffers, results, strict=True):
        assert buffer[:64] == buffer[-64:] == guard
        assert result is None or isinstance(result, (Refused, ProtocolError, Unreachable)), repr(result)
    if results == [None, None]:
        assert b"".join(bytes(data_of(one)) for one in messages) == b"".join(views)


def _messages(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) < 64:
        if data[at] == 0xFF:
            length = data[at + 1] if at + 1 < len(data) else 0
            found.append(data[at + 2 : at + 2 + length])
            at += 2 + length
        else:
            body = bytes([at % 251 + 1]) * (64 * data[at])
            found.append(chunk([memoryview(body)], len(body)))
            at += 1
    return found


def _data_connection_seeds() -> Iterator[bytes]:
    yield bytes([64, 64])
    yield bytes([16, 48, 32, 32])
    yield bytes([64, 63, 1])
    yield bytes([65])
    yield bytes([64, 64, 16])
    yield bytes([32, 0xFF, 3]) + b"\x0a\x01x"


# -- the trace


def trace(data: bytes) -> None:
    """Any received line is traced as one line of ASCII JSON."""
    written: list[str] = []
    Trace(written.append, lambda: 1.0).message("received", "10.0.0.1:1", data)
    (line,) = written
    assert line.endswith("\n")
    assert all(" " <= char < "\x7f" for char in line[:-1])
    found = json.loads(line)
    assert found["event"] == "received"
    assert ("message" in found) != ("unreadable" in found)
    assert len(line) <= 200 + 8 * len(data)


def _trace_seeds() -> Iterator[bytes]:
    yield b'{"op":"hello","session":"%b","a":[1.5,NaN,1e999,"\\ud800"]}' % (b"ab" * 16)
    yield '{"ok":false,"message":"\u202e\x7f"}'.encode()
    for deep in (400, 700, 950):
        yield b'{"a":' + b"[" * deep + b"]" * deep + b"}"


# -- settings

_SETTINGS: Final[list[Option]] = [
    one for cls in (TrackerConfig, PeerConfig, DemoConfig, SimConfig) for one in cls.options()
]


def settings(data: bytes) -> None:
    """Any text for any option is a value whose own text parses to the same value, or a `UsageError` that
    begins with the option."""
    text = data.decode("utf-8", "surrogateescape")
    for one in _SETTINGS:
        what = one.flags[-1]
        try:
            value = one.parse(text, what)
        except UsageError as error:
            check_sentence(error, begins=what)
            continue
        assert one.parse(str(value), what) == value, f"{what}: {value!r}"
        assert not isinstance(value, (int, float)) or 0 <= value < 2**150


def _settings_seeds() -> Iterator[bytes]:
    for text in (
        "64M",
        "1.5GiB",
        "10M/s",
        "6970",
        "127.0.0.1:6969",
        "[::1]:7000",
        "[fe80::1%eth0]:0",
        "host",
        "1",
        "yes",
        "sha256",
        "2.5",
    ):
        yield text.encode()
    yield b"2001:db8::1:0"
    yield "é.example:80".encode()
    yield str(Path("/tmp/x")).encode()


TARGETS: Final = (
    Target("tracker", tracker, _tracker_seeds, length=2048, factor=256),
    Target("grpc_framing", grpc_framing, _grpc_framing_seeds, length=512),
    Target("data_connection", data_connection, _data_connection_seeds, length=128, factor=4096),
    Target("trace", trace, _trace_seeds, length=2048),
    Target("settings", settings, _settings_seeds, length=64),
)
