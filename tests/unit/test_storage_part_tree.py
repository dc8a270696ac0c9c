"""Tests of p2p/storage/part_tree.py: what is made, what other programs do to it, and losses on the disk."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import KIB, MIB, Manifest
from p2p.storage.disk_sync import DiskWatch
from p2p.storage.part_file import PartLimits
from tests.kit.content_samples import fill, folder_manifest, manifest_of, some_bytes, tree
from tests.kit.part_samples import DATA, FOLDER, FOLDER_TREE, SINGLE, Opener, opener

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")
finds_files = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="finds out which file a descriptor is of"
)


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens a download into tmp_path; closed when the test ends."""
    with opener(tmp_path, portable=request.param) as open_one:
        yield open_one


@posix_only
def test_case_35_a_sparse_download_takes_no_room_before_it_is_written(opened: Opener, tmp_path: Path) -> None:
    data = bytes(8 * MIB)
    part = opened(manifest_of(data, length=MIB))
    fill(part, some_bytes(8 * MIB), range(2, 3))
    found = part.path.stat()
    assert found.st_size == 8 * MIB
    assert found.st_blocks * 512 <= 2 * MIB
    assert 2 in part.written()
    assert 7 not in part.written()


@posix_only
def test_only_pieces_that_hold_bytes_are_looked_at_when_resuming(opened: Opener) -> None:
    data = some_bytes(40 * 64 * KIB)
    manifest = folder_manifest([("a", b""), ("b", data[: 10 * 64 * KIB]), ("c", data[10 * 64 * KIB :])])
    part = opened(manifest)
    fill(part, data, range(3, 5))
    fill(part, data, range(20, 21))
    assert list(part.written()) == [3, 4, 20]


def test_a_part_whose_files_were_cut_or_deleted_is_made_whole_again(opened: Opener, tmp_path: Path) -> None:
    first = opened(FOLDER)
    fill(first, DATA)
    first.abandon()
    (tmp_path / "dir.part" / "a").unlink()
    (tmp_path / "dir.part" / "z").write_bytes(b"short")
    (tmp_path / "dir.part" / "two").rmdir()
    second = opened(FOLDER)
    fill(second, DATA)
    second.finish()
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE


def test_a_file_that_took_the_place_of_the_part_never_gets_the_final_name(
    opened: Opener, tmp_path: Path
) -> None:
    """Writes through a descriptor go on to the file that lost its name, and syncs of it succeed."""
    part = opened(SINGLE)
    fill(part, DATA)
    other = tmp_path / "other"
    other.write_bytes(some_bytes(len(DATA), seed=9))
    other.replace(part.path)
    with pytest.raises(DiskError, match=r"x\.bin\.part' was changed by another program"):
        part.finish()
    assert not part.target.exists()


@posix_only
@pytest.mark.parametrize("damage", ["gone", "shorter", "swapped", "link"])
@pytest.mark.parametrize("files", [4, 300])
def test_a_file_that_another_program_touched_is_seen_before_the_rename(
    opened: Opener, tmp_path: Path, files: int, damage: str
) -> None:
    part = opened(
        FOLDER
        if files == 4
        else folder_manifest([(f"f{n:03}", DATA[n * 100 : n * 100 + 100]) for n in range(files)])
    )
    fill(part, DATA)
    path = part.path / ("a" if files == 4 else "f007")
    size = path.stat().st_size
    path.unlink()
    if damage == "shorter":
        path.write_bytes(bytes(size - 1))
    elif damage == "swapped" and files == 4:
        path.write_bytes(bytes(size))
    elif damage == "swapped":
        path.mkdir()
    elif damage == "link":
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        DiskError, match=r"changed by another program|does not exist|symbolic link|not a regular file"
    ):
        part.finish()
    assert not part.target.exists()


@posix_only
@pytest.mark.parametrize("where", ["", "deep", "deep/er", "a"])
def test_case_41_a_link_inside_the_part_never_leads_out_of_the_folder(
    opened: Opener, tmp_path: Path, where: str
) -> None:
    first = opened(FOLDER)
    fill(first, DATA)
    first.abandon()
    outside = tmp_path / "outside"
    outside.mkdir()
    place = tmp_path / "dir.part" / where
    place.rename(tmp_path / "aside")
    place.symlink_to(outside)
    with pytest.raises(DiskError):
        opened(FOLDER)
    assert list(outside.iterdir()) == []


@posix_only
@pytest.mark.parametrize("where", ["", "deep", "deep/er"])
def test_case_41_a_link_planted_during_a_download_never_leads_out(
    opened: Opener, tmp_path: Path, where: str
) -> None:
    part = opened(FOLDER)
    outside = tmp_path / "outside"
    (outside / "deep" / "er").mkdir(parents=True)
    (outside / "er").mkdir()
    place = tmp_path / "dir.part" / where
    place.rename(tmp_path / "aside")
    place.symlink_to(outside)
    with pytest.raises(DiskError, match=r"dir\.part"):
        fill(part, DATA)
    assert [path.name for path in outside.rglob("*") if not path.is_dir()] == []


def test_a_file_that_appears_in_a_new_part_is_not_written_to(opened: Opener, tmp_path: Path) -> None:
    part = opened(FOLDER)
    mine = tmp_path / "dir.part" / "a"
    mine.write_bytes(b"mine")
    with pytest.raises(DiskError, match="exists already"):
        fill(part, DATA)
    assert mine.read_bytes() == b"mine"


@posix_only
def test_a_fifo_in_place_of_a_part_does_not_block(opened: Opener, tmp_path: Path) -> None:
    opened(SINGLE).abandon()
    (tmp_path / "x.bin.part").unlink()
    os.mkfifo(tmp_path / "x.bin.part")
    with pytest.raises(DiskError, match="regular"):
        opened(SINGLE)


@pytest.mark.skipif(sys.platform != "linux", reason="finds descriptors by /proc")
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize(
    "manifest",
    [SINGLE, FOLDER, folder_manifest([(f"f{n:04}", DATA[n * 100 : n * 100 + 100]) for n in range(2000)])],
)
def test_case_47_a_close_that_fails_is_told_and_the_content_is_not_finished(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: Manifest, number: int
) -> None:
    """Disks on a network tell only at the close that they have no room for what was written."""
    part = opened(manifest, limits=PartLimits(open_files=0))
    root, real = str(part.path), os.close

    def close(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}") if os.path.isfile(f"/proc/self/fd/{fd}") else ""
        lost = path == root or path.startswith(f"{root}/")
        real(fd)
        if lost:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "close", close)

    def all_of_it() -> None:
        fill(part, DATA)
        part.finish()

    with pytest.raises(DiskError, match=re.escape(root)) as caught:
        all_of_it()
    assert isinstance(caught.value.__cause__, OSError)
    part.abandon()
    monkeypatch.setattr(os, "close", real)
    assert not part.target.exists()


class Watch(DiskWatch):
    """A disk that is synced whole, and counts that."""

    synced = 0

    def sync(self) -> bool:
        Watch.synced += 1
        return True


@pytest.mark.parametrize(
    "manifest",
    [
        folder_manifest([(f"f{index:03}", b"") for index in range(300)]),
        folder_manifest([("a", b"x")], folders=tuple(f"f{number}" for number in range(1000))),
    ],
    ids=["files", "folders"],
)
def test_many_files_and_folders_are_synced_with_their_whole_disk(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    calls: list[int] = []
    part = opened(manifest, watch=Watch)
    fill(part, b"x")
    before = Watch.synced
    monkeypatch.setattr(os, "fsync", calls.append)
    target = part.finish()
    assert Watch.synced == before + 1
    assert len(calls) < 10
    assert len(list(target.iterdir())) == len(manifest.files) + len(manifest.folders)


# -- losses on the way to disk

THREE = [(f"f{number}", DATA[number * 66_000 : (number + 1) * 66_000]) for number in range(3)]


class LossyDisk:
    """A disk that loses what is written to the files of `lossy`, and reports each loss once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lossy: set[str]) -> None:
        self.lossy = lossy
        self.synced: list[tuple[str, int]] = []
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._sync_by(getattr(os, name)))

    def _sync_by(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            real(fd)
            name = name_of(fd)
            self.synced.append((name, fd))
            if name in self.lossy:
                self.lossy.remove(name)
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return sync


def name_of(fd: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


@finds_files
@pytest.mark.parametrize("open_files", [64, 0], ids=["open", "closed"])
def test_case_47_one_lost_file_does_not_keep_the_others_from_being_synced(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, open_files: int
) -> None:
    part = opened(folder_manifest(THREE), limits=PartLimits(open_files=open_files))
    fill(part, DATA)
    disk = LossyDisk(monkeypatch, {"f0", "f2"})
    with pytest.raises(DiskError, match="cannot sync"):
        part.finish()
    assert disk.lossy == set()
    assert {"f0", "f1", "f2"} <= {name for name, _ in disk.synced}


@finds_files
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="only some systems can drop what is cached")
@pytest.mark.parametrize("manifest", [manifest_of(DATA), folder_manifest(THREE)], ids=["file", "folder"])
def test_case_47_a_resume_drops_cached_bytes_before_it_looks_at_a_piece(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    """The loss may have been reported to another program. What is verified must be what lies on the disk."""
    first = opened(manifest)
    fill(first, DATA)
    first.abandon()
    again = opened(manifest)
    steps: list[str] = []
    drop, seek = os.posix_fadvise, os.lseek

    def dropped(fd: int, offset: int, length: int, advice: int) -> None:
        steps.append(f"drop {name_of(fd)}")
        drop(fd, offset, length, advice)

    def looked(fd: int, offset: int, how: int) -> int:
        if how == os.SEEK_DATA:
            steps.append(f"look {name_of(fd)}")
        return seek(fd, offset, how)

    monkeypatch.setattr(os, "posix_fadvise", dropped)
    monkeypatch.setattr(os, "lseek", looked)
    assert again.written().full
    names = ["x.bin.part"] if manifest.kind == "file" else ["f0", "f1", "f2"]
    assert list(dict.fromkeys(steps)) == [step for name in names for step in (f"drop {name}", f"look {name}")]


@finds_files
def test_a_file_is_synced_once_through_the_descriptor_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: set[tuple[str, int]] = set()
    real = os.pwrite

    def pwrite(fd: int, view: memoryview, offset: int) -> int:
        written.add((name_of(fd), fd))
        return real(fd, view, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with opener(tmp_path) as open_one:
        part = open_one(folder_manifest(THREE))
        fill(part, DATA)
        disk = LossyDisk(monkeypatch, set())
        part.finish()
    names = {name for name, _ in written}
    assert names == {"f0", "f1", "f2"}
    assert sorted(pair for pair in disk.synced if pair[0] in names) == sorted(written)
