"""How a host is dialled: names, dead addresses, dead name servers (hostile case 58)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from p2p.errors import Unreachable
from p2p.model import Address
from p2p.net.dial import Info, Resolver, dial, families_in_turn, lookup
from p2p.net.limits import Limits, Timeouts
from tests.kit.leaks import contained
from tests.kit.waiting import HANG_S
from tests.kit.wires import in_virtual_time_with_sockets


def info(sock: socket.socket) -> Info:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", sock.getsockname())


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@contextmanager
def black_hole() -> Iterator[socket.socket]:
    """An address that swallows everything: its backlog is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full


def has(infos: list[Info]) -> Resolver:
    """A resolver that knows these addresses."""
    return lambda host, port, flags: infos


NUMERIC = Address("10.0.0.1", 7000)
"""Looked up without a thread, so that virtual time need not wait for one."""


def test_case_58_an_address_that_swallows_everything_does_not_delay_the_next() -> None:
    with black_hole() as hole, listening() as good:

        async def work() -> None:
            sock = await dial(
                Address("a.name", 7000),
                timeouts=Timeouts(dial_s=1000.0, stagger_s=0.01),
                resolve=has([info(hole), info(hole), info(good)]),
            )
            assert sock.getpeername() == good.getsockname()
            sock.close()

        contained(work)


def test_case_58_all_addresses_together_take_little_longer_than_one() -> None:
    with black_hole() as hole:

        async def work() -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(Unreachable, match=r"peer 10\.0\.0\.1:7000 cannot be reached: no answer"):
                await dial(
                    NUMERIC,
                    timeouts=Timeouts(dial_s=4.0, stagger_s=0.25),
                    limits=Limits(dial_addresses=4),
                    resolve=has([info(hole)] * 8),
                )
            assert loop.time() - began == pytest.approx(4.0 + 3 * 0.25)

        in_virtual_time_with_sockets(work)


def test_case_58_a_host_with_a_broken_address_is_reached_at_its_other_one() -> None:
    with listening() as good, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))

        async def work() -> None:
            sock = await dial(
                Address("two.addresses", 7000),
                timeouts=Timeouts(dial_s=1000.0, stagger_s=1000.0),
                resolve=has([info(nobody), info(good)]),
            )
            assert sock.getpeername() == good.getsockname()
            sock.close()

        contained(work)


def test_the_second_family_is_tried_before_the_second_address_of_the_first() -> None:
    six = [(socket.AF_INET6, 1, 6, "", (f"fd00::{n}", 1, 0, 0)) for n in range(3)]
    four = [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 1))]
    assert [found[0] for found in families_in_turn([*six, *four])] == [10, 2, 10, 10]


def test_case_58_a_dead_name_server_is_given_up_and_does_not_delay_the_exit() -> None:
    released = threading.Event()

    def dead(host: str, port: int, flags: int) -> list[Any]:
        released.wait(HANG_S)
        return []

    async def work() -> None:
        timeouts, limits = Timeouts(dial_s=0.2), Limits(dial_lookups=8)
        dials = [
            dial(Address(f"n{n}.example", 1), timeouts=timeouts, limits=limits, resolve=dead)
            for n in range(13)
        ]
        failures = await asyncio.gather(*dials, return_exceptions=True)
        reasons = [str(failure) for failure in failures if isinstance(failure, Unreachable)]
        assert sum("no answer in time" in reason for reason in reasons) == 8
        assert sum("8 other names are being looked up" in reason for reason in reasons) == 5

    try:
        asyncio.run(work())  # it returns while the name server still says nothing
        assert not released.is_set()
    finally:
        released.set()


def test_case_62_without_a_thread_for_its_name_a_host_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def work() -> None:
        with pytest.raises(Unreachable, match="no thread"):
            await dial(Address("a.name", 1))

    contained(work)


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b", "\udc80"])
def test_what_can_be_no_name_is_unreachable(host: str) -> None:
    async def work() -> None:
        with pytest.raises(Unreachable):
            await dial(Address(host, 1))

    contained(work)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_numeric_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(threading, "Thread", None)

    async def work() -> None:
        found = await lookup(host, 80)
        assert found[0][4][:2] == (host, 80)

    contained(work)
