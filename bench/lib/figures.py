"""Run contenders in turn, and hold the results: samples, ratios, and the bounds on them.

Machines are shared and noisy, so only ratios count. A ratio is taken of the two runs of one round, and the
median of these ratios is compared with the bound.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The bounds on the median ratio ours / `against`, and the ratio that we aim at."""

    against: str
    most: float | None = None
    least: float | None = None
    aim: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether a ratio is within the bounds."""
        return (self.most is None or ratio <= self.most) and (self.least is None or ratio >= self.least)

    def verdict(self, ratio: float) -> str:
        """The bounds, and whether a ratio meets them, as text."""
        bounds = [f"at least {self.least:.3g}"] if self.least is not None else []
        bounds += [f"at most {self.most:.3g}"] if self.most is not None else []
        aim = f", aim {self.aim:.3g}" if self.aim is not None else ""
        return f"must be {' and '.join(bounds)}{aim}: {'met' if self.met(ratio) else 'NOT met'}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity: the samples of each contender, one a round."""

    title: str
    unit: str
    samples: Mapping[str, list[float]]
    ours: str
    yardsticks: tuple[Yardstick, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def ratios(self, against: str) -> list[float]:
        """Ours / `against`, round by round."""
        return [
            mine / other for mine, other in zip(self.samples[self.ours], self.samples[against], strict=True)
        ]

    def verdict(self, against: str) -> str:
        """The bounds on the ratio to `against` and whether they are met; empty without a bound."""
        stick = next((one for one in self.yardsticks if one.against == against), None)
        return stick.verdict(statistics.median(self.ratios(against))) if stick else ""

    def rows(self) -> Iterable[tuple[str, str, str, str, str, str]]:
        """A row a contender: name, median, minimum, maximum, ratio with its spread, verdict."""
        for name, values in self.samples.items():
            ratio = ""
            if name != self.ours:
                ratios = self.ratios(name)
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            yield (
                name,
                _short(statistics.median(values)),
                _short(min(values)),
                _short(max(values)),
                ratio,
                self.verdict(name),
            )

    def text(self) -> str:
        """The figure as a table for a terminal."""
        head = ("", "median", "min", "max", "ours/this (min-max)", "")
        rows = [head, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = [f"{self.title} [{self.unit}]"]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:4], strict=True)),
            ]
            lines.append("  ".join([*cells, row[4].ljust(widths[4]), row[5]]).rstrip())
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """The figure as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Figure:
        """The figure that `to_json` wrote."""
        sticks = tuple(Yardstick(**one) for one in found["yardsticks"])
        return cls(**{**found, "yardsticks": sticks, "notes": tuple(found["notes"])})


def alternate(runs: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run all contenders in turn, once without counting and then `runs` times. Returns the samples of each.

    Each round begins with another contender, because the run before (freed memory, a busy disk) affects a
    run."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(-1, runs):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            value = contenders[name]()
            if number >= 0:
                found[name].append(value)
    return found


def _short(value: float) -> str:
    if value < 1:
        return f"{value:.3g}"
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
