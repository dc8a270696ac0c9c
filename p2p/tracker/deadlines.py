"""Decides when a connection is closed because its client ends no line, does not read, or asks nothing."""

from __future__ import annotations

from p2p.tracker.limits import TrackerTimeouts


class Deadlines:
    """The times of one connection. `now` is the clock of the caller, in seconds."""

    __slots__ = ("_blocked_at", "_ended_at", "_idle_s", "_line_at", "_opened_at", "_request_at", "_timeouts")

    def __init__(self, timeouts: TrackerTimeouts, idle_s: float, now: float) -> None:
        """`idle_s`: how long a client without a session may ask nothing."""
        self._timeouts = timeouts
        self._idle_s = idle_s
        self._opened_at = now
        self._request_at: float | None = None
        self._line_at: float | None = None
        self._blocked_at: float | None = None
        self._ended_at: float | None = None

    @property
    def active(self) -> bool:
        """Whether a whole message has come."""
        return self._request_at is not None

    @property
    def blocked(self) -> bool:
        """Whether the client does not read as fast as it asks."""
        return self._blocked_at is not None

    @property
    def ended(self) -> bool:
        """Whether nothing more is handled; the connection may still have to be written to."""
        return self._ended_at is not None

    def on_data(self, data: bytes, now: float) -> None:
        """Bytes have come: the deadline of a line begins with its first byte."""
        if data.endswith(b"\n"):
            self._line_at = None
        elif self._line_at is None or b"\n" in data:
            self._line_at = now

    def on_message(self, now: float) -> None:
        """A whole message is being handled."""
        self._request_at = now

    def on_blocked(self, now: float) -> None:
        """The write buffer is full."""
        self._blocked_at = now

    def on_unblocked(self) -> None:
        """The client has read again."""
        self._blocked_at = None

    def on_ended(self, now: float) -> None:
        """Nothing more is handled from now on."""
        if self._ended_at is None:
            self._ended_at = now

    def write_overdue(self, now: float) -> bool:
        """Whether the client has not read for too long, so that the connection is to be aborted."""
        since = self._blocked_at if self._ended_at is None else self._ended_at
        return since is not None and now - since > self._timeouts.write_s

    def line_overdue(self, now: float) -> bool:
        """Whether the client has not sent a whole line in time, so that the connection is to be closed."""
        if self.blocked or self.ended:
            return False  # It is not read from.
        since = self._line_at if self.active else self._opened_at
        return since is not None and now - since > self._timeouts.message_s

    def idle_overdue(self, now: float) -> bool:
        """Whether the client has asked nothing for too long, so that without a session the connection is to
        be closed."""
        if self.blocked or self.ended or self._line_at is not None or self._request_at is None:
            return False
        return now - self._request_at > self._idle_s
