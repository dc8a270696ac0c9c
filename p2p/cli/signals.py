"""Stop signals, brought into the event loop; with a fallback for systems whose loop knows no signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence


def install_stop_signals(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[signal.Signals], None],
    stops: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    *,
    portable: bool = False,
) -> Callable[[], None]:
    """Call `callback` with the signal, in `loop`, on each of `stops`. Returns what takes this back. Call it
    in the main thread.

    Where the loop knows no signals, or with `portable`, it goes by `signal.signal`.
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
                restore()  # the loop leaves the system's handler behind, whatever was there before

            return remove

    def handler(number: int, _frame: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed since
            loop.call_soon_threadsafe(callback, signal.Signals(number))

    for number in stops:
        signal.signal(number, handler)
    return restore
