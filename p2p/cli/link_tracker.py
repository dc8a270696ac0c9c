"""The tracker of a link: which one a command asks, and which one it prints for others.

A tracker on the same machine is usually reached over loopback. A link with a loopback address is of no use to
other machines, so it names this machine's own address instead, if the tracker listens there too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from p2p.cli.config import PeerConfig
from p2p.cli.parse import DEFAULT_TRACKER_PORT, parse_words
from p2p.content.uri import content_id, is_link, parse_link
from p2p.model import Address
from p2p.peer.settings import NodeSettings

CONNECT_TIMEOUT_S: Final = 1.0
"""A tracker on this machine answers in a millisecond."""


def target_of(text: str, config: PeerConfig) -> tuple[str, NodeSettings]:
    """Return the id or the name that NAME|ID|LINK means, and the settings with the tracker to ask.

    A link brings its own tracker, unless another one was named. Raises `UsageError`.
    """
    if not is_link(text):
        return content_id(text) or parse_words(text, "TARGET"), config.node
    uri = parse_link(text, DEFAULT_TRACKER_PORT)
    if uri.tracker is None or config.tracker_is_named:
        return uri.id, config.node
    return uri.id, replace(config.node, tracker=uri.tracker)


def own_host() -> str | None:
    """Return this machine's address towards other networks; None without a network.

    Nothing is sent: to connect a datagram socket only picks a route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            host: str = probe.getsockname()[0]
        except OSError:
            return None
    return None if is_loopback(host) or host == "0.0.0.0" else host


async def listens(address: Address) -> bool:
    """Return whether something listens at an address of this machine."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def tracker_for_others(
    tracker: Address,
    warn: Callable[[str], None],
    *,
    host: Callable[[], str | None] = own_host,
    listens: Callable[[Address], Awaitable[bool]] = listens,
) -> Address:
    """Return the tracker's address as other machines can use it.

    `warn` is called with a sentence when there is none. A tracker that is away is taken to listen everywhere.
    """
    if not is_loopback(tracker.host):
        return tracker
    outside_host = host()
    if outside_host is None:
        warn(f"the links work on this machine only: it has no network, and its tracker is {tracker}")
        return tracker
    outside = Address(outside_host, tracker.port)
    if await listens(tracker) and not await listens(outside):
        warn(
            f"the links work on this machine only: the tracker does not listen on {outside}; "
            "start it with --host 0.0.0.0"
        )
        return tracker
    return outside


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
