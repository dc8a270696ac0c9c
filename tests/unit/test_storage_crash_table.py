"""Tests of the crash table in p2p/storage/part_file.py (case 50): each row, and a kill between two steps."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.manifest import to_bytes
from p2p.errors import DiskError
from p2p.model import Manifest
from p2p.storage.hashing import HashPool
from p2p.storage.part_file import PartFile
from tests.kit.content_samples import fill, part_of, tree
from tests.kit.part_samples import DATA, FOLDER, FOLDER_TREE, SINGLE, Killed, stop_at
from tests.kit.waiting import HANG_S

both_kinds = pytest.mark.parametrize("manifest", [SINGLE, FOLDER], ids=["file", "folder"])
Tree = dict[str, bytes | None]


def whole_tree(manifest: Manifest) -> Tree:
    """What stands under the final name when the download is whole."""
    return {"": DATA} if manifest is SINGLE else FOLDER_TREE


def tree_of(path: Path) -> Tree | None:
    """What stands at a path; None if there is nothing."""
    if not os.path.lexists(path):
        return None
    return {"": path.read_bytes()} if path.is_file() else dict(tree(path))


def old_target(folder: Path, manifest: Manifest) -> Tree:
    """Put what is to be overwritten under the final name."""
    target = folder / manifest.name
    if manifest is SINGLE:
        target.write_bytes(b"old")
        return {"": b"old"}
    target.mkdir()
    (target / "a").write_bytes(b"old")
    return {"a": b"old"}


def verify(part: PartFile) -> Bitmap:
    """What a resume does first."""
    pool = HashPool(1)
    try:
        return asyncio.run(pool.verify(part, lambda _done: None))
    finally:
        pool.close()


def fetch(part: PartFile) -> int:
    """Go on from what was found to the end; returns how many pieces were missing."""
    missing = list(verify(part).missing())
    for piece in missing:
        fill(part, DATA, range(piece, piece + 1))
    part.finish()
    return len(missing)


def killed_at(step: str, folder: Path, manifest: Manifest, *, nth: int = 1, overwrite: bool = False) -> None:
    """A download that dies before a step, or once the target is linked to the part (`link`)."""
    with pytest.MonkeyPatch.context() as patch:
        if step == "link":
            patch.setattr(os, "link", killing(os.link))
        part = part_of(manifest, folder, overwrite=overwrite, fault=stop_at(step, Killed(), nth))
        part.open()
        try:
            fill(part, DATA)
            part.finish()
        except Killed:
            pass
        part.abandon()


def killing(real: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: object, **more: object) -> None:
        real(*arguments, **more)
        raise Killed

    return call


# -- one test for each row of the table


def test_case_50_a_sidecar_alone_lets_the_download_begin_anew(tmp_path: Path) -> None:
    (tmp_path / "x.bin.part.manifest").write_bytes(to_bytes(SINGLE))
    part = part_of(SINGLE, tmp_path)
    part.open()
    assert not part.resumed
    assert fetch(part) == part.geometry.pieces
    assert dict(tree(tmp_path)) == {"x.bin": DATA}


@both_kinds
def test_case_50_a_part_is_kept_and_what_verifies_is_not_fetched(tmp_path: Path, manifest: Manifest) -> None:
    killed_at("write", tmp_path, manifest, nth=3)
    part = part_of(manifest, tmp_path)
    part.open()
    assert part.resumed
    assert not part.landed
    assert fetch(part) == part.geometry.pieces - 2
    assert tree_of(tmp_path / manifest.name) == whole_tree(manifest)


def test_case_50_a_target_linked_to_its_part_stays_and_the_part_goes(tmp_path: Path) -> None:
    killed_at("link", tmp_path, SINGLE)
    assert (tmp_path / "x.bin").samefile(tmp_path / "x.bin.part")
    part = part_of(SINGLE, tmp_path)
    part.open()
    assert part.landed
    assert not part.path.exists()
    assert fetch(part) == 0
    assert dict(tree(tmp_path)) == {"x.bin": DATA}


def test_case_50_an_old_folder_set_aside_gets_its_name_back(tmp_path: Path) -> None:
    old = old_target(tmp_path, FOLDER)
    killed_at("rename", tmp_path, FOLDER, nth=2, overwrite=True)
    assert tree_of(tmp_path / "dir") is None
    part = part_of(FOLDER, tmp_path, overwrite=True)
    part.open()
    assert tree_of(tmp_path / "dir") == old
    assert part.resumed
    assert not part.landed
    assert fetch(part) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]
    assert tree_of(tmp_path / "dir") == FOLDER_TREE


def test_an_old_folder_stays_aside_when_somebody_made_a_new_one(tmp_path: Path) -> None:
    old = old_target(tmp_path, FOLDER)
    killed_at("rename", tmp_path, FOLDER, nth=2, overwrite=True)
    (tmp_path / "dir").mkdir()
    with pytest.raises(DiskError, match="exists"):
        part_of(FOLDER, tmp_path).open()
    (aside,) = tmp_path.glob("*.old.part")
    assert tree_of(aside) == old


@both_kinds
@pytest.mark.parametrize("step", ["fsync-folder", "delete-old", "delete-sidecar"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_case_50_a_target_that_landed_is_verified_and_kept(
    tmp_path: Path, manifest: Manifest, step: str, overwrite: bool
) -> None:
    if overwrite:
        old_target(tmp_path, manifest)
    killed_at(step, tmp_path, manifest, overwrite=overwrite)
    part = part_of(manifest, tmp_path, overwrite=overwrite)
    part.open()
    assert part.landed
    assert fetch(part) == 0
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]
    assert tree_of(tmp_path / manifest.name) == whole_tree(manifest)


@both_kinds
@pytest.mark.parametrize("size", ["other size", "same size"])
def test_case_50_a_target_that_does_not_verify_is_never_written_to(
    tmp_path: Path, manifest: Manifest, size: str
) -> None:
    killed_at("delete-sidecar", tmp_path, manifest)
    changed = change(tmp_path / manifest.name, manifest, size)
    before = changed.read_bytes()
    part = part_of(manifest, tmp_path)
    with pytest.raises(DiskError, match=r"exists; use --overwrite or another -o DIR"):
        open_and_verify(part)
    part.abandon()
    assert changed.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]


@both_kinds
@pytest.mark.parametrize("size", ["other size", "same size"])
def test_case_50_with_overwrite_a_target_that_does_not_verify_is_fetched_anew(
    tmp_path: Path, manifest: Manifest, size: str
) -> None:
    killed_at("delete-sidecar", tmp_path, manifest)
    change(tmp_path / manifest.name, manifest, size)
    part = part_of(manifest, tmp_path, overwrite=True)
    part.open()
    assert fetch(part) == part.geometry.pieces
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]
    assert tree_of(tmp_path / manifest.name) == whole_tree(manifest)


def test_nothing_is_written_to_a_target_that_landed(tmp_path: Path) -> None:
    killed_at("delete-sidecar", tmp_path, SINGLE)
    part = part_of(SINGLE, tmp_path)
    part.open()
    with pytest.raises(RuntimeError, match="begin_anew"):
        fill(part, bytes(len(DATA)))
    part.abandon()
    assert (tmp_path / "x.bin").read_bytes() == DATA


def change(target: Path, manifest: Manifest, size: str) -> Path:
    """Change the last file of a target; returns which it is."""
    path = target if manifest is SINGLE else target / manifest.files[-1].path
    path.write_bytes(b"shorter" if size == "other size" else bytes(path.stat().st_size))
    return path


def open_and_verify(part: PartFile) -> None:
    part.open()
    verify(part)


# -- a kill between any two steps

STEPS = [
    ("write", 1),
    ("write", 3),
    ("fsync", 1),
    ("rename", 1),
    ("rename", 2),
    ("link", 1),
    ("fsync-folder", 1),
    ("delete-old", 1),
    ("delete-sidecar", 1),
]


@both_kinds
@pytest.mark.parametrize(("step", "nth"), STEPS)
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_case_50_a_kill_between_any_two_steps_leaves_the_old_state_or_the_new(
    tmp_path: Path, step: str, nth: int, manifest: Manifest, overwrite: bool
) -> None:
    target = tmp_path / manifest.name
    old = old_target(tmp_path, manifest) if overwrite else None
    new = whole_tree(manifest)
    killed_at(step, tmp_path, manifest, nth=nth, overwrite=overwrite)
    between = tree_of(target)
    assert between in (new, old) or (overwrite and between is None)

    again = part_of(manifest, tmp_path, overwrite=overwrite)
    if between == new and not again.sidecar.exists():  # this download has no such step, and ended
        assert [path.name for path in tmp_path.iterdir()] == [manifest.name]
        return
    again.open()
    assert tree_of(target) in (new, old)
    missing = fetch(again)
    assert missing == 0 if step not in ("write",) else missing == again.geometry.pieces - nth + 1
    assert tree_of(target) == new
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]


KILL_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.kit.content_samples import fill, part_of
from tests.kit.part_samples import DATA, FOLDER, SINGLE
seen = []
def fault(step):
    seen.append(step)
    if step == sys.argv[3] and seen.count(step) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
part = part_of({"SINGLE": SINGLE, "FOLDER": FOLDER}[sys.argv[5]], Path(sys.argv[2]), fault=fault)
part.open()
fill(part, DATA)
part.finish()
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a thing of POSIX")
@pytest.mark.parametrize(
    ("step", "nth", "which"), [("write", 3, "SINGLE"), ("rename", 1, "FOLDER"), ("fsync-folder", 1, "SINGLE")]
)
def test_case_50_a_killed_process_leaves_its_lock_and_its_part_to_the_next(
    tmp_path: Path, step: str, nth: int, which: str
) -> None:
    manifest = {"SINGLE": SINGLE, "FOLDER": FOLDER}[which]
    here = Path(__file__).resolve().parents[2]
    child = subprocess.run(
        [sys.executable, "-c", KILL_CHILD, here, tmp_path, step, str(nth), which], check=False, timeout=HANG_S
    )
    assert child.returncode == -signal.SIGKILL
    again = part_of(manifest, tmp_path, overwrite=True)
    again.open()
    assert again.resumed
    assert fetch(again) == (again.geometry.pieces - 2 if step == "write" else 0)
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]
