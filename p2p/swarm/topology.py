"""Topology: how many peers a peer connects to, and how often it sends `have` lines to them.

A peer dials some of the peers that the tracker names, at random among equals, so the connections are a random
graph. With more than ln N connections a peer, such a graph of N peers is connected and a few steps wide: a
piece reaches everybody soon, and nobody has to know everybody. Above that, connections only cost messages.
The real peer and the simulator use the same numbers.
"""

from __future__ import annotations

from typing import Final

CONNECTIONS: Final = 40
"""Connections for one content; a download with so many dials no more."""
LOOKUP: Final = 50
"""Peers asked of the tracker at once."""
EAGER_INTERVAL_S: Final = 2.0
"""Seconds between lookups while few peers send to us."""
CALM_INTERVAL_S: Final = 10.0
"""Seconds between lookups while the download goes well."""
EAGER_BELOW: Final = 4
"""A download that fewer peers send to looks up more of them soon."""
HUNGRY_DIALS: Final = 1
"""Peers that such a download dials at each lookup even if it has enough connections: other peers may have
what it lacks."""

MIN_HAVE_INTERVAL: Final = 0.02
"""Seconds from one `have` line to the next, at least. A single piece is told at once; where several hundred a
second were verified, a line for each took a tenth of a seed's processor time (1 GiB over loopback: 0.1 of
0.9 s)."""
HAVE_INTERVAL_PER_MEMBER: Final = 0.016
"""Seconds more for each member. With 16 members, 38 pieces a second and a line for each, the lines would fill
5 % of a link of 20 Mbit/s, and took half of a receiver's processor time in a profile."""
MAX_HAVE_INTERVAL: Final = 0.25
"""Seconds at most."""


def dials(connected: int, *, eager: bool, enough: int = CONNECTIONS) -> int:
    """How many more peers to dial after a lookup, with so many connections for this content open or being
    opened."""
    return max(enough - connected, HUNGRY_DIALS if eager else 0)


def have_interval(members: int) -> float:
    """Seconds from one `have` line to the next for a peer with so many members."""
    return min(max(MIN_HAVE_INTERVAL, HAVE_INTERVAL_PER_MEMBER * members), MAX_HAVE_INTERVAL)
