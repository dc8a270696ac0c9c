"""How many links, and how often they are told."""

from __future__ import annotations

import pytest

from p2p.swarm.topology import (
    CONNECTIONS,
    HAVE_INTERVAL_PER_MEMBER,
    HUNGRY_DIALS,
    MAX_HAVE_INTERVAL,
    MIN_HAVE_INTERVAL,
    dials,
    have_interval,
)


def test_a_download_without_links_dials_enough_at_once() -> None:
    assert dials(0, eager=True) == dials(0, eager=False) == CONNECTIONS


@pytest.mark.parametrize("linked", [CONNECTIONS, CONNECTIONS + 100])
def test_one_with_enough_links_dials_nobody_unless_too_few_feed_it(linked: int) -> None:
    assert dials(linked, eager=False) <= 0
    assert dials(linked, eager=True) == HUNGRY_DIALS


def test_more_links_are_told_less_often_within_bounds() -> None:
    assert have_interval(0) == have_interval(1) == MIN_HAVE_INTERVAL
    assert have_interval(8) == pytest.approx(8 * HAVE_INTERVAL_PER_MEMBER)
    assert have_interval(1000) == MAX_HAVE_INTERVAL
