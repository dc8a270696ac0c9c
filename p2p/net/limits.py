"""How long a peer waits on its connections, and how much it lets them have: two values that are passed in.

Everything that waits or refuses takes its numbers from here, by its constructor. The composition root passes
the usual ones, `TIMEOUTS` and `LIMITS`; a test passes its own. Times are seconds of the running loop's clock.
"""

from __future__ import annotations

from typing import Final

from p2p.model import MIB
from p2p.net.admission import AdmissionLimits
from p2p.value import frozen


@frozen
class Timeouts:
    """Seconds until a peer gives up, or does something about, a connection."""

    dial_s: float = 4.0
    """For a host name to be looked up, and for one address to answer."""
    stagger_s: float = 0.25
    """After which the next address of a host is tried beside those before it (RFC 8305, "happy eyeballs")."""
    line_s: float = 10.0
    """From the first byte of a line to its last, and from the connection to its first line (libtorrent and
    websockets: 10 s)."""
    stall_s: float = 20.0
    """Without a byte moving, while bytes are due, until the connection is given up."""
    idle_s: float = 90.0
    """Of silence between two lines until the connection is given up (Syncthing: 90 s). Control connections
    ping more often."""
    tracker_s: float = 4.0
    """For one question to the tracker and its answer, the connection included."""
    answer_s: float = 10.0
    """For a short answer of another peer, counted from when the question has been written."""
    manifest_s: float = 60.0
    """For a manifest."""
    ping_s: float = 20.0
    """Between two pings of a control connection, so that a quiet one is known to be alive. Each side receives
    at least the other's pings."""
    silent_s: float = 10.0
    """Without any block from a peer until its transport counts as silent. A cancelled fetch that waited so
    long makes the next one try another transport. A wrong verdict costs little: a slow peer is slow over any
    transport."""


@frozen
class Limits:
    """How much the connections of a peer may have or hold."""

    dial_addresses: int = 4
    """Addresses of one host that are tried."""
    dial_lookups: int = 32
    """Host names looked up at once. A lookup cannot be cancelled, and a dead name server holds each for half
    a minute."""
    outbox_bytes: int = MIB
    """Bytes that may wait to be written to one peer. A peer that does not read them is disconnected."""
    connections: AdmissionLimits = AdmissionLimits(total=1024, per_host=256, idle_s=0.1)
    """Connections that the listening port has open. On IPv6 a whole room counts as one host: 256 are 64 peers
    with a control connection and three data connections each."""
    control_connections: AdmissionLimits = AdmissionLimits(total=512, idle_s=1.0)
    """Control connections. One is idle until its peer has told or asked something."""
    copies: int = 16
    """Replicas whose end one control connection may wait for at once; a peer fetches half as many for all."""
    reads: int = 64
    """Requests for blocks of one connection that are looked at together."""
    events_in_turn: int = 16
    """Events of one connection that are handled before others have their turn. Bytes that are here already
    come without a wait, so without this bound one busy connection would hold the loop."""
    data_threads: int = 80
    """Threads that send files to connections of the listening port. The upload queue admits few at once, and
    a receiver that takes no bytes holds one for long."""
    control_threads: int = 8
    """Threads that send blocks over connections that this side dialled. Our own peers ask for blocks on data
    connections, which they dial themselves."""
    closed_in_a_row: int = 3
    """Data connections that may close under one fetch, one after the other, although no block came from
    their peer meanwhile. One closes by nobody's fault, as after ninety idle seconds, and the next is opened
    at once. A peer that accepts and hangs up would be dialled thousands of times a second."""
    list_rows: int = 6_000_000
    """Rows of a tracker's list that are taken: more than any tracker keeps. How many are on a page is the
    tracker's choice, and may be one."""
    barren_pages: int = 2_000
    """Pages of a tracker's list that may bring nothing new. As many as 1,000 are honest: a hundred thousand
    peers that this side cannot reach."""
    remembered_rows: int = 100_000
    """Rows of a tracker's list that are remembered, so that one which comes again is left out. A list that
    changes moves its rows by a few places, so the last ones are enough."""


TIMEOUTS: Final = Timeouts()
"""The usual times."""
LIMITS: Final = Limits()
"""The usual bounds."""
