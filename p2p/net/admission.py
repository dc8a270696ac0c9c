"""Decides which connections may be open: how many in all, how many of one host, and which idle one is
evicted when there is no room.

The rule has three steps, and is the same for every listening socket of this project:

1. A host that has all the connections that one host may have gets another one only in place of an idle one
   of its own. So one machine never shuts out the others. Loopback is exempt: there, many peers share a host.
2. Otherwise, when all connections are taken, the oldest idle one of any host is evicted.
3. When there is none to evict, the connection is refused.

A connection is *idle* from its admission until its first whole message, and may be evicted once it has been
idle for `AdmissionLimits.idle_s`. After its first message it is *active* and is never evicted. A machine that
opens connections and says nothing therefore delays others by `idle_s` at most; one that does speak spends the
connections of its own host.

There is no I/O here and no clock: the caller passes `now` (seconds, never going back), closes the connection
that a `Verdict` names, and refuses in the words of its protocol.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from p2p.model import is_loopback
from p2p.value import frozen

Key = TypeVar("Key", bound=Hashable)
"""How the caller names a connection: the connection itself, its task, a number."""


@frozen
class AdmissionLimits:
    """How many connections may be open, and when an idle one may be evicted."""

    total: int
    """Connections in all."""
    per_host: int | None = None
    """Connections of one host; None: as many as there are in all. An IPv6 /64 counts as one host, so on an
    IPv6 network all machines of a room may share this number."""
    idle_s: float = 0.1
    """Seconds that a connection may be idle before it may be evicted. At most `total` connections are evicted
    in one such span. With a whole second, and 10,000 idle connections opened within four, an honest client
    was refused one time in fourteen."""


class Verdict(NamedTuple, Generic[Key]):
    """What `admit` decided. `evicted` is no longer counted: the caller closes it."""

    admitted: bool
    evicted: Key | None = None


class Admission(Generic[Key]):
    """The open connections of one or more listening sockets, by host, and the idle ones among them."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self.limits = limits
        self._hosts: dict[Key, str] = {}
        self._per_host: Counter[str] = Counter()
        self._idle: dict[Key, float] = {}  # when each was admitted, the oldest first
        self._idle_of: dict[str, dict[Key, None]] = {}  # the same by host

    def __len__(self) -> int:
        """How many connections are counted."""
        return len(self._hosts)

    def admit(self, key: Key, host: str, now: float) -> Verdict[Key]:
        """Decide on a new connection from `host`, and count it as idle if it is admitted."""
        counted = counted_host(host)
        per_host = self.limits.per_host
        evicted: Key | None = None
        if per_host is not None and self._per_host[counted] >= per_host and not is_loopback(host):
            evicted = self.evict_idle(now, host)
            admitted = evicted is not None
        elif len(self._hosts) >= self.limits.total:
            evicted = self.evict_idle(now)
            admitted = evicted is not None
        else:
            admitted = True
        if admitted:
            self._count(key, counted)
            self._idle[key] = now
            self._idle_of.setdefault(counted, {})[key] = None
        return Verdict(admitted, evicted)

    def on_dialled(self, key: Key, host: str) -> None:
        """Count a connection that this side opened. It is never refused, and active from the start."""
        self._count(key, counted_host(host))

    def on_active(self, key: Key) -> None:
        """A connection has brought its first whole message: it is not evicted any more."""
        if self._idle.pop(key, None) is not None:
            host = self._hosts[key]
            idle = self._idle_of[host]
            del idle[key]
            if not idle:
                del self._idle_of[host]

    def on_closed(self, key: Key) -> None:
        """A connection is over. One that was refused or evicted is not counted and changes nothing."""
        if key not in self._hosts:
            return
        self.on_active(key)
        host = self._hosts.pop(key)
        self._per_host[host] -= 1
        if not self._per_host[host]:
            del self._per_host[host]

    def evict_idle(self, now: float, host: str | None = None) -> Key | None:
        """Take out the oldest idle connection, of one host if it is given; None when there is none that was
        idle for long enough. Also for a caller that ran out of descriptors."""
        idle = self._idle if host is None else self._idle_of.get(counted_host(host), {})
        oldest = next(iter(idle), None)
        if oldest is None or self._idle[oldest] > now - self.limits.idle_s:
            return None
        self.on_closed(oldest)
        return oldest

    def _count(self, key: Key, counted: str) -> None:
        self._hosts[key] = counted
        self._per_host[counted] += 1


def counted_host(host: str) -> str:
    """The name under which a host is counted: an IPv4 address or a host name itself, an IPv6 address as its
    /64. A machine has all addresses of its /64 for the asking, so single ones would bound nothing."""
    if ":" not in host:
        return host
    try:
        ip = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(ip) >> 64 << 64))
