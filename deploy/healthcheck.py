#!/usr/bin/env python3
"""Ask a tracker or a peer on this machine whether it is well: one `ping` line, exit 0 if the answer is ok, 1
if not.

`healthcheck.py [tracker|peer] [HOST:PORT]`. What is not said comes from `P2P_HOST` and `P2P_PORT`, which the
service itself reads too; then from the command line of process 1, which in a container is the service; then
from the default ports. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DEFAULT_PORTS = {"tracker": 6969, "peer": 6970}
TIMEOUT = 4.0
"""Seconds for the whole question; below the five of the image's HEALTHCHECK."""

MAX_LINE = 65_536
"""Bytes of one line of the protocol; a longer answer is no answer."""

LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to dial a service that listens on every address."""


def command_of_service(path: Path = Path("/proc/1/cmdline")) -> list[str]:
    """The words of process 1's command line; empty where that cannot be read."""
    try:
        return [word.decode(errors="replace") for word in path.read_bytes().split(b"\0") if word]
    except OSError:
        return []


def option(words: Sequence[str], name: str) -> str:
    """The value of `name VALUE` or `name=VALUE` in `words`, or an empty string."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return ""


def target(
    arguments: Sequence[str], environment: Mapping[str, str], service: Sequence[str]
) -> tuple[str, int]:
    """Host and port to ask. `service` is the command line of the service. Raises `ValueError` for a port that
    is no number."""
    said = [word for word in arguments if word not in DEFAULT_PORTS]
    if said:
        host, _, port = said[0].rpartition(":")
        return LOOPBACK.get(host.strip("[]"), host.strip("[]")), int(port)
    roles = [word for word in (*arguments, *(Path(word).name for word in service)) if word in DEFAULT_PORTS]
    host = option(service, "--host") or environment.get("P2P_HOST", "")
    port = (
        option(service, "--port")
        or environment.get("P2P_PORT", "")
        or str(DEFAULT_PORTS[roles[0] if roles else "peer"])
    )
    return LOOPBACK.get(host, host), int(port)


def is_well(host: str, port: int) -> bool:
    """Send one `ping` and say whether the answer is `{"ok": true, …}`. Raises `OSError` or `ValueError` where
    there is no such answer."""
    with socket.create_connection((host, port), timeout=TIMEOUT) as connection:
        connection.sendall(b'{"op":"ping"}\n')
        line = b""
        while not line.endswith(b"\n") and len(line) < MAX_LINE:
            data = connection.recv(4096)
            if not data:
                break
            line += data
    answer = json.loads(line)
    return isinstance(answer, dict) and answer.get("ok") is True


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 well, 1 not."""
    try:
        host, port = target(arguments, os.environ, command_of_service())
        if is_well(host, port):
            return 0
        reason = "the answer is not ok"
    except (OSError, ValueError) as error:
        reason = str(error)
    print(f"not well: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
