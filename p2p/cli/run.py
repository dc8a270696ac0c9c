"""Runs a command: parse, configure, work until done or told to stop, end with one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from p2p.cli.machine import Machine
from p2p.cli.options import Config
from p2p.cli.parse import parse_switch
from p2p.errors import DiskError, EnjambreError, UsageError
from p2p.value import frozen

# A command's own imports wait until it runs: `--help` must come at once.
if TYPE_CHECKING:
    from pathlib import Path
    from signal import Signals
    from threading import Timer

    from p2p.cli.console import Console
    from p2p.net.wire import WireTrace
    from p2p.peer.trace import SwarmEvent, Trace

C = TypeVar("C", bound=Config)

STOP_TIME_S: Final = 1.9
"""Time for a clean stop. Then the process ends all the same: a command stops within two seconds."""
TICK_S: Final = 0.2


@frozen
class Job(Generic[C]):
    """What a command is given."""

    words: Namespace
    """The positional words of the command line, by name."""
    config: C
    console: Console
    trace: WireTrace | None
    """Called with each control line; None without `--trace`."""
    swarm_trace: Callable[[SwarmEvent], None] | None
    """Called with each event of a swarm; None without `--trace`."""


@frozen
class Program(Generic[C]):
    """One of the programs: its name, its parser, its configuration, and the work, which returns an exit
    code."""

    name: str
    parser: Callable[[], ArgumentParser]
    config: type[C]
    work: Callable[[Job[C]], Awaitable[int]]


def run(program: Program[C], argv: Sequence[str] | None = None) -> int:
    """Run a program with `argv` (default: this process's arguments) and return its exit code.

    No exception leaves.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        words = program.parser().parse_args(given)
        command = getattr(words, "command", "")
        config = program.config.read(vars(words), os.environ, _this_machine(), command)
    except UsageError as error:
        return _refuse(program.name, given, error)
    except SystemExit as error:  # --help and --version have printed
        return _flushed(error.code if isinstance(error.code, int) else 0)
    except KeyboardInterrupt:
        return 130
    import time

    from p2p.cli.console import Console

    console = Console(
        program.name,
        json=config.json,
        quiet=config.quiet or getattr(config, "trace", "") == "-",
        verbose=config.verbose,
        environ=os.environ,
        clock=time.monotonic,
    )
    try:
        return _run_work(program, words, config, console)
    except KeyboardInterrupt:
        return 130
    except EnjambreError as error:
        console.end_progress()
        console.error(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the user shall never see a traceback unasked
        return _internal(console, error)


def _run_work(program: Program[C], words: Namespace, config: C, console: Console) -> int:
    import asyncio
    import logging

    from p2p.cli.console import ConsoleLog

    root, handler = logging.getLogger(), ConsoleLog(console)
    level = root.level
    root.addHandler(handler)
    root.setLevel(handler.level)
    # asyncio's warnings (a slow callback, an ended child) are for development mode only; faults are errors.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("grpc").setLevel(logging.WARNING)
    try:
        with _trace_file(getattr(config, "trace", ""), console) as trace, asyncio.Runner() as runner:
            wire, swarm = (trace.message, trace.swarm) if trace else (None, None)
            job = Job(words, config, console, wire, swarm)
            return runner.run(_Supervisor(console).run(lambda: program.work(job)))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


class _Supervisor:
    """Runs a command's work until it is done, a stop signal comes, or its output has lost its reader."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cancel: Callable[[], object] = lambda: None
        self._stopped: int | None = None
        """The exit code of the first stop signal."""
        self._watchdog: Timer | None = None

    async def run(self, work: Callable[[], Awaitable[int]]) -> int:
        """Return the exit code. Raises what `work` raises, unless a signal has stopped it."""
        import asyncio

        from p2p.cli.signals import install_stop_signals, stop_at_once_on_signals, stop_signals

        console = self._console
        task = asyncio.ensure_future(work())
        self._cancel = task.cancel
        console.on_broken = self._on_broken
        ticker = asyncio.create_task(self._tick())
        uninstall = install_stop_signals(asyncio.get_running_loop(), self._on_signal, stop_signals())
        try:
            code = await task
        except asyncio.CancelledError:
            if self._stopped is None and console.broken is None:
                raise
            code = 0 if console.broken is None else _code_of_broken(console.broken)
        except Exception:
            # A fault while the command stops no longer matters to the user.
            if self._stopped is None:
                raise
            code = 0
        finally:
            ticker.cancel()
            uninstall()
            if self._stopped is not None:
                stop_at_once_on_signals()  # and its watchdog watches until the process has ended
            elif self._watchdog is not None:
                self._watchdog.cancel()
            console.end_progress()
        return code if self._stopped is None else self._stopped

    def _on_signal(self, number: Signals) -> None:
        import signal

        from p2p.cli.signals import leave_at_once

        if self._stopped is not None:
            leave_at_once(number)
        self._stopped = 128 + number
        self._cancel()  # first of all: what follows may fail
        self._start_watchdog(self._stopped)
        if number == signal.SIGINT:
            self._console.interrupted()
        self._console.stopping()
        self._console.event({"event": "stopped", "signal": number.name})

    def _on_broken(self) -> None:
        self._cancel()
        if self._stopped is None:
            self._start_watchdog(1)

    def _start_watchdog(self, code: int) -> None:
        """End this process with `code` if it has not stopped in `STOP_TIME_S`.

        Where no thread can be started there is no watchdog: then a second signal ends the process.
        """
        from threading import Timer

        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = Timer(STOP_TIME_S, os._exit, (code,))
        self._watchdog.daemon = True
        with contextlib.suppress(RuntimeError):
            self._watchdog.start()

    async def _tick(self) -> None:
        import asyncio

        while True:
            await asyncio.sleep(TICK_S)
            self._console.tick()


async def finished(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` to its end, also when this task is cancelled meanwhile. The cancellation is raised after
    it."""
    import asyncio

    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _code_of_broken(error: OSError) -> int:
    """Return the exit code for a standard output that cannot be written.

    It is quiet when its reader has left. Raises `DiskError` when its file cannot be written.
    """
    from p2p.cli.console import unread

    if unread(error):
        return 1
    raise DiskError(f"cannot write standard output: {(error.strerror or str(error)).lower()}") from error


def _internal(console: Console, error: Exception) -> int:
    import traceback

    from p2p.text import printable

    console.end_progress()
    console.failed(
        "internal", f"internal error: {type(error).__name__}: {error} (run with -v for the traceback)"
    )
    if console.verbose:
        for part in traceback.format_exception(error):
            for line in part.rstrip().split("\n"):
                console.complain(printable(line))
    return 1


def _refuse(name: str, given: Sequence[str], error: UsageError) -> int:
    """Print a wrong command line or variable, where no configuration says how; return the exit code."""
    import time

    from p2p.cli.console import Console

    try:
        json = "--json" in given or parse_switch(os.environ.get("P2P_JSON", ""), "P2P_JSON")
    except UsageError:
        json = False
    Console(name, json=json, quiet=True, environ=os.environ, clock=time.monotonic).error(error)
    return error.exit_code


def _flushed(code: int) -> int:
    try:
        if sys.stdout is not None:  # a process may be started without one
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _this_machine() -> Machine:
    import random
    import socket
    from pathlib import Path

    try:
        home: Path | None = Path.home()
    except RuntimeError:
        home = None
    return Machine(sys.platform, home, socket.gethostname(), random.Random())


@contextlib.contextmanager
def _trace_file(where: str, console: Console) -> Iterator[Trace | None]:
    """Open the trace that was asked for; None when none was. Raises `DiskError`."""
    if not where:
        yield None
        return
    import time

    from p2p.peer.trace import Trace
    from p2p.storage.disk import disk_error

    if where == "-":
        yield Trace(lambda line: console.complain(line.rstrip("\n")), time.time)
        return
    try:
        file = open(where, "a", encoding="ascii", buffering=1)  # noqa: SIM115  closed below, with its error
    except OSError as error:
        raise disk_error(error, "write", where) from error
    trace = Trace(file.write, time.time)
    try:
        yield trace
    finally:
        try:
            file.close()
        except OSError as error:
            trace.failed = trace.failed or error
        if trace.failed is not None:
            console.warning(f"the trace is cut short: {disk_error(trace.failed, 'write', where)}")
