"""What a simulation gave: figures, a table, rows for NDJSON, and a plot as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from p2p.sim.shell import SimPeer
from p2p.sim.world import Sample, World
from p2p.value import frozen

_WIDE, _HIGH, _LEFT, _TOP = 640, 300, 60, 50
_COLOURS: Final = ("#2b6cb0", "#2f855a", "#c05621")


@frozen
class Figures:
    """A simulation in figures. Ratios are times from joining to the end, over the time that a peer's own
    downlink needs.

    Those of peers that cheat are left out: they are dropped, and may wait long.
    """

    peers: int
    completed: int
    gone: int
    slowest: float
    median: float
    copies: float
    seconds: float
    """Virtual seconds until the last was done."""
    links: float
    """Links of a peer, on average."""
    wasted: float
    """Bytes that came for nothing, as a share of all that had to come."""
    events: int
    trace: str


def ratio(world: World, peer: SimPeer) -> float | None:
    """How long a peer took, over what its downlink needs; None if it has not all."""
    if not peer.finished or peer.ended is None:
        return None
    return (peer.ended - peer.plan.joins) / (world.geometry.size / peer.plan.down)


def figures(world: World) -> Figures:
    """The figures of a world that has run."""
    fetching = [peer for peer in world.peers if not peer.plan.seed]
    ratios = [found for peer in fetching if peer.plan.fair and (found := ratio(world, peer)) is not None]
    return Figures(
        peers=len(fetching),
        completed=sum(peer.finished for peer in fetching),
        gone=sum(1 for peer in fetching if not peer.here and not peer.finished),
        slowest=max(ratios, default=0.0),
        median=statistics.median(ratios) if ratios else 0.0,
        copies=world.copies(),
        seconds=max((peer.ended for peer in fetching if peer.ended is not None), default=0.0),
        links=sum(len(peer.connections) for peer in world.peers) / len(world.peers),
        wasted=sum(peer.wasted for peer in fetching) / (len(fetching) * world.geometry.size),
        events=world.clock.events,
        trace=world.trace_hash,
    )


def table(found: Figures) -> list[str]:
    """The figures for people."""
    rows = [
        (
            "completed",
            f"{found.completed} of {found.peers}" + (f", {found.gone} gone before" if found.gone else ""),
        ),
        ("completion ratio", f"{found.slowest:.3f} slowest, {found.median:.3f} median"),
        ("origin copies", f"{found.copies:.3f}"),
        ("virtual time", f"{found.seconds:.2f} s"),
        ("links of a peer", f"{found.links:.1f}"),
        ("came for nothing", f"{found.wasted:.2%}"),
        ("events", f"{found.events:,}"),
        ("trace", found.trace),
    ]
    return [f"{name:18}{value}" for name, value in rows]


def rows(world: World) -> Iterable[dict[str, Any]]:
    """A row a sample, and a row a peer."""
    for sample in world.samples:
        shares = {
            "pieces": round(sample.pieces, 5),
            "done": round(sample.done, 5),
            "copies": round(sample.copies, 4),
        }
        yield {"event": "sample", "time": round(sample.time, 4), **shares}
    for peer in world.peers:
        found = ratio(world, peer)
        end = {"ended": round(peer.ended, 4)} if peer.ended is not None else {}
        state = (
            "seed"
            if peer.plan.seed
            else "completed"
            if peer.finished
            else "gave up"
            if peer.gave_up is not None
            else "gone"
        )
        shown = {"ratio": round(found, 4)} if found is not None else {}
        yield {
            "event": "peer",
            "name": peer.plan.name,
            "state": state,
            "joined": peer.plan.joins,
            **end,
            **shown,
            "sent": peer.access.sent,
        }


def svg(title: str, samples: Sequence[Sample], ideal: float) -> str:
    """Pieces that are here, peers that are done, and origin copies, over time in ideal times."""
    most = max(samples[-1].time / ideal, 1.0)
    top = max(1.0, max(sample.copies for sample in samples))

    def at(time: float, value: float) -> str:
        return f"{_LEFT + _WIDE * time / ideal / most:.1f},{_TOP + _HIGH * (1 - value / top):.1f}"

    lines = []
    curves = (
        ("pieces that are here", [(sample.time, sample.pieces) for sample in samples]),
        ("receivers that are done", [(sample.time, sample.done) for sample in samples]),
        ("origin copies", [(sample.time, sample.copies) for sample in samples]),
    )
    for number, ((name, points), colour) in enumerate(zip(curves, _COLOURS, strict=True)):
        path = " ".join(at(time, value) for time, value in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{_LEFT + 20}" y="{_TOP + 20 + 18 * number}" fill="{colour}">{name}</text>')
    for mark in range(int(most * 2) + 1):
        x = _LEFT + _WIDE * mark / 2 / most
        lines.append(
            f'<path d="M{x:.1f} {_TOP}v{_HIGH}" stroke="#e2e8f0"/>'
            f'<text x="{x - 8:.1f}" y="{_TOP + _HIGH + 18}">{mark / 2:g}</text>'
        )
    for level in (0.0, 0.5, 1.0):
        y = _TOP + _HIGH * (1 - level / top)
        lines.append(
            f'<path d="M{_LEFT} {y:.1f}h{_WIDE}" stroke="#e2e8f0"/>'
            f'<text x="{_LEFT - 30}" y="{y + 5:.1f}">{level:g}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + 30}" height="{_TOP + _HIGH + 50}"'
        ' font-family="sans-serif" font-size="14">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="12" y="28" font-weight="bold">{escape(title)}</text>\n'
        + "\n".join([*lines[6:], *lines[:6]])
        + f'\n<text x="{_LEFT + _WIDE // 2 - 60}" y="{_TOP + _HIGH + 40}">'
        + "time / (size / link rate)</text>\n</svg>\n"
    )
