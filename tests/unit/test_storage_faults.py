"""Every call that a download makes to the system fails once (case 47).

The error names the path, and the next download ends rightly.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import DiskError
from p2p.model import Manifest
from p2p.storage.part_file import PartFile
from tests.kit.content_samples import fill, folder_manifest, manifest_of, part_of, some_bytes, tree
from tests.kit.leaks import open_descriptors

DATA = some_bytes(200_000)
SINGLE = manifest_of(DATA, "x.bin")
FOLDER = folder_manifest(
    [("a", DATA[:70_000]), ("deep/b", b""), ("deep/c", DATA[70_000:150_000]), ("z", DATA[150_000:])],
    folders=("empty",),
)
CALLS = [
    "open",
    "mkdir",
    "write",
    "pwrite",
    "ftruncate",
    "fsync",
    "fdatasync",
    "link",
    "rename",
    "replace",
    "unlink",
    "lstat",
    "fstat",
]
NUMBERS = [errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOSPC]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX calls")


class Faulty:
    """Counts one kind of call below a folder, and fails the one of a number."""

    def __init__(self, real: Callable[..., Any], root: Path, fail_at: int, number: int) -> None:
        self._real = real
        self._root = str(root)
        self._fail_at = fail_at
        self._number = number
        self.seen = 0

    def __call__(self, *words: Any, **more: Any) -> Any:
        if self._ours(words[0], more.get("dir_fd")):
            self.seen += 1
            if self.seen == self._fail_at:
                raise OSError(self._number, os.strerror(self._number))
        return self._real(*words, **more)

    def _ours(self, what: Any, dir_fd: int | None) -> bool:
        if dir_fd is not None:
            return True
        if isinstance(what, int):
            return os.readlink(f"/proc/self/fd/{what}").startswith(self._root)
        return str(what).startswith(self._root)


@contextmanager
def faulty(call: str, root: Path, fail_at: int, number: int) -> Iterator[Faulty]:
    """`os.CALL` fails once, while this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        fault = Faulty(getattr(os, call), root, fail_at, number)
        patch.setattr(os, call, fault)
        yield fault


def attempt(manifest: Manifest, folder: Path, *, overwrite: bool) -> None:
    """One download, which leaves no descriptor behind however it ends."""
    before = open_descriptors()
    part: PartFile | None = None
    try:
        part = part_of(manifest, folder, overwrite=overwrite)
        part.open()
        if not (part.resumed and holds_all(part)):
            fill(part, DATA)
        part.finish()
    finally:
        if part is not None:
            part.abandon()
        assert open_descriptors() == before


def holds_all(part: PartFile) -> bool:
    """Whether what an opened part reads is the content already."""
    got, view = b"", bytearray(part.geometry.piece_length)
    try:
        for piece in range(part.geometry.pieces):
            for block in part.geometry.blocks(piece):
                part.read(block, memoryview(view))
                got += view[: block.length]
    except DiskError:
        return False
    return got == DATA


def is_right(manifest: Manifest, folder: Path) -> bool:
    """Whether what lies under the final name is the content, byte for byte."""
    target = folder / manifest.name
    if manifest.kind == "file":
        return target.read_bytes() == DATA
    return b"".join(data or b"" for _, data in tree(target)) == DATA and (target / "empty").is_dir()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="finds descriptors by /proc")
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
@pytest.mark.parametrize("call", CALLS)
def test_case_47_any_call_may_fail_once_and_the_next_download_ends_rightly(
    tmp_path: Path, call: str, manifest: Manifest, overwrite: bool
) -> None:
    turn = 0
    while True:
        turn += 1
        number = NUMBERS[turn % len(NUMBERS)]
        folder = tmp_path / f"{turn}"
        folder.mkdir()
        if overwrite and manifest.kind == "file":
            (folder / manifest.name).write_bytes(b"old")
        elif overwrite:
            (folder / manifest.name).mkdir()
            (folder / manifest.name / "a").write_bytes(b"old")
        with faulty(call, folder, turn, number) as fault:
            failed: DiskError | None = None
            try:
                attempt(manifest, folder, overwrite=overwrite)
            except DiskError as error:
                failed = error
        if fault.seen < turn:
            assert failed is None
            assert is_right(manifest, folder)
            return
        if failed is None:
            assert is_right(manifest, folder), (call, turn)
            continue
        assert str(folder) in str(failed), (call, turn, failed)
        assert "\n" not in str(failed)
        target = folder / manifest.name
        if target.exists() and not is_right(manifest, folder):
            assert overwrite, (call, turn)
            assert (target if manifest.kind == "file" else target / "a").read_bytes() == b"old"
        attempt(manifest, folder, overwrite=overwrite)
        assert is_right(manifest, folder), (call, turn)
        assert [path.name for path in folder.iterdir()] == [manifest.name], (call, turn)
