"""How long gRPC calls may take, and how many there may be: what is not in `p2p.net.limits` already."""

from __future__ import annotations

from typing import Final

from p2p.net.admission import AdmissionLimits
from p2p.value import frozen


@frozen
class GrpcTimeouts:
    """Seconds until a call is given up."""

    turn_s: float = 60.0
    """For a call of this side, to which each of its blocks adds `block_s`: it may wait for an upload slot."""
    block_s: float = 64.0
    """For 1 MiB from the slowest peer that a download waits for, at 16 KiB/s."""
    request_s: float = 10.0
    """From a call that came in to its request."""
    crowd_s: float = 0.25
    """The same while many requests are awaited. It is long: a request is sent together with the headers of
    its call."""
    stop_s: float = 1.5
    """For gRPC to end all calls when the server closes."""


@frozen
class GrpcLimits:
    """How many calls, threads and connections there may be."""

    calls: int = 2
    """Calls under way at once on one data connection, so that the next block is on its way while one is taken
    in. More brought nothing."""
    blocks: int = 8
    """Blocks asked for in one call: enough to make the price of a call small, few enough to be soon done."""
    reads: AdmissionLimits = AdmissionLimits(total=1024, per_host=256)
    """Calls of `Read` that are served, those that wait for a slot among them."""
    send_threads: int = 80
    """Threads that send blocks; each starts when it is needed."""
    handler_threads: int = 64
    """Threads in which gRPC calls us. A call leaves at once when its request is there."""
    incoming_calls: int = 512
    """Calls that wait for a handler thread, or for their request; beyond, gRPC itself refuses."""
    connections: int = 1024
    """Connections that are open at once; beyond, gRPC hangs up (1.65 and later; an older one has no such
    bound)."""
    reflection_streams: int = 4
    """Streams of the reflection service at once, so that many of them do not keep blocks waiting."""
    watch_streams: int = 16
    """Streams at once that watch the health of this server."""
    chunk_sizes: int = 1024
    """Connections whose chunk size is remembered."""


GRPC_TIMEOUTS: Final = GrpcTimeouts()
"""The usual times."""
GRPC_LIMITS: Final = GrpcLimits()
"""The usual bounds."""
