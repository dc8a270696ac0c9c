"""A figure as an SVG: a bar to each median, and a line from the least to the most."""

from __future__ import annotations

import statistics
from html import escape

from bench.figures import Figure

_LEFT, _WIDE, _HIGH = 320, 420, 34


def svg(figure: Figure) -> str:
    """The picture. Ours is blue."""
    most = max(max(values) for values in figure.samples.values()) or 1.0
    rows = []
    for number, (name, values) in enumerate(figure.samples.items()):
        y = 56 + number * _HIGH
        median, low, top = (
            _LEFT + _WIDE * value / most for value in (statistics.median(values), min(values), max(values))
        )
        color = "#2b6cb0" if name.startswith("enjambre") else "#a0aec0"
        rows.append(
            f'<text x="{_LEFT - 12}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LEFT}" y="{y}" width="{median - _LEFT:.1f}" height="20" fill="{color}"/>'
            f'<path d="M{low:.1f} {y + 10}H{top:.1f}M{low:.1f} {y + 5}v10M{top:.1f} {y + 5}v10" stroke="#1a202c" fill="none"/>'
            f'<text x="{top + 8:.1f}" y="{y + 15}">{statistics.median(values):,.4g} {escape(figure.unit)}</text>'
        )
    height = 66 + len(figure.samples) * _HIGH
    width = _LEFT + _WIDE + 160
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="14">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="12" y="28" font-weight="bold">{escape(figure.title)}</text>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )
