"""Tests of p2p/storage/hash_cache.py: what is unchanged is known again, and nothing else is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.storage import hash_cache as module
from p2p.storage.hash_cache import HashCache
from p2p.storage.scan import Scanned, scan
from tests.kit.content_samples import no_warning

HASHES = (b"\x01" * 32, b"\x02" * 32)
NAME, LENGTH = "blake2b-256", 65536


def shared(tmp_path: Path, data: bytes = b"abc") -> tuple[Path, Scanned]:
    root = tmp_path / "folder"
    root.mkdir(exist_ok=True)
    for name in ("one", "two"):
        (root / name).write_bytes(data)
        os.utime(root / name, (1, 1))
    return root, scan(root, no_warning)


def test_what_was_kept_is_recalled_by_another_process(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    assert HashCache(tmp_path / "hashes").recall(scanned, NAME, LENGTH) is None
    HashCache(tmp_path / "hashes").keep(scanned, NAME, LENGTH, HASHES, time.time())
    assert HashCache(tmp_path / "hashes").recall(scanned, NAME, LENGTH) == HASHES


@pytest.mark.parametrize("change", ["size", "time", "inode", "name", "folder", "hash", "length"])
def test_any_change_makes_it_unknown(tmp_path: Path, change: str) -> None:
    root, scanned = shared(tmp_path)
    memory = HashCache(tmp_path / "hashes")
    memory.keep(scanned, NAME, LENGTH, HASHES, time.time())
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
    assert memory.recall(scan(root, no_warning), name, length) is None
    assert memory.recall(scanned, NAME, LENGTH) == HASHES


def test_one_file_shared_by_two_hash_functions_is_remembered_by_both(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    memory = HashCache(tmp_path / "hashes")
    other = tuple(bytes(reversed(piece)) for piece in HASHES)
    memory.keep(scanned, NAME, LENGTH, HASHES, time.time())
    memory.keep(scanned, "sha256", LENGTH, other, time.time())
    assert memory.recall(scanned, NAME, LENGTH) == HASHES
    assert memory.recall(scanned, "sha256", LENGTH) == other


def test_what_changed_just_before_it_was_hashed_is_not_kept(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    memory = HashCache(tmp_path / "hashes")
    memory.keep(scanned, NAME, LENGTH, HASHES, began=2.5)
    assert memory.recall(scanned, NAME, LENGTH) is None
    memory.keep(scanned, NAME, LENGTH, HASHES, began=3.5)
    assert memory.recall(scanned, NAME, LENGTH) == HASHES


@pytest.mark.parametrize("damage", [slice(0, 1), slice(40, 41), slice(-1, None)])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, damage: slice) -> None:
    _, scanned = shared(tmp_path)
    memory = HashCache(tmp_path / "hashes")
    memory.keep(scanned, NAME, LENGTH, HASHES, time.time())
    (path,) = (tmp_path / "hashes").iterdir()
    data = bytearray(path.read_bytes())
    data[damage] = b"\xff"
    path.write_bytes(data)
    assert memory.recall(scanned, NAME, LENGTH) is None
    path.write_bytes(b"")
    assert memory.recall(scanned, NAME, LENGTH) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_in_which_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    memory = HashCache(tmp_path / "hashes")
    memory.keep(scanned, NAME, LENGTH, HASHES, time.time())
    (path,) = (tmp_path / "hashes").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "hashes").chmod(0o777)
    assert memory.recall(scanned, NAME, LENGTH) is None
    path.unlink()
    memory.keep(scanned, NAME, LENGTH, HASHES, time.time())
    assert not path.exists()


def test_the_longest_unused_is_forgotten_for_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    memory = HashCache(tmp_path / "hashes")
    scans = []
    for number in range(5):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
        scans.append(scan(path, no_warning))
        memory.keep(scans[-1], NAME, LENGTH, HASHES, time.time())
        for kept in (tmp_path / "hashes").iterdir():
            os.utime(kept, ns=(0, kept.stat().st_mtime_ns - 10**9))
    assert [memory.recall(one, NAME, LENGTH) is not None for one in scans] == [False, False, True, True, True]


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    _, scanned = shared(tmp_path)
    (tmp_path / "hashes").write_bytes(b"no folder")
    memory = HashCache(tmp_path / "hashes")
    assert memory.recall(scanned, NAME, LENGTH) is None
    with pytest.raises(DiskError, match="hashes"):
        memory.keep(scanned, NAME, LENGTH, HASHES, time.time())
