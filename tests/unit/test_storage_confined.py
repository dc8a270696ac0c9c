"""Tests of p2p/storage/confined.py: case 41, links in the place of folders."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.storage.confined import make_confined, make_folder, open_confined
from tests.kit.leaks import open_descriptors

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX links")


def fault_of(work: Callable[[], object]) -> int | None:
    """The number of the fault that this must raise."""
    try:
        work()
    except OSError as error:
        return error.errno
    raise AssertionError("it was done")


def test_a_file_and_a_folder_are_made_below_a_folder(tmp_path: Path) -> None:
    before = open_descriptors()
    make_confined(tmp_path, "a")
    make_confined(tmp_path, "a/b")
    make_confined(tmp_path, "a/b")
    for path in ("x", "a/x", "a/b/x"):
        fd = open_confined(tmp_path, path, create=True)
        os.write(fd, path.encode())
        os.close(fd)
        assert (tmp_path / path).read_text() == path
        with pytest.raises(FileExistsError):
            open_confined(tmp_path, path, create=True)
    with pytest.raises(FileNotFoundError):
        open_confined(tmp_path, "a/c/x", create=True)
    with pytest.raises(FileExistsError):
        make_confined(tmp_path, "a/x")
    os.mkfifo(tmp_path / "a" / "fifo")
    with pytest.raises(DiskError, match="not a regular file"):
        open_confined(tmp_path, "a/fifo", create=False)
    assert open_descriptors() == before


@pytest.mark.parametrize("where", ["", "a", "a/b", "a/b/x"])
@pytest.mark.parametrize("create", [True, False])
def test_case_41_a_link_anywhere_on_the_way_is_not_followed(tmp_path: Path, where: str, create: bool) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "b").mkdir()
    for path in ("x", "b/x", "a/b/x"):
        (outside / path).write_bytes(b"theirs")
    place = root / where
    if where != "a/b/x":
        place.rename(tmp_path / "aside")
    place.symlink_to(outside / where if where == "a/b/x" else outside)
    assert fault_of(lambda: open_confined(root, "a/b/x", create=create)) in (
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EEXIST,
    )
    if where != "a/b/x":
        assert fault_of(lambda: make_confined(root, "a/b/new")) in (errno.ELOOP, errno.ENOTDIR)
    assert sorted(path.name for path in outside.rglob("*")) == ["a", "b", "b", "x", "x", "x"]
    assert all(path.read_bytes() == b"theirs" for path in outside.rglob("x"))


@pytest.mark.parametrize("make", [make_confined, lambda root, path: make_folder(root / path)])
def test_case_41_a_link_is_no_folder_that_is_there_already(
    tmp_path: Path, make: Callable[[Path, str], None]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(FileExistsError):
        make(tmp_path, "link")


def test_without_descriptors_of_folders_paths_are_used_as_they_are(tmp_path: Path) -> None:
    make_confined(tmp_path, "a", openat=False)
    os.close(open_confined(tmp_path, "a/x", create=True, openat=False))
    os.close(open_confined(tmp_path, "a/x", create=False, openat=False))
    assert (tmp_path / "a" / "x").is_file()
