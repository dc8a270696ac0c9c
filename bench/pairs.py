"""Time our command and another's in turn, and print the ratio: machines are shared and noisy, so only pairs mean anything."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def alternate(runs: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run all contenders in turn, `runs` times after one round that does not count; return the seconds of each.

    Each round begins with another of them, since what ran just before (freed memory, a busy disk) tells on a run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(-1, runs):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = contenders[name]()
            if number >= 0:
                seconds[name].append(took)
    return seconds


def table(seconds: Mapping[str, list[float]], ours: str) -> str:
    """A table of median, minimum and maximum, and the median of the ratios `ours` / other, pair by pair."""
    width = max(map(len, seconds))
    lines = [f"{'':{width}}  median     min     max   ours/this (min-max)"]
    for name, times in seconds.items():
        ratios = [mine / other for mine, other in zip(seconds[ours], times, strict=True)]
        lines.append(
            f"{name:{width}}  {statistics.median(times):6.2f}  {min(times):6.2f}  {max(times):6.2f}   "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    return "\n".join(lines)
