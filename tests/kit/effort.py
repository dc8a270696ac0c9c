"""How much tests that chance drives try: little in CI, and as many times more as `P2P_TEST_EXAMPLES` says in
a nightly run."""

from __future__ import annotations

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

_ASKED: Final = os.environ.get("P2P_TEST_EXAMPLES")
_TIMES: Final = float(_ASKED or "1")


def times(count: int) -> int:
    """`count` as many times over as asked for, and one at least."""
    return max(1, round(count * _TIMES))


def limit(seconds: int) -> pytest.MarkDecorator:
    """The time limit of a test that takes `seconds` at most when nothing more is asked for."""
    return pytest.mark.timeout(max(seconds, times(seconds)))


def examples(count: int = 100) -> settings:
    """So many examples, without a deadline: the machine that runs them may have other things to do."""
    return settings(max_examples=times(count), deadline=None)


def statistics(count: int) -> settings:
    """So many examples of what holds nearly always, as a bound on copies or time: the same in each run,
    others where more is asked for.

    Drawn anew each time, the one swarm in thousands that is unlucky would fail a run in which nothing is
    wrong.
    """
    return settings(max_examples=times(count), deadline=None, print_blob=True, derandomize=not _ASKED)


def stateful(count: int, steps: int = 50) -> settings:
    """So many sequences of steps of a state machine. A run that fails prints what reproduces it."""
    return settings(
        max_examples=times(count),
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
