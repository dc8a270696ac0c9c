"""Tests of p2p/peer/session_file.py: where a session is kept, and which users may read it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from p2p.errors import DiskError
from p2p.model import Address
from p2p.peer import session_file
from p2p.peer.session_file import StoredSession, forget_session, load_session, save_session

TRACKER = Address("10.0.0.1", 6969)
ALICE = StoredSession(TRACKER, "alice", "ab" * 16)
posix = pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_session_is_kept_for_each_tracker(tmp_path: Path) -> None:
    other = StoredSession(Address("tracker.example", 1), "bob", "cd" * 16)
    for session in (ALICE, other):
        save_session(tmp_path / "state", session)
    assert load_session(tmp_path / "state", TRACKER) == ALICE
    assert load_session(tmp_path / "state", other.tracker) == other
    forget_session(tmp_path / "state", TRACKER)
    assert load_session(tmp_path / "state", TRACKER) is None
    assert load_session(tmp_path / "state", other.tracker) == other


def test_there_is_no_session_before_one_is_kept(tmp_path: Path) -> None:
    assert load_session(tmp_path / "nowhere", TRACKER) is None
    forget_session(tmp_path / "nowhere", TRACKER)
    assert not (tmp_path / "nowhere").exists()


@posix
def test_case_48_the_file_and_its_folders_are_private_under_any_umask(
    tmp_path: Path,
) -> None:
    state = tmp_path / "local" / "deep" / "state"
    before = os.umask(0)
    try:
        save_session(state, ALICE)
    finally:
        os.umask(before)
    (kept,) = state.iterdir()
    assert mode(kept) == 0o600
    assert [mode(folder) for folder in (state, state.parent, state.parent.parent)] == [0o700] * 3


@posix
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", ["open", "fsync", "rename"])
def test_case_46_a_session_that_cannot_be_written_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    save_session(tmp_path, ALICE)

    def fail(*_words: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    if step == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DiskError, match="session-"):
        save_session(tmp_path, StoredSession(TRACKER, "bob", "cd" * 16))
    monkeypatch.undo()
    assert load_session(tmp_path, TRACKER) == ALICE
    assert len(list(tmp_path.iterdir())) == 1


@posix
@pytest.mark.parametrize("bits", [0o777, 0o770, 0o702])
def test_case_48_a_folder_that_others_may_write_into_keeps_no_secret(tmp_path: Path, bits: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(bits)
    with pytest.raises(DiskError, match="chmod 700"):
        save_session(state, ALICE)
    assert list(state.iterdir()) == []


@posix
def test_a_file_with_open_modes_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    save_session(tmp_path, ALICE)
    (kept,) = tmp_path.iterdir()
    kept.chmod(0o666)
    save_session(tmp_path, StoredSession(TRACKER, "alice", "cd" * 16))
    assert mode(kept) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [kept.name]


NO_SESSIONS = [
    *(b"", b"{}", b"[]", b"null", b'{"user":"alice"}', b"\xff", b'{"user":', b"[" * 100_000, b"x" * 100_000),
    b'{"user":7,"token":"%b"}' % (b"ab" * 16),
    b'{"user":"\\ud800","token":"%b"}' % (b"ab" * 16),
    b'{"user":"%b","token":"%b"}' % (b"x" * 65, b"ab" * 16),
    b'{"user":"alice","token":null}',
    b'{"user":"alice","token":"%b"}' % (b"AB" * 16),
]


@pytest.mark.parametrize("data", NO_SESSIONS, ids=range(len(NO_SESSIONS)))
def test_a_file_that_holds_no_session_is_an_error_with_its_name(tmp_path: Path, data: bytes) -> None:
    save_session(tmp_path, ALICE)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(data)
    with pytest.raises(DiskError, match=kept.name):
        load_session(tmp_path, TRACKER)


def test_there_is_no_session_in_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """As with HOME=/dev/null, which service users have."""
    (tmp_path / "file").write_bytes(b"")
    assert load_session(tmp_path / "file" / "state", TRACKER) is None
    forget_session(tmp_path / "file" / "state", TRACKER)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_session_that_may_not_be_read_is_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As in the home of another user."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(session_file, "open", fail, raising=False)
    with pytest.raises(DiskError, match=r"session-.*: no permission; name a folder of your own with --state"):
        load_session(tmp_path, TRACKER)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match=r"file.*--state"):
        save_session(tmp_path / "file" / "state", ALICE)
