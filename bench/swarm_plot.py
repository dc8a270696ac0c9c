"""Draw what `bench/swarm.py` wrote, with what the simulator says of the same swarm: how much is here, over
time.

python3 bench/swarm_plot.py docs/swarm/equal.json docs/swarm/equal.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from p2p.content.geometry import choose_piece_length  # noqa: E402 (a script is started from anywhere)
from p2p.sim.report import figures  # noqa: E402
from p2p.sim.scenarios import Setup, make  # noqa: E402
from p2p.swarm.topology import ENOUGH  # noqa: E402

MIB: Final = 1024 * 1024
WIDE, HIGH, LEFT, TOP = 640, 300, 60, 50
COLOURS: Final = ("#2b6cb0", "#c05621", "#718096", "#805ad5", "#2f855a")
Curve = list[tuple[float, float]]


def main(argv: Sequence[str]) -> int:
    """Draw one file; prints what the simulator predicts beside what was measured."""
    measured = json.loads(Path(argv[0]).read_text())
    size, rate = measured["size"] * MIB, measured["rate"] * 1e6 / 8
    ideal = size / rate
    curves: dict[str, Curve] = {}
    for outcome in measured["outcomes"]:
        curves.setdefault(outcome["contender"], curve(outcome, size, ideal))
    simulated, said = simulate(measured, ideal)
    curves["simulated"] = simulated
    title = f"{measured['peers']} receivers, {measured['size']} MiB, {measured['rate']} Mbit/s, {measured['case']}"
    Path(argv[1]).write_text(svg(title, curves))
    ours = [outcome["ratio"] for outcome in measured["outcomes"] if outcome["contender"] == "enjambre"]
    print(f"{title}: measured {', '.join(f'{one:.3f}' for one in ours)}, simulated {said:.3f}")
    return 0


def curve(outcome: dict[str, Any], size: int, ideal: float) -> Curve:
    """The share of all bytes that is with those who were not killed, twice a second."""
    steps = [receiver["steps"] for receiver in outcome["receivers"] if not receiver["killed"]]
    end = max(one[-1][0] for one in steps)
    points = []
    for half in range(int(end * 2) + 2):
        now = half / 2
        here = sum(max((done for time, done in one if time <= now), default=0) for one in steps)
        points.append((now / ideal, here / size / len(steps)))
    return points


def simulate(measured: dict[str, Any], ideal: float) -> tuple[Curve, float]:
    """The same swarm in the simulator: its curve, and the ratio of the slowest."""
    length = choose_piece_length(measured["size"] * MIB)
    rate = measured["rate"] * 1e6 / 8
    world = make(
        measured["case"],
        Setup(measured["peers"], measured["size"] * MIB // length, length, rate, 0.001, ENOUGH, 1),
    )
    world.run()
    fast = [
        peer
        for peer in world.peers[1:]
        if peer.plan.down == rate and peer.ended is not None and peer.finished
    ]
    slowest = max((peer.ended or 0.0) - peer.plan.joins for peer in fast) / ideal
    alive = [sample for sample in world.samples if sample.time <= world.clock.now]
    most = figures(world).completed / len(world.peers[1:]) if measured["case"] == "killed" else 1.0
    return [(sample.time / ideal, min(sample.pieces / max(most, 0.01), 1.0)) for sample in alive], slowest


def svg(title: str, curves: dict[str, Curve]) -> str:
    """One line a contender."""
    most = max(points[-1][0] for points in curves.values())
    lines = []
    for mark in range(int(most * 2) + 1):
        x = LEFT + WIDE * mark / 2 / most
        lines.append(
            f'<path d="M{x:.1f} {TOP}v{HIGH}" stroke="#e2e8f0"/><text x="{x - 8:.1f}" y="{TOP + HIGH + 18}">{mark / 2:g}</text>'
        )
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(
            f"{LEFT + WIDE * time / most:.1f},{TOP + HIGH * (1 - share):.1f}" for time, share in points
        )
        dashes = ' stroke-dasharray="6 4"' if name == "simulated" else ""
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        lines.append(
            f'<text x="{LEFT + WIDE - 200}" y="{TOP + HIGH - 90 + 18 * number}" fill="{colour}">{escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + 30}" height="{TOP + HIGH + 50}"'
        ' font-family="sans-serif" font-size="14">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="12" y="28" font-weight="bold">{escape(title)}: share of all bytes that is here</text>\n'
        + "\n".join(lines)
        + f'\n<text x="{LEFT + WIDE // 2 - 60}" y="{TOP + HIGH + 40}">time / (size / link rate)</text>\n</svg>\n'
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
