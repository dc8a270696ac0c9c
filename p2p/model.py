"""The names of things: ids, addresses, manifests and spans, as frozen values that every part shares."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, NewType

from p2p.errors import UsageError
from p2p.value import frozen

PeerId = NewType("PeerId", str)
"""32 lower-case hex digits, drawn at random when a peer starts. A name is for people; this is who a peer
is."""

ContentId = NewType("ContentId", str)
"""64 lower-case hex digits: blake2b-256 of the manifest's canonical bytes."""

PeerKey = NewType("PeerKey", str)
"""A peer at a place, as `peer_key` writes it. Ids are no secret: who says the same id from elsewhere is
somebody else."""

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_SIZE: Final = 4 * 1024 * 1024 * MIB
"""Largest content in bytes (4 TiB), so that its bitmap of 16 MiB pieces still fits in one control line."""

MAX_PIECES: Final = MAX_SIZE // (16 * MIB)
"""262,144 pieces; as base64 bitmap about 43 KiB of a 64 KiB line."""

MAX_BLOCK: Final = MIB
"""Largest block in bytes, and so the largest body of one `read`."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (name or literal, without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None, what: str = "address") -> Address:
        """Read `HOST:PORT`, `[V6]:PORT`, or `HOST` where a default port is given. Raises `UsageError` naming
        `what`."""
        host, port_text = text.strip(), ""
        if host.startswith("["):
            host, closed, rest = host[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise UsageError(f"{what}: {text!r} is not HOST:PORT")
            port_text = rest[1:]
        elif host.count(":") == 1:
            host, _, port_text = host.partition(":")
        elif ":" in host and not _is_v6(host):
            raise UsageError(f"{what}: {text!r} is not HOST:PORT")
        if not port_text and default_port is not None and not text.endswith(":"):
            port_text = str(default_port)
        if any(c in " []" or not c.isprintable() for c in host):
            raise UsageError(f"{what}: {text!r} is not HOST:PORT; no host has such characters")
        if (
            not host
            or not (port_text.isascii() and port_text.isdigit())
            or len(port_text) > 9
            or not 0 < int(port_text) < 65536
        ):
            raise UsageError(f"{what}: {text!r} is not HOST:PORT with a port from 1 to 65535")
        return cls(host, int(port_text))


def peer_key(peer: PeerId, place: Address) -> PeerKey:
    """The key of a peer that listens at `place`."""
    return PeerKey(f"{peer}@{place}")


def peer_of(key: PeerKey) -> PeerId:
    """The id that the peer at this place says."""
    return PeerId(key.partition("@")[0])


def client_id(peer: PeerId | None, host: str) -> str:
    """Who asks for blocks: an id and the host it calls from, or the host of a nobody."""
    return host if peer is None else f"{peer}@{host}"


def is_loopback(host: str) -> bool:
    """Whether an address, as the system writes it, is of this very machine, where many peers may share it."""
    return host.startswith("127.") or host == "::1"


def _is_v6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def canonical_host(host: str) -> str:
    """Write an IP literal in its one canonical form: no zone, no v4-mapped v6. Other host names pass
    through."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip)


@frozen
class FileEntry:
    """One file of a manifest: its path below the content's folder (`/` between parts) and its size in
    bytes."""

    path: str
    size: int


@frozen
class Manifest:
    """What a content is made of. `content/manifest.py` builds, checks and names it.

    `kind` is `file` (then `files` is the one entry whose path is `name`) or `folder`. `folders` lists empty
    folders only, since the others follow from the files. `pieces` holds the raw digests, 32 bytes each, of
    the files' bytes laid end to end in the order of `files`.
    """

    name: str
    kind: str
    hash_name: str
    piece_length: int
    files: tuple[FileEntry, ...]
    folders: tuple[str, ...]
    pieces: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True, slots=True, order=True)
class BlockSpan:
    """A block: `length` bytes at `offset` (bytes) inside piece number `piece`."""

    piece: int
    offset: int
    length: int


@frozen
class FileSpan:
    """`length` bytes at `offset` of an open file, named by its descriptor; a payload that the I/O layer may
    `sendfile`."""

    fd: int
    offset: int
    length: int
