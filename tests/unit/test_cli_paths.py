"""p2p/cli/paths.py: the paths that a user names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2p.cli.paths import named_path, served_folder
from p2p.errors import DiskError, UsageError


def test_a_path_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder"):
        named_path(str(tmp_path / "missing"))


@pytest.mark.skipif(os.name == "nt", reason="makes symbolic links")
def test_a_link_that_is_named_means_what_it_leads_to(tmp_path: Path) -> None:
    target = tmp_path.resolve() / "image-7.img"
    target.write_bytes(b"x")
    (tmp_path / "latest.img").symlink_to("image-7.img")
    assert named_path(str(tmp_path / "latest.img")) == target
    (tmp_path / "nowhere").symlink_to("missing")
    with pytest.raises(UsageError, match=r"nowhere: no such file or folder"):
        named_path(str(tmp_path / "nowhere"))


def test_the_folder_that_takes_copies_is_made(tmp_path: Path) -> None:
    assert served_folder(str(tmp_path / "a" / "b"), make=True).is_dir()
    assert served_folder(str(tmp_path), make=False) == tmp_path
    with pytest.raises(UsageError, match=r"no such folder"):
        served_folder(str(tmp_path / "missing"), make=False)
    assert not (tmp_path / "missing").exists()


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match=r"cannot make"):
        served_folder(str(tmp_path / "file" / "below"), make=True)


def test_to_serve_a_file_is_answered_with_the_command_for_it(tmp_path: Path) -> None:
    (tmp_path / "my file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"is a file; share it with: peer share '.*my file'"):
        served_folder(str(tmp_path / "my file"), make=True)
