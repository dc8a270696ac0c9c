#!/usr/bin/env python3
"""Ask a tracker or peer on this machine whether it is well: one `ping`, exit code 0 if the answer is ok, else
1.

`healthcheck.py [tracker|peer] [HOST:PORT]`. Without arguments it reads the command line of process 1, which
in a container is the service, then `P2P_HOST` and `P2P_PORT`, and then uses the default ports. Standard
library only."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DEFAULT_PORTS = {"tracker": 6969, "peer": 6970}
TIMEOUT = 4.0
"""Seconds for each step of the request; below the five of the image's HEALTHCHECK."""

MAX_LINE = 65_536
"""Largest size of a line of the protocol in bytes; a longer answer is not ok."""

LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to dial when a service listens on every address."""


def command_of_service(path: Path = Path("/proc/1/cmdline")) -> list[str]:
    """The command line of process 1; empty if it cannot be read."""
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
    is not a number."""
    given = [word for word in arguments if word not in DEFAULT_PORTS]
    if given:
        host, _, port = given[0].rpartition(":")
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
    """Whether the answer to a `ping` is `{"ok": true, …}`. Raises `OSError` or `ValueError` without an
    answer."""
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
    """Return the exit code: 0 if the service is well, else 1."""
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
