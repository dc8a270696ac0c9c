"""The tracker on one core with a full store: announces a second beside opentracker over HTTP, and other
requests.

The store holds 100,000 contents, each announced by ten of 10,000 peers: 1,000,000 pairs of content and peer.
The load comes from the other core over 16 connections, one request open on each. A BitTorrent client opens a
connection for each announce and gets peers in the answer. Our peers keep the connection and ask for peers
when they need some (`lookup`), so an announce is cheaper."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import Lab, memory_of
from bench.rivals import servers
from bench.rivals.load import CONNECTIONS, TRACKER_CPU, Generator, Rate, write_plan, wrk
from bench.rivals.tools import Missing, program

CONTENTS: Final = 100_000
PEERS: Final = 10_000
SHARES: Final = 100
"""Contents of each peer."""
WINDOW: Final = 16
PLANNED: Final = 500
"""Different requests of each connection."""
OTHER: Final = "opentracker, HTTP"
SINK: Final = "the generator against a sink"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tracker with a full store: its name, port, request plans by kind, memory before and after in MiB, and
    bytes on disk."""

    name: str
    port: int
    plans: dict[str, Path]
    memory: tuple[float, float]
    disk: int


def measure(lab: Lab, say: Callable[[str], None]) -> Iterator[Figure]:
    """Announces beside opentracker, each kind of request, latency, memory. Raises `Missing` without a C
    compiler or `taskset`."""
    program("taskset")
    generator = Generator(lab)
    trackers = [fill(lab, "memory", "memory"), fill(lab, "SQLite", f"sqlite:{lab.work}/tracker.db")]
    found: dict[str, list[Rate]] = {}
    contenders: dict[str, Callable[[], float]] = {}

    def note(name: str, once: Callable[[], Rate]) -> None:
        found[name] = []

        def kept() -> float:
            found[name].append(once())
            return found[name][-1].rate

        contenders[name] = kept

    for tracker in trackers:
        plan = tracker.plans["announce"]
        note(f"enjambre, {tracker.name}", partial(generator.run, tracker.port, plan))
        note(f"enjambre, {tracker.name}, {WINDOW} open", partial(generator.run, tracker.port, plan, WINDOW))
    sticks = []
    try:
        info_hash = os.urandom(20)
        port = servers.opentracker(lab, [info_hash], cpu=TRACKER_CPU)
        program("wrk")
        note(OTHER, lambda: wrk(lab, port, info_hash))
        sticks.append(Yardstick(OTHER, least=1.0, aim=1.5))
    except Missing as missing:
        say(str(missing))
    sink, plan = generator.sink(), trackers[0].plans["announce"]
    note(SINK, lambda: generator.run(sink, plan))
    note(f"{SINK}, {WINDOW} open", lambda: generator.run(sink, plan, WINDOW))
    ours = f"enjambre, {trackers[0].name}"
    yield Figure(
        "Announces, tracker on one core",
        "1/s",
        alternate(lab.runs, contenders),
        ours,
        (*sticks, Yardstick(SINK, most=0.5)),
    )
    yield from latency("Announces", found, lab.runs, ours)

    for kind in ("heartbeat", "lookup", "search"):
        found.clear()
        contenders.clear()
        for tracker in trackers:
            note(f"enjambre, {tracker.name}", partial(generator.run, tracker.port, tracker.plans[kind]))
        yield Figure(f"{kind.capitalize()} requests", "1/s", alternate(lab.runs, contenders), ours)
        yield from latency(f"{kind.capitalize()} requests", found, lab.runs, ours)

    pairs = PEERS * SHARES
    per_pair = {
        f"enjambre, {one.name}": [(one.memory[1] - one.memory[0]) * (1 << 20) / pairs] for one in trackers
    } | {f"enjambre, {one.name}, on disk": [one.disk / pairs] for one in trackers if one.disk}
    resident = ", ".join(f"{one.memory[1]:.0f} MiB ({one.name})" for one in trackers)
    note_ = f"{CONTENTS:,} contents, {PEERS:,} peers, {pairs:,} pairs; resident memory {resident}."
    yield Figure("Memory for each announced pair of content and peer", "bytes", per_pair, ours, (), (note_,))


def latency(what: str, found: dict[str, list[Rate]], runs: int, ours: str) -> Iterator[Figure]:
    """The two percentiles of the last measurement, in milliseconds."""
    for label, pick in (("half of all", "p50"), ("99 in a hundred", "p99")):
        samples = {
            name: [1000 * getattr(one, pick) for one in rates[-runs:]] for name, rates in found.items()
        }
        yield Figure(f"{what}: {label} answered within", "ms", samples, ours)


def fill(lab: Lab, name: str, store: str) -> Loaded:
    """Start a tracker and announce everything to it."""
    address, pid = lab.tracker("--ttl", "3600", store=store, cpu=TRACKER_CPU)
    port = int(address.rpartition(":")[2])
    before = memory_of(pid)[0]
    sessions = []
    for number in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rwb") as file:
            sessions.append(str(_ask(file, [{"op": "login", "user": f"user-{number}"}])["session"]))
            lines = []
            for peer in range(number, PEERS, CONNECTIONS):
                shares = [share(peer, at) for at in range(SHARES)]
                lines += [
                    {**heartbeat(peer), "contents": shares[at : at + 50]} for at in range(0, SHARES, 50)
                ]
            for at in range(0, len(lines), 50):
                _ask(file, lines[at : at + 50])
    plans = {
        kind: plan(lab.work / f"{name}-{kind}", sessions, kind)
        for kind in ("heartbeat", "announce", "lookup", "search")
    }
    disk = sum(one.stat().st_size for one in lab.work.glob("tracker.db*")) if store != "memory" else 0
    return Loaded(name, port, plans, (before, memory_of(pid)[0]), disk)


def plan(path: Path, sessions: list[str], kind: str) -> Path:
    """The requests of each connection, after a `hello` with the session of its peers."""

    def asked(peer: int, at: int) -> dict[str, Any]:
        one = share(peer, at)
        match kind:
            case "heartbeat":
                return heartbeat(peer)
            case "announce":
                return {**heartbeat(peer), "contents": [one]}
            case "lookup":
                return {"op": "lookup", "id": one["id"], "limit": 50, "peer": heartbeat(peer)["peer"]}
            case _:
                return {
                    "op": "search",
                    "text": str(one["name"]).removesuffix(".img").replace("-", " "),
                    "limit": 10,
                }

    return write_plan(
        path,
        (
            (
                {"op": "hello", "version": 1, "session": session},
                [
                    asked(number + CONNECTIONS * (n % (PEERS // CONNECTIONS)), n % SHARES)
                    for n in range(PLANNED)
                ],
            )
            for number, session in enumerate(sessions)
        ),
    )


def heartbeat(peer: int) -> dict[str, Any]:
    """The announce of a peer without news."""
    return {
        "op": "announce",
        "peer": _hex(f"peer {peer}", 16),
        "name": f"lab-{peer:05}",
        "listen": {"tcp": 6970},
    }


def share(peer: int, at: int) -> dict[str, Any]:
    """Content number `at` of a peer; each content has as many peers as any other."""
    number = (peer * SHARES + at) % CONTENTS
    return {
        "id": _hex(f"content {number}", 32),
        "name": f"course-{number % 997}-disk-{number}.img",
        "size": 1 << 30,
        "have": 1 << 30,
    }


def _hex(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def _ask(file: Any, lines: list[dict[str, Any]]) -> dict[str, Any]:
    file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
    file.flush()
    answer: dict[str, Any] = {}
    for _ in lines:
        answer = json.loads(file.readline())
        if not answer["ok"]:
            raise RuntimeError(f"the tracker answers: {answer}")
    return answer
