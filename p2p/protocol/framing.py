"""Cuts a stream of bytes into whole lines of bounded length, and hands over what follows a line untouched.

The goals:

- No copy of a line beyond the slice itself, and no second scan of bytes that were seen already.
- Never more bytes held than one limit and what the last read brought; while idle, no more than the line that
  has begun.
- A body is not made of lines. `take` hands over the bytes of it that came with the line before it.
"""

from __future__ import annotations

from typing import Final

from p2p.errors import ProtocolError

MAX_LINE: Final = 65_536
"""Longest line in bytes, its newline included."""


class LineBuffer:
    """Holds the bytes of one direction of one connection until they are taken as lines or as body."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._data = b""
        self._start = 0
        self._scanned = 0

    def __len__(self) -> int:
        """Bytes held and not yet taken."""
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Add bytes that came from the other side."""
        if self._start == len(self._data):
            self._data = data
        else:
            self._data = self._data[self._start :] + data
        self._scanned -= self._start
        self._start = 0
        self._scanned = max(self._scanned, 0)

    def next_line(self) -> bytes | None:
        """Take one line without its newline, or None when it has not all come. Raises a fatal
        `ProtocolError("line_too_long")`."""
        end = self._data.find(b"\n", self._scanned)
        if end < 0:
            if len(self) >= self._limit:
                raise self._too_long()
            self._let_go()
            self._scanned = len(self._data)
            return None
        if end - self._start >= self._limit:
            raise self._too_long()
        line = self._data[self._start : end]
        self._start = self._scanned = end + 1
        return line

    def take(self, most: int) -> bytes:
        """Take up to `most` bytes as they are, newlines and all."""
        part = self._data[self._start : self._start + most]
        self._start += len(part)
        self._scanned = self._start
        if self._start == len(self._data):
            self._let_go()
        return part

    def _let_go(self) -> None:
        """Keep only what was not taken: thousands of idle connections must not hold what they once sent."""
        if self._start:
            self._data = self._data[self._start :]
            self._start = self._scanned = 0

    def _too_long(self) -> ProtocolError:
        return ProtocolError("line_too_long", f"a line is longer than {self._limit} bytes", fatal=True)
