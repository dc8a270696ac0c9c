"""Tests of p2p/storage/cache.py: what is unchanged is known again, and nothing else is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.content.manifest import to_bytes
from p2p.errors import DiskError
from p2p.storage.cache import HashCache, ReplicaCache
from p2p.storage.scan import Scanned, scan
from tests.kit.content_samples import fill, folder_manifest, manifest_of, no_warning, part_of

HASHES = (b"\x01" * 32, b"\x02" * 32)
NAME, LENGTH = "blake2b-256", 65536


def shared(tmp_path: Path, data: bytes = b"abc") -> tuple[Path, Scanned]:
    root = tmp_path / "folder"
    root.mkdir(exist_ok=True)
    for name in ("one", "two"):
        (root / name).write_bytes(data)
        os.utime(root / name, (1, 1))
    return root, scan(root, no_warning)


def test_hashes_are_recalled_by_another_process(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    assert HashCache(tmp_path / "hashes").recall(scanned, NAME, LENGTH) is None
    HashCache(tmp_path / "hashes").keep(scanned, NAME, LENGTH, HASHES, time.time())
    assert HashCache(tmp_path / "hashes").recall(scanned, NAME, LENGTH) == HASHES


@pytest.mark.parametrize("change", ["size", "time", "inode", "name", "folder", "hash", "length"])
def test_any_change_makes_the_hashes_unknown(tmp_path: Path, change: str) -> None:
    root, scanned = shared(tmp_path)
    cache = HashCache(tmp_path / "hashes")
    cache.keep(scanned, NAME, LENGTH, HASHES, time.time())
    match change:
        case "size":
            (root / "one").write_bytes(b"abcd")
            os.utime(root / "one", (1, 1))
        case "time":
            os.utime(root / "one", (2, 2))
        case "inode":
            (root / "fresh").write_bytes(b"abc")
            os.utime(root / "fresh", (1, 1))
            (root / "fresh").replace(root / "one")
        case "name":
            (root / "one").rename(root / "uno")
        case "folder":
            (root / "empty").mkdir()
    name, length = "sha256" if change == "hash" else NAME, 2 * LENGTH if change == "length" else LENGTH
    assert cache.recall(scan(root, no_warning), name, length) is None
    assert cache.recall(scanned, NAME, LENGTH) == HASHES


def test_hashes_of_two_functions_are_remembered_side_by_side(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    cache = HashCache(tmp_path / "hashes")
    other = tuple(bytes(reversed(piece)) for piece in HASHES)
    cache.keep(scanned, NAME, LENGTH, HASHES, time.time())
    cache.keep(scanned, "sha256", LENGTH, other, time.time())
    assert cache.recall(scanned, NAME, LENGTH) == HASHES
    assert cache.recall(scanned, "sha256", LENGTH) == other


def test_hashes_of_a_file_that_changed_just_before_are_not_kept(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    cache = HashCache(tmp_path / "hashes")
    cache.keep(scanned, NAME, LENGTH, HASHES, began=2.5)
    assert cache.recall(scanned, NAME, LENGTH) is None
    cache.keep(scanned, NAME, LENGTH, HASHES, began=3.5)
    assert cache.recall(scanned, NAME, LENGTH) == HASHES


@pytest.mark.parametrize("damage", [slice(0, 1), slice(40, 41), slice(-1, None)])
def test_a_damaged_hash_entry_is_ignored(tmp_path: Path, damage: slice) -> None:
    _, scanned = shared(tmp_path)
    cache = HashCache(tmp_path / "hashes")
    cache.keep(scanned, NAME, LENGTH, HASHES, time.time())
    (path,) = (tmp_path / "hashes").iterdir()
    data = bytearray(path.read_bytes())
    data[damage] = b"\xff"
    path.write_bytes(data)
    assert cache.recall(scanned, NAME, LENGTH) is None
    path.write_bytes(b"")
    assert cache.recall(scanned, NAME, LENGTH) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_in_which_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    cache = HashCache(tmp_path / "hashes")
    cache.keep(scanned, NAME, LENGTH, HASHES, time.time())
    (path,) = (tmp_path / "hashes").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "hashes").chmod(0o777)
    assert cache.recall(scanned, NAME, LENGTH) is None
    path.unlink()
    cache.keep(scanned, NAME, LENGTH, HASHES, time.time())
    assert not path.exists()


def test_the_oldest_hashes_are_evicted(tmp_path: Path) -> None:
    cache = HashCache(tmp_path / "hashes", most=3)
    scans = []
    for number in range(5):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
        scans.append(scan(path, no_warning))
        cache.keep(scans[-1], NAME, LENGTH, HASHES, time.time())
        for kept in (tmp_path / "hashes").iterdir():
            os.utime(kept, ns=(0, kept.stat().st_mtime_ns - 10**9))
    assert [cache.recall(one, NAME, LENGTH) is not None for one in scans] == [False, False, True, True, True]


def test_hashes_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    (tmp_path / "hashes").write_bytes(b"no folder")
    cache = HashCache(tmp_path / "hashes")
    assert cache.recall(scanned, NAME, LENGTH) is None
    with pytest.raises(DiskError, match="hashes"):
        cache.keep(scanned, NAME, LENGTH, HASHES, time.time())


# -- replicas

FOLDER = folder_manifest([('a"b', b"1"), ("a0", b"22"), ("sub/NUL", b"333")], folders=("empty?",))


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    """A folder whose files are written under other names, and so in another order, than the manifest gives
    them."""
    part = part_of(FOLDER, tmp_path / "copies")
    part.open()
    fill(part, b"122333")
    return part.finish()


def test_a_replica_is_known_with_its_files_in_manifest_order(tmp_path: Path, replica: Path) -> None:
    cache = ReplicaCache(tmp_path / "kept")
    cache.keep(replica, to_bytes(FOLDER))
    hint = cache.recall(scan(replica, no_warning))
    assert hint is not None
    assert (hint.manifest, hint.data) == (FOLDER, to_bytes(FOLDER))
    assert [file.path for file in hint.scanned.files] == ["a_b", "a0", "sub/_NUL"]
    assert [file.size for file in hint.scanned.files] == [entry.size for entry in FOLDER.files]


def _with(name: str, data: bytes) -> Callable[[Path], None]:
    def change(replica: Path) -> None:
        (replica / name).write_bytes(data)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _with("a0", b"2"),
        _with("more", b""),
        lambda replica: (replica / "a0").unlink(),
        lambda replica: (replica / "empty_").rmdir(),
        lambda replica: (replica / "another").mkdir(),
        lambda replica: (replica / "a0").rename(replica / "a1"),
    ],
    ids=["size", "more", "less", "fewer folders", "more folders", "name"],
)
def test_a_replica_that_differs_is_not_known(
    tmp_path: Path, replica: Path, change: Callable[[Path], None]
) -> None:
    cache = ReplicaCache(tmp_path / "kept")
    cache.keep(replica, to_bytes(FOLDER))
    change(replica)
    assert cache.recall(scan(replica, no_warning)) is None


def test_a_replica_at_another_path_or_of_another_kind_is_not_known(tmp_path: Path, replica: Path) -> None:
    cache = ReplicaCache(tmp_path / "kept")
    assert cache.recall(scan(replica, no_warning)) is None
    cache.keep(replica, to_bytes(manifest_of(b"122333", "dir")))
    assert cache.recall(scan(replica, no_warning)) is None
    cache.keep(replica, to_bytes(FOLDER))
    moved = replica.rename(replica.with_name("moved"))
    assert cache.recall(scan(moved, no_warning)) is None


@pytest.mark.parametrize("data", [b"", b"\0" * 300, to_bytes(FOLDER)[:-1], b"{}", b"[" * 5000])
def test_a_damaged_replica_entry_is_ignored(tmp_path: Path, replica: Path, data: bytes) -> None:
    cache = ReplicaCache(tmp_path / "kept")
    cache.keep(replica, to_bytes(FOLDER))
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(data)
    assert cache.recall(scan(replica, no_warning)) is None


def test_the_oldest_replicas_are_evicted(tmp_path: Path) -> None:
    cache = ReplicaCache(tmp_path / "kept", most=3)
    data = to_bytes(manifest_of(b"x"))
    for number in range(6):
        cache.keep(tmp_path / f"{number}", data)
        newest = max((tmp_path / "kept").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_replica_entry_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="file"):
        ReplicaCache(tmp_path / "file" / "kept").keep(tmp_path / "x", b"data")
