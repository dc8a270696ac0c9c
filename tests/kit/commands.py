"""Commands of `bin/peer` as processes: their lines, how they must fail, and a tracker that answers what it is
told to."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from typing import Final

import pytest

from tests.kit.processes import Ended, command
from tests.kit.waiting import HANG_S

POSIX: Final = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
SIZE: Final = 300_000
"""Bytes of the `lab.img` that the fixture `seed` serves."""


def peer_line(*words: str, tracker: str) -> list[str]:
    """The command line of a command that runs a peer, at a free port, without `--json`."""
    return [*command("peer"), words[0], "--tracker", tracker, "--port", "0", *words[1:]]


def error_of(done: Ended, code: int) -> str:
    """The message of a command that failed as it must: one line, one event, no traceback."""
    assert done.code == code, f"{done.code}: {done.out}{done.err}"
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("peer: error: ")
    event = done.event("error")
    assert set(event) == {"event", "code", "message"}
    assert not CONTROLS.search(done.out + done.err)
    return str(event["message"])


class HostileTracker(threading.Thread):
    """Answers each line with the next of `answers`, its `seq` put in."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__(daemon=True)
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """Serve one connection."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rwb") as stream:
            for answer in self._answers:
                line = stream.readline()
                if not line:
                    return
                stream.write(answer.replace("SEQ", str(json.loads(line).get("seq"))).encode() + b"\n")
                stream.flush()
            stream.readline()

    def __enter__(self) -> HostileTracker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.join(HANG_S)
