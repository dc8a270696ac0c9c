"""Tests of p2p/storage/replica_cache.py: a copy is known again where it lies; whatever is not exactly that is
shared as any file is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.content.manifest import to_bytes
from p2p.errors import DiskError
from p2p.storage import replica_cache as kept_module
from p2p.storage.replica_cache import ReplicaCache
from p2p.storage.scan import scan
from tests.kit.content_samples import fill, folder_manifest, manifest_of, no_warning, partial_of

FOLDER = folder_manifest([('a"b', b"1"), ("a0", b"22"), ("sub/NUL", b"333")], folders=("empty?",))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder whose files are written under other names, and so in another order, than the manifest gives
    them."""
    partial = partial_of(FOLDER, tmp_path / "copies")
    partial.open()
    fill(partial, b"122333")
    return partial.finish()


def test_a_copy_is_known_with_its_files_in_the_order_of_its_manifest(tmp_path: Path, copy: Path) -> None:
    kept = ReplicaCache(tmp_path / "kept")
    kept.keep(copy, to_bytes(FOLDER))
    hint = kept.recall(scan(copy, no_warning))
    assert hint is not None
    assert (hint.manifest, hint.data) == (FOLDER, to_bytes(FOLDER))
    assert [file.path for file in hint.scanned.files] == ["a_b", "a0", "sub/_NUL"]
    assert [file.size for file in hint.scanned.files] == [entry.size for entry in FOLDER.files]


def _with(name: str, data: bytes) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        (copy / name).write_bytes(data)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _with("a0", b"2"),
        _with("more", b""),
        lambda copy: (copy / "a0").unlink(),
        lambda copy: (copy / "empty_").rmdir(),
        lambda copy: (copy / "another").mkdir(),
        lambda copy: (copy / "a0").rename(copy / "a1"),
    ],
    ids=["size", "more", "less", "fewer folders", "more folders", "name"],
)
def test_what_differs_is_not_known(tmp_path: Path, copy: Path, change: Callable[[Path], None]) -> None:
    kept = ReplicaCache(tmp_path / "kept")
    kept.keep(copy, to_bytes(FOLDER))
    change(copy)
    assert kept.recall(scan(copy, no_warning)) is None


def test_a_copy_at_another_place_or_of_another_kind_is_not_known(tmp_path: Path, copy: Path) -> None:
    kept = ReplicaCache(tmp_path / "kept")
    assert kept.recall(scan(copy, no_warning)) is None
    kept.keep(copy, to_bytes(manifest_of(b"122333", "dir")))
    assert kept.recall(scan(copy, no_warning)) is None
    kept.keep(copy, to_bytes(FOLDER))
    moved = copy.rename(copy.with_name("moved"))
    assert kept.recall(scan(moved, no_warning)) is None


@pytest.mark.parametrize("data", [b"", b"\0" * 300, to_bytes(FOLDER)[:-1], b"{}", b"[" * 5000])
def test_a_damaged_memory_is_as_if_there_were_none(tmp_path: Path, copy: Path, data: bytes) -> None:
    kept = ReplicaCache(tmp_path / "kept")
    kept.keep(copy, to_bytes(FOLDER))
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(data)
    assert kept.recall(scan(copy, no_warning)) is None


def test_the_oldest_of_too_many_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MAX_KEPT", 3)
    kept = ReplicaCache(tmp_path / "kept")
    data = to_bytes(manifest_of(b"x"))
    for number in range(6):
        kept.keep(tmp_path / f"{number}", data)
        newest = max((tmp_path / "kept").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_memory_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="file"):
        ReplicaCache(tmp_path / "file" / "kept").keep(tmp_path / "x", b"data")
