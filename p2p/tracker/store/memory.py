"""A store that a restart empties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2p.tracker.store.base import StoreLimits
from p2p.tracker.store.directory import Directory


class MemoryStore:
    """`TrackerStore` without a disk: a directory, of which nothing ever waits."""

    unsaved = False

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self.directory = Directory(limits)

    def take_pending(self) -> Mapping[Any, Any]:
        """Nothing to take."""
        return {}

    def commit(self, changes: Mapping[Any, Any]) -> None:
        """Nothing to write."""

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        """Nothing to note."""

    def interrupt(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to give up."""
