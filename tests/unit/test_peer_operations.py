"""How long an upload waits for the copy of a peer that gains nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.errors import Unreachable
from p2p.model import ContentId, PeerKey
from p2p.peer.operations import _until_it_stalls
from tests.kit.virtual_time import in_virtual_time

CONTENT = ContentId("ab" * 32)
TARGET = PeerKey("5f" * 16)
SIZE = 1_000_000
PATIENCE = 60.0


def patience_with(copied: Callable[[], int], sent_to: Callable[[], int], size: int = SIZE) -> float:
    """Seconds until a copy that is never ready is given up, where its peer says and takes so much."""

    async def work() -> float:
        node: Any = SimpleNamespace(
            copied=lambda content, peer: copied(),
            sent_to=lambda content, peer: sent_to(),
            settings=SimpleNamespace(patience=PATIENCE),
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unreachable, match="gained nothing"):
            async with asyncio.timeout(100 * PATIENCE):
                await _until_it_stalls(node, CONTENT, size, TARGET, loop.create_future())
        return loop.time() - began

    return in_virtual_time(work)


def test_an_upload_ends_although_its_target_has_a_piece_and_has_it_not_and_has_it_again() -> None:
    assert patience_with(itertools.cycle([0, 1]).__next__, lambda: 0) < 2 * PATIENCE


def test_an_upload_ends_although_its_target_takes_the_same_block_for_ever() -> None:
    taken = itertools.count(step=65_536)
    assert patience_with(lambda: 1, taken.__next__, size=655_360) < 2 * PATIENCE


def test_an_upload_waits_for_a_target_that_takes_bytes_for_longer_than_a_piece_may_stall() -> None:
    """A large piece takes minutes on a thin link, and until it is whole its peer says nothing."""
    taken = itertools.count(step=100)
    assert patience_with(lambda: 0, lambda: min(next(taken), 50_000)) > 4 * PATIENCE
