"""The parts of a peer that all its downloads share."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from p2p.peer.candidates import FinderTimeouts
from p2p.peer.control import ControlConnections
from p2p.peer.data import DataPool
from p2p.peer.hedging import SearchLimits
from p2p.peer.library import Library
from p2p.peer.reports import Report
from p2p.peer.trace import SwarmEvent
from p2p.peer.tracker_client import TrackerClient
from p2p.peer.uploads import Uploads
from p2p.storage.hashing import HashPool
from p2p.swarm.peer_stats import Policy
from p2p.swarm.rate_limit import TokenBucket
from p2p.value import frozen


@frozen
class Services:
    """What a download works with."""

    controls: ControlConnections
    data: DataPool
    hashing: HashPool
    library: Library
    uploads: Uploads
    tracker: TrackerClient
    rng: Random
    rate_limit: TokenBucket
    """The download rate limit of all downloads together."""
    policy: Policy
    finder_timeouts: FinderTimeouts
    search_limits: SearchLimits
    report: Callable[[Report], None]
    note: Callable[[SwarmEvent], None] | None = None
    """Told what happens in a swarm, when somebody watches."""
