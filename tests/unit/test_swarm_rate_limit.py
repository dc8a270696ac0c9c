"""Keep a rate."""

from __future__ import annotations

import pytest

from p2p.swarm.rate_limit import TokenBucket


def test_a_rate_of_zero_is_no_limit() -> None:
    assert TokenBucket(0).take(10**12, 5.0) == 0.0


def test_the_first_bytes_go_at_once_up_to_the_burst() -> None:
    pace = TokenBucket(1000, burst=0.1)
    assert pace.take(100, 50.0) == 0.0
    assert pace.take(100, 50.0) == pytest.approx(0.1)


def test_who_waits_as_told_keeps_the_rate_over_time() -> None:
    pace, now, moved = TokenBucket(1000), 7.0, 0
    while moved < 10_000:
        moved += 64
        now += pace.take(64, now)
    assert moved / (now - 7.0) == pytest.approx(1000, rel=0.01)


def test_silence_saves_up_no_more_than_the_burst() -> None:
    pace = TokenBucket(1000, burst=0.1)
    pace.take(100, 0.0)
    assert pace.take(300, 1000.0) == pytest.approx(0.2)


def test_what_is_larger_than_the_burst_is_paid_for_afterwards() -> None:
    pace = TokenBucket(1000, burst=0.1)
    assert pace.take(5100, 3.0) == pytest.approx(5.0)
