"""p2p/peer/copy_stall.py: how long an upload waits for a peer that gains nothing of its copy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from p2p.peer.copy_stall import CopyStall

SIZE = 1_000_000
TIMEOUT_S = 60.0
LOOK_S = 0.5
"""Between two looks at what the peer has."""


def stalls_after(pieces: Iterator[int], sent: Iterator[int], size: int = SIZE) -> float:
    """Seconds until a copy is given up, where its peer has these pieces and was sent these bytes."""
    stall = CopyStall(size, TIMEOUT_S, 0.0)
    for look in range(100_000):
        if stall.stalled(next(pieces), next(sent), look * LOOK_S):
            return look * LOOK_S
    raise AssertionError("it is never given up")


def test_a_peer_that_never_gains_anything_stalls_after_the_timeout() -> None:
    assert stalls_after(itertools.repeat(0), itertools.repeat(0)) == TIMEOUT_S + LOOK_S


def test_a_peer_that_has_a_piece_and_has_it_not_and_has_it_again_stalls() -> None:
    assert stalls_after(itertools.cycle([0, 1]), itertools.repeat(0)) < 2 * TIMEOUT_S


def test_a_peer_that_takes_the_same_block_for_ever_stalls() -> None:
    assert stalls_after(itertools.repeat(1), itertools.count(step=65_536), size=655_360) < 2 * TIMEOUT_S


def test_a_peer_that_takes_bytes_of_one_large_piece_does_not_stall() -> None:
    """A large piece takes minutes on a thin link, and until it is whole its peer says nothing."""
    sent = itertools.chain(range(0, 50_000, 100), itertools.repeat(50_000))
    assert stalls_after(itertools.repeat(0), sent) > 4 * TIMEOUT_S
