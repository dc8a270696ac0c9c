"""A seeded mutation loop, for machines without a coverage-guided fuzzer. The same seed finds the same
inputs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from tests.fuzz.target import TOKENS, Target

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _flip(rng: random.Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _change(rng: random.Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _insert(rng: random.Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 4)) if rng.random() < 0.3 else rng.choice(TOKENS)


def _replace(rng: random.Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    data[start : start + rng.randint(1, 8)] = rng.choice(TOKENS)


def _delete(rng: random.Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randint(1, 1 + len(data) // 4)]


def _repeat(rng: random.Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randint(1, 16)]
    data[start:start] = part * rng.choice((1, 2, 8, 64))


def _splice(rng: random.Random, data: bytearray, pool: Sequence[bytes]) -> None:
    other = rng.choice(pool)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


MUTATIONS: tuple[Mutation, ...] = (_flip, _change, _insert, _replace, _delete, _repeat, _splice)


def mutant(target: Target, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """An input of `pool` with one to six mutations."""
    data = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, 6)):
        rng.choice(MUTATIONS)(rng, data, pool)
    return bytes(data[: target.length])


def run(target: Target, seconds: float, seed: int, *, each: Callable[[bytes], None] | None = None) -> int:
    """Run the target on mutants for `seconds`, and return their number. `each` is called with every input
    before its run. An exception of the target is raised here."""
    rng, pool, count = random.Random(f"{seed} {target.name}"), [*target.inputs(), b""], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutant(target, rng, pool)
        if each is not None:
            each(data)
        target.run(data)
        count += 1
    return count
