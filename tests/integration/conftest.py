"""A tracker and a seed as real processes, for the tests of commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.commands import SIZE
from tests.kit.processes import Running, old_file, start_peer, start_tracker


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Running]:
    """A tracker on loopback."""
    with start_tracker(tmp_path) as running:
        yield running


@pytest.fixture
def seed(tmp_path: Path, tracker: Running) -> Iterator[Running]:
    """A peer that serves the folder `shared` with `lab.img`; its `shared` event has been read."""
    old_file(tmp_path / "shared" / "lab.img", os.urandom(SIZE))
    with start_peer(
        tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin"
    ) as running:
        running.event("shared", name="lab.img")
        yield running
