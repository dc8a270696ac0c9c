"""How many examples a property test makes: few in CI, as many times more as `P2P_TEST_EXAMPLES` says in a nightly run."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

TIMES: Final = float(os.environ.get("P2P_TEST_EXAMPLES", "1"))
"""What the number of examples is multiplied by: `P2P_TEST_EXAMPLES=25` makes 1,000 sequences of 40."""


def examples(count: int = 100) -> settings:
    """So many examples, without a deadline: the machine that runs them may have other things to do."""
    return settings(max_examples=_times(count), deadline=None)


def stateful(count: int, steps: int = 50) -> settings:
    """So many sequences of steps of a state machine. A run that fails prints what reproduces it."""
    return settings(
        max_examples=_times(count),
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def _times(count: int) -> int:
    return max(1, round(count * TIMES))
