"""Transports by name, and what only the TCP transport has: a shared port, limits on connections, and who
asks."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import transports
from p2p.errors import Refused, TransportUnavailable, Unreachable
from p2p.model import Address, BlockSpan, ContentId, FileSpan, PeerId
from p2p.net.admission import AdmissionLimits
from p2p.net.limits import Limits
from p2p.peer.transport import Listener
from p2p.protocol.codec import encode_error
from p2p.storage.disk_io import disk_io
from tests.kit.leaks import contained
from tests.kit.shelf import SIZE, Shelf
from tests.kit.waiting import until
from transports.tcp import TcpTransport

CONTENT = ContentId("ab" * 32)
LOOPBACK = Address("127.0.0.1", 0)


class NoSource:
    """Knows who asked, and fails in whatever way it is told to."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault
        self.client: list[str] = []

    @asynccontextmanager
    async def blocks(
        self, client: str, content: ContentId, spans: Sequence[BlockSpan]
    ) -> AsyncIterator[list[list[FileSpan]]]:
        self.client.append(client)
        raise self.fault
        yield []

    def throttle(self, count: int, client: str) -> None:
        pass


class Greeter:
    """A control that counts connections that are over."""

    def __init__(self) -> None:
        self.gone_wires = 0

    async def on_event(self, wire: Any, event: object) -> None:
        pass

    def on_closed(self, wire: object) -> None:
        self.gone_wires += 1


# -- by name


def test_known_transports_come_by_their_names() -> None:
    for name in ("tcp", "memory"):
        assert transports.load(name, disk_io()).name == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(TransportUnavailable, match=r"'carrier pigeon'.*tcp.*grpc.*memory"):
        transports.load("carrier pigeon", disk_io())


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf", "grpc._channel"])
def test_case_77_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def broken(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(TransportUnavailable, match=r"needs an extra: pip install '\.\[grpc\]'"):
        transports.load("grpc", disk_io())


@pytest.mark.parametrize("missing", ["p2p.nothing", "protos.transfer", None])
def test_a_fault_of_our_own_is_not_disguised_as_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    def broken(name: str) -> Any:
        raise ModuleNotFoundError("ours", name=missing)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        transports.load("grpc", disk_io())


# -- over tcp


def test_a_peer_that_says_hello_is_known_by_its_id_and_host_and_a_nobody_by_its_host() -> None:
    async def work() -> None:
        source, control = NoSource(RuntimeError("ours")), Greeter()
        transport = TcpTransport(disk_io())
        listener = await transport.listen(source, LOOPBACK, control)
        address = Address("127.0.0.1", listener.port)
        for me in (PeerId("5f" * 16), None):
            connection = await transport.connect(address, me)
            with pytest.raises(Unreachable):
                await connection.fetch(CONTENT, BlockSpan(0, 0, 4), memoryview(bytearray(4)))
            await connection.close()
        await listener.close()
        assert source.client == ["5f" * 16 + "@127.0.0.1", "127.0.0.1"]
        assert control.gone_wires == 2

    contained(work)


def test_a_fault_of_ours_ends_one_connection_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        listener = await TcpTransport(disk_io()).listen(NoSource(RuntimeError("a fault of ours")), LOOPBACK)
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b'{"op":"read","id":"%s","piece":0,"offset":0,"length":1}\n' % CONTENT.encode())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await until(lambda: len(told(caplog)) == 2)
        await listener.close()

    contained(work)
    assert all("fault of ours" in text for text in told(caplog))


def at_most(connections: int, idle_s: float = 3600.0) -> Limits:
    return Limits(connections=AdmissionLimits(total=connections, idle_s=idle_s))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our own code logged; in development mode asyncio complains too, of callbacks that are slow."""
    return [record.getMessage() for record in caplog.records if record.name.startswith(("p2p", "transports"))]


async def _told(listener: Listener, ask: bytes = b"") -> tuple[Any, asyncio.StreamWriter]:
    """Connect, ask something, and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(ask)
    line = await reader.readline()
    return json.loads(line) if line else None, writer


PING = b'{"op":"ping","seq":1}\n'


def test_over_the_limit_of_connections_a_newcomer_is_told_busy_until_one_leaves() -> None:
    async def work() -> None:
        listener = await TcpTransport(disk_io(), limits=at_most(5)).listen(NoSource(RuntimeError()), LOOPBACK)
        writers = [(await _told(listener, PING))[1] for _ in range(5)]
        on_event, newcomer = await _told(listener)
        assert on_event["error"] == "busy"
        leaving = writers.pop(0)
        leaving.transport.abort()
        await until(lambda: len(listener) == 4)
        on_event, again = await _told(listener, PING)
        assert on_event["error"] == "unsupported"
        for writer in (*writers, newcomer, again):
            writer.transport.abort()
        await listener.close()

    contained(work)


@pytest.mark.parametrize("early", [False, True], ids=["asked at once", "asked when it was told"])
def test_a_full_listener_is_busy_for_a_data_connection_and_not_broken(early: bool) -> None:
    """A seed that has room for no more is asked again later; one whose connections break is given up after
    three."""

    async def work() -> None:
        transport = TcpTransport(disk_io(), limits=at_most(0))
        listener = await transport.listen(NoSource(RuntimeError()), LOOPBACK)
        for _ in range(20):
            connection = await transport.connect(Address("127.0.0.1", listener.port), PeerId("5f" * 16))
            if early:
                await until(lambda: connection.ended)  # noqa: B023 (it is waited for here)
            for _ in range(2):
                with pytest.raises(Refused) as refused:
                    await connection.fetch(CONTENT, BlockSpan(0, 0, 4), memoryview(bytearray(4)))
                assert refused.value.code == "busy"
            await connection.close()
        await listener.close()

    contained(work)


def test_a_listener_that_refuses_for_another_reason_is_unreachable() -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_error(Refused("not_found", "no such content"), None))
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        connection = await TcpTransport(disk_io()).connect(
            Address("127.0.0.1", server.sockets[0].getsockname()[1])
        )
        with pytest.raises(Unreachable, match=r"no such content|ended|broke"):
            await connection.fetch(CONTENT, BlockSpan(0, 0, 4), memoryview(bytearray(4)))
        await connection.close()
        server.close()
        await server.wait_closed()

    contained(work)


def test_case_60_an_accept_that_fails_for_want_of_descriptors_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    async def work() -> None:
        take, faults = (
            socket.socket.accept,
            [OSError(24, "Too many open files"), ConnectionAbortedError(), OSError(22, "Invalid argument")],
        )
        calls = 0

        def failing(sock: socket.socket) -> tuple[socket.socket, Any]:
            nonlocal calls
            calls += 1
            if faults:
                raise faults.pop(0)
            return take(sock)

        monkeypatch.setattr(socket.socket, "accept", failing)
        listener = await TcpTransport(disk_io()).listen(NoSource(RuntimeError()), LOOPBACK)
        on_event, writer = await _told(listener, PING)
        assert on_event["error"] == "unsupported"
        assert calls <= 5
        writer.transport.abort()
        await listener.close()

    contained(work)


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_requests_that_come_together_are_answered_in_order(tmp_path: Path, at_once: int) -> None:
    """Blocks, one that is refused, one of another content, and something that is no read, all in one
    packet."""

    async def work() -> None:
        shelf = Shelf(tmp_path / "shelf", random.Random(7).randbytes(SIZE))
        shelf.at_once, shelf.refuse = at_once, {1: "not_found"}
        listener = await TcpTransport(disk_io()).listen(shelf, LOOPBACK)
        spans = [BlockSpan(0, at, 70_000) for at in range(0, 700_000, 70_000)]
        spans[5] = BlockSpan(1, 0, 10)
        lines = [
            {
                "op": "read",
                "id": CONTENT,
                "piece": span.piece,
                "offset": span.offset,
                "length": span.length,
                "seq": seq,
            }
            for seq, span in enumerate(spans)
        ]
        lines.insert(3, {"op": "ping", "seq": 100})
        lines.insert(8, {"op": "read", "id": "cd" * 32, "piece": 0, "offset": 0, "length": 1, "seq": 101})
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        for asked in lines:
            answer = json.loads(await reader.readline())
            assert answer["seq"] == asked["seq"]
            if asked["seq"] in (5, 100, 101):
                assert answer["ok"] is False
                continue
            assert await reader.readexactly(answer["body"]) == shelf.bytes_of(spans[answer["seq"]])
        assert shelf.entered == {1: 9, 2: 6, 3: 4, 100: 4}[at_once]
        writer.close()
        await writer.wait_closed()
        await listener.close()
        assert shelf.entered == shelf.left
        os.close(shelf.fd)

    contained(work)


def test_case_12_an_idle_connection_makes_room_and_an_active_one_does_not() -> None:
    async def work() -> None:
        listener = await TcpTransport(disk_io(), limits=at_most(5, idle_s=0.0)).listen(
            NoSource(RuntimeError()), LOOPBACK
        )
        _, active = await _told(listener, PING)
        idle = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(4)]
        await until(lambda: len(listener) == 5)
        fresh = [await _told(listener, PING) for _ in range(4)]
        assert [told["error"] for told, _ in fresh] == ["unsupported"] * 4
        for reader, _ in idle:
            assert await reader.read() == b""
        answer, late = await _told(listener, PING)
        assert answer["error"] == "busy", "all are active"
        assert not active.transport.is_closing()
        for writer in (active, late, *(writer for _, writer in (*idle, *fresh))):
            writer.transport.abort()
        await listener.close()

    contained(work)


def test_case_12_a_connection_that_is_not_idle_for_long_makes_no_room() -> None:
    async def work() -> None:
        listener = await TcpTransport(disk_io(), limits=at_most(1)).listen(NoSource(RuntimeError()), LOOPBACK)
        _, idle = await asyncio.open_connection("127.0.0.1", listener.port)
        await until(lambda: len(listener) == 1)
        answer, early = await _told(listener)
        assert answer["error"] == "busy"
        for writer in (idle, early):
            writer.transport.abort()
        await listener.close()

    contained(work)
