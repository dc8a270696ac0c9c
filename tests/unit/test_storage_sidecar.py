"""Tests of p2p/storage/sidecar.py: one download of a name at a time, and never with a user's own file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.content.manifest import to_bytes
from p2p.errors import DiskError
from tests.kit.content_samples import fill, id_of, manifest_of, part_of, some_bytes, tree
from tests.kit.part_samples import DATA, FOLDER, SINGLE, Opener, opener

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX kinds of files")


@pytest.fixture(params=[False, True], ids=["posix", "portable"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens a download into tmp_path; closed when the test ends."""
    with opener(tmp_path, portable=request.param) as open_one:
        yield open_one


def test_case_43_a_second_download_of_one_name_is_refused(opened: Opener, tmp_path: Path) -> None:
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
def test_a_sidecar_that_a_crash_left_without_a_part_is_taken_over(
    opened: Opener, tmp_path: Path, torn: bytes
) -> None:
    (tmp_path / "x.bin.part.manifest").write_bytes(torn)
    part = opened(SINGLE)
    assert not part.resumed
    assert (tmp_path / "x.bin.part.manifest").read_bytes() == to_bytes(SINGLE)


@pytest.mark.parametrize("name", ["n" * 255, "ñ" * 127])
def test_a_name_of_full_length_has_room_for_the_ending(opened: Opener, tmp_path: Path, name: str) -> None:
    manifest = manifest_of(DATA, name)
    part = opened(manifest)
    assert all(len(os.fsencode(path.name)) <= 255 for path in (part.path, part.sidecar))
    assert id_of(manifest)[:8] in part.path.name
    fill(part, DATA)
    assert part.finish().name == name


@pytest.mark.parametrize("theirs", [b'{"files":["mine"]}', b"mine"], ids=["json", "anything"])
def test_a_users_file_with_the_sidecars_name_is_left_alone(tmp_path: Path, theirs: bytes) -> None:
    data = some_bytes(100)
    own = tmp_path / "x.bin.part.manifest"
    own.write_bytes(theirs)
    for overwrite in (False, True):
        part = part_of(manifest_of(data), tmp_path, overwrite=overwrite)
        with pytest.raises(DiskError, match="not ours"):
            part.open()
        assert own.read_bytes() == theirs


@pytest.mark.skipif(os.name == "nt", reason="hard links of POSIX")
def test_a_sidecar_with_a_second_name_is_not_ours(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"")
    os.link(precious, tmp_path / "x.bin.part.manifest")
    part = part_of(manifest_of(some_bytes(100)), tmp_path)
    with pytest.raises(DiskError, match="another name"):
        part.open()
    part.abandon()
    assert precious.read_bytes() == b""
    assert (tmp_path / "x.bin.part.manifest").exists()


def test_a_sidecar_of_another_content_without_a_part_is_taken_over(tmp_path: Path) -> None:
    other = some_bytes(100, seed=2)
    (tmp_path / "x.bin.part.manifest").write_bytes(to_bytes(manifest_of(other)))
    data = some_bytes(100)
    part = part_of(manifest_of(data), tmp_path)
    part.open()
    fill(part, data)
    part.finish()
    assert (tmp_path / "x.bin").read_bytes() == data
