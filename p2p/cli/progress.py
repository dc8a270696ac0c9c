"""Shows how far work is: a line on a terminal that is drawn again and again, and events for programs.

Both are updated at most ten times a second, so that progress costs nothing. Both are updated at least once a
second while work goes on, so that a command that waits does not look like one that hangs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Final

from p2p.cli.events import Event, event_of
from p2p.cli.render import cut, width
from p2p.peer.reports import Progress
from p2p.text import printable

MIN_INTERVAL_S: Final = 0.1
MAX_INTERVAL_S: Final = 0.7
"""Between two updates. The longer one plus the time between two ticks must stay below a second."""


class LiveLine:
    """The last line of a terminal: what `show` was given, and the text that stands there now."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        """`write` puts text on the terminal, `clock` gives seconds."""
        self._write = write
        self._clock = clock
        self._line: Callable[[int], str] | None = None
        self._drawn = ""
        self._drawn_at = float("-inf")

    def show(self, line: Callable[[int], str]) -> None:
        """Show what `line` returns for a number of columns, until `clear`. It is called again as time
        passes."""
        self._line = line
        if self._clock() - self._drawn_at >= MIN_INTERVAL_S:
            self._draw()

    def tick(self) -> None:
        """Draw the line again if it is old."""
        if self._clock() - self._drawn_at >= MAX_INTERVAL_S:
            self._draw()

    def wipe(self) -> None:
        """Make room for other output. The next update draws the line again."""
        if self._drawn:
            self._write("\r" + " " * width(self._drawn) + "\r")
            self._drawn = ""

    def clear(self) -> None:
        """Take the line away: the work is done."""
        self._line = None
        self.wipe()
        self._drawn_at = float("-inf")

    def abandon(self) -> None:
        """Leave the line where it stands; what comes next begins on a line of its own."""
        self._line, self._drawn = None, ""

    def _draw(self) -> None:
        if self._line is None:
            return
        self._drawn_at = self._clock()
        columns = max(shutil.get_terminal_size().columns - 1, 20)
        text = cut(printable(self._line(columns)), columns)
        gap = " " * max(width(self._drawn) - width(text), 0)
        self._write(f"\r{text}{gap}")
        self._drawn = text


class ProgressFeed:
    """Decides when a `progress` event is due. A new phase is due at once."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._told_at = float("-inf")

    def on_progress(self, progress: Progress, now: float) -> Event | None:
        """Work has come this far; return the event to print, if one is due."""
        new_phase = self._latest is None or self._latest.phase != progress.phase
        self._latest = progress
        return self._tell(now) if new_phase or now - self._told_at >= MIN_INTERVAL_S else None

    def on_tick(self, now: float) -> Event | None:
        """Time has passed; return the event to print, if one is due."""
        return self._tell(now) if self._latest is not None and now - self._told_at >= MAX_INTERVAL_S else None

    def on_done(self) -> None:
        """The work is done; nothing is due until there is progress again."""
        self._latest = None

    def _tell(self, now: float) -> Event | None:
        self._told_at = now
        return None if self._latest is None else event_of(self._latest)
