"""Tests of p2p/peer/download.py that need no swarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from p2p.errors import Refused
from p2p.peer.download import _abandon
from p2p.storage.disk import lock_file
from p2p.storage.hashing import HashPool
from tests.kit.content_samples import manifest_of, part_of


def test_case_62_a_download_gives_its_lock_back_though_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each later try would say that another download of it is running."""
    part = part_of(manifest_of(b"x"), tmp_path)
    part.open()
    pool = HashPool()

    async def refuse(_work: Callable[[], None]) -> NoReturn:
        raise Refused("unavailable", "this side cannot start another thread now; try again later")

    monkeypatch.setattr(pool, "run", refuse)
    asyncio.run(_abandon(part, pool))
    pool.close()
    lock_file(part.sidecar).close()
