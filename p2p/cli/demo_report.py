"""How a demo went: its events, and the tables that a person reads at the end."""

from __future__ import annotations

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
    """Return the `done` event of one receiver."""
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
    """Return the last event. `seconds` is the whole run."""
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
    """Return the lines that a person reads at the end. None is wider than 80 columns."""
    size, receivers = outcome.size, outcome.receivers
    rows = [_row(one, outcome) for one in receivers]
    lines = table(("peer", "seconds", "MiB/s", "from peers", "from origin", "compared"), rows, " rrrr")
    if len(receivers) <= MATRIX_COLUMNS:
        lines += ["", "Who fetched from whom (a row fetches, a column gives):", *_matrix(outcome)]
    total = sum(sum(one.bytes_from.values()) for one in receivers)
    not_from_origin = percent(total - round(outcome.origin_copies * size), total) if total else 0
    return [
        *lines,
        "",
        f"origin copies  {outcome.origin_copies:.2f}    one server would have sent {len(receivers):.2f}",
        f"from others    {not_from_origin}% of {size_text(total)} did not come from the origin",
        f"whole demo     {time_text(seconds)}, with starting and stopping {len(receivers) + 2} processes",
    ]


def _row(one: Fetched, outcome: Outcome) -> tuple[str, ...]:
    return (
        one.peer,
        f"{one.seconds:.2f}",
        f"{outcome.size / MIB / one.seconds:.1f}" if one.seconds > 0 else "-",
        str(sum(1 for count in one.bytes_from.values() if count)),
        _share(one.bytes_from.get(outcome.origin, 0), outcome.size),
        "identical" if one.identical else "DIFFERENT",
    )


def _matrix(outcome: Outcome) -> list[str]:
    givers = [outcome.origin, *(one.peer for one in outcome.receivers)]
    rows = [(one.peer, *(_cell(one, giver, outcome.size) for giver in givers)) for one in outcome.receivers]
    # The receivers' numbers are enough as heads: their full names stand in the rows.
    heads = ("", givers[0], *(name.rpartition("-")[2] for name in givers[1:]))
    return table(heads, rows, " " + "r" * len(givers))


def _cell(one: Fetched, giver: str, size: int) -> str:
    if giver == one.peer:
        return "."
    count = one.bytes_from.get(giver, 0)
    return _share(count, size) if count else "-"


def _share(count: int, size: int) -> str:
    return f"{round(count * 100 / size)}%" if size else "0%"
