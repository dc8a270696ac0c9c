"""Load by connections: idle, slow, short-lived, more than there are descriptors, and malformed requests.

Each scenario yields an outcome for the tracker and one for a serving peer. Admission limits connections per
host, except for loopback. So a crowd over loopback stands for many sources, and a crowd over another address
of this machine for a single source."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from bench.lib.lab import Lab
from tests.load.crowds import Crowd, ask_once, churn
from tests.load.report import Outcome
from tests.load.rig import Rig, Scale, Target, healthy, measured, own_address, watched, within

FULL: Final = 45
"""Descriptors at which a process that may have 64 admits no more connections."""
DEADLINE: Final = 10.0
"""Seconds within which both want the first whole message."""
GRACE: Final = 2.0
"""Seconds of delay: the tracker looks once a second, and the measuring process is busy too."""
NOISE: Final = (
    b"GET / HTTP/1.1\r\nHost: secret-host\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b'{"op":"nonsense","secret":"hunter2"}\n',
    b"[]\n",
    b'{"op":"read"}\n',
    b"\x1b]52;c;c2VjcmV0\x07\n",
)
"""Requests that neither understands, with words that no log may repeat."""
WORDS: Final = (b"secret", b"hunter2", b"\x1b", b"nonsense")


def loaded(rig: Rig, lab: Lab, scale: Scale) -> list[Target]:
    """The targets: a tracker, and a peer that shares a file of random bytes."""
    tracker = rig.tracker()
    peer = rig.peer(tracker, lab.random_file(lab.folder("shared") / "image.bin", 4))
    return [target for target in (tracker, peer) if scale.only in ("", target.what)]


async def idle(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 12: ten thousand connections that send one byte and then nothing, from many sources and from
    one."""
    count = scale.pick(10_000, 1000)
    with Rig(lab) as rig:
        for target in loaded(rig, lab, scale):
            yield await _idle("idle", target, Crowd(target.port), count)
            host = own_address()
            if host is not None and not scale.short:
                yield await _idle("idle, one source", target, Crowd(target.port, host), count)


async def _idle(scenario: str, target: Target, crowd: Crowd, count: int) -> Outcome:
    probe = {"fresh": True, "read": bool(target.content)}
    async with watched(scenario, target, **probe) as outcome, crowd:
        await crowd.open(count, b"{")
        outcome.notes["connections held"] = crowd.held
        outcome.notes["refused at once"] = crowd.refused
        outcome.during = await measured(target, 3.0, **probe)
        outcome.check("answers that a healthy client did not get", outcome.during.failed, 0)
        outcome.check("p99 of a healthy client, ms", outcome.during.p99, 20)
        outcome.check("RSS, MiB", target.peak, 150)
        await within(lambda: crowd.held == 0, DEADLINE + GRACE)
        outcome.check("connections left after the deadline", crowd.held, 0)
        outcome.check("longest held, s", crowd.longest, DEADLINE + GRACE)
        outcome.recovery = await within(lambda: target.descriptors <= 64, 5.0)
    return outcome


async def slow(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 13: a thousand clients that send a byte every five seconds, beside a healthy one that asks a
    hundred times a second."""
    count, every = scale.pick(1000, 500), 5.0 if not scale.short else 1.0
    with Rig(lab) as rig:
        for target in loaded(rig, lab, scale):
            read = bool(target.content)
            async with watched("slow", target, read=read) as outcome, Crowd(target.port) as crowd:
                before = await measured(target, 3.0, read=read)
                async with healthy(target, read=read) as early:
                    await crowd.open(count, b"{")
                outcome.notes["p99 of a healthy client while they all come at once, ms"] = early.times.p99
                slowly = crowd.trickling(b'"op":"ping","pad":"' + b"x" * 1000, every)
                async with healthy(target, read=read) as client, slowly:
                    await within(lambda crowd=crowd: crowd.held == 0, DEADLINE + GRACE)  # type: ignore[misc]
                outcome.before, outcome.during = before, client.times
                outcome.check(
                    "p99 of a healthy client, ms more than before", client.times.p99 - before.p99, 10
                )
                outcome.check(
                    "answers that a healthy client did not get", client.times.failed + early.times.failed, 0
                )
                outcome.check("slow ones left after the deadline", crowd.held, 0)
                outcome.check("longest held, s", crowd.longest, DEADLINE + GRACE)
            yield outcome


async def come_and_go(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 14: two thousand connections a second for a minute, some of which send something malformed."""
    rate, seconds = 2000.0, float(scale.pick(60, 2))
    with Rig(lab) as rig:
        for target in loaded(rig, lab, scale):
            read = bool(target.content)
            async with watched("churn", target, read=read) as outcome:
                cpu, began = target.cpu, time.monotonic()
                async with healthy(target, read=read) as client:
                    made, failed = await churn(
                        target.port, rate, seconds, (b"", b"{", b"[]\n", b'{"op":"ping"}\n')
                    )
                outcome.during = client.times
                outcome.notes["connections a second"] = made / (time.monotonic() - began)
                outcome.notes["connections that failed"] = failed
                outcome.notes["processor, share of one"] = (target.cpu - cpu) / (time.monotonic() - began)
                outcome.check("answers that a healthy client did not get", client.times.failed, 0)
                lines = target.log.with_suffix(".err").read_text().count("\n")
                outcome.check("lines of log a second", lines / seconds, 10)
                outcome.recovery = await within(lambda target=target: target.descriptors <= 64, 5.0)  # type: ignore[misc]
            outcome.check("threads more than before", outcome.notes["threads more than before"], 80)
            yield outcome


async def descriptors(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 60: 64 descriptors and 200 clients."""
    seconds = float(scale.pick(10, 2))
    with Rig(lab) as rig:
        for target in loaded(rig, lab, scale):
            read = bool(target.content)
            async with watched("descriptors", target, read=read) as outcome:
                target.limit(resource.RLIMIT_NOFILE, 64)
                # The healthy client is in before the crowd.
                async with healthy(target, read=read) as client, Crowd(target.port) as crowd:
                    await asyncio.sleep(0.5)
                    keeping = asyncio.create_task(_keep_full(crowd))
                    await within(lambda target=target: target.descriptors >= FULL, 5.0)  # type: ignore[misc]
                    cpu, began = target.cpu, time.monotonic()
                    await asyncio.sleep(seconds)
                    outcome.check(
                        "processor while exhausted, share of one",
                        (target.cpu - cpu) / (time.monotonic() - began),
                        0.5,
                    )
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                outcome.during = client.times
                outcome.check("answers that a client inside did not get", client.times.failed, 0)
                outcome.recovery = await _recovered(target)
                outcome.check("seconds until a fresh client is served", outcome.recovery, 2)
                target.limit(resource.RLIMIT_NOFILE, 1024)
            yield outcome


async def _keep_full(crowd: Crowd) -> None:
    while True:
        await crowd.open(200 - crowd.held, b"{")
        await asyncio.sleep(0.2)


async def _recovered(target: Target) -> float:
    """Seconds until a fresh client gets an answer."""
    began = time.monotonic()
    while time.monotonic() - began < 20:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(5):
                if (await ask_once(target.port, {"op": "ping"}))["ok"]:
                    break
    return time.monotonic() - began


async def flood(lab: Lab, scale: Scale) -> AsyncIterator[Outcome]:
    """Case 64: as many malformed lines as one process can send. The log stays short and repeats none of
    them."""
    seconds = float(scale.pick(30, 2))
    with Rig(lab) as rig:
        for target in loaded(rig, lab, scale):
            async with watched("log", target) as outcome:
                async with healthy(target) as client:
                    made, _ = await churn(target.port, 3000, seconds, NOISE)
                outcome.during = client.times
                outcome.notes["wrong connections"] = made
                outcome.check("answers that a healthy client did not get", client.times.failed, 0)
                outcome.check(
                    "words of clients in the log", words_in(target.log, target.log.with_suffix(".err")), 0
                )
            yield outcome


def words_in(*logs: Path) -> int:
    """How often logs repeat the words of clients."""
    found = 0
    for path in logs:
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
            found += sum(data.count(word) for word in WORDS)
    return found
