"""Tests with the fuzz targets: every kept input within its memory, and a second of mutation for each
target."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import mutate
from tests.fuzz.target import Target, check_memory
from tests.fuzz.targets import TARGETS

SECONDS = 1.0
SEED = int(os.environ.get("P2P_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
RUN = Path(__file__).parent / "run.py"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_case_10_every_kept_input_is_parsed_or_refused_within_its_memory(target: Target) -> None:
    for data in target.inputs():
        check_memory(target, data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_case_10_a_second_of_mutation_finds_nothing(target: Target) -> None:
    last = [b""]
    try:
        count = mutate.run(target, SECONDS, SEED, each=lambda data: last.__setitem__(0, data))
    except Exception as error:
        error.add_note(f"input: {last[0]!r}; P2P_TEST_SEED={SEED}")
        raise
    assert count > 0


def test_case_10_the_same_seed_makes_the_same_inputs() -> None:
    target = TARGETS["request"]
    pool = target.inputs()
    one, other = random.Random(5), random.Random(5)
    assert [mutate.mutant(target, one, pool) for _ in range(50)] == [
        mutate.mutant(target, other, pool) for _ in range(50)
    ]


@pytest.mark.parametrize("name", ["strict_json", "session", "manifest"])
def test_case_10_the_longest_inputs_stay_within_their_memory(name: str) -> None:
    """Mutations seldom make a whole line of the densest JSON."""
    target = TARGETS[name]
    for part in (b"[],", b'{"":0},', b"0,", b'"",', b'"\xc3\xa9",', b'{"a":{}},', b"\n", b"{}\n"):
        data = (
            b"\x04\xff[" + part * (65_000 // len(part))
            if name == "session"
            else b"[" + part * (65_000 // len(part)) + b"0]"
        )
        check_memory(target, data)


def test_case_10_the_runner_works_without_the_coverage_guided_fuzzer(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), "--plain", "--seconds", "0.5", "--seed", "7", "lines", "uri"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 7" in done.stdout
    assert "lines" in done.stdout
    assert done.stderr == ""
