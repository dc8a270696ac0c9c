"""The named events of a swarm as values, and as JSON lines that a person, a test or a viewer can follow.

The simulator and real peers write the same lines: `{"event": …, "time": …, …}`, where `time` is in seconds of
the writer's clock (for real peers since 1970). Control messages are two of these events. What a line must
never hold is a secret: whoever reads a session's token in a trace could act as its user, so tokens are
replaced before anything is written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, Final

from p2p.model import ContentId
from p2p.value import frozen

SECRET: Final = "<secret>"
SECRET_KEYS: Final = frozenset({"session", "token", "password"})
MAX_DEPTH: Final = 32
"""Arrays and objects inside one another, as many as the wire allows: a line is traced before anybody has
looked at it."""
MAX_TRACE: Final = 1 << 30
"""Bytes after which a trace ends, so that a forgotten one cannot fill the disk."""


@frozen
class Joined:
    """A peer takes part in the swarm of a content."""

    peer: str
    id: ContentId


@frozen
class Left:
    """A peer is gone from the swarm of a content."""

    peer: str
    id: ContentId


@frozen
class Asked:
    """A peer asks a source for `length` bytes of a piece, from `offset` bytes inside it."""

    peer: str
    source: str
    piece: int
    offset: int
    length: int


@frozen
class Fetched:
    """What was asked for came whole; it is not checked yet."""

    peer: str
    source: str
    piece: int
    offset: int
    length: int


@frozen
class Verified:
    """A peer has a piece, and it matches its hash."""

    peer: str
    piece: int


@frozen
class Corrupt:
    """A piece did not match its hash; `source` is the peer that is blamed, if only one can be."""

    peer: str
    piece: int
    source: str | None = None


@frozen
class Dropped:
    """A peer has nothing more to do with a source."""

    peer: str
    source: str
    why: str


@frozen
class Completed:
    """A peer has all of a content."""

    peer: str
    id: ContentId


SwarmEvent = Joined | Left | Asked | Fetched | Verified | Corrupt | Dropped | Completed


def plain(event: SwarmEvent, time: float) -> dict[str, Any]:
    """What `json` can write for an event at `time` seconds; what is None is left out."""
    data: dict[str, Any] = {"event": type(event).__name__.lower(), "time": round(time, 6)}
    data.update((key, value) for key, value in dataclasses.asdict(event).items() if value is not None)
    return data


def message(direction: str, other: str, line: bytes, time: float) -> dict[str, Any]:
    """What `json` can write for a control line that was `sent` or `received`. A line that is no message is
    only measured, not shown."""
    data: dict[str, Any] = {"event": direction, "time": round(time, 6), "with": other}
    try:
        content = without_secrets(json.loads(line, parse_constant=str, parse_float=_finite))
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        data["message"] = content
    else:
        data["unreadable"] = len(line)
    return data


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def without_secrets(value: Any, depth: int = MAX_DEPTH) -> Any:
    """`value`, which came from JSON, with each string under a key of `SECRET_KEYS` replaced.

    Raises `ValueError` when it is nested more than `depth` deep.
    """
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        raise ValueError("nested too deep")
    if isinstance(value, list):
        return [without_secrets(item, depth - 1) for item in value]
    return {
        key: SECRET if key in SECRET_KEYS and isinstance(item, str) else without_secrets(item, depth - 1)
        for key, item in value.items()
    }


def json_line(data: dict[str, Any]) -> str:
    """One line of plain ASCII: whatever a name from another machine holds, a terminal that shows it is
    safe."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("\x7f", "\\u007f") + "\n"


class Trace:
    """Writes events through `write`, one whole line a call. After `most` bytes it says so in a last line and
    is silent.

    `write` must bring the line out at once, so that a process that dies leaves the lines that led to it. When
    it raises `OSError` the trace ends; `failed` then holds the error.
    """

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float], most: int = MAX_TRACE
    ) -> None:
        self._write = write
        self._clock = clock
        self._left = most
        self.failed: OSError | None = None

    def message(self, direction: str, other: str, line: bytes) -> None:
        """A control line was `sent` to, or `received` from, the other side at address `other`."""
        if self._left > 0:
            self._put(message(direction, other, line, self._clock()))

    def swarm(self, event: SwarmEvent) -> None:
        """Something happened in the swarm."""
        if self._left > 0:
            self._put(plain(event, self._clock()))

    def _put(self, data: dict[str, Any]) -> None:
        line = json_line(data)
        self._left -= len(line)
        if self._left <= 0:
            line += json_line({"event": "full", "time": data["time"]})
        try:
            self._write(line)
        except OSError as error:
            self.failed = error
            self._left = 0
