"""Tests of p2p/storage/part_file.py: cases 35, 41, 46 and 47, with the fast disk I/O and the portable one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.manifest import to_bytes
from p2p.errors import DiskError, Refused
from p2p.model import KIB, MIB, BlockSpan, Manifest
from p2p.storage.part_file import PartLimits
from tests.kit.content_samples import fill, folder_manifest, manifest_of, part_of, some_bytes, tree
from tests.kit.part_samples import DATA, FOLDER, FOLDER_TREE, SINGLE, Opener, opener, stop_at

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens a download into tmp_path; closed when the test ends."""
    with opener(tmp_path, portable=request.param) as open_one:
        yield open_one


def fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def test_a_file_is_downloaded_beside_its_target_and_renamed(opened: Opener, tmp_path: Path) -> None:
    part = opened(SINGLE)
    assert not part.resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin.part", "x.bin.part.manifest"]
    assert (tmp_path / "x.bin.part.manifest").read_bytes() == to_bytes(SINGLE)
    fill(part, DATA)
    assert not (tmp_path / "x.bin").exists()
    assert part.finish() == tmp_path / "x.bin"
    assert dict(tree(tmp_path)) == {"x.bin": DATA}
    part.abandon()


def test_a_folder_is_downloaded_with_its_empty_files_and_folders(opened: Opener, tmp_path: Path) -> None:
    part = opened(FOLDER)
    fill(part, DATA)
    assert part.finish() == tmp_path / "dir"
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 3 * 64 * KIB])
def test_case_35_sizes_at_the_borders_are_right(opened: Opener, tmp_path: Path, size: int) -> None:
    manifest = manifest_of(DATA[:size])
    part = opened(manifest)
    fill(part, DATA)
    assert part.finish().read_bytes() == DATA[:size]


@pytest.mark.parametrize(
    "manifest",
    [folder_manifest([]), folder_manifest([], folders=("e/f",)), folder_manifest([("a", b""), ("b", b"")])],
    ids=["nothing", "folders", "files"],
)
def test_a_content_without_bytes_needs_no_block(opened: Opener, tmp_path: Path, manifest: Manifest) -> None:
    part = opened(manifest)
    assert part.geometry.pieces == 0
    assert part.written() == Bitmap(0)
    part.finish()
    assert (tmp_path / "dir").is_dir()
    assert len(list(tree(tmp_path / "dir"))) == len(manifest.files) + 2 * len(manifest.folders)


def test_what_was_written_is_read_back_and_served(opened: Opener) -> None:
    part = opened(FOLDER)
    fill(part, DATA)
    into = memoryview(bytearray(65536))
    part.read(BlockSpan(1, 100, 60_000), into)
    assert into[:60_000] == DATA[65636:125636]
    with part.opened(BlockSpan(1, 0, 65536)) as spans:
        assert sum(span.length for span in spans) == 65536
        assert len(spans) == 2
    with pytest.raises(Refused, match="block"), part.opened(BlockSpan(0, 65536, 1)):
        pass
    part.finish()
    with pytest.raises(Refused, match="put away"), part.opened(BlockSpan(0, 0, 1)):
        pass


def test_an_abandoned_download_is_resumed(opened: Opener, tmp_path: Path) -> None:
    for manifest, name in ((SINGLE, "x.bin"), (FOLDER, "dir")):
        first = opened(manifest)
        fill(first, DATA, range(2))
        first.abandon()
        second = opened(manifest)
        assert second.resumed
        assert {0, 1} <= set(second.written())
        fill(second, DATA, range(2, 4))
        second.finish()
        assert (tmp_path / name).exists()


def test_renamed_lists_the_names_that_this_disk_cannot_hold(opened: Opener) -> None:
    assert opened(manifest_of(b"x", "a:b")).renamed == (("a:b", "a_b"),)
    assert opened(SINGLE).renamed == ()
    assert opened(folder_manifest([("NUL", b"1"), ("b", b"2")])).renamed == (("NUL", "_NUL"),)


@posix_only
@pytest.mark.parametrize("name", ["x.bin.part", "x.bin.part.manifest"])
def test_a_link_in_place_of_part_or_sidecar_is_not_followed(
    opened: Opener, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    opened(SINGLE).abandon()
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(outside)
    with pytest.raises(DiskError):
        opened(SINGLE)
    assert outside.read_bytes() == b"mine"


def test_case_41_dangerous_names_land_inside_under_safe_ones(opened: Opener, tmp_path: Path) -> None:
    names = sorted(["x:stream", "NUL", "con.txt", "x.", "-rf", ".ssh/authorized_keys", "~/x", "what?"])
    manifest = folder_manifest([(name, b"1") for name in names], name="-o~.", folders=("aux",))
    part = opened(manifest)
    fill(part, b"1" * len(names))
    target = part.finish()
    assert target == tmp_path / "_-o~_"
    files = {path for path, data in tree(target) if data is not None}
    assert files == {"x_stream", "_NUL", "_con.txt", "x_", "-rf", ".ssh/authorized_keys", "~/x", "what_"}
    assert (target / "_aux").is_dir()


def test_the_folder_is_made_when_missing(tmp_path: Path) -> None:
    part = part_of(SINGLE, tmp_path / "new" / "deeper")
    part.open()
    part.abandon()
    assert (tmp_path / "new" / "deeper" / "x.bin.part").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot make folder"):
        part_of(SINGLE, tmp_path / "file" / "below").open()


@posix_only
def test_a_file_that_appears_while_the_part_is_made_is_not_touched(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def appear(path: Path) -> int:
        (tmp_path / "x.bin.part").write_bytes(b"mine")
        return 10**9

    with pytest.raises(DiskError, match="exists already"):
        opened(SINGLE, room=appear)
    assert (tmp_path / "x.bin.part").read_bytes() == b"mine"


@posix_only
def test_a_part_that_was_swapped_for_a_fifo_is_not_taken_for_a_full_disk(
    opened: Opener, tmp_path: Path
) -> None:
    part = opened(SINGLE)
    part.path.unlink()
    os.mkfifo(part.path)
    with pytest.raises(DiskError, match="not a regular file"):
        fill(part, DATA)


def test_finishing_what_is_not_open_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        part_of(SINGLE, tmp_path).finish()


def test_case_46_too_little_room_is_told_before_anything_is_written(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskError, match=r"disk full: need 200,000 bytes, have 150,000") as caught:
        opened(SINGLE, room=lambda _path: 150_000)
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_case_46_what_is_on_disk_already_needs_no_more_room(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(SINGLE)
    fill(first, DATA, range(2))
    fsync_file(first.path)
    first.abandon()
    assert opened(SINGLE, room=lambda _path: 80_000).resumed


@pytest.mark.parametrize("block", [0, 1, 3])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_case_46_a_disk_that_fills_up_keeps_the_part_for_resume(
    opened: Opener, tmp_path: Path, block: int, number: int
) -> None:
    part = opened(SINGLE, fault=stop_at("write", OSError(number, "full"), block + 1))
    with pytest.raises(
        DiskError, match=r"disk full: need [\d,]+ bytes, have [\d,]+; cannot write '.*x\.bin\.part'"
    ):
        fill(part, DATA)
    part.abandon()
    assert not (tmp_path / "x.bin").exists()
    again = opened(SINGLE)
    assert again.resumed
    assert set(range(block)) <= set(again.written())
    fill(again, DATA, range(block, 4))
    assert again.finish().read_bytes() == DATA


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("step", ["write", "fsync", "rename", "fsync-folder"])
def test_case_47_each_fault_of_the_disk_is_told_with_the_path(
    opened: Opener, tmp_path: Path, step: str, number: int
) -> None:
    part = opened(SINGLE, fault=stop_at(step, OSError(number, "fault")))
    if step == "write":
        with pytest.raises(DiskError, match=re.escape(str(tmp_path))) as caught:
            fill(part, DATA)
    else:
        fill(part, DATA)
        with pytest.raises(DiskError, match=re.escape(str(tmp_path))) as caught:
            part.finish()
    assert caught.value.exit_code == 7


def test_case_47_a_folder_that_is_taken_away_is_told_at_the_next_sync(opened: Opener) -> None:
    part = opened(SINGLE, limits=PartLimits(flush_every=1))
    part.sidecar.unlink()
    part.path.unlink()

    def write_all() -> None:  # a flush sees it, and one of the next writes or the end raises it
        fill(part, DATA)
        part.finish()

    with pytest.raises(DiskError, match=r"x\.bin\.part': it does not exist"):
        write_all()


def test_case_47_a_failed_sync_is_not_retried_as_success(opened: Opener, tmp_path: Path) -> None:
    part = opened(SINGLE, fault=stop_at("fsync", OSError(errno.EIO, "fault")))
    fill(part, DATA)
    with pytest.raises(DiskError, match="sync"):
        part.finish()
    with pytest.raises(RuntimeError, match="not open"):
        part.finish()
    assert not part.target.exists()
    assert opened(SINGLE).resumed


@pytest.mark.parametrize("step", ["rename", "fsync-folder", "delete-old", "delete-sidecar"])
@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
def test_a_new_download_ends_what_a_passing_fault_stopped(
    opened: Opener, step: str, manifest: Manifest
) -> None:
    part = opened(manifest, fault=stop_at(step, OSError(errno.EIO, "fault")))
    fill(part, DATA)
    with pytest.raises(DiskError):
        part.finish()
    again = opened(manifest)
    assert again.resumed
    assert again.finish().exists()
    assert not again.sidecar.exists()


def fill_up(disk: Path) -> None:
    """Take all the room there is."""
    with open(disk / "other", "wb", buffering=0) as other:
        try:
            while True:
                other.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@pytest.mark.needs_root
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a tmpfs")
@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_case_46_a_real_disk_that_fills_up_resumes_when_there_is_room(tmp_path: Path, pieces: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        data = some_bytes(8 * 128 * KIB)
        manifest = manifest_of(data, length=128 * KIB)
        part = part_of(manifest, disk)
        part.open()
        fill(part, data, range(pieces))
        fill_up(disk)
        with pytest.raises(
            DiskError, match=rf"disk full: need {len(data) - pieces * 128 * KIB:,} bytes, have 0"
        ):
            fill(part, data, range(pieces, 8))
        part.abandon()
        with pytest.raises(DiskError, match="disk full: need"):
            part_of(manifest, disk).open()
        assert not (disk / "x.bin").exists()
        (disk / "other").unlink()
        again = part_of(manifest, disk)
        again.open()
        assert again.resumed
        assert set(range(pieces)) <= set(again.written())
        fill(again, data, range(pieces, 8))
        assert again.finish().read_bytes() == data
        with pytest.raises(DiskError, match="disk full: need 3,145,728 bytes"):
            part_of(manifest_of(bytes(3 * MIB), "big"), disk).open()
        assert [path.name for path in disk.iterdir()] == ["x.bin"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_can_be_written_and_not_read_still_gets_its_download(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a folder cannot be opened, and so not synced."""
    part = opened(SINGLE)
    fill(part, DATA)
    real = os.open

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if path == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    assert part.finish().read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
