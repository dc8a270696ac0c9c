"""Defaults that depend on the machine: the folder for state, and the name of a peer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random

from p2p.errors import UsageError
from p2p.value import frozen


@frozen
class Machine:
    """What the defaults depend on: the system, the user's home, the host's name, and chance."""

    platform: str
    """As in `sys.platform`."""
    home: Path | None
    host_name: str
    rng: Random


def default_state(machine: Machine, environ: Mapping[str, str]) -> Path:
    """Return the user's folder for what must outlive a process, as each system wants it.

    Raises `UsageError` when there is no home.
    """
    if machine.platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "Enjambre"
    # The XDG specification says that a relative path here is to be ignored.
    if machine.platform not in ("win32", "darwin") and environ.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(environ["XDG_STATE_HOME"]) / "enjambre"
    if machine.home is None:
        raise UsageError(
            "--state: this user has no home folder; say where state shall be kept with --state or P2P_STATE"
        )
    if machine.platform == "win32":
        return machine.home / "AppData" / "Local" / "Enjambre"
    if machine.platform == "darwin":
        return machine.home / "Library" / "Application Support" / "Enjambre"
    return machine.home / ".local" / "state" / "enjambre"


def default_name(machine: Machine) -> str:
    """Return the host's name and four random letters, so that two peers of one machine can be told apart."""
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", machine.host_name.partition(".")[0])[:40].strip("-") or "peer"
    return host + "-" + "".join(machine.rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4))
