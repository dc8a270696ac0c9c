"""The tracker's listener: where it listens, and what it does when the system refuses."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import Awaitable, Callable

import pytest

from p2p.errors import UsageError
from p2p.net.acceptor import AcceptLimits
from p2p.tracker.limits import TrackerLimits
from p2p.tracker.listener import Listener
from tests.kit.waiting import HANG_S

LOOPBACK = "127.0.0.1"
LIMITS = TrackerLimits(accept=AcceptLimits(burst=16, pause_s=0.01))


class Greeter(asyncio.Protocol):
    """Greets each client, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hi")
        transport.close()


async def greeted(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        return await asyncio.wait_for(reader.read(), HANG_S)
    finally:
        writer.close()
        await writer.wait_closed()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def test_each_connection_gets_a_protocol_until_the_listener_is_closed() -> None:
    async def test() -> None:
        failures: list[OSError] = []
        one = Listener(Greeter, failures.append, LIMITS)
        (address,) = await one.start(LOOPBACK, 0)
        assert await asyncio.gather(*(greeted(address.port) for _ in range(2 * LIMITS.accept.burst + 1))) == [
            b"hi"
        ] * (2 * LIMITS.accept.burst + 1)
        one.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await greeted(address.port)
        assert failures == []

    run(test)


def test_case_60_a_refusal_of_the_system_is_one_failure_and_one_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        take = socket.socket.accept
        errors: list[OSError] = [
            ConnectionAbortedError(),
            OSError(errno.EMFILE, "too many"),
            OSError(errno.ENFILE, "too many"),
        ]

        def taken(sock: socket.socket) -> tuple[socket.socket, object]:
            if errors:
                raise errors.pop(0)
            return take(sock)

        monkeypatch.setattr(socket.socket, "accept", taken)
        failures: list[OSError] = []
        one = Listener(Greeter, failures.append, LIMITS)
        (address,) = await one.start(LOOPBACK, 0)
        assert await greeted(address.port) == b"hi"
        assert [failure.errno for failure in failures] == [errno.EMFILE, errno.ENFILE]
        one.close()

    run(test)


def test_a_connection_that_fails_before_it_has_a_protocol_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()

        async def fail(_factory: object, _sock: socket.socket) -> None:
            raise OSError(errno.ENOBUFS, "no room")

        failures: list[OSError] = []
        one = Listener(Greeter, failures.append, LIMITS)
        (address,) = await one.start(LOOPBACK, 0)
        monkeypatch.setattr(loop, "connect_accepted_socket", fail)
        assert await greeted(address.port) == b""
        assert [failure.errno for failure in failures] == [errno.ENOBUFS]
        one.close()

    run(test)


def test_a_name_with_several_addresses_has_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()

        async def two(*_: object, **__: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))
                for host in (LOOPBACK, "127.0.0.2", LOOPBACK)
            ]

        monkeypatch.setattr(loop, "getaddrinfo", two)
        one = Listener(Greeter, lambda error: None, LIMITS)
        try:
            addresses = await one.start("two", 0)
        except UsageError:
            pytest.skip("this system has but one loopback address")
        assert [address.host for address in addresses] == [LOOPBACK, "127.0.0.2"]
        assert len({address.port for address in addresses}) == 1
        one.close()

    run(test)


def test_ipv6_listens_where_there_is_any() -> None:
    async def test() -> None:
        one = Listener(Greeter, lambda error: None, LIMITS)
        try:
            (address,) = await one.start("::1", 0)
        except UsageError:
            pytest.skip("no IPv6 here")
        reader, writer = await asyncio.open_connection("::1", address.port)
        assert await asyncio.wait_for(reader.read(), HANG_S) == b"hi"
        writer.close()
        await writer.wait_closed()
        one.close()

    run(test)


def test_a_port_that_is_taken_is_a_usage_error_and_leaves_nothing_open() -> None:
    async def test() -> None:
        first = Listener(Greeter, lambda error: None, LIMITS)
        (address,) = await first.start(LOOPBACK, 0)
        second = Listener(Greeter, lambda error: None, LIMITS)
        with pytest.raises(UsageError, match="--port"):
            await second.start(LOOPBACK, address.port)
        gc.collect()  # a socket that was left open would warn now
        first.close()

    run(test)


def test_an_address_that_cannot_be_had_closes_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()

        async def found(*_arguments: object, **_options: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in (LOOPBACK, "192.0.2.1")
            ]

        monkeypatch.setattr(loop, "getaddrinfo", found)
        with pytest.raises(UsageError, match="cannot listen"):
            await Listener(Greeter, lambda _: None, LIMITS).start("two", 0)

    run(test)  # the check after each test finds what stays open


def test_a_connection_that_is_still_being_set_up_is_closed_with_the_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        loop, started = asyncio.get_running_loop(), asyncio.Event()

        async def hang(_factory: object, _sock: socket.socket) -> None:
            started.set()
            await asyncio.Event().wait()

        one = Listener(Greeter, lambda _: None, LIMITS)
        (address,) = await one.start(LOOPBACK, 0)
        monkeypatch.setattr(loop, "connect_accepted_socket", hang)
        reading = asyncio.create_task(greeted(address.port))
        await started.wait()
        one.close()
        assert await reading == b""

    run(test)
