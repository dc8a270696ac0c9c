"""Dials a host: looks its name up and tries its addresses, so that a dead address, or a dead name server,
costs little time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any, Final

from p2p.errors import Unreachable
from p2p.model import Address
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts

_THREAD: Final = "look up"

Info = tuple[int, int, int, str, Any]
"""As `socket.getaddrinfo` has it: family, kind, protocol, canonical name, what to connect to."""

Resolver = Callable[[str, int, int], list[Info]]
"""Looks up a host, a port and flags, as `socket.getaddrinfo` does. Blocks. Raises `OSError`,
`UnicodeError`."""


def system_resolver(host: str, port: int, flags: int) -> list[Info]:
    """The addresses of a host, as the system knows them."""
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))


async def dial(
    address: Address,
    what: str = "peer",
    *,
    timeouts: Timeouts = TIMEOUTS,
    limits: Limits = LIMITS,
    resolve: Resolver = system_resolver,
) -> socket.socket:
    """Connect to the first address of a host that answers. Raises `Unreachable`, which names the address and
    the reason."""
    try:
        async with asyncio.timeout(timeouts.dial_s):
            infos = await lookup(address.host, address.port, limits.dial_lookups, resolve)
        return await _first_of(families_in_turn(infos)[: limits.dial_addresses], timeouts)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{what} {address} cannot be reached: {reason_of(error)}") from error


async def lookup(
    host: str,
    port: int,
    at_once: int = LIMITS.dial_lookups,
    resolve: Resolver = system_resolver,
) -> list[Info]:
    """The addresses of a host. Raises `OSError`, also when `at_once` other names are being looked up, and
    `UnicodeError` for what can be no name.

    Each lookup has a thread of its own. At its end a process waits for the threads of the loop's pool, and so
    it would wait for a name server that never answers.
    """
    if _is_numeric(host):
        return resolve(host, port, socket.AI_NUMERICHOST)
    if sum(thread.name == _THREAD for thread in threading.enumerate()) >= at_once:
        raise OSError(f"{at_once} other names are being looked up")
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Info]] = loop.create_future()

    def work() -> None:
        answer: list[Info] | OSError | UnicodeError
        try:
            answer = resolve(host, port, 0)
        except (OSError, UnicodeError) as error:
            answer = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, answer)

    def settle(answer: list[Info] | OSError | UnicodeError) -> None:
        if found.done():
            return
        if isinstance(answer, list):
            found.set_result(answer)
        else:
            found.set_exception(answer)

    try:
        threading.Thread(target=work, name=_THREAD, daemon=True).start()
    except RuntimeError as error:
        raise OSError("no thread can be started to look its name up") from error
    return await found


def prepare(sock: socket.socket) -> None:
    """Set what every peer connection wants: non-blocking, no delay of small lines, and keep-alive packets, by
    which a host that vanished is noticed."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "no such host name"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error) or type(error).__name__).lower()


async def _first_of(infos: Iterable[Info], timeouts: Timeouts) -> socket.socket:
    """A connection to the first of these that answers. Each is tried when those before it have failed, or
    have not answered for `stagger_s` seconds."""
    waiting = list(infos)
    attempts: set[asyncio.Task[socket.socket]] = set()
    fault: BaseException = OSError("no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_connect(waiting.pop(0), timeouts.dial_s)))
            done, _ = await asyncio.wait(
                attempts,
                timeout=timeouts.stagger_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                attempts.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                fault = error
        raise fault
    finally:
        for task in attempts:
            task.cancel()
        for late in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()


async def _connect(info: Info, seconds: float) -> socket.socket:
    family, kind, proto, _, target = info
    sock = socket.socket(family, kind, proto)
    try:
        prepare(sock)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def families_in_turn(infos: Iterable[Info]) -> list[Info]:
    """The best address of each family before the second best: where one family leads nowhere, all its
    addresses do."""
    families: dict[int, list[Info]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    return [info for info in chain.from_iterable(zip_longest(*families.values())) if info is not None]


def _is_numeric(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError, UnicodeError):
            socket.inet_pton(family, host.partition("%")[0])
            return True
    return False
