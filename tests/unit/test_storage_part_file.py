"""Tests of p2p/storage/part_file.py: cases 35, 41, 43, 46, 47 and 50, with the fast disk I/O and with the
portable one."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.manifest import to_bytes
from p2p.errors import DiskError, Refused
from p2p.model import KIB, MIB, BlockSpan, Manifest
from p2p.storage import part_file as partial_module
from p2p.storage import part_files as partfiles_module
from p2p.storage.part_file import PartialContent
from tests.kit.content_samples import fill, folder_manifest, id_of, manifest_of, partial_of, some_bytes, tree

DATA = some_bytes(200_000)
FILES = [("a", DATA[:70_000]), ("deep/er/b", b""), ("deep/er/c", DATA[70_000:150_000]), ("z", DATA[150_000:])]
SINGLE = manifest_of(DATA, "x.bin")
FOLDER = folder_manifest(FILES, folders=("empty/one", "two"))
FOLDER_TREE = {
    "a": FILES[0][1],
    "deep": None,
    "deep/er": None,
    "deep/er/b": b"",
    "deep/er/c": FILES[2][1],
    "empty": None,
    "empty/one": None,
    "two": None,
    "z": FILES[3][1],
}
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def portable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def opened(tmp_path: Path, portable: bool) -> Iterator[Callable[..., PartialContent]]:
    """Open a download into tmp_path; closed when the test ends."""
    with ExitStack() as stack:

        def open_one(
            manifest: Manifest, *, overwrite: bool = False, **more: Callable[[str], None]
        ) -> PartialContent:
            partial = partial_of(manifest, tmp_path, portable=portable, overwrite=overwrite, **more)
            stack.callback(partial.abandon)
            partial.open()
            return partial

        yield open_one


Opener = Callable[..., PartialContent]


def fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def stop_at(wanted: str, error: BaseException, nth: int = 1) -> Callable[[str], None]:
    """A fault hook that raises `error` when the step `wanted` comes for the nth time."""
    seen: list[str] = []

    def fault(step: str) -> None:
        seen.append(step)
        if step == wanted and seen.count(step) == nth:
            raise error

    return fault


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_file_is_downloaded_beside_its_target_and_renamed(opened: Opener, tmp_path: Path) -> None:
    partial = opened(SINGLE)
    assert not partial.resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin.part", "x.bin.part.manifest"]
    assert (tmp_path / "x.bin.part.manifest").read_bytes() == to_bytes(SINGLE)
    fill(partial, DATA)
    assert not (tmp_path / "x.bin").exists()
    assert partial.finish() == tmp_path / "x.bin"
    assert dict(tree(tmp_path)) == {"x.bin": DATA}
    partial.abandon()


def test_a_folder_is_downloaded_with_its_empty_files_and_folders(opened: Opener, tmp_path: Path) -> None:
    partial = opened(FOLDER)
    fill(partial, DATA)
    assert partial.finish() == tmp_path / "dir"
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 3 * 64 * KIB])
def test_case_35_sizes_at_the_borders_are_right(opened: Opener, tmp_path: Path, size: int) -> None:
    manifest = manifest_of(DATA[:size])
    partial = opened(manifest)
    fill(partial, DATA)
    assert partial.finish().read_bytes() == DATA[:size]


@pytest.mark.parametrize(
    "manifest",
    [folder_manifest([]), folder_manifest([], folders=("e/f",)), folder_manifest([("a", b""), ("b", b"")])],
    ids=["nothing", "folders", "files"],
)
def test_a_content_without_bytes_needs_no_block(opened: Opener, tmp_path: Path, manifest: Manifest) -> None:
    partial = opened(manifest)
    assert partial.geometry.pieces == 0
    assert partial.written() == Bitmap(0)
    partial.finish()
    assert (tmp_path / "dir").is_dir()
    assert len(list(tree(tmp_path / "dir"))) == len(manifest.files) + 2 * len(manifest.folders)


@posix_only
def test_case_35_a_sparse_download_takes_no_room_before_it_is_written(opened: Opener, tmp_path: Path) -> None:
    data = bytes(8 * MIB)
    partial = opened(manifest_of(data, length=MIB))
    fill(partial, some_bytes(8 * MIB), range(2, 3))
    found = partial.part.stat()
    assert found.st_size == 8 * MIB
    assert found.st_blocks * 512 <= 2 * MIB
    assert 2 in partial.written()
    assert 7 not in partial.written()


def test_what_was_written_is_read_back_and_served(opened: Opener) -> None:
    partial = opened(FOLDER)
    fill(partial, DATA)
    into = memoryview(bytearray(65536))
    partial.read(BlockSpan(1, 100, 60_000), into)
    assert into[:60_000] == DATA[65636:125636]
    with partial.opened(BlockSpan(1, 0, 65536)) as spans:
        assert sum(span.length for span in spans) == 65536
        assert len(spans) == 2
    with pytest.raises(Refused, match="block"), partial.opened(BlockSpan(0, 65536, 1)):
        pass
    partial.finish()
    with pytest.raises(Refused, match="put away"), partial.opened(BlockSpan(0, 0, 1)):
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


@posix_only
def test_only_pieces_that_hold_bytes_are_looked_at_when_resuming(opened: Opener) -> None:
    data = some_bytes(40 * 64 * KIB)
    manifest = folder_manifest([("a", b""), ("b", data[: 10 * 64 * KIB]), ("c", data[10 * 64 * KIB :])])
    partial = opened(manifest)
    fill(partial, data, range(3, 5))
    fill(partial, data, range(20, 21))
    assert list(partial.written()) == [3, 4, 20]


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


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_case_43_a_target_that_exists_is_never_touched(opened: Opener, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x.bin"
    if kind == "file":
        target.write_bytes(b"mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    with pytest.raises(DiskError, match=r"exists; use --overwrite or another -o DIR"):
        opened(SINGLE)
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
def test_case_43_a_target_that_appears_meanwhile_is_not_overwritten(
    opened: Opener, tmp_path: Path, manifest: Manifest
) -> None:
    partial = opened(manifest)
    fill(partial, DATA)
    partial.target.mkdir()
    (partial.target / "mine").write_bytes(b"mine")
    with pytest.raises(DiskError, match="appeared meanwhile"):
        partial.finish()
    assert (partial.target / "mine").read_bytes() == b"mine"
    (partial.target / "mine").unlink()
    partial.target.rmdir()
    assert partial.finish() == partial.target
    assert not partial.part.exists()


@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
@pytest.mark.parametrize("former", ["file", "folder", "link", "none"])
def test_case_43_with_overwrite_any_target_is_replaced(
    opened: Opener, tmp_path: Path, manifest: Manifest, former: str
) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "k").write_bytes(b"k")
    partial = opened(manifest, overwrite=True)
    if former == "file":
        partial.target.write_bytes(b"old")
    elif former == "folder":
        (partial.target / ("deep/er" if manifest is FOLDER else "")).mkdir(parents=True)
        if manifest is FOLDER:
            (partial.target / "deep" / "er" / "c").write_bytes(b"old")
    elif former == "link":
        partial.target.symlink_to("keep")
    fill(partial, DATA)
    if former == "folder" and manifest is SINGLE:
        with pytest.raises(DiskError, match="is a folder"):
            partial.finish()
        partial.target.rmdir()
    partial.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["keep", manifest.name])
    assert dict(tree(keep)) == {"k": b"k"}
    if manifest is SINGLE:
        assert partial.target.read_bytes() == DATA
    else:
        assert dict(tree(partial.target)) == FOLDER_TREE
    assert not partial.target.is_symlink()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_to_overwrite_a_folder_never_deletes_a_file_that_is_not_part_of_the_content(
    opened: Opener, tmp_path: Path, when: str
) -> None:
    mine = tmp_path / "dir" / "deep" / "mine.txt"
    if when == "before":
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        with pytest.raises(DiskError, match=r"deep/mine.txt.*would be lost"):
            opened(FOLDER, overwrite=True)
    else:
        partial = opened(FOLDER, overwrite=True)
        fill(partial, DATA)
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        with pytest.raises(DiskError, match=r"deep/mine.txt.*would be lost"):
            partial.finish()
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resumed", [False, True])
def test_files_of_the_user_that_look_like_our_own_are_never_deleted_or_renamed(
    opened: Opener, tmp_path: Path, overwrite: bool, resumed: bool
) -> None:
    mine = {tmp_path / name / "mine.txt" for name in ("dir.old.part", "dir.part.old", "dir.old")}
    for path in mine:
        path.parent.mkdir()
        path.write_bytes(b"mine")
    if overwrite:
        (tmp_path / "dir").mkdir()
    partial = opened(FOLDER, overwrite=overwrite)
    if resumed:
        partial.abandon()
        partial = opened(FOLDER, overwrite=overwrite)
    fill(partial, DATA)
    partial.finish()
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE


def test_a_part_that_another_file_took_the_place_of_never_gets_the_final_name(
    opened: Opener, tmp_path: Path
) -> None:
    """What is written through a descriptor goes on to the file that lost its name, and all of it syncs
    without a fault."""
    partial = opened(SINGLE)
    fill(partial, DATA)
    other = tmp_path / "other"
    other.write_bytes(some_bytes(len(DATA), seed=9))
    other.replace(partial.part)
    with pytest.raises(DiskError, match=r"x\.bin\.part' was changed by another program"):
        partial.finish()
    assert not partial.target.exists()


@posix_only
@pytest.mark.parametrize("damage", ["gone", "shorter", "swapped", "link"])
@pytest.mark.parametrize("files", [4, 300])
def test_a_file_of_a_part_that_another_program_touched_is_seen_before_the_folder_gets_its_name(
    opened: Opener, tmp_path: Path, files: int, damage: str
) -> None:
    partial = opened(
        FOLDER
        if files == 4
        else folder_manifest([(f"f{n:03}", DATA[n * 100 : n * 100 + 100]) for n in range(files)])
    )
    fill(partial, DATA)
    path = partial.part / ("a" if files == 4 else "f007")
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
        partial.finish()
    assert not partial.target.exists()


@pytest.mark.parametrize("what", ["the old one", "a part", "a sidecar"])
def test_case_41_a_content_whose_name_is_that_of_another_downloads_own_files_gets_another(
    opened: Opener, tmp_path: Path, what: str
) -> None:
    """Ids and names are public: who chose such a name could have his bytes pass for those of another
    download, or have them deleted."""
    name = {
        "the old one": f"{id_of(SINGLE)[:32]}.old.part",
        "a part": "x.bin.part",
        "a sidecar": "x.bin.Part.Manifest",
    }[what]
    first = opened(SINGLE)
    first.abandon()
    manifest = manifest_of(b"other", name)
    other = opened(manifest)
    fill(other, b"other")
    landed = other.finish()
    assert landed.read_bytes() == b"other"
    assert other.renamed == ((name, landed.name),)
    again = opened(SINGLE)
    fill(again, DATA)
    again.finish()
    assert dict(tree(tmp_path)) == {"x.bin": DATA, landed.name: b"other"}


def test_an_old_folder_is_kept_as_long_as_the_new_one_has_not_come(tmp_path: Path) -> None:
    """After a kill between both renames somebody may make a new folder of that name before the next run."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a").write_bytes(b"old")
    killed = partial_of(FOLDER, tmp_path, overwrite=True, fault=stop_at("rename", Killed(), 2))
    killed.open()
    fill(killed, DATA)
    with pytest.raises(Killed):
        killed.finish()
    killed.abandon()
    (tmp_path / "dir").mkdir()
    again = partial_of(FOLDER, tmp_path)
    with pytest.raises(DiskError, match="exists"):
        again.open()
    (old,) = tmp_path.glob("*.old.part")
    assert dict(tree(old)) == {"a": b"old"}


def test_a_folder_that_holds_one_that_cannot_be_listed_is_not_overwritten(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "dir" / "closed"
    closed.mkdir(parents=True)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path) == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DiskError, match="no permission"):
        opened(FOLDER, overwrite=True)
    assert closed.is_dir()


def test_names_that_are_written_otherwise_are_told(opened: Opener) -> None:
    assert opened(manifest_of(b"x", "a:b")).renamed == (("a:b", "a_b"),)
    assert opened(SINGLE).renamed == ()
    assert opened(folder_manifest([("NUL", b"1"), ("b", b"2")])).renamed == (("NUL", "_NUL"),)


def test_case_43_two_downloads_of_one_name_at_once_are_both_safe(opened: Opener, tmp_path: Path) -> None:
    first = opened(SINGLE)
    fill(first, DATA, range(1))
    for manifest in (SINGLE, manifest_of(b"other", "x.bin")):
        with pytest.raises(DiskError, match=r"another download of 'x.bin' .* is running"):
            opened(manifest)
    fill(first, DATA, range(1, 4))
    assert first.finish().read_bytes() == DATA


def test_case_34_a_part_of_another_content_is_not_touched(opened: Opener, tmp_path: Path) -> None:
    first = opened(SINGLE)
    fill(first, DATA)
    first.abandon()
    before = dict(tree(tmp_path))
    with pytest.raises(DiskError, match="belongs to another content"):
        opened(manifest_of(b"other", "x.bin"))
    assert dict(tree(tmp_path)) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_part_that_is_not_ours_is_not_touched(opened: Opener, tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "x.bin.part").write_bytes(b"mine")
    else:
        (tmp_path / "x.bin.part").mkdir()
    before = dict(tree(tmp_path))
    with pytest.raises(DiskError, match="not a download of ours"):
        opened(SINGLE)
    assert dict(tree(tmp_path)) == before


def test_a_sidecar_that_is_not_ours_is_not_touched(opened: Opener, tmp_path: Path) -> None:
    sidecar = tmp_path / "x.bin.part.manifest"
    sidecar.write_bytes(b"my notes")
    with pytest.raises(DiskError, match="is not ours"):
        opened(SINGLE)
    assert dict(tree(tmp_path)) == {"x.bin.part.manifest": b"my notes"}


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b'{"fi',
        to_bytes(SINGLE)[:100],
        to_bytes(FOLDER),
        bytes(300),
        to_bytes(SINGLE)[:64].ljust(len(to_bytes(SINGLE)), b"\0"),
    ],
)
def test_a_sidecar_without_a_part_is_begun_anew(opened: Opener, tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "x.bin.part.manifest").write_bytes(torn)
    partial = opened(SINGLE)
    assert not partial.resumed
    assert (tmp_path / "x.bin.part.manifest").read_bytes() == to_bytes(SINGLE)


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
def test_case_41_a_link_that_is_planted_during_a_download_never_leads_out_of_the_folder(
    opened: Opener, tmp_path: Path, where: str
) -> None:
    partial = opened(FOLDER)
    outside = tmp_path / "outside"
    (outside / "deep" / "er").mkdir(parents=True)
    (outside / "er").mkdir()
    place = tmp_path / "dir.part" / where
    place.rename(tmp_path / "aside")
    place.symlink_to(outside)
    with pytest.raises(DiskError, match=r"dir\.part"):
        fill(partial, DATA)
    assert [path.name for path in outside.rglob("*") if not path.is_dir()] == []


def test_a_file_that_appears_in_a_new_part_is_not_written_to(opened: Opener, tmp_path: Path) -> None:
    partial = opened(FOLDER)
    mine = tmp_path / "dir.part" / "a"
    mine.write_bytes(b"mine")
    with pytest.raises(DiskError, match="exists already"):
        fill(partial, DATA)
    assert mine.read_bytes() == b"mine"


@posix_only
def test_a_fifo_in_place_of_a_part_does_not_block(opened: Opener, tmp_path: Path) -> None:
    opened(SINGLE).abandon()
    (tmp_path / "x.bin.part").unlink()
    os.mkfifo(tmp_path / "x.bin.part")
    with pytest.raises(DiskError, match="regular"):
        opened(SINGLE)


def test_case_41_dangerous_names_land_inside_under_safe_ones(opened: Opener, tmp_path: Path) -> None:
    names = sorted(["x:stream", "NUL", "con.txt", "x.", "-rf", ".ssh/authorized_keys", "~/x", "what?"])
    manifest = folder_manifest([(name, b"1") for name in names], name="-o~.", folders=("aux",))
    partial = opened(manifest)
    fill(partial, b"1" * len(names))
    target = partial.finish()
    assert target == tmp_path / "_-o~_"
    files = {path for path, data in tree(target) if data is not None}
    assert files == {"x_stream", "_NUL", "_con.txt", "x_", "-rf", ".ssh/authorized_keys", "~/x", "what_"}
    assert (target / "_aux").is_dir()


@pytest.mark.parametrize("name", ["n" * 255, "ñ" * 127])
def test_a_name_of_full_length_has_room_for_the_ending(opened: Opener, tmp_path: Path, name: str) -> None:
    manifest = manifest_of(DATA, name)
    partial = opened(manifest)
    assert all(len(os.fsencode(path.name)) <= 255 for path in (partial.part, partial.sidecar))
    assert id_of(manifest)[:8] in partial.part.name
    fill(partial, DATA)
    assert partial.finish().name == name


def test_the_folder_is_made_when_missing(tmp_path: Path) -> None:
    partial = partial_of(SINGLE, tmp_path / "new" / "deeper")
    partial.open()
    partial.abandon()
    assert (tmp_path / "new" / "deeper" / "x.bin.part").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot make folder"):
        partial_of(SINGLE, tmp_path / "file" / "below").open()


@posix_only
def test_a_file_that_appears_while_the_part_is_made_is_not_touched(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def appear(path: Path) -> int:
        (tmp_path / "x.bin.part").write_bytes(b"mine")
        return 10**9

    monkeypatch.setattr("p2p.storage.part_file.free_space", appear)
    with pytest.raises(DiskError, match="exists already"):
        opened(SINGLE)
    assert (tmp_path / "x.bin.part").read_bytes() == b"mine"


@posix_only
def test_a_part_that_was_swapped_for_a_fifo_is_told_and_not_taken_for_a_full_disk(
    opened: Opener, tmp_path: Path
) -> None:
    partial = opened(SINGLE)
    partial.part.unlink()
    os.mkfifo(partial.part)
    with pytest.raises(DiskError, match="not a regular file"):
        fill(partial, DATA)


def test_finishing_what_is_not_open_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        partial_of(SINGLE, tmp_path).finish()


def test_case_46_too_little_room_is_told_before_anything_is_written(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.storage.part_file.free_space", lambda _path: 150_000)
    with pytest.raises(DiskError, match=r"disk full: need 200,000 bytes, have 150,000") as caught:
        opened(SINGLE)
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_case_46_what_is_on_disk_already_needs_no_more_room(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(SINGLE)
    fill(first, DATA, range(2))
    fsync_file(first.part)
    first.abandon()
    monkeypatch.setattr("p2p.storage.part_file.free_space", lambda _path: 80_000)
    assert opened(SINGLE).resumed


@pytest.mark.parametrize("block", [0, 1, 3])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_case_46_a_disk_that_fills_up_keeps_the_part_for_resume(
    opened: Opener, tmp_path: Path, block: int, number: int
) -> None:
    partial = opened(SINGLE, fault=stop_at("write", OSError(number, "full"), block + 1))
    with pytest.raises(
        DiskError, match=r"disk full: need [\d,]+ bytes, have [\d,]+; cannot write '.*x\.bin\.part'"
    ):
        fill(partial, DATA)
    partial.abandon()
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
    partial = opened(SINGLE, fault=stop_at(step, OSError(number, "fault")))
    if step == "write":
        with pytest.raises(DiskError, match=re.escape(str(tmp_path))) as caught:
            fill(partial, DATA)
    else:
        fill(partial, DATA)
        with pytest.raises(DiskError, match=re.escape(str(tmp_path))) as caught:
            partial.finish()
    assert caught.value.exit_code == 7


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
    partial = opened(manifest)
    part, real = str(partial.part), os.close

    def close(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}") if os.path.isfile(f"/proc/self/fd/{fd}") else ""
        lost = path == part or path.startswith(f"{part}/")
        real(fd)
        if lost:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(partial._files.open, "_limit", 0)

    def all_of_it() -> None:
        fill(partial, DATA)
        partial.finish()

    with pytest.raises(DiskError, match=re.escape(part)) as caught:
        all_of_it()
    assert isinstance(caught.value.__cause__, OSError)
    partial.abandon()
    monkeypatch.setattr(os, "close", real)
    assert not partial.target.exists()


def test_case_47_a_folder_that_is_taken_away_is_told_at_the_next_sync(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = opened(SINGLE)
    monkeypatch.setattr(partial._flusher, "_every", 1)
    partial.sidecar.unlink()
    partial.part.unlink()

    def write_on() -> None:
        for _ in range(3):
            fill(partial, DATA)
            partial._flusher.leave()

    with pytest.raises(DiskError, match=r"x\.bin\.part': it does not exist"):
        write_on()


def test_case_47_a_failed_sync_is_not_retried_as_success(opened: Opener, tmp_path: Path) -> None:
    partial = opened(SINGLE, fault=stop_at("fsync", OSError(errno.EIO, "fault")))
    fill(partial, DATA)
    for _ in range(2):
        with pytest.raises(DiskError, match="sync"):
            partial.finish()
    assert not partial.target.exists()
    partial.abandon()
    assert opened(SINGLE).resumed


@pytest.mark.parametrize("step", ["rename", "fsync-folder"])
@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
def test_finish_may_be_called_again_after_a_fault_that_passed(
    opened: Opener, step: str, manifest: Manifest
) -> None:
    partial = opened(manifest, fault=stop_at(step, OSError(errno.EIO, "fault")))
    fill(partial, DATA)
    with pytest.raises(DiskError):
        partial.finish()
    assert partial.finish().exists()
    assert not partial.sidecar.exists()


def test_a_fault_while_a_folder_is_replaced_puts_the_old_one_back(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a").write_bytes(b"old")
    partial = opened(FOLDER, overwrite=True, fault=stop_at("rename", OSError(errno.EIO, "fault"), 2))
    fill(partial, DATA)
    with pytest.raises(DiskError):
        partial.finish()
    assert dict(tree(tmp_path / "dir")) == {"a": b"old"}
    partial.finish()
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE


def test_many_files_are_synced_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        calls.append("fsync")
        real_fsync(fd)

    manifest = folder_manifest([(f"f{index:03}", b"") for index in range(300)])
    partial = partial_of(manifest, tmp_path)
    partial.open()

    def sync(_fd: int) -> bool:
        calls.append("sync")
        return True

    monkeypatch.setattr("p2p.storage.part_files.sync_disk", sync)
    monkeypatch.setattr(os, "fsync", fsync)
    partial.finish()
    assert calls.count("sync") == 1
    assert calls.count("fsync") < 10


STEPS = [
    ("write", 1),
    ("write", 3),
    ("fsync", 1),
    ("rename", 1),
    ("rename", 2),
    ("link", 1),
    ("unlink", 1),
    ("old", 1),
    ("fsync-folder", 1),
    ("sidecar", 1),
]


def kill_at(monkeypatch: pytest.MonkeyPatch, step: str, nth: int) -> Callable[[str], None]:
    """End the "process" at a step of the hook, or within `finish` where the disk is between two states."""
    if step == "link":
        real_link = os.link

        def link(*arguments: object, **more: object) -> None:
            real_link(*arguments, **more)  # type: ignore[arg-type]
            raise Killed

        monkeypatch.setattr("p2p.storage.disk.os.link", link)
    elif step == "old":
        monkeypatch.setattr("p2p.storage.part_file._delete", stop_at_second_delete())
    elif step == "sidecar":
        monkeypatch.setattr("p2p.storage.disk.FileLock.remove", raise_killed)
    elif step == "unlink":
        monkeypatch.setattr("p2p.storage.part_file.fsync_folder", raise_killed)
    return stop_at(step, Killed(), nth)


def raise_killed(*_arguments: object) -> None:
    raise Killed


def stop_at_second_delete() -> Callable[[Path], None]:
    calls: list[Path] = []

    def delete(path: Path) -> None:
        calls.append(path)
        if os.path.lexists(path):
            raise Killed

    return delete


@pytest.mark.parametrize(("step", "nth"), STEPS)
@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
@pytest.mark.parametrize("former", [False, True], ids=["new", "overwrite"])
def test_case_50_a_kill_between_any_two_steps_leaves_the_old_state_or_the_new(
    tmp_path: Path, step: str, nth: int, manifest: Manifest, former: bool
) -> None:
    target = tmp_path / manifest.name
    old: dict[str, bytes | None] = {}
    if former and manifest is SINGLE:
        target.write_bytes(b"old")
        old = {"": b"old"}
    elif former:
        target.mkdir()
        (target / "a").write_bytes(b"old")
        old = {"a": b"old"}
    new = {"": DATA} if manifest is SINGLE else FOLDER_TREE

    def state() -> object:
        if not os.path.lexists(target):
            return None
        return {"": target.read_bytes()} if target.is_file() else dict(tree(target))

    with pytest.MonkeyPatch.context() as patch:
        partial = partial_of(manifest, tmp_path, overwrite=former, fault=kill_at(patch, step, nth))
        partial.open()
        try:
            fill(partial, DATA)
            partial.finish()
        except Killed:
            pass
        partial.abandon()
    between = state()
    assert between in (new, old if former else None) or (former and between is None)

    again = partial_of(manifest, tmp_path, overwrite=former)
    if between == new and not again.sidecar.exists():  # this download has no such step, and ended
        assert [path.name for path in tmp_path.iterdir()] == [manifest.name]
        return
    again.open()
    if between == new:
        assert again.resumed
        assert set(again.written()) == set(range(again.geometry.pieces))
    else:
        assert state() in (new, old if former else None)
        fill(again, DATA)
    again.finish()
    assert state() == new
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]


@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_case_50_what_a_kill_left_complete_and_somebody_changed_since_is_a_file_like_any_other(
    tmp_path: Path, manifest: Manifest, overwrite: bool
) -> None:
    def killed_at_the_end() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("p2p.storage.disk.FileLock.remove", raise_killed)
            partial = partial_of(manifest, tmp_path, overwrite=True)
            partial.open()
            fill(partial, DATA)
            with pytest.raises(Killed):
                partial.finish()
            partial.abandon()

    target = tmp_path / manifest.name
    changed = target if manifest is SINGLE else target / manifest.files[-1].path
    for change in (b"shorter", bytes(changed.stat().st_size) if changed.exists() else b""):
        killed_at_the_end()
        changed.write_bytes(change)
        again = partial_of(manifest, tmp_path, overwrite=overwrite)
        if not overwrite:
            with pytest.raises(DiskError, match="exists"):
                again.open()
            assert changed.read_bytes() == change
        else:
            again.open()
            assert not again.resumed
            fill(again, DATA)
            again.finish()
        assert not again.sidecar.exists()


def test_case_50_what_a_kill_left_complete_and_does_not_verify_is_not_written_to(tmp_path: Path) -> None:
    """A file of a folder is changed and keeps its size, which only its hash tells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("p2p.storage.disk.FileLock.remove", raise_killed)
        partial = partial_of(FOLDER, tmp_path)
        partial.open()
        fill(partial, DATA)
        with pytest.raises(Killed):
            partial.finish()
        partial.abandon()
    changed = tmp_path / FOLDER.name / FOLDER.files[-1].path
    changed.write_bytes(bytes(FOLDER.files[-1].size))
    again = partial_of(FOLDER, tmp_path)
    again.open()
    assert again.resumed
    with pytest.raises(DiskError, match="was changed after it was downloaded; use --overwrite"):
        fill(again, DATA)
    again.abandon()
    assert changed.read_bytes() == bytes(FOLDER.files[-1].size)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER.name]


KILL_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.kit.content_samples import fill, partial_of
from tests.unit.test_storage_part_file import DATA, FOLDER, SINGLE
seen = []
def fault(step):
    seen.append(step)
    if step == sys.argv[3] and seen.count(step) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
partial = partial_of({"SINGLE": SINGLE, "FOLDER": FOLDER}[sys.argv[5]], Path(sys.argv[2]), fault=fault)
partial.open()
fill(partial, DATA)
partial.finish()
"""


@posix_only
@pytest.mark.parametrize(
    ("step", "nth", "which"), [("write", 3, "SINGLE"), ("rename", 1, "FOLDER"), ("fsync-folder", 1, "SINGLE")]
)
def test_case_50_a_process_that_is_really_killed_leaves_its_lock_and_the_part_to_the_next(
    tmp_path: Path, step: str, nth: int, which: str
) -> None:
    manifest = {"SINGLE": SINGLE, "FOLDER": FOLDER}[which]
    here = Path(__file__).resolve().parents[2]
    child = subprocess.run(
        [sys.executable, "-c", KILL_CHILD, here, tmp_path, step, str(nth), which], check=False, timeout=60
    )
    assert child.returncode == -signal.SIGKILL
    again = partial_of(manifest, tmp_path, overwrite=True)
    again.open()
    assert again.resumed
    if step != "fsync-folder":
        fill(again, DATA)
    again.finish()
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]


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
@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a tmpfs"
)
@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_case_46_a_real_disk_that_fills_up_resumes_when_there_is_room(tmp_path: Path, pieces: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        data = some_bytes(8 * 128 * KIB)
        manifest = manifest_of(data, length=128 * KIB)
        partial = partial_of(manifest, disk)
        partial.open()
        fill(partial, data, range(pieces))
        fill_up(disk)
        with pytest.raises(
            DiskError, match=rf"disk full: need {len(data) - pieces * 128 * KIB:,} bytes, have 0"
        ):
            fill(partial, data, range(pieces, 8))
        partial.abandon()
        with pytest.raises(DiskError, match="disk full: need"):
            partial_of(manifest, disk).open()
        assert not (disk / "x.bin").exists()
        (disk / "other").unlink()
        again = partial_of(manifest, disk)
        again.open()
        assert again.resumed
        assert set(range(pieces)) <= set(again.written())
        fill(again, data, range(pieces, 8))
        assert again.finish().read_bytes() == data
        with pytest.raises(DiskError, match="disk full: need 3,145,728 bytes"):
            partial_of(manifest_of(bytes(3 * MIB), "big"), disk).open()
        assert [path.name for path in disk.iterdir()] == ["x.bin"]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("theirs", [b'{"files":["mine"]}', b"mine"], ids=["json", "anything"])
def test_a_users_own_file_of_the_sidecars_name_is_left_alone(tmp_path: Path, theirs: bytes) -> None:
    """A neighbour of hostile case 43: nothing is overwritten or deleted unasked, whatever it is called."""
    data = some_bytes(100)
    own = tmp_path / "x.bin.part.manifest"
    own.write_bytes(theirs)
    for overwrite in (False, True):
        partial = partial_of(manifest_of(data), tmp_path, overwrite=overwrite)
        with pytest.raises(DiskError, match="not ours"):
            partial.open()
        assert own.read_bytes() == theirs


@pytest.mark.skipif(os.name == "nt", reason="hard links of POSIX")
def test_a_sidecar_with_a_second_name_is_not_ours(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"")
    os.link(precious, tmp_path / "x.bin.part.manifest")
    partial = partial_of(manifest_of(some_bytes(100)), tmp_path)
    with pytest.raises(DiskError, match="another name"):
        partial.open()
    partial.abandon()
    assert precious.read_bytes() == b""
    assert (tmp_path / "x.bin.part.manifest").exists()


def test_a_sidecar_of_another_content_that_never_began_is_taken_over(tmp_path: Path) -> None:
    other = some_bytes(100, seed=2)
    (tmp_path / "x.bin.part.manifest").write_bytes(to_bytes(manifest_of(other)))
    data = some_bytes(100)
    partial = partial_of(manifest_of(data), tmp_path)
    partial.open()
    fill(partial, data)
    partial.finish()
    assert (tmp_path / "x.bin").read_bytes() == data


def test_countless_empty_folders_are_synced_as_one_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = folder_manifest([("a", b"x")], folders=tuple(f"f{number}" for number in range(1000)))
    synced: list[object] = []
    monkeypatch.setattr(partial_module, "fsync_folder", synced.append)
    monkeypatch.setattr(partfiles_module, "fsync_folder", synced.append)
    monkeypatch.setattr(partfiles_module, "sync_disk", lambda fd: True)
    partial = partial_of(manifest, tmp_path)
    partial.open()
    fill(partial, b"x")
    partial.finish()
    assert len(synced) < 10
    assert len(list((tmp_path / "dir").iterdir())) == 1001


def test_a_folder_that_may_be_written_to_and_not_read_gets_its_download_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a folder cannot be opened, and so not synced."""

    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(partial_module, "fsync_folder", refuse)
    data = some_bytes(100)
    partial = partial_of(manifest_of(data), tmp_path)
    partial.open()
    fill(partial, data)
    assert partial.finish().read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
