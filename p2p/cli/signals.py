"""Stop signals: which there are, how they end a process at once, and how they reach an event loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `--help` must not load asyncio
    from asyncio import AbstractEventLoop


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a command to stop: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal.

    An ignored SIGHUP is left out: under `nohup` a command goes on.
    """
    hang_up: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, hang_up


def leave_at_once(number: int, _frame: object = None) -> None:
    """End this process now, with the exit code of a stop by signal `number`."""
    if number == signal.SIGINT:
        with contextlib.suppress(OSError):
            if os.isatty(2):
                os.write(2, b"\n")  # so that the shell's prompt does not stand behind the ^C
    os._exit(128 + number)


def stop_at_once_on_signals() -> None:
    """Leave at once, without a traceback, on every stop signal.

    This holds while there is nothing to save: before a command runs, and after it has stopped.
    """
    for number in stop_signals():
        signal.signal(number, leave_at_once)


def install_stop_signals(
    loop: AbstractEventLoop,
    callback: Callable[[signal.Signals], None],
    stops: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    *,
    portable: bool = False,
) -> Callable[[], None]:
    """Call `callback` with the signal, in `loop`, on each of `stops`. Return a function that takes this back.

    Call it in the main thread. A loop that knows no signals (Windows), and `portable`, use `signal.signal`.
    """
    previous = [(number, signal.getsignal(number)) for number in stops]

    def restore() -> None:
        for number, former in previous:
            signal.signal(number, signal.SIG_DFL if former is None else former)

    if not portable:
        with contextlib.suppress(NotImplementedError):
            for number in stops:
                loop.add_signal_handler(number, callback, number)

            def remove() -> None:
                for number in stops:
                    loop.remove_signal_handler(number)
                restore()  # the loop leaves the system's default behind, not what was there before

            return remove

    def handler(number: int, _frame: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed since
            loop.call_soon_threadsafe(callback, signal.Signals(number))

    for number in stops:
        signal.signal(number, handler)
    return restore
