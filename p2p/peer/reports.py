"""What a running peer reports, as values. The command line prints them as JSON events or as text."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from p2p.model import Address, ContentId
from p2p.value import frozen


@frozen
class Listening:
    """The peer accepts connections."""

    address: Address
    transports: dict[str, int]
    """Port of each transport."""


@frozen
class Shared:
    """A content of this peer is in the directory."""

    name: str
    id: ContentId
    size: int
    path: Path


@frozen
class Withdrawn:
    """A content of this peer is no longer served: its file changed or went away."""

    name: str
    id: ContentId


@frozen
class Received:
    """A replica that another peer asked for is verified and under its final name."""

    name: str
    id: ContentId
    size: int
    peer: str
    bytes_by: dict[str, int] = field(default_factory=dict)
    """How many bytes came by which transport."""


@frozen
class Warned:
    """Something was left out or failed, and the peer goes on."""

    message: str


@frozen
class SessionChanged:
    """A session with the tracker: `opened`, `lost` (the tracker cannot be reached; we try again), `resumed`,
    or `ended`."""

    state: str
    user: str


@frozen
class Progress:
    """How far a phase is. Sizes in bytes (0: nothing can be counted), rate in bytes a second."""

    phase: str
    """hashing, searching, connecting, verifying, downloading, waiting, finishing, uploading"""
    bytes: int = 0
    size: int = 0
    rate: float = 0.0
    peers: int = 0
    """How many peers give data now."""


@frozen
class ManifestKnown:
    """The manifest has come and matches the id."""

    name: str
    id: ContentId
    size: int
    pieces: int


@frozen
class Downloaded:
    """A content is complete under its final name."""

    path: Path
    id: ContentId
    size: int
    seconds: float
    bytes_from: dict[str, int] = field(default_factory=dict)
    """Bytes received from each peer, by its name."""
    bytes_by: dict[str, int] = field(default_factory=dict)
    """Bytes received over each transport."""


@frozen
class Placed:
    """A peer was chosen for a copy, and has accepted."""

    peer: str


@frozen
class Replicated:
    """A peer has verified its copy."""

    peer: str
    seconds: float


@frozen
class Uploaded:
    """All copies are verified. `origin_copies` is bytes this peer sent / size of the content."""

    id: ContentId
    copies: int
    seconds: float
    origin_copies: float


Report = (
    Listening
    | Shared
    | Withdrawn
    | Received
    | Warned
    | SessionChanged
    | Progress
    | ManifestKnown
    | Downloaded
    | Placed
    | Replicated
    | Uploaded
)
