"""How many links, and how often they are told."""

from __future__ import annotations

import pytest

from p2p.swarm.topology import ENOUGH, HUNGRY, TELL_EACH, TELL_MOST, TELL_TIME, dials, tell_time


def test_a_download_without_links_dials_enough_at_once() -> None:
    assert dials(0, eager=True) == dials(0, eager=False) == ENOUGH


@pytest.mark.parametrize("linked", [ENOUGH, ENOUGH + 100])
def test_one_with_enough_links_dials_nobody_unless_too_few_feed_it(linked: int) -> None:
    assert dials(linked, eager=False) <= 0
    assert dials(linked, eager=True) == HUNGRY


def test_more_links_are_told_less_often_within_bounds() -> None:
    assert tell_time(0) == tell_time(1) == TELL_TIME
    assert tell_time(8) == pytest.approx(8 * TELL_EACH)
    assert tell_time(1000) == TELL_MOST
