"""The settings of one peer, as one value: the command line and the tests make it, `Node` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from p2p.model import Address
from p2p.peer.candidates import FinderTimeouts
from p2p.peer.hedging import SearchLimits
from p2p.peer.tracker_session import SessionTimeouts
from p2p.value import frozen

DEFAULT_TRACKER: Final = Address("127.0.0.1", 6969)
DEFAULT_PEER_PORT: Final = 6970


@frozen
class WatchLimits:
    """How a watcher looks. Times in seconds."""

    pause: float = 1.0
    """From one look to the next; ten times the length of a look if that is more."""
    longest_pause: float = 5.0
    """Longest pause, also after a look that hashed for an hour."""
    at_rest: float = 2.0
    """A file that was last changed longer ago than this is shared at the first look."""
    warnings: int = 1000
    """Warnings that are remembered, so that each is reported once."""


@frozen
class NodeSettings:
    """How a peer runs. Sizes in bytes, rates in bytes a second (0: no limit), times in seconds."""

    name: str
    """What other people see of this peer."""
    state: Path
    """Folder for what outlives the process: the session, the hash cache, the replica cache."""
    tracker: Address = DEFAULT_TRACKER
    transport: str = "tcp"
    """What moves the blocks where the other side offers it too; `tcp` is always spoken besides."""
    host: str = "0.0.0.0"
    port: int = DEFAULT_PEER_PORT
    port_is_fixed: bool = False
    """Whether a taken port is an error. Otherwise a free one is used instead."""
    advertise: Address | None = None
    """What others dial instead of the address that the tracker saw; port 0 stands for `port`."""
    user: str | None = None
    """The user who logs in; None: the last one, else the peer's name."""
    limit_down: int = 0
    limit_up: int = 0
    patience: float = 60.0
    """Stall timeout of a download and of a copy on another peer."""
    portable: bool = False
    """Whether to use the portable disk I/O instead of the system's fast calls."""
    hash_name: str = "blake2b-256"
    """Hash of the pieces of what is shared."""
    rehash: bool = False
    """Whether to hash again what the hash cache knows to be unchanged."""
    accept_uploads: int = 0
    """Room for replicas of other peers' contents, in all; 0: none are accepted."""
    folder: Path | None = None
    """Where replicas are kept."""
    session_timeouts: SessionTimeouts = SessionTimeouts()
    finder_timeouts: FinderTimeouts = FinderTimeouts()
    search_limits: SearchLimits = SearchLimits()
    watch_limits: WatchLimits = WatchLimits()
