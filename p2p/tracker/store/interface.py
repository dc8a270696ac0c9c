"""The duties of a store: a directory in memory, and the way of its changes to a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from p2p.tracker.store.directory import Directory


class TrackerStore(Protocol):
    """A directory, and the way of its changes to a disk. A store without a disk has nothing unsaved.

    All is called from one thread. `commit` alone may run in another, one call at a time, and `interrupt` in
    any. `tests/contract/test_tracker_store.py` proves these duties, and those of the directory, for each
    store.
    """

    @property
    def directory(self) -> Directory:
        """Sessions, peers and contents, in memory."""

    @property
    def unsaved(self) -> bool:
        """Whether a change is not on disk yet. Until it is, no answer may promise it."""

    def take_pending(self) -> Mapping[Any, Any]:
        """Take all changes that wait, for one `commit`."""

    def commit(self, changes: Mapping[Any, Any]) -> None:
        """Write changes to disk: all or none. Blocks for seconds at worst. Raises
        `Refused("unavailable")`."""

    def settle(self, changes: Mapping[Any, Any], *, written: bool) -> None:
        """Note how the commit ended. Changes that were not written wait again, and newer changes of the same
        rows win."""

    def interrupt(self) -> None:
        """Make a commit that waits for a lock give up soon."""

    def close(self) -> None:
        """Give up files and locks. Changes that wait are lost; commit them first."""
