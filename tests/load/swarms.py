"""Load by swarms: thousands of peers that register again, many readers of a large file, no threads, and hours
of everything together."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from bench.cases.large import sparse
from bench.lib.lab import Lab
from tests.load.connections import NOISE
from tests.load.crowds import Crowd, Readers, Registered, ask_once, churn
from tests.load.report import Outcome
from tests.load.rig import Rig, Scale, Target, in_cgroup, measured, watched, within

GIB: Final = 1 << 30
PIECES: Final = 512
"""Blocks are read from the first 512 pieces; a file of a GiB or more has more."""
ROOM: Final = 256
"""MiB of memory that case 61 allows."""
STACK: Final = 1 << 30
"""Stack of each thread in the scenario without threads: so large that address space ends long before
memory."""


async def herd(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 21: a tracker is killed and started again, and thousands of peers come back within a second. Once
    with a store that remembers them, and once without."""
    count, rng = scale.pick(5000, 300), random.Random(21)
    for store in ("memory", f"sqlite:{lab.work}/herd.db"):
        with Rig(lab) as rig:
            tracker = rig.tracker(store=store)
            peers = Registered(tracker.port, count)
            try:
                await peers.come(2.0, rng)
                tracker.kill()
                again = rig.tracker(store=store, port=tracker.port)
                outcome = Outcome("herd", f"tracker, {store.partition(':')[0]}", idle_rss=again.rss)
                began, tries = time.monotonic(), peers.tries
                await peers.come(1.0, rng)
                outcome.recovery = peers.last - began
                outcome.peak_rss = again.peak
                outcome.during = await measured(again, 1.0)
                outcome.check("seconds until all are registered", outcome.recovery, 30)
                known = await ask_once(again.port, {"op": "stats"})
                outcome.check("peers registered", known["peers"], count, least=True)
                outcome.notes["tries for each"] = (peers.tries - tries) / count
                outcome.log_bytes = again.log_bytes
            finally:
                await peers.leave()
        yield outcome


async def memory(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 61: hundreds of readers of a large file in 256 MB, whatever the size of the file."""
    readers, seconds = scale.pick(500, 100), float(scale.pick(20, 3))
    sizes = (1, 10) if not scale.short else (1,)
    peaks: dict[int, float] = {}
    for gib in sizes:
        with Rig(lab) as rig:
            peer = rig.peer(rig.tracker(), sparse(lab.folder(f"sparse-{gib}") / "large.img", gib))
            async with watched("memory", peer, read=True) as outcome:
                with in_cgroup(peer, ROOM) as bounded:
                    outcome.notes["bounded by a cgroup"] = bounded
                    async with Readers(peer.port, peer.content, PIECES, readers, random.Random(61)) as crowd:
                        outcome.during = await measured(peer, seconds, read=True, rate=20)
                    outcome.notes["MiB/s"] = crowd.blocks / 16 / seconds
                    outcome.check("blocks read", crowd.blocks, readers, least=True)
                    outcome.check("connections that broke", crowd.broken, 0)
                outcome.check("RSS, MiB", peer.peak, ROOM)
                outcome.check("still alive", peer.alive, 1, least=True)
            outcome.target = f"peer, {gib} GiB"
            peaks[gib] = peer.peak
            if gib != sizes[0]:
                outcome.check(f"RSS more than for {sizes[0]} GiB, MiB", peer.peak - peaks[sizes[0]], 10)
        yield outcome


async def threads(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 62: no thread can be started. Requests that need one are refused, others are served, and all are
    once there are threads again."""

    def deep() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (STACK, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    with Rig(lab) as rig:
        tracker = rig.tracker()
        peer = rig.peer(tracker, lab.random_file(lab.folder("shared") / "image.bin", 4), before=deep)
        async with watched("threads", peer) as outcome:
            peer.limit(resource.RLIMIT_AS, _address_space(peer) + STACK // 4)
            read = {"op": "read", "id": peer.content, "piece": 0, "offset": 0, "length": 4096}
            count = scale.pick(200, 20)
            served = [await _served(peer.port, read) for _ in range(count)]
            outcome.notes["requests without a thread for them"] = count
            outcome.check("of which were served", sum(served), 0)
            outcome.during = await measured(peer, 1.0, fresh=True)
            outcome.check("pings that fail meanwhile", outcome.during.failed, 0)
            peer.limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
            began = time.monotonic()
            again = await _served(peer.port, read)
            outcome.recovery = time.monotonic() - began
            outcome.check("served when there are threads again", again, 1, least=True)
        yield outcome


async def _served(port: int, request: dict[str, Any]) -> bool:
    """Whether a request succeeds. A refusal and a closed connection are the same here."""
    try:
        return bool((await ask_once(port, request))["ok"])
    except (OSError, ValueError):
        return False


def _address_space(target: Target) -> int:
    with open(f"/proc/{target.pid}/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


async def mixed(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 63: everything at once for `scale.minutes`, while peers are killed and replaced."""
    rng = random.Random(63)
    length = 12.0 if scale.short else scale.minutes * 60
    path = lab.random_file(lab.folder("shared") / "image.bin", 8)
    with Rig(lab) as rig:
        tracker = rig.tracker()
        peer = rig.peer(tracker, path)
        quitters = [rig.peer(tracker, path) for _ in range(2)]
        targets = (tracker, peer)
        outcomes = {target.what: Outcome("mixed", target.what, idle_rss=target.rss) for target in targets}
        quiet = {target.what: target.descriptors for target in targets}
        samples: dict[str, list[tuple[float, float, int, float]]] = {target.what: [] for target in targets}
        began = time.monotonic()
        async with Readers(peer.port, peer.content, 8, 8, rng) as readers:
            load = [asyncio.create_task(_noise(target, rng)) for target in targets]
            killed = 0
            while (now := time.monotonic() - began) < length:
                for target in targets:
                    times = await measured(target, min(3.0, length / 12), read=bool(target.content))
                    samples[target.what].append((now, target.rss, target.descriptors, times.p99))
                    outcomes[target.what].before = outcomes[target.what].before or times
                    outcomes[target.what].during = times
                    outcomes[target.what].notes["failed"] = (
                        outcomes[target.what].notes.get("failed", 0) + times.failed
                    )
                number = rng.randrange(len(quitters))
                await asyncio.to_thread(quitters[number].kill)
                quitters[number] = await asyncio.to_thread(rig.peer, tracker, path)
                killed += 1
            for task in load:
                task.cancel()
            for ended in await asyncio.gather(*load, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
        for target in targets:
            outcome = outcomes[target.what]
            await within(lambda target=target: target.descriptors <= quiet[target.what] + 2, 12)  # type: ignore[misc]
            _judge(outcome, samples[target.what], target, scale)
            outcome.descriptors = (quiet[target.what], target.descriptors)
            outcome.check("descriptors more than before", target.descriptors - quiet[target.what], 2)
            outcome.notes["peers killed"] = killed
            outcome.notes["blocks read"] = readers.blocks
            yield outcome


async def _noise(target: Target, rng: random.Random) -> None:
    """A busy day's load: idle, slow, short-lived and malformed connections."""
    while True:
        async with Crowd(target.port) as crowd:
            await crowd.open(rng.randrange(50, 200), b"{")
            async with crowd.trickling(b'"op":"ping"', 1.0):
                await churn(target.port, 100, rng.uniform(1, 5), NOISE)


def _judge(
    outcome: Outcome, samples: list[tuple[float, float, int, float]], target: Target, scale: Scale
) -> None:
    """Check the slope of memory after a quarter of the time, descriptors, and the latency of the last third
    against the first."""
    warm = samples[len(samples) // 4 :]
    slope = 3600 * _slope([one[0] for one in warm], [one[1] for one in warm])
    third = max(1, len(samples) // 3)
    first, last = (sorted(one[3] for one in part)[third // 2] for part in (samples[:third], samples[-third:]))
    outcome.peak_rss = target.peak
    outcome.log_bytes = target.log_bytes
    outcome.notes["RSS slope, MiB an hour"] = slope
    outcome.notes["p99 of the first third, ms"] = first
    outcome.notes["p99 of the last third, ms"] = last
    outcome.check("still alive", target.alive, 1, least=True)
    outcome.check("answers that a healthy client did not get", outcome.notes["failed"], 0)
    outcome.check("tracebacks", target.log.with_suffix(".err").read_text().count("Traceback"), 0)
    if not scale.short and scale.minutes >= 30:  # a shorter run has no slope
        outcome.check("RSS slope, MiB an hour", slope, 1)
        outcome.check("p99 of the last third, of the first", last / max(first, 0.1), 1.2)
        outcome.check("bytes of log", outcome.log_bytes, 1 << 20)


def _slope(xs: list[float], ys: list[float]) -> float:
    """The slope of the straight line nearest to the points."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
