"""A command names its phase on a terminal, also while its tracker is silent, unless it is `--quiet`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.model import Address
from p2p.peer.session_file import StoredSession, save_session
from tests.kit.processes import DEADLINE, clean_environment, command, old_file

__test__ = sys.platform != "win32"

COMMANDS = {
    "list": ["list"],
    "search": ["search", "x"],
    "peers": ["peers"],
    "login": ["login", "alice"],
    "logout": ["logout"],
    "status": ["status"],
    "info": ["info", "x", "--port", "0"],
    "download": ["download", "x", "--port", "0"],
    "serve": ["serve", "FOLDER", "--port", "0"],
    "share": ["share", "FILE", "--port", "0"],
    "upload": ["upload", "FILE", "--port", "0"],
}


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A tracker that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(DEADLINE)
        yield made


@contextlib.contextmanager
def on_terminal(
    tmp_path: Path, silent: socket.socket, name: str, *more: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command whose standard error is a terminal, and the terminal's other side."""
    import pty

    tracker = f"127.0.0.1:{silent.getsockname()[1]}"
    file = old_file(tmp_path / "share" / "file.bin", b"some bytes")
    if name == "logout":
        save_session(tmp_path / "state", StoredSession(Address.parse(tracker), "alice", "ab" * 16))
    words = [{"FILE": str(file), "FOLDER": str(file.parent)}.get(word, word) for word in COMMANDS[name]]
    main, side = pty.openpty()
    try:
        process = subprocess.Popen(
            [*command("peer"), *words, "--tracker", tracker, *more],
            env=clean_environment(tmp_path / "state"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)
        try:
            yield process, main
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(main)


def shown(main: int, word: bytes = b"") -> bytes:
    """What a terminal got until it got `word`, or until all its writers have ended."""
    found, end = b"", time.monotonic() + DEADLINE
    while not word or word not in found:
        assert select.select([main], [], [], max(end - time.monotonic(), 0))[0], (
            f"nothing more came: {found!r}"
        )
        try:
            data = os.read(main, 65536)
        except OSError:  # Linux says so when the last writer has closed a terminal
            data = b""
        assert data or not word, found
        if not data:
            break
        found += data
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_waits_for_its_tracker_shows_that_it_is_connecting(
    tmp_path: Path, silent: socket.socket, name: str
) -> None:
    with on_terminal(tmp_path, silent, name) as (process, main):
        assert shown(main, b"connecting")
        assert process.poll() is None, "it was shown at the end, and not while the command waits"


@pytest.mark.parametrize("name", ["list", "share"])
def test_with_quiet_a_command_that_waits_shows_nothing(
    tmp_path: Path, silent: socket.socket, name: str
) -> None:
    with on_terminal(tmp_path, silent, name, "--quiet") as (process, main):
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 143
        assert b"connecting" not in shown(main)
