"""The session in protos/PROTOCOL.md that a reader types into `nc`, replayed line by line against a real
tracker."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from p2p.model import Address
from tests.kit.processes import STOP_GRACE_S
from tests.kit.protocol_page import PLACEHOLDER, ROOT, blocks, marked, matches, read_page
from tests.kit.waiting import HANG_S


@pytest.fixture
def tracker() -> Iterator[Address]:
    """A tracker in a process of its own, on a free port of loopback."""
    command = [
        sys.executable,
        str(ROOT / "bin" / "tracker"),
        "--json",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--store",
        "memory",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, f"the tracker said nothing and ended with {process.wait(HANG_S)}"
        event = json.loads(first)
        assert event["event"] == "listening"
        yield Address(event["host"], event["port"])
    finally:
        process.terminate()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_the_session_in_the_page_goes_as_it_says(tracker: Address) -> None:
    (block,) = blocks(read_page(), "nc")
    bound: dict[str, object] = {}
    with (
        socket.create_connection((tracker.host, tracker.port), timeout=HANG_S) as sock,
        sock.makefile("rwb") as stream,
    ):
        for line in block.lines:
            mark, text = marked(line)
            if mark == ">":
                stream.write(PLACEHOLDER.sub(lambda found: str(bound[found[0]]), text).encode() + b"\n")
                stream.flush()
            else:
                found = stream.readline()
                assert found.endswith(b"\n"), f"the tracker hung up instead of answering {text}"
                assert matches(json.loads(text), json.loads(found), bound), f"{found.decode()} is not {text}"
        sock.shutdown(socket.SHUT_WR)
        assert stream.readline() == b""
    assert set(bound) == {"<session>", "<message>"}
