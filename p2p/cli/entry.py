"""Where the scripts in `bin/` begin: makes an early Ctrl-C, SIGTERM or SIGHUP end quietly, then runs the
command."""

from __future__ import annotations

import contextlib
import os
import signal
from importlib import import_module


def leave_at_once(number: int, _frame: object) -> None:
    """End this process now, with the code of a stop by signal `number`."""
    if number == signal.SIGINT:
        with contextlib.suppress(OSError):
            if os.isatty(2):
                os.write(2, b"\n")  # so that the shell's prompt does not stand behind the ^C
    os._exit(128 + number)


def stop_signals() -> tuple[signal.Signals, ...]:
    """What asks a command to stop: Ctrl-C, SIGTERM, and a terminal that hangs up, unless that is ignored as
    under `nohup`."""
    hang_up: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, hang_up


def stop_at_once_on_signals() -> None:
    """Until a command has its own way to stop, and after it has stopped, there is nothing to save: leave
    without a traceback."""
    for number in stop_signals():
        signal.signal(number, leave_at_once)


def start(command: str) -> int:
    """Run `tracker`, `peer` or `demo` with this process's arguments; returns the exit code."""
    stop_at_once_on_signals()
    code: int = import_module(f"p2p.cli.{command}").main()
    return code
