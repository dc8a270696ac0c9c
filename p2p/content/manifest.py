"""The manifest of a content: its files and the hash of each piece. Build one, write it, and check one.

A manifest has exactly one form as bytes, its canonical form (here with line breaks, and shortened):

    {"files":[{"path":"notes.txt","size":70000}],"folders":[],"hash":"blake2b-256","kind":"file",
     "name":"notes.txt","piece_length":65536,"pieces":["5f1c…","a09b…"],"version":1}

The id of the content is the blake2b-256 of these bytes. So an id names one manifest, and a manifest that does
not match the id, or is not in canonical form, is refused before anything in it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Protocol

from p2p.content.geometry import MAX_PIECE_LENGTH, MIN_PIECE_LENGTH, Geometry
from p2p.content.names import check_collisions, check_part, check_path
from p2p.errors import IntegrityError, ProtocolError
from p2p.model import MAX_PIECES, MAX_SIZE, MIB, ContentId, FileEntry, Manifest
from p2p.protocol.strict_json import loads

VERSION: Final = 1
"""The version of the form."""

MAX_MANIFEST: Final = 32 * MIB
"""Longest canonical form in bytes."""

MAX_FILES: Final = 1_000_000
"""Most files and empty folders in all."""

DIGEST_LENGTH: Final = 32
"""Bytes of a piece's hash, for each of the hash functions."""

_KEYS: Final = frozenset({"version", "name", "kind", "hash", "piece_length", "files", "folders", "pieces"})


class Hash(Protocol):
    """A hash object of `hashlib`."""

    def update(self, data: memoryview | bytes, /) -> None:
        """Take in `data`."""

    def digest(self) -> bytes:
        """The hash of all bytes so far."""

    def copy(self) -> Hash:
        """An independent copy."""


_blake2b_256: Final = partial(hashlib.blake2b, digest_size=DIGEST_LENGTH)

HASHES: Final[Mapping[str, Callable[[], Hash]]] = MappingProxyType(
    {"blake2b-256": _blake2b_256, "sha256": hashlib.sha256}
)
"""The hash functions that a manifest may name. Each makes digests of `DIGEST_LENGTH` bytes."""


def build(
    *,
    name: str,
    kind: str,
    hash_name: str,
    piece_length: int,
    files: Iterable[FileEntry],
    folders: Iterable[str] = (),
    pieces: Iterable[bytes],
) -> Manifest:
    """Make a manifest. `pieces` are the digests in order, and `folders` the empty folders, which are sorted
    here.

    `files` must be sorted by path, since the hashes of the pieces depend on their order. Raises
    `ProtocolError` with the field, as `parse` does: what every peer would refuse is not published.
    """
    manifest = Manifest(
        name, kind, hash_name, piece_length, tuple(files), tuple(sorted(folders)), tuple(pieces)
    )
    _check(manifest)
    return manifest


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical form: JSON in UTF-8 with sorted keys, without spaces, with no needless escape."""
    plain = {
        "version": VERSION,
        "name": manifest.name,
        "kind": manifest.kind,
        "hash": manifest.hash_name,
        "piece_length": manifest.piece_length,
        "files": [{"path": entry.path, "size": entry.size} for entry in manifest.files],
        "folders": manifest.folders,
        "pieces": [piece.hex() for piece in manifest.pieces],
    }
    return json.dumps(
        plain, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode("utf-8")


def content_id(data: bytes) -> ContentId:
    """The id of a content: the blake2b-256 of its manifest's canonical form."""
    return ContentId(_blake2b_256(data).hexdigest())


def parse(data: bytes, expected: ContentId | None) -> Manifest:
    """Read and check a manifest. `expected` is its id; with None any valid manifest will do.

    Raises `IntegrityError` if it does not match the id, which is checked before it is parsed, and
    `ProtocolError` with the field.
    """
    if len(data) > MAX_MANIFEST:
        raise ProtocolError("bad_body", f"the manifest is longer than {MAX_MANIFEST} bytes", fatal=True)
    if expected is not None and content_id(data) != expected:
        raise IntegrityError(f"the manifest that came does not match the id {expected}")
    manifest = _read(loads(data, max_depth=4))
    _check(manifest)
    if to_bytes(manifest) != data:
        raise _bad("the whole", "is not in canonical form")
    return manifest


def _read(plain: object) -> Manifest:
    """Check the type of every field; `_check` checks the limits."""
    if not isinstance(plain, dict):
        raise _bad("the whole", "is not an object")
    if _whole("version", plain.get("version")) != VERSION:
        raise ProtocolError("unsupported", f"manifest: only version {VERSION} is known here")
    if plain.keys() != _KEYS:
        raise _bad("the whole", f"must have exactly the keys {', '.join(sorted(_KEYS))}")
    return Manifest(
        name=_text("name", plain["name"]),
        kind=_text("kind", plain["kind"]),
        hash_name=_text("hash", plain["hash"]),
        piece_length=_whole("piece_length", plain["piece_length"]),
        files=tuple(map(_entry, _list("files", plain["files"]))),
        folders=tuple(_text("folders", folder) for folder in _list("folders", plain["folders"])),
        pieces=tuple(map(_digest, _list("pieces", plain["pieces"]))),
    )


def _entry(plain: object) -> FileEntry:
    if not isinstance(plain, dict) or plain.keys() != {"path", "size"}:
        raise _bad("files", "must be objects of path and size")
    return FileEntry(_text("path", plain["path"]), _whole("size", plain["size"]))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(field, "must be text")
    return value


def _whole(field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(field, "must be a whole number")
    return value


def _list(field: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise _bad(field, "must be a list")
    return value


def _digest(value: object) -> bytes:
    try:
        return bytes.fromhex(_text("pieces", value))
    except ValueError:
        raise _bad("pieces", "must be lower-case hex digits") from None


def _check(manifest: Manifest) -> None:
    """Raise `ProtocolError` with the first field that breaks a limit."""
    check_part(manifest.name)
    if manifest.hash_name not in HASHES:
        raise _bad("hash", f"must be one of {', '.join(HASHES)}")
    length = manifest.piece_length
    if not MIN_PIECE_LENGTH <= length <= MAX_PIECE_LENGTH or length & (length - 1):
        raise _bad("piece_length", f"must be a power of two from {MIN_PIECE_LENGTH} to {MAX_PIECE_LENGTH}")
    _check_files(manifest)
    for entry in manifest.files:
        if not 0 <= entry.size <= MAX_SIZE:
            raise _bad("size", f"must be from 0 to {MAX_SIZE}")
    if manifest.size > MAX_SIZE:
        raise _bad("size", f"of all files together must be at most {MAX_SIZE}")
    expected = Geometry(manifest.size, length).pieces
    if expected > MAX_PIECES or len(manifest.pieces) != expected:
        raise _bad("pieces", "must be as many as the sizes of the files make, and no more than fit a bitmap")
    if any(len(piece) != DIGEST_LENGTH for piece in manifest.pieces):
        raise _bad("pieces", f"must be hashes of {DIGEST_LENGTH} bytes")


def _check_files(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    if len(paths) + len(manifest.folders) > MAX_FILES:
        raise _bad("files", f"and folders must be at most {MAX_FILES} together")
    if manifest.kind == "file":
        if paths != [manifest.name] or manifest.folders:
            raise _bad("files", "of a single file must be that file, called as the content, and no folders")
        return
    if manifest.kind != "folder":
        raise _bad("kind", "must be file or folder")
    for field, names in (("files", paths), ("folders", list(manifest.folders))):
        for name in names:
            check_path(name)
        if any(left >= right for left, right in pairwise(names)):
            raise _bad(field, "must be sorted by path, and none may come twice")
    check_collisions([*paths, *manifest.folders])


def _bad(field: str, rule: str) -> ProtocolError:
    return ProtocolError("bad_field", f"manifest: {field} {rule}")
