"""Chooses the peers to hand out, and the address of each: best first, spread by chance, and only where the
client can reach them."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from random import Random
from typing import Final, NamedTuple

from p2p.errors import ProtocolError
from p2p.model import PeerId, canonical_host
from p2p.net.admission import counted_host
from p2p.tracker.store.base import PeerRecord

LOOPBACK: Final = "loopback"
PRIVATE: Final = "private"
PUBLIC: Final = "public"
USELESS: Final = "useless"
NAME: Final = "name"

CLASSES: Final = 8
"""Peers that have a part are ordered by eighths of the content; within an eighth, chance decides."""

DRAWS: Final = 1000
"""Peers looked at when enough were found already, in search of one that is not on the host of most."""

_METADATA: Final = frozenset({"169.254.169.254", "fd00:ec2::254"})
"""Where clouds keep credentials. No peer ever listens there."""

_PRIVATE_NETS: Final = tuple(
    ipaddress.ip_network(net)
    for net in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\.?\Z){_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)


class Choice(NamedTuple):
    """A peer to hand out, how many bytes of the content it has, and the host at which the client can dial
    it."""

    peer: PeerRecord
    have: int
    host: str


@lru_cache(maxsize=16384)
def kind_of(host: str) -> str:
    """The kind of an address: `loopback`, `private` (RFC 1918, RFC 6598, ULA, link local), `public`,
    `useless` (no peer can be dialled there), or `name`."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return NAME
    if ip.is_loopback:
        return LOOPBACK
    if (
        ip.is_unspecified
        or ip.is_multicast
        or host in _METADATA
        or host.startswith("0.")
        or host == "255.255.255.255"
    ):
        return USELESS
    if any(ip.version == net.version and ip in net for net in _PRIVATE_NETS):
        return PRIVATE
    return PUBLIC


def check_advertised(host: str) -> str:
    """Return the canonical form of a host that a peer wants handed out. Raises `ProtocolError("bad_field")`
    naming `advertise`.

    Refused: zones of IPv6 (they mean something on one machine only), addresses no peer can have, and what is
    no host name.
    """
    if "%" in host:
        raise ProtocolError("bad_field", "advertise: an address with a zone means nothing on another machine")
    plain = canonical_host(host)
    kind = kind_of(plain)
    if kind == USELESS:
        raise ProtocolError("bad_field", "advertise: no peer can be dialled at this address")
    if kind == NAME and (not _HOST_NAME.fullmatch(plain) or plain.rstrip(".").rpartition(".")[2].isdigit()):
        raise ProtocolError(
            "bad_field", "advertise: must be a host name or an address without brackets and port"
        )
    return plain


def reachable_host(seen: str, advertised: str | None, client: str, reached: str) -> str | None:
    """The host at which a client can dial a peer, or None when there is none. All are canonical.

    `seen` is where the peer was seen, `advertised` what it wants handed out (None where the operator does not
    allow it), `client` the client's own address, `reached` the address by which it reached the tracker.

    A peer on a loopback address runs on the tracker's machine, so others find it where they found the
    tracker. A private address goes only to clients with a private or loopback address. An advertised address
    that is of no use to the client falls back to the one seen.
    """
    inside = kind_of(client) in (LOOPBACK, PRIVATE)
    if advertised is not None:
        kind = kind_of(advertised)
        if kind in (PUBLIC, NAME) or (inside and kind == PRIVATE) or kind == LOOPBACK == kind_of(client):
            return advertised
    host = seen
    if kind_of(seen) == LOOPBACK and kind_of(client) != LOOPBACK:
        host = reached
    kind = kind_of(host)
    if kind in (PUBLIC, NAME) or (inside and kind == PRIVATE) or kind == LOOPBACK == kind_of(client):
        return host
    return None


def choose(
    peers: Mapping[PeerRecord, int],
    size: int,
    limit: int,
    rng: Random,
    host_for: Callable[[PeerRecord], str | None],
) -> list[Choice]:
    """Choose at most `limit` of the peers of a content of `size` bytes that have a host for the client.

    Seeds come first, then peers with more of it. Within a class chance decides, so that the load spreads. No
    host gets more than half of the places while there are others: a machine that invents a thousand peers
    does not hide the honest ones. Takes time in proportion to the peers.
    """
    most, taken, draws = max(limit // 2, 1), Counter[str](), 0
    classes: list[list[tuple[PeerRecord, int]]] = [[] for _ in range(CLASSES + 1)]
    for peer, have in peers.items():
        classes[CLASSES if have >= size else have * CLASSES // size].append((peer, have))
    chosen: list[Choice] = []
    spare: list[Choice] = []  # of hosts that have their half already
    for group in reversed(classes):
        # Draws one by one and stops when enough are found: 10,000 seeds are not shuffled for the sake of 50.
        while group and len(chosen) < limit and (draws < DRAWS or len(chosen) + len(spare) < limit):
            draws += 1
            at = rng.randrange(len(group))
            group[at], group[-1] = group[-1], group[at]
            peer, have = group.pop()
            host = host_for(peer)
            if host is None:
                continue
            seen_at = counted_host(peer.host)
            if taken[seen_at] >= most:
                spare.append(Choice(peer, have, host))
                continue
            taken[seen_at] += 1
            chosen.append(Choice(peer, have, host))
    return [*chosen, *spare][:limit]


def place(
    accepting: Iterable[PeerRecord],
    having: Collection[PeerRecord],
    size: int,
    copies: int,
    exclude: Collection[PeerId],
    host_for: Callable[[PeerRecord], str | None],
) -> list[Choice]:
    """Choose at most `copies` of the accepting peers, in the order given: those with room for `size` bytes
    that are not among those `having` the content."""
    chosen: list[Choice] = []
    for peer in accepting:
        if peer.room >= size and peer not in having and peer.id not in exclude:
            host = host_for(peer)
            if host is not None:
                chosen.append(Choice(peer, 0, host))
                if len(chosen) == copies:
                    break
    return chosen
