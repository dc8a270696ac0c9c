"""Tests of p2p/storage/target.py: nothing is overwritten unasked (case 43), and no other file is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import Manifest
from tests.kit.content_samples import fill, id_of, manifest_of, tree
from tests.kit.part_samples import DATA, FOLDER, FOLDER_TREE, SINGLE, Opener, opener, stop_at

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens a download into tmp_path; closed when the test ends."""
    with opener(tmp_path, portable=request.param) as open_one:
        yield open_one


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
    part = opened(manifest)
    fill(part, DATA)
    part.target.mkdir()
    (part.target / "mine").write_bytes(b"mine")
    with pytest.raises(DiskError, match="appeared meanwhile"):
        part.finish()
    assert (part.target / "mine").read_bytes() == b"mine"
    (part.target / "mine").unlink()
    part.target.rmdir()
    again = opened(manifest)
    assert again.resumed
    assert again.finish() == again.target
    assert not again.path.exists()


@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
@pytest.mark.parametrize("former", ["file", "folder", "link", "none"])
def test_case_43_with_overwrite_any_target_is_replaced(
    opened: Opener, tmp_path: Path, manifest: Manifest, former: str
) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "k").write_bytes(b"k")
    part = opened(manifest, overwrite=True)
    if former == "file":
        part.target.write_bytes(b"old")
    elif former == "folder":
        (part.target / ("deep/er" if manifest is FOLDER else "")).mkdir(parents=True)
        if manifest is FOLDER:
            (part.target / "deep" / "er" / "c").write_bytes(b"old")
    elif former == "link":
        part.target.symlink_to("keep")
    fill(part, DATA)
    if former == "folder" and manifest is SINGLE:
        with pytest.raises(DiskError, match="is a folder"):
            part.finish()
        part.target.rmdir()
        part = opened(manifest, overwrite=True)
    part.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["keep", manifest.name])
    assert dict(tree(keep)) == {"k": b"k"}
    if manifest is SINGLE:
        assert part.target.read_bytes() == DATA
    else:
        assert dict(tree(part.target)) == FOLDER_TREE
    assert not part.target.is_symlink()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_overwriting_a_folder_never_deletes_other_files_in_it(
    opened: Opener, tmp_path: Path, when: str
) -> None:
    mine = tmp_path / "dir" / "deep" / "mine.txt"
    if when == "before":
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        with pytest.raises(DiskError, match=r"deep/mine.txt.*would be lost"):
            opened(FOLDER, overwrite=True)
    else:
        part = opened(FOLDER, overwrite=True)
        fill(part, DATA)
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        with pytest.raises(DiskError, match=r"deep/mine.txt.*would be lost"):
            part.finish()
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_users_file_with_a_name_like_ours_is_left_alone(
    opened: Opener, tmp_path: Path, overwrite: bool, resumed: bool
) -> None:
    mine = {tmp_path / name / "mine.txt" for name in ("dir.old.part", "dir.part.old", "dir.old")}
    for path in mine:
        path.parent.mkdir()
        path.write_bytes(b"mine")
    if overwrite:
        (tmp_path / "dir").mkdir()
    part = opened(FOLDER, overwrite=overwrite)
    if resumed:
        part.abandon()
        part = opened(FOLDER, overwrite=overwrite)
    fill(part, DATA)
    part.finish()
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE


@pytest.mark.parametrize("what", ["the old one", "a part", "a sidecar"])
def test_case_41_a_content_named_like_the_files_of_a_download_is_renamed(
    opened: Opener, tmp_path: Path, what: str
) -> None:
    """Ids and names are public. A publisher could choose such a name so that his bytes pass for another
    download's, or are deleted with it."""
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


def test_a_folder_that_cannot_be_listed_in_whole_is_not_overwritten(
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


def test_a_folder_is_put_back_when_the_new_one_cannot_take_its_place(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a").write_bytes(b"old")
    part = opened(FOLDER, overwrite=True, fault=stop_at("rename", OSError(errno.EIO, "fault"), 2))
    fill(part, DATA)
    with pytest.raises(DiskError):
        part.finish()
    assert dict(tree(tmp_path / "dir")) == {"a": b"old"}
    again = opened(FOLDER, overwrite=True)
    assert again.resumed
    again.finish()
    assert dict(tree(tmp_path / "dir")) == FOLDER_TREE
