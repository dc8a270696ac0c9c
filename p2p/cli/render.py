"""Text for people: sizes, rates, times, tables and the progress line, without any escape sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from unicodedata import combining, east_asian_width

from p2p.peer.reports import Progress
from p2p.text import printable

_DIRECTIONS: Final = {"downloading": "from", "waiting": "from", "uploading": "to"}
"""Phases whose line counts the peers, and the word before the count."""

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(count: float) -> str:
    """Bytes, as `512 B`, `1.5 KiB`, `64.0 MiB`."""
    value = float(count)
    for unit in _UNITS[:-1]:
        # What would be written as 1024.0 of one unit is 1.0 of the next.
        if value < 1023.95 or (unit == "B" and value < 1024):
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def rate_text(rate: float) -> str:
    """Bytes a second, as `64.0 MiB/s`."""
    return f"{size_text(rate)}/s"


def time_text(seconds: float) -> str:
    """Seconds, as `0.8 s`, `42 s`, `3:05`, `2:03:04`, `over 100 h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds >= 359_999.5:
        return "over 100 h"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count_text(count: int, one: str, many: str = "") -> str:
    """`1 peer`, `2 peers`."""
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"


def width(text: str) -> int:
    """Return how many columns `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """Return as much of `text` as fits into `columns`. The rest shows as `...`."""
    if width(text) <= columns:
        return text
    room = columns - 3
    kept = []
    for char in text:
        room -= width(char)
        if room < 0:
            break
        kept.append(char)
    return ("".join(kept) + "...")[: max(columns, 0)]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Return the lines of a table, its cells made printable.

    `right` has an `r` at the place of each column that is set to the right.
    """
    cells = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(headers))]
    lines = []
    for row in cells:
        parts = []
        for column, cell in enumerate(row):
            gap = " " * (widths[column] - width(cell))
            parts.append(gap + cell if right[column : column + 1] == "r" else cell + gap)
        lines.append("  ".join(parts).rstrip())
    return lines


def percent(part: float, whole: float) -> int:
    """Return whole percent, rounded down, so that 100 means all of it. Nothing of nothing is all."""
    return 100 if part >= whole else int(part * 100 / whole)


def bar(part: float, whole: float, columns: int) -> str:
    """Return a bar of `columns` characters between brackets."""
    done = columns * percent(part, whole) // 100
    return "[" + "#" * done + "." * (columns - done) + "]"


def progress_text(progress: Progress, elapsed: float, columns: int) -> str:
    """Return the progress line: the phase, and what is known of percent, amount, rate, time left and peers.

    `elapsed` is in seconds of this phase. Where not all of it fits, bar and amount go first, then the peers;
    percent, rate and time left stay.
    """
    sized, fast = progress.size > 0, progress.rate > 0
    done = f"{percent(progress.bytes, progress.size)}%" if sized else ""
    drawn = bar(progress.bytes, progress.size, 20) if sized and columns >= 100 else ""
    amount = f"{size_text(progress.bytes)} of {size_text(progress.size)}" if sized else ""
    pace, left = rate_text(progress.rate) if fast else "", ""
    if fast and progress.size > progress.bytes:
        left = time_text((progress.size - progress.bytes) / progress.rate)
    elif not fast and (not sized or progress.bytes < progress.size):
        pace = time_text(elapsed)
    peers = _DIRECTIONS.get(progress.phase, "")
    peers = f"{peers} {count_text(progress.peers, 'peer')}" if peers else ""
    phase, padded, time_left = (
        f"{progress.phase:<11}",
        f"{done:>4}" if done else "",
        f"{left} left" if left else "",
    )
    return fitting(
        columns,
        _joined("  ", phase, padded, drawn, amount, pace, time_left, peers),
        _joined("  ", phase, padded, pace, time_left, peers),
        _joined("  ", phase, padded, pace, time_left),
        _joined(" ", progress.phase, done, pace, time_left),
        _joined(" ", progress.phase, done, pace, left),
    )


def fitting(columns: int, *lines: str) -> str:
    """Return the first of `lines` that fits into `columns`; if none does, the last one, cut."""
    return next((line for line in lines if width(line) <= columns), cut(lines[-1], columns))


def _joined(gap: str, *parts: str) -> str:
    return gap.join(part for part in parts if part)


def amount_from(sources: Mapping[str, int], columns: int = 60) -> str:
    """Return how much came from each peer, most first: `origin 40.0 MiB, lab-2 24.0 MiB`."""
    named = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    return cut(", ".join(f"{printable(name)} {size_text(count)}" for name, count in named), columns)
