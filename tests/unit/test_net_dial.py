"""How a host is dialled: names, dead addresses, dead name servers (hostile case 58)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from p2p.errors import Unreachable
from p2p.model import Address
from p2p.net import dial as module
from p2p.net.dial import LOOKUPS, dial
from tests.kit.leaks import contained


def info(sock: socket.socket) -> module.Info:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", sock.getsockname())


@contextmanager
def door() -> Iterator[socket.socket]:
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


def names(monkeypatch: pytest.MonkeyPatch, infos: list[module.Info]) -> Address:
    """A name that has these addresses."""
    monkeypatch.setattr(module, "_getaddrinfo", lambda host, port, flags: infos)
    return Address("a.name", 7000)


def test_case_58_an_address_that_swallows_everything_delays_the_next_by_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with black_hole() as hole, door() as good:
        address = names(monkeypatch, [info(hole), info(hole), info(good)])

        async def work() -> None:
            began = time.monotonic()
            sock = await dial(address)
            assert sock.getpeername() == good.getsockname()
            sock.close()
            assert time.monotonic() - began < 2

        contained(work)


def test_case_58_all_addresses_together_take_no_longer_than_one_and_a_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DIAL_TIME", 0.5)
    with black_hole() as hole:
        address = names(monkeypatch, [info(hole)] * 8)

        async def work() -> None:
            began = time.monotonic()
            with pytest.raises(Unreachable, match=r"peer a\.name:7000 cannot be reached: no answer in time"):
                await dial(address)
            assert time.monotonic() - began < 3

        contained(work)


def test_the_second_family_is_tried_before_the_second_address_of_the_first() -> None:
    six = [(socket.AF_INET6, 1, 6, "", (f"fd00::{n}", 1, 0, 0)) for n in range(3)]
    four = [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 1))]
    assert [found[0] for found in module._families_in_turn([*six, *four])] == [10, 2, 10, 10]


def test_case_58_a_name_server_that_never_answers_is_given_up_and_holds_nobody_up_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DIAL_TIME", 0.2)
    released = threading.Event()

    def dead(host: str, port: int, flags: int) -> list[Any]:
        released.wait(20)
        return []

    monkeypatch.setattr(module, "_getaddrinfo", dead)

    async def work() -> None:
        failures = await asyncio.gather(
            *(dial(Address(f"n{n}.example", 1)) for n in range(LOOKUPS + 5)), return_exceptions=True
        )
        reasons = [str(failure) for failure in failures if isinstance(failure, Unreachable)]
        assert sum("no answer in time" in reason for reason in reasons) == LOOKUPS
        assert sum("other names are being looked up" in reason for reason in reasons) == 5

    began = time.monotonic()
    try:
        asyncio.run(work())
        assert time.monotonic() - began < 5
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
        found = await module.lookup(host, 80)
        assert found[0][4][:2] == (host, 80)

    contained(work)
