"""A healthy client as a process of its own, because a crowd in the same process would delay its measurements.

    probe.py HOST PORT RATE kept|fresh [CONTENT]

Asks RATE times a second, on one connection or on a fresh one each time, for a ping or for a block of CONTENT.
When its standard input ends, and it has asked once, it prints `{"times": […], "failed": N, "why": {…}}`: the
seconds of each answer, the number of failures, and their errors.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from typing import Final

TIMEOUT_S: Final = 20.0
"""Seconds within which an answer must come."""
BLOCK: Final = 4096


class Prober:
    """One client. It reads blocks of `content`, or pings if that is empty."""

    def __init__(self, host: str, port: int, content: str) -> None:
        self._place = (host, port)
        self._sock: socket.socket | None = None
        question = (
            {"op": "read", "id": content, "piece": 0, "offset": 0, "length": BLOCK, "seq": 1}
            if content
            else {"op": "ping", "seq": 1}
        )
        self._line = json.dumps(question).encode() + b"\n"

    def ask(self, *, fresh: bool) -> float:
        """Ask once. Returns the seconds until the answer, connecting included. Raises `OSError` without
        one."""
        began = time.monotonic()
        if fresh:
            self.close()
        if self._sock is None:
            self._sock = socket.create_connection(self._place, TIMEOUT_S)
        self._sock.sendall(self._line)
        data = b""
        while b"\n" not in data:
            data += self._more()
        line, _, body = data.partition(b"\n")
        answer = json.loads(line)
        if not answer.get("ok"):
            raise ConnectionError(answer.get("error"))
        missing = int(answer.get("body", 0)) - len(body)
        while missing > 0:
            missing -= len(self._more())
        return time.monotonic() - began

    def _more(self) -> bytes:
        if self._sock is None:
            raise ConnectionError("not connected")
        part = self._sock.recv(65_536)
        if not part:
            raise ConnectionError("connection closed")
        return part

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def main(host: str, port: int, rate: float, *, fresh: bool, content: str) -> None:
    """Ask until standard input ends, and at least once."""
    prober = Prober(host, port, content)
    times: list[float] = []
    failed = 0
    why: dict[str, int] = {}
    due = time.monotonic()
    while True:
        due = max(due + 1 / rate, time.monotonic() - 1.0)
        try:
            times.append(prober.ask(fresh=fresh))
        except (OSError, ValueError) as error:
            failed += 1
            why[str(error)] = why.get(str(error), 0) + 1
            with contextlib.suppress(OSError):
                prober.close()
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            break
    prober.close()
    print(json.dumps({"times": times, "failed": failed, "why": why}))


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]),
        float(sys.argv[3]),
        fresh=sys.argv[4] == "fresh",
        content="".join(sys.argv[5:6]),
    )
