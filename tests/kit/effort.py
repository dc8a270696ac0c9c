"""How many examples the random tests try.

`P2P_TEST_EXAMPLES=20` multiplies every count, for a nightly run.
"""

from __future__ import annotations

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

_ASKED: Final = os.environ.get("P2P_TEST_EXAMPLES")
_FACTOR: Final = float(_ASKED or "1")


def times(count: int) -> int:
    """`count` multiplied by `P2P_TEST_EXAMPLES`, and at least one."""
    return max(1, round(count * _FACTOR))


def limit(seconds: int) -> pytest.MarkDecorator:
    """pytest's time limit for a test that hangs after `seconds` with the usual number of examples."""
    return pytest.mark.timeout(max(seconds, times(seconds)))


def examples(count: int = 100) -> settings:
    """Hypothesis settings for `count` examples. There is no deadline, because a busy machine would miss
    it."""
    return settings(max_examples=times(count), deadline=None, print_blob=True)


def statistics(count: int) -> settings:
    """Settings for a property that holds nearly always, such as a bound on copies or time.

    The examples are the same in each run, because one unlucky swarm in thousands would fail where nothing
    is wrong. With `P2P_TEST_EXAMPLES` they are new ones.
    """
    return settings(max_examples=times(count), deadline=None, print_blob=True, derandomize=not _ASKED)


def stateful(count: int, steps: int = 50) -> settings:
    """Settings for `count` runs of a state machine of `steps` steps. A failure prints how to reproduce it."""
    return settings(
        max_examples=times(count),
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
