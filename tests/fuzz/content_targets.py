"""Fuzz targets of contents: manifests, names, links, bitmaps, and the files that the program keeps on
disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry, Layout
from p2p.content.manifest import DIGEST_LENGTH, build, content_id, parse, to_bytes
from p2p.content.names import (
    check_collisions,
    check_part,
    check_path,
    local_part,
    local_path,
    local_paths,
)
from p2p.content.uri import Uri, is_link, parse_link
from p2p.content.uri import content_id as link_id
from p2p.errors import DiskError, IntegrityError, ProtocolError, UsageError
from p2p.model import MAX_PIECES, MAX_SIZE, MIB, Address, ContentId
from p2p.peer.session_file import StoredSession, load_session, save_session
from p2p.protocol.schema import Base64
from p2p.storage.cache import HashCache, scan_digest
from p2p.storage.disk_io import disk_io
from p2p.storage.part_file import PartFile
from p2p.storage.scan import Fingerprint, Scanned
from p2p.text import printable
from tests.fuzz.target import Target, check_refused, check_sentence
from tests.kit.content_samples import folder_manifest, manifest_of

_ROOM: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""The parent of temporary folders: in memory, where the system has such a folder."""


# -- the manifest


def manifest(data: bytes) -> None:
    """Only the canonical form is parsed. Its paths stay inside the folder, its sizes add up, and building it
    again gives the same."""
    try:
        found = parse(data, None)
    except ProtocolError as error:
        check_refused(error, "bad_json", "bad_field", "bad_body", "unsupported")
        check_sentence(error)
        return
    assert to_bytes(found) == data
    assert parse(data, content_id(data)) == found
    try:
        parse(data, ContentId("0" * 64))
    except IntegrityError:
        pass
    else:
        raise AssertionError("a manifest was accepted for another id")
    assert found == build(
        name=found.name,
        kind=found.kind,
        hash_name=found.hash_name,
        piece_length=found.piece_length,
        files=found.files,
        folders=found.folders,
        pieces=found.pieces,
    )
    assert Layout(found.files).size == found.size <= MAX_SIZE
    assert Geometry(found.size, found.piece_length).pieces == len(found.pieces) <= MAX_PIECES
    for path in local_paths(found):
        assert os.path.normpath(f"/top/{path}") == f"/top/{path}"


def _manifest_seeds() -> Iterator[bytes]:
    yield to_bytes(manifest_of(b"x" * 70_000))
    yield to_bytes(manifest_of(b"", name="empty"))
    yield to_bytes(folder_manifest([("a/b", b"1"), ("con", b"2"), ("é", b"")], folders=("e", "f/g")))
    yield to_bytes(folder_manifest([]))


# -- names


def names(data: bytes) -> None:
    """A name is refused, or its local form is one safe part that a second pass does not change. The same
    holds for paths, and for several together."""
    text = _text(data)
    shown = printable(text)
    assert printable(shown) == shown
    assert not any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in shown)
    paths = text.split("\n")
    good = []
    for path in paths:
        try:
            check_path(path)
        except ProtocolError as error:
            check_refused(error, "bad_field")
            continue
        good.append(path)
        local = local_path(path)
        check_path(local)
        assert local_path(local) == local
        assert os.path.normpath(f"/top/{local}") == f"/top/{local}"
        for part in path.split("/"):
            check_part(part)
            top = local_part(part, top=True)
            check_part(top)
            assert local_part(top, top=True) == top
            assert top[0] not in ".-~"
            assert len(os.fsencode(top)) <= 255
    try:
        check_collisions(good)
    except ProtocolError as error:
        check_refused(error, "bad_field")
        return
    assert len({local_path(path).lower() for path in good}) == len(good)


def _text(data: bytes) -> str:
    """The bytes as text with any code points, single surrogates included."""
    return (
        data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("utf-8", "surrogateescape")
    )


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _names_seeds() -> Iterator[bytes]:
    yield "a/b.txt\nA/b.txt\nß\nSS\ncon.txt\nx:stream\n-rf\n~/x\n.ssh/id".encode()
    yield b"../x\n/x\nC:\\x\nCOM1.log\nx.\nx \n..\n\xe2\x80\xae\n" + b"y" * 300
    yield ("é" * 140 + "\n" + "/".join(["d"] * 64)).encode()


# -- links


def uri(data: bytes) -> None:
    """A link that is parsed is written as plain ASCII, and parsed again as the same."""
    text = _text(data)
    try:
        found = parse_link(text)
    except UsageError as error:
        check_sentence(error)
        return
    assert is_link(text)
    written = str(found)
    assert written.isascii()
    assert written.isprintable()
    assert parse_link(written) == found
    assert link_id(found.id) == found.id


def _uri_seeds() -> Iterator[bytes]:
    yield str(Uri(ContentId("ab" * 32), Address("::1", 6969), "lab image.img")).encode()
    yield f"p2p:{'AB' * 32}?tracker=host&x=1&name=%c3%a9&".encode()


# -- bitmaps


def bitmap(data: bytes) -> None:
    """The first three bytes are the number of pieces, the rest a bitmap or its base64. A bitmap that is read
    has a single form."""
    n, rest = int.from_bytes(data[:3], "big") % (MAX_PIECES + 1), data[3:]
    forms = [rest]
    try:
        forms.append(Base64(MAX_PIECES // 8).check(rest.decode("latin-1"), "pieces"))
    except ProtocolError as error:
        check_refused(error, "bad_field")
    for form in forms:
        try:
            found = Bitmap.from_bytes(form, n)
        except ProtocolError as error:
            check_refused(error, "bad_field")
            continue
        assert found.to_bytes() == form
        members = list(found)
        assert members == sorted(set(members))
        assert len(members) == found.count <= n
        assert all(0 <= piece < n and piece in found for piece in members)
        assert Bitmap.of(n, members) == found
        assert (found | found.missing()).full
        assert not (found & found.missing()).count


def _bitmap_seeds() -> Iterator[bytes]:
    yield b"\0\0\x0a" + b"\xff\xc0"
    yield b"\0\0\x04" + b"8A=="
    yield b"\0\0\0"
    yield b"\0\1\0" + bytes(range(32))


# -- on the disk

_SCANNED: Final = Scanned("x", "file", Path("/x"), (Fingerprint("x", 3 * 65_536, 1, 2, 3),), ())
_HASHES: Final = (b"\1" * 32, b"\2" * 32, b"\3" * 32)
_PART: Final = manifest_of(b"x" * 70_000)
_PART_ID: Final = content_id(to_bytes(_PART))
_TRACKER: Final = Address("10.0.0.1", 6969)


def hash_cache(data: bytes) -> None:
    """Whatever an entry holds: the hashes are recalled as they were kept, or not at all."""
    with tempfile.TemporaryDirectory(dir=_ROOM) as name:
        cache = HashCache(Path(name))
        cache.keep(_SCANNED, "sha256", 65_536, _HASHES, 1e9)
        (path,) = Path(name).iterdir()
        kept = path.read_bytes()
        path.write_bytes(data)
        found = cache.recall(_SCANNED, "sha256", 65_536)
        assert found is None or data[DIGEST_LENGTH:-DIGEST_LENGTH] == b"".join(found)
        assert (found == _HASHES) == (data == kept)
        assert cache.recall(_SCANNED, "blake2b-256", 65_536) is None


def _hash_cache_seeds() -> Iterator[bytes]:
    body = scan_digest(_SCANNED, "sha256", 65_536) + b"".join(_HASHES)
    yield body + hashlib.blake2b(body, digest_size=DIGEST_LENGTH).digest()
    yield b""


def sidecar(data: bytes) -> None:
    """For a sidecar of any content a download begins, or raises `DiskError`; a refusal changes nothing.

    The first byte says which other files exist, and whether the download may overwrite.
    """
    kind, found = (data[0], data[1:]) if data else (0, b"")
    with tempfile.TemporaryDirectory(dir=_ROOM) as name:
        download = PartFile(
            _PART, _PART_ID, Path(name), disk_io(portable=bool(kind & 8)), overwrite=bool(kind & 4)
        )
        before = {download.sidecar: found}
        if kind & 1:
            before[download.path] = b"part"
        if kind & 2:
            before[download.target] = b"target"
        for path, content in before.items():
            path.write_bytes(content)
        try:
            download.open()
        except DiskError as error:
            check_sentence(error, holds=name)
            left = {path: path.read_bytes() for path in Path(name).iterdir()}
            gone = {path for path in before if path not in left}
            assert left.items() <= before.items(), "a refusal changed something"
            # An empty sidecar holds nothing, and one of ours is of no use beside a target that is not ours.
            assert gone <= {download.sidecar}
            assert not found or not gone or found == to_bytes(_PART)
            return
        finally:
            download.abandon()
        assert download.sidecar.read_bytes() == to_bytes(_PART)
        assert download.resumed == bool(kind & 1)
        assert not kind & 1 or found == to_bytes(_PART)
        assert download.path.stat().st_size == _PART.size
        assert not kind & 2 or download.target.read_bytes() == b"target"


def _sidecar_seeds() -> Iterator[bytes]:
    for kind in range(16):
        yield bytes([kind]) + to_bytes(_PART)
        yield bytes([kind])
    yield b"\0" + to_bytes(_PART)[:40]
    yield b"\1" + b'{"files":['
    yield b"\0" + b"notes of a user"


def session_file(data: bytes) -> None:
    """Any session file is a session that can be saved and sent to a tracker, or raises a `DiskError` that
    names the file."""
    with tempfile.TemporaryDirectory(dir=_ROOM) as name:
        state = Path(name)
        save_session(state, StoredSession(_TRACKER, "alice", "ab" * 16))
        (path,) = state.iterdir()
        path.write_bytes(data)
        try:
            found = load_session(state, _TRACKER)
        except DiskError as error:
            check_sentence(error, holds=path.name)
            return
        assert found is not None
        assert 0 < len(found.user.encode()) <= 64
        assert not set(found.token) - set("0123456789abcdef")
        save_session(state, found)
        assert load_session(state, _TRACKER) == found


def _session_file_seeds() -> Iterator[bytes]:
    yield b'{"tracker": "10.0.0.1:6969", "user": "alice", "token": "' + b"ab" * 16 + b'"}'
    yield b'{"user": 7, "token": null}'


TARGETS: Final = (
    Target("manifest", manifest, _manifest_seeds),
    Target("names", names, _names_seeds, length=1024),
    Target("uri", uri, _uri_seeds, length=1024),
    Target("bitmap", bitmap, _bitmap_seeds, length=512, factor=512),
    Target("hash_cache", hash_cache, _hash_cache_seeds, length=512),
    Target("sidecar", sidecar, _sidecar_seeds, length=512, base=2 * MIB),
    Target("session_file", session_file, _session_file_seeds, length=1024),
)
