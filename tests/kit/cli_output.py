"""A console on two strings, and the configuration of a command, for tests of what commands print."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from p2p.cli.config import PeerConfig
from p2p.cli.console import Console
from p2p.cli.run import Job
from p2p.model import Address, ContentId
from p2p.peer.settings import NodeSettings

ID: Final = ContentId("ab" * 32)
HERE: Final = Address("127.0.0.1", 6969)
LAB: Final = Address("10.0.0.5", 7000)
SETTINGS: Final = NodeSettings("me", Path("/s"), HERE)


class Output:
    """What a command has printed."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.console = Console(
            "peer", json=as_json, environ={}, clock=lambda: 0.0, out=self._out, err=self._err
        )

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def err(self) -> str:
        return self._err.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def config(**told: Any) -> PeerConfig:
    """The configuration of a command of the peer `me`."""
    return PeerConfig(node=SETTINGS, **told)


def job(output: Output, **words: object) -> Job[PeerConfig]:
    """A command with these words that prints to `output`."""
    return Job(Namespace(**words), config(), output.console, None, None)
