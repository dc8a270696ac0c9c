"""Logs what clients and the system do wrong, a few lines a tick, and counts the rest."""

from __future__ import annotations

import logging
from typing import Final

from p2p.model import Address

log: Final = logging.getLogger(__name__)


class FaultLog:
    """Writes at most `lines` lines between two calls of `on_tick`."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._noted = 0

    def on_fault(self, client: Address, code: str) -> None:
        """A connection is closed for its fault. What it sent is never logged."""
        if self._may_log():
            log.info("closed %s: %s", client, code)

    def on_accept_failed(self, error: OSError) -> None:
        """The system gives us no more connections."""
        if self._may_log():
            log.warning("cannot accept connections now: %s", error.strerror or error)

    def on_bug(self, error: Exception) -> None:
        """A fault of ours, logged with its place."""
        if self._may_log():
            log.error("internal error", exc_info=error)

    def on_tick(self) -> None:
        """Say how many were not logged, and log again."""
        if self._noted > self._lines:
            log.warning("%d more of the kind", self._noted - self._lines)
        self._noted = 0

    def _may_log(self) -> bool:
        self._noted += 1
        return self._noted <= self._lines
