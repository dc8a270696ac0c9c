"""Contents made for tests: files on disk, their manifests, and downloads of them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2p.content.manifest import build, content_id, to_bytes
from p2p.model import KIB, ContentId, FileEntry, Manifest
from p2p.storage.disk_io import DiskIO, disk_io
from p2p.storage.hashing import HashPool, PieceChecker, Verdict
from p2p.storage.part_file import PartFile
from p2p.storage.scan import Scanned, scan
from p2p.storage.shared_content import SharedContent

LENGTH = 64 * KIB


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def manifest_of(data: bytes, name: str = "x.bin", length: int = LENGTH) -> Manifest:
    """The manifest of a single file that holds `data`."""
    return folder_manifest([(name, data)], name=name, kind="file", length=length)


def folder_manifest(
    files: list[tuple[str, bytes]],
    *,
    name: str = "dir",
    kind: str = "folder",
    folders: tuple[str, ...] = (),
    length: int = LENGTH,
) -> Manifest:
    """The manifest of files that hold what is given."""
    whole = b"".join(data for _, data in files)
    pieces = [hashlib.sha256(whole[at : at + length]).digest() for at in range(0, len(whole), length)]
    entries = [FileEntry(path, len(data)) for path, data in files]
    return build(
        name=name,
        kind=kind,
        hash_name="sha256",
        piece_length=length,
        files=entries,
        folders=folders,
        pieces=pieces,
    )


def id_of(manifest: Manifest) -> ContentId:
    return content_id(to_bytes(manifest))


def part_of(
    manifest: Manifest, folder: Path, *, portable: bool = False, overwrite: bool = False, **more: Any
) -> PartFile:
    """A download into `folder`, not open yet; `more` are the keyword arguments of `PartFile`."""
    return PartFile(manifest, id_of(manifest), folder, disk_io(portable), overwrite, **more)


def fill(part: PartFile, data: bytes, pieces: range | None = None) -> None:
    """Write the pieces of an opened part, without checking them."""
    for piece in pieces if pieces is not None else range(part.geometry.pieces):
        for block in part.geometry.blocks(piece):
            at = part.geometry.offset(block)
            part.write(block, memoryview(data)[at : at + block.length])


def share(root: Path, io: DiskIO, length: int = LENGTH) -> tuple[SharedContent, Scanned]:
    """Scan, hash and share what lies at `root`."""
    scanned = scan(root, no_warning)
    pool = HashPool(2, io)
    try:
        pieces = asyncio.run(pool.hash_content(scanned, "sha256", length, lambda _done: None))
    finally:
        pool.close()
    manifest = build(
        name=scanned.name,
        kind=scanned.kind,
        hash_name="sha256",
        piece_length=length,
        files=scanned.entries,
        folders=scanned.folders,
        pieces=pieces,
    )
    return SharedContent(manifest, root, scanned.files, io), scanned


async def take_all(checker: PieceChecker, part: PartFile, data: bytes) -> list[Verdict]:
    """Give the checker every block in order; the verdict of each."""
    verdicts = []
    for piece in range(part.geometry.pieces):
        for block in part.geometry.blocks(piece):
            at = part.geometry.offset(block)
            verdicts.append(await checker.take(block, memoryview(data)[at : at + block.length]))
    return verdicts


def no_warning(sentence: str) -> None:
    raise AssertionError(f"warned: {sentence}")


def tree(root: Path) -> Iterator[tuple[str, bytes | None]]:
    """Every path below `root`, sorted, with the bytes of files and `None` for folders."""
    for path in sorted(root.rglob("*")):
        yield path.relative_to(root).as_posix(), None if path.is_dir() else path.read_bytes()
