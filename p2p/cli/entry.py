"""Where the scripts in `bin/` begin: an early stop signal ends quietly, then the command runs."""

from __future__ import annotations

from importlib import import_module

from p2p.cli.signals import stop_at_once_on_signals


def start(command: str) -> int:
    """Run `tracker`, `peer`, `demo` or `simulate` with this process's arguments; return the exit code."""
    stop_at_once_on_signals()
    code: int = import_module(f"p2p.cli.{command}").main()
    return code
