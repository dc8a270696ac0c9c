"""Decides when a copy on another peer has stalled."""

from __future__ import annotations


class CopyStall:
    """What one peer has gained of a content that it was asked to copy.

    It gains when it has more pieces than ever before, or has been sent more bytes than ever before, up to the
    size of the content. So a peer that has a piece, has it not and has it again gains nothing, and neither
    does one that asks for the same block for ever. Bytes that other peers are sent do not count.
    """

    def __init__(self, size: int, timeout_s: float, now: float) -> None:
        """`size` is the content's, in bytes; `now` is in seconds."""
        self._size = size
        self._timeout_s = timeout_s
        self._pieces = 0
        self._sent = 0
        self._gained_at = now

    def stalled(self, pieces: int, sent: int, now: float) -> bool:
        """Return whether the peer has gained nothing for longer than the timeout.

        It has so many `pieces` now, and was sent so many bytes.
        """
        sent = min(sent, self._size)
        if pieces > self._pieces or sent > self._sent:
            self._gained_at = now
            self._pieces = max(self._pieces, pieces)
            self._sent = max(self._sent, sent)
        return now - self._gained_at > self._timeout_s
