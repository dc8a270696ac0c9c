"""Tests of p2p/storage/shared_content.py: what is served is what was hashed, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2p.errors import DiskError, Refused
from p2p.model import BlockSpan, FileSpan
from p2p.storage.disk_io import disk_io
from p2p.storage.shared_content import SharedContent, fingerprints
from tests.kit.content_samples import fill, folder_manifest, manifest_of, part_of, share, some_bytes

DATA = some_bytes(200_000)


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def shared(tmp_path: Path, request: pytest.FixtureRequest) -> SharedContent:
    root = tmp_path / "dir"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(DATA[:70_000])
    (root / "b").write_bytes(b"")
    (root / "sub" / "c").write_bytes(DATA[70_000:])
    content, _ = share(root, disk_io(request.param))
    return content


def whole(content: SharedContent) -> bytes:
    found = bytearray()
    into = memoryview(bytearray(content.geometry.block_length))
    for piece in range(content.geometry.pieces):
        for block in content.geometry.blocks(piece):
            content.read(block, into)
            found += into[: block.length]
    return bytes(found)


def read_spans(spans: list[FileSpan]) -> bytes:
    return b"".join(_read_at(span) for span in spans)


def _read_at(span: FileSpan) -> bytes:
    os.lseek(span.fd, span.offset, os.SEEK_SET)
    return os.read(span.fd, span.length)


def test_a_shared_folder_is_its_files_end_to_end(shared: SharedContent) -> None:
    assert whole(shared) == DATA
    with shared.opened(BlockSpan(1, 0, 65536)) as spans:
        assert len(spans) == 2
        assert read_spans(spans) == DATA[65536:131072]
    assert shared.unchanged()
    shared.close()


def test_a_range_outside_is_refused_before_any_file_is_opened(shared: SharedContent) -> None:
    with pytest.raises(Refused, match="piece"), shared.opened(BlockSpan(99, 0, 1)):
        pass
    with pytest.raises(Refused, match="block"):
        shared.read(BlockSpan(0, 65536, 1), memoryview(bytearray(1)))


@pytest.mark.parametrize("change", ["append", "rewrite", "replace", "delete", "folder"])
def test_case_44_a_file_that_changed_is_no_longer_served(shared: SharedContent, change: str) -> None:
    path = shared.root / "a"
    with shared.opened(BlockSpan(0, 0, 10)):
        pass
    before = path.stat()
    if change == "append":
        with open(path, "ab") as file:
            file.write(b"x")
    elif change == "rewrite":
        path.write_bytes(DATA[:70_000])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    elif change == "replace":
        (shared.root / "new").write_bytes(DATA[:70_000])
        os.utime(shared.root / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        (shared.root / "new").replace(path)
    else:
        path.unlink()
        if change == "folder":
            path.mkdir()
    assert not shared.changed
    with pytest.raises(Refused) as caught, shared.opened(BlockSpan(0, 0, 10)):
        pass
    assert caught.value.code == "not_found"
    assert shared.changed
    assert not shared.unchanged()
    with shared.opened(BlockSpan(2, 0, 10)) as spans:
        assert read_spans(spans) == DATA[131072:131082]
    shared.close()


def test_a_look_without_reading_tells_that_something_changed(shared: SharedContent) -> None:
    (shared.root / "b").write_bytes(b"no longer empty")
    assert not shared.unchanged()
    assert shared.changed


def test_a_file_swapped_between_look_and_open_is_refused(
    shared: SharedContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda _path, flags: real(shared.root / "sub" / "c", flags))
    with pytest.raises(Refused), shared.opened(BlockSpan(0, 0, 10)):
        pass
    assert shared.changed


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_file_that_became_a_link_is_refused(shared: SharedContent) -> None:
    path = shared.root / "a"
    path.rename(shared.root / "moved")
    path.symlink_to("moved")
    with pytest.raises(Refused), shared.opened(BlockSpan(0, 0, 10)):
        pass


def test_a_downloaded_content_is_shared_under_its_local_names(tmp_path: Path) -> None:
    manifest = folder_manifest([("a?", b"12"), ("nul", b"345")], name=".dir")
    part = part_of(manifest, tmp_path)
    part.open()
    fill(part, b"12345")
    root = part.finish()
    assert root.name == "_.dir"
    content = SharedContent(manifest, root, fingerprints(manifest, root), disk_io())
    assert whole(content) == b"12345"
    content.close()


def test_a_downloaded_file_is_shared(tmp_path: Path) -> None:
    manifest = manifest_of(DATA)
    (tmp_path / "x.bin").write_bytes(DATA)
    content = SharedContent(
        manifest, tmp_path / "x.bin", fingerprints(manifest, tmp_path / "x.bin"), disk_io()
    )
    assert whole(content) == DATA
    content.close()
    with pytest.raises(DiskError):
        fingerprints(manifest, tmp_path / "gone")
