"""The limits and timeouts of a tracker's connections, each with its unit and its reason."""

from __future__ import annotations

from p2p.net.acceptor import AcceptLimits
from p2p.net.admission import AdmissionLimits
from p2p.value import frozen


@frozen
class TrackerLimits:
    """How much a server, and one connection of it, may take at once."""

    admission: AdmissionLimits = AdmissionLimits(total=20_000, per_host=1_024, idle_s=0.1)
    """The connections that may be open."""
    turn_s: float = 0.003
    """Seconds of work for one connection before others have their turn. A request that was begun is
    finished."""
    least_turn_s: float = 0.0002
    """The same where many connections have more to ask. They share `turn_s`: with a whole turn each, a client
    beside 50 that ask without end would wait 0.15 s at each of the few turns that its first request takes."""
    waiting_answers: int = 2048
    """Answers of one connection that may wait for a commit. At the limit it is not read from."""
    write_buffer_bytes: int = 256 * 1024
    """Bytes that may wait until the client reads them. At the limit it is not read from."""
    accept: AcceptLimits = AcceptLimits(burst=64)
    """How connections are accepted. As many as in one burst are evicted when descriptors run out."""
    backlog: int = 1024
    """Connections that the system queues until they are accepted."""
    log_lines: int = 5
    """Log lines a tick about faults of clients; the others are counted. A flood of faults must not fill the
    disk."""


@frozen
class TrackerTimeouts:
    """How long a server waits. Seconds, but for `idle_ttls`."""

    message_s: float = 10.0
    """From the first byte of a line, or for the first line from the start, until all of it is here. The whole
    line counts and not the last byte, so that one byte every few seconds keeps no connection open."""
    write_s: float = 30.0
    """How long a client may leave unread what waits for it, and a closed connection may take to end."""
    idle_ttls: int = 10
    """A connection without a session is closed after so many leases without a request."""
    linger_s: float = 0.2
    """Between the last error line and the close. Closing at once resets the connection while bytes of the
    client are unread, and the reset overtakes the line."""
    tick_s: float = 1.0
    """Between two looks at deadlines and leases."""
    commit_retry_s: float = 0.5
    """Between a commit that failed and the next try."""
    stop_commit_s: float = 0.7
    """How long a stop waits for the disk."""
    stop_write_s: float = 0.3
    """How long a stop waits until clients have read their last answers. With `stop_commit_s` and two retries
    of the committer, a stop takes less than two seconds."""
