"""Transports by name, imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, cast

from p2p.errors import TransportUnavailable
from p2p.net.limits import LIMITS, TIMEOUTS, Limits, Timeouts

if TYPE_CHECKING:
    from p2p.net.wire import WireTrace
    from p2p.peer.transport import Transport
    from p2p.storage.disk_io import DiskIO

KNOWN: Final[dict[str, tuple[str, str]]] = {
    "tcp": ("transports.tcp", "TcpTransport"),
    "grpc": ("transports.grpc", "GrpcTransport"),
    "memory": ("transports.memory", "MemoryTransport"),
}
"""Name of each transport: its module and its class."""

NEEDS: Final[dict[str, tuple[frozenset[str], str]]] = {
    "grpc": (frozenset({"grpc", "google", "grpc_health", "grpc_reflection"}), "pip install '.[grpc]'"),
}
"""Libraries that a transport needs beyond Python itself, and how to get them."""


def load(
    name: str,
    io: DiskIO,
    trace: WireTrace | None = None,
    *,
    timeouts: Timeouts = TIMEOUTS,
    limits: Limits = LIMITS,
) -> Transport:
    """Return a new transport that reads files by `io` and calls `trace` with its control lines.

    Raises `TransportUnavailable` for an unknown name, or when its extra is not installed. A fault inside our
    own module is not disguised as a missing extra: only the name of the missing library decides.
    """
    if name not in KNOWN:
        raise TransportUnavailable(f"no transport {name!r}; known are {', '.join(KNOWN)}")
    module, cls = KNOWN[name]
    libraries, hint = NEEDS.get(name, (frozenset(), ""))
    try:
        return cast(
            "Transport",
            getattr(importlib.import_module(module), cls)(io, trace, timeouts=timeouts, limits=limits),
        )
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == module:
            raise TransportUnavailable(f"the {name} transport is not part of this version") from error
        if missing not in libraries and missing.partition(".")[0] not in libraries:
            raise
        raise TransportUnavailable(f"the {name} transport needs an extra: {hint}") from error
