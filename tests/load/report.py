"""The outcome of a load test: figures of one scenario on one target, the bounds of its case, and a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds that a healthy client waited for its answers, and how many it did not get."""

    count: int
    p50: float
    p99: float
    worst: float
    failed: int
    why: Mapping[str, int]
    """The errors instead of an answer, and how often each came."""

    @classmethod
    def of(cls, seconds: Sequence[float], failed: int, why: Mapping[str, int]) -> Times:
        """The times of these answers. Without any they are NaN, which meets no bound."""
        ordered = sorted(1000 * one for one in seconds) or [math.nan]
        return cls(
            len(seconds),
            ordered[len(ordered) // 2],
            ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
            ordered[-1],
            failed,
            why,
        )


@dataclass(frozen=True, slots=True)
class Check:
    """A figure and its upper bound; with `least`, its lower bound."""

    what: str
    figure: float
    bound: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether the bound holds."""
        return self.figure >= self.bound if self.least else self.figure <= self.bound

    def __str__(self) -> str:
        return f"{self.what} {self.figure:,.4g} {'>=' if self.least else '<='} {self.bound:,.4g}"


@dataclass(slots=True)
class Outcome:
    """One scenario on one target. Memory in MiB, recovery in seconds, None for what was not measured."""

    scenario: str
    target: str
    idle_rss: float | None = None
    peak_rss: float | None = None
    before: Times | None = None
    during: Times | None = None
    recovery: float | None = None
    descriptors: tuple[int, int] | None = None
    """Open ones before and after."""
    log_bytes: int | None = None
    checks: list[Check] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all bounds hold."""
        return all(check.met for check in self.checks)

    def check(self, what: str, figure: float, bound: float, *, least: bool = False) -> None:
        """Compare a figure with its bound."""
        self.checks.append(Check(what, float(figure), float(bound), least))

    def row(self) -> tuple[str, ...]:
        """The outcome as cells of the table."""
        peak, idle = self.peak_rss, self.idle_rss
        return (
            self.scenario,
            self.target,
            _number(peak),
            _number(peak - idle if peak is not None and idle is not None else None),
            _times(self.before),
            _times(self.during),
            _number(self.recovery, 2),
            "-" if self.descriptors is None else f"{self.descriptors[0]}/{self.descriptors[1]}",
            "-" if self.log_bytes is None else str(self.log_bytes),
            "pass" if self.passed else "FAIL",
        )

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return {**asdict(self), "passed": self.passed}


HEAD = (
    "scenario",
    "target",
    "RSS MiB",
    "over idle",
    "p50/p99 before",
    "during, ms",
    "recovery s",
    "fds",
    "log bytes",
    "",
)


def table(outcomes: Iterable[Outcome]) -> str:
    """All outcomes as a table, and below it every check, note and error."""
    outcomes = list(outcomes)
    rows = [HEAD, *(one.row() for one in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for one in outcomes:
        lines += [
            f"{one.scenario}, {one.target}: {'' if check.met else 'NOT MET: '}{check}" for check in one.checks
        ]
        lines += [f"{one.scenario}, {one.target}: {what} {figure:,.4g}" for what, figure in one.notes.items()]
        lines += [
            f"{one.scenario}, {one.target}: {count} times {said!r}"
            for said, count in (one.during.why if one.during else {}).items()
        ]
    return "\n".join(lines)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _times(times: Times | None) -> str:
    if times is None:
        return "-"
    return f"{times.p50:.1f}/{times.p99:.1f}" + (f" ({times.failed} failed)" if times.failed else "")
