"""What the demo found, as values and as text: the table, who fetched from whom, and the origin copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Final

from p2p.cli.render import percent, size_text, table, time_text
from p2p.model import MIB
from p2p.value import frozen

MATRIX_COLUMNS: Final = 12
"""Most peers whose matrix fits into 80 columns."""


@frozen
class Fetched:
    """How one peer got its copy: seconds, bytes from each other peer by name, and bytes by each transport."""

    peer: str
    seconds: float
    bytes_from: dict[str, int]
    identical: bool
    bytes_by: dict[str, int] = field(default_factory=dict)


@frozen
class Outcome:
    """One run of the demo. `size` in bytes."""

    origin: str
    size: int
    receivers: tuple[Fetched, ...]

    @property
    def origin_copies(self) -> float:
        """Bytes that the origin sent / size; 0 for an empty content."""
        sent = sum(one.bytes_from.get(self.origin, 0) for one in self.receivers)
        return sent / self.size if self.size else 0.0

    @property
    def identical(self) -> bool:
        """Whether every copy is the original, byte by byte."""
        return all(one.identical for one in self.receivers)


def receiver_event(one: Fetched, size: int) -> dict[str, Any]:
    """The `done` event of one receiver."""
    return {
        "event": "done",
        "peer": one.peer,
        "size": size,
        "seconds": round(one.seconds, 6),
        "bytes_from": one.bytes_from,
        "bytes_by": one.bytes_by,
        "identical": one.identical,
    }


def result_event(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The last event: `seconds` is the whole run."""
    return {
        "event": "result",
        "peers": len(outcome.receivers) + 1,
        "size": outcome.size,
        "slowest": round(max(one.seconds for one in outcome.receivers), 6),
        "origin_copies": round(outcome.origin_copies, 4),
        "identical": outcome.identical,
        "seconds": round(seconds, 6),
    }


def report(outcome: Outcome, seconds: float) -> list[str]:
    """The lines that a person reads at the end; none is wider than 80 columns."""
    size = outcome.size
    rows = [_row(one, outcome) for one in outcome.receivers]
    lines = table(("peer", "seconds", "MiB/s", "from peers", "from origin", "compared"), rows, " rrrr")
    if len(outcome.receivers) <= MATRIX_COLUMNS:
        lines += ["", "Who fetched from whom (a row fetches, a column gives):", *_matrix(outcome)]
    total = sum(sum(one.bytes_from.values()) for one in outcome.receivers)
    shared = total - round(outcome.origin_copies * size)
    lines += [
        "",
        f"origin copies  {outcome.origin_copies:.2f}    one server would have sent {len(outcome.receivers):.2f}",
        f"from others    {percent(shared, total) if total else 0}% of {size_text(total)} did not come from the origin",
        f"whole demo     {time_text(seconds)}, with starting and stopping {len(outcome.receivers) + 2} processes",
    ]
    return lines


def _row(one: Fetched, outcome: Outcome) -> tuple[str, ...]:
    rate = f"{outcome.size / MIB / one.seconds:.1f}" if one.seconds > 0 else "-"
    share = _share(one.bytes_from.get(outcome.origin, 0), outcome.size)
    givers = sum(1 for count in one.bytes_from.values() if count)
    return (
        one.peer,
        f"{one.seconds:.2f}",
        rate,
        str(givers),
        share,
        "identical" if one.identical else "DIFFERENT",
    )


def _matrix(outcome: Outcome) -> list[str]:
    givers = [outcome.origin, *(one.peer for one in outcome.receivers)]
    rows = [(one.peer, *_shares(one, givers, outcome.size)) for one in outcome.receivers]
    # The receivers' numbers are enough as heads: their full names stand in the rows.
    heads = ("", givers[0], *(name.rpartition("-")[2] for name in givers[1:]))
    return table(heads, rows, " " + "r" * len(givers))


def _shares(one: Fetched, givers: Sequence[str], size: int) -> list[str]:
    cells = []
    for giver in givers:
        count = one.bytes_from.get(giver, 0)
        cells.append("." if giver == one.peer else _share(count, size) if count else "-")
    return cells


def _share(count: int, size: int) -> str:
    return f"{round(count * 100 / size)}%" if size else "0%"
