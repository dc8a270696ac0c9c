"""Small private files that are replaced whole."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from p2p.storage.atomic_file import beside, write_private
from p2p.storage.disk import lock_file
from tests.kit.leaks import Snapshot, check_back_to


def test_a_file_is_made_and_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    before = Snapshot.take()
    path = tmp_path / "a.json"
    for data in (b"one", b"a longer two", b""):
        write_private(path, data, sync=True)
        assert path.read_bytes() == data
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    check_back_to(before)


@pytest.mark.skipif(os.name == "nt", reason="modes are a thing of POSIX")
def test_case_48_it_is_private_also_when_what_a_killed_writer_left_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    beside(path).write_bytes(b"left behind, and longer")
    beside(path).chmod(0o666)
    write_private(path, b"new", sync=False)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not beside(path).exists()


def test_while_another_writes_it_waits_and_then_gives_up_or_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    other = lock_file(beside(path))
    with pytest.raises(BlockingIOError):
        write_private(path, b"mine", sync=False, patience=0.05)
    timer = threading.Timer(0.05, other.remove)
    timer.start()
    write_private(path, b"mine", sync=False, patience=10)
    timer.join()
    assert path.read_bytes() == b"mine"


def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_private(path, b"old", sync=False)

    def full(_fd: int) -> None:
        raise OSError(28, "no space")

    before = Snapshot.take()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_private(path, b"new", sync=True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    check_back_to(before)
