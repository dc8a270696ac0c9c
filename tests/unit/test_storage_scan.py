"""Tests of p2p/storage/scan.py: case 44, what lies in a shared folder."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import FileEntry
from p2p.storage.scan import Scanned, scan
from p2p.text import printable
from tests.kit.content_samples import no_warning

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


def scan_with_warnings(path: Path) -> tuple[Scanned, list[str]]:
    warnings: list[str] = []
    return scan(path, warnings.append), warnings


def paths(scanned: Scanned) -> list[str]:
    return [file.path for file in scanned.files]


def test_a_folder_is_listed_in_order_with_its_empty_folders(tmp_path: Path) -> None:
    root = tmp_path / "d"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "empty" / "more").mkdir(parents=True)
    for name in ("z", "b/deep/1", "b-x", "B2", "a"):
        (root / name).write_bytes(name.encode())
    scanned = scan(root, no_warning)
    assert (scanned.name, scanned.kind, scanned.root) == ("d", "folder", root)
    assert paths(scanned) == sorted(["z", "b/deep/1", "b-x", "B2", "a"])
    assert scanned.folders == ("empty/more",)
    assert scanned.size == 15
    assert scanned.entries[0] == FileEntry("B2", 2)
    assert scanned.path_of(0) == str(root / "B2")


def test_a_single_file_is_a_content_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    scanned = scan(tmp_path / "sub" / ".." / "f", no_warning)
    assert (scanned.name, scanned.kind, paths(scanned)) == ("f", "file", ["f"])
    assert scanned.path_of(0) == str(tmp_path / "f")
    found = (tmp_path / "f").stat()
    assert scanned.files[0].matches(found)
    os.utime(tmp_path / "f", ns=(1, 1))
    assert not scanned.files[0].matches((tmp_path / "f").stat())


def test_an_empty_folder_is_a_content_without_files(tmp_path: Path) -> None:
    scanned = scan(tmp_path, no_warning)
    assert (scanned.files, scanned.folders, scanned.size) == ((), (), 0)


@posix_only
def test_case_44_links_fifos_and_sockets_are_skipped_with_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "d"
    (root / "sub").mkdir(parents=True)
    (root / "good").write_bytes(b"x")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "dirlink").symlink_to("/etc")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        (root / "sub" / "loop").symlink_to(root)
        scanned, warnings = scan_with_warnings(root)
    assert paths(scanned) == ["good"]
    assert scanned.folders == ("sub",)
    for name in ("passwd", "dirlink", "dangling", "fifo", "sock", "sub/loop"):
        assert any(f"{name}'" in warning for warning in warnings), name


@posix_only
def test_case_44_a_file_that_becomes_a_fifo_or_vanishes_after_listing_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")
    real = os.scandir

    class Listing:
        def __init__(self, path: str) -> None:
            with real(path) as entries:
                self.entries = list(entries)
            (tmp_path / "a").unlink()
            (tmp_path / "b").unlink()
            os.mkfifo(tmp_path / "b")

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Listing)
    scanned, warnings = scan_with_warnings(tmp_path)
    assert paths(scanned) == ["c"]
    assert len(warnings) == 2


@posix_only
@pytest.mark.parametrize("kind", ["fifo", "link", "device", "socket"])
def test_case_44_such_a_thing_cannot_be_shared_by_itself_and_never_blocks(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "socket":
            here = Path.cwd()
            os.chdir(tmp_path)
            try:
                listener.bind("x")
            finally:
                os.chdir(here)
        else:
            path = Path("/dev/null")
        with pytest.raises(DiskError, match="neither"):
            scan(path, no_warning)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="does not exist"):
        scan(tmp_path / "nothing", no_warning)


def test_a_root_without_a_name_cannot_be_shared() -> None:
    with pytest.raises(DiskError, match="cannot share"):
        scan(Path(os.path.abspath(os.sep)), no_warning)


@pytest.mark.skipif(sys.platform != "linux", reason="only here a name may be any bytes")
def test_case_41_unshareable_names_are_skipped_and_shown_safely(tmp_path: Path) -> None:
    for name in (b"bad\xff", b"new\nline", "rtl\u202e".encode(), b"esc\x1b[31m", b"good"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    os.mkdir(os.fsencode(tmp_path) + b"/dir\x07")
    scanned, warnings = scan_with_warnings(tmp_path)
    assert paths(scanned) == ["good"]
    assert len(warnings) == 5
    assert all(warning == printable(warning) for warning in warnings)


@pytest.mark.skipif(sys.platform != "linux", reason="only here both names fit one folder")
def test_case_45_of_two_names_that_collide_the_second_is_skipped(tmp_path: Path) -> None:
    for name in ("README", "readme", "a:b", "a_b", "\u00e9", "e\u0301"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "Dir").mkdir()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "x").write_bytes(b"")
    scanned, warnings = scan_with_warnings(tmp_path)
    assert paths(scanned) == ["README", "a:b", "e\u0301"]
    assert scanned.folders == ("Dir",)
    assert len(warnings) == 4


@posix_only
def test_case_44_what_cannot_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "open").write_bytes(b"x")
    real_scandir, real_open = os.scandir, os.open

    def scandir(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "denied")
        return real_scandir(path)

    def open_file(path: str, flags: int, *mode: int) -> int:
        if str(path).endswith("secret"):
            raise PermissionError(13, "denied")
        return real_open(path, flags, *mode)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "open", open_file)
    scanned, warnings = scan_with_warnings(tmp_path)
    assert paths(scanned) == ["open"]
    assert scanned.folders == ("closed",)
    assert len(warnings) == 2
    assert all("no permission" in warning for warning in warnings)
    with pytest.raises(DiskError, match="no permission"):
        scan(tmp_path / "closed", no_warning)


def test_a_folder_that_is_too_deep_is_skipped(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(66):
        deep = deep / "d"
    deep.mkdir(parents=True)
    scanned, warnings = scan_with_warnings(tmp_path)
    assert len(warnings) == 1
    assert scanned.folders == ("/".join(["d"] * 63),)


def test_an_entry_that_fails_to_say_what_it_is_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry:
        name = "odd"
        path = str(tmp_path / "odd")

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            raise OSError(5, "bad sector")

    class Listing(list[Entry]):
        def __enter__(self) -> Listing:
            return self

        def __exit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda _path: Listing([Entry()]))
    scanned, warnings = scan_with_warnings(tmp_path)
    assert scanned.files == ()
    assert "odd" in warnings[0]


def test_more_than_a_manifest_may_list_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"xx")
    with pytest.raises(DiskError, match="more than 5 bytes"):
        scan(tmp_path, no_warning, max_size=5)
    with pytest.raises(DiskError, match="more than 2 files"):
        scan(tmp_path, no_warning, max_files=2)
