"""Who is linked to whom, and how often they are told: what keeps the messages of a swarm few, whatever its
size.

Each peer dials some of those that the tracker names, at random among equals, so the links are a random graph:
a piece needs few steps from anywhere to anywhere, and nobody has to know everybody. The peers and the
simulator use the same numbers.
"""

from __future__ import annotations

from typing import Final

ENOUGH: Final = 40
"""Links for one content; above that, more would only cost messages."""
LOOKUP: Final = 50
"""Peers asked of the tracker at once."""
EAGER_TIME: Final = 2.0
"""Seconds between looks while too few peers are known."""
CALM_TIME: Final = 10.0
"""Seconds between looks while the download goes well."""
EAGER_BELOW: Final = 4
"""A download that is fed by fewer peers than this looks for more soon."""
HUNGRY: Final = 1
"""Peers that a download with enough links, and too few that feed it, dials at each look all the same: what it
lacks may be with others."""

TELL_TIME: Final = 0.02
"""Seconds at least from one line that tells what was verified to the next. A piece on its own is told at
once; where several hundred a second come in, a line for each took a tenth of a seed's processor time (1 GiB
over loopback: 0.1 of 0.9 s)."""
TELL_EACH: Final = 0.016
"""Seconds more for each link. With 16 links, 38 pieces a second and a line for each, lines would be 5 % of a
link of 20 Mbit/s; to deal with those that came was half of a receiver's processor time in a profile."""
TELL_MOST: Final = 0.25
"""Seconds at most from one such line to the next."""


def dials(linked: int, *, eager: bool, enough: int = ENOUGH) -> int:
    """How many more peers to dial at a look, for a content with so many links or dials under way."""
    return max(enough - linked, HUNGRY if eager else 0)


def tell_time(links: int) -> float:
    """Seconds from one line to the next for a peer with so many links."""
    return min(max(TELL_TIME, TELL_EACH * links), TELL_MOST)
