"""How every command runs: parse, configure, work until done or told to stop, and end with one line and the
right exit code."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from p2p import __version__
from p2p.cli.config import Config, Machine, truth
from p2p.errors import DiskError, EnjambreError, UsageError
from p2p.value import frozen

# What only a running command needs is imported when one runs: `--help` shall come at once.
if TYPE_CHECKING:
    from pathlib import Path
    from signal import Signals
    from threading import Timer

    from p2p.cli.console import Console
    from p2p.peer.trace import SwarmEvent
    from p2p.peer.trace import Trace as Writer

C = TypeVar("C", bound=Config)
Trace = Callable[[str, str, bytes], None]
"""Told of each control line: `sent` or `received`, the other side's address, and the line."""

STOP_TIME: Final = 1.9
"""Seconds that a clean stop may take; then the process ends all the same."""
TICK: Final = 0.2


class Parser(ArgumentParser):
    """An argument parser that raises `UsageError` where the standard one prints its usage and exits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` that also says where to read on."""
        raise UsageError(f"{message}; see '{self.prog} --help'")


def add_version(parser: ArgumentParser) -> None:
    """Add `--version`."""
    parser.add_argument("--version", action="version", version=f"enjambre {__version__}")


@frozen
class Job(Generic[C]):
    """What a command is given: its words, its configuration, where to print, whom to tell of control lines
    and of the swarm."""

    words: Namespace
    config: C
    console: Console
    trace: Trace | None
    note: Callable[[SwarmEvent], None] | None


@frozen
class Program(Generic[C]):
    """One of the programs: its name, its parser, its configuration, and the work, which returns an exit
    code."""

    name: str
    parser: Callable[[], ArgumentParser]
    config: type[C]
    work: Callable[[Job[C]], Awaitable[int]]


def run(program: Program[C], argv: Sequence[str] | None = None) -> int:
    """Run a program with `argv` (default: this process's arguments) and return its exit code; no exception
    leaves."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        words = program.parser().parse_args(given)
    except UsageError as error:
        return _refuse(program.name, given, error)
    except SystemExit as error:  # --help and --version have printed
        return _flushed(error.code if isinstance(error.code, int) else 0)
    except KeyboardInterrupt:
        return 130
    import os
    import time

    from p2p.cli.console import Console

    try:
        config = program.config.read(vars(words), os.environ, _machine(), getattr(words, "command", ""))
    except UsageError as error:
        return _refuse(program.name, given, error)
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
    # Faults are errors there; what asyncio calls a warning (a callback was slow, a child was ended) is said
    # in development mode only.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("grpc").setLevel(logging.WARNING)
    try:
        with _TraceFile(getattr(config, "trace", ""), console) as writer, asyncio.Runner() as runner:
            trace, note = (writer.message, writer.swarm) if writer else (None, None)
            return runner.run(
                _supervised(lambda: program.work(Job(words, config, console, trace, note)), console)
            )
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def _supervised(work: Callable[[], Awaitable[int]], console: Console) -> int:
    """Do the work until it is done, a signal comes, or nobody reads its output; returns the exit code."""
    import asyncio
    import signal

    from p2p.cli.entry import leave_at_once, stop_at_once_on_signals, stop_signals
    from p2p.cli.signals import install_stop_signals

    task = asyncio.ensure_future(work())
    stopped: list[int] = []
    unread: list[Timer | None] = []

    def stop(number: Signals) -> None:
        if stopped:
            leave_at_once(number, None)
        stopped.append(128 + number)
        task.cancel()  # first of all: what follows may fail
        _watchdog(128 + number)
        if number == signal.SIGINT:
            console.interrupted()
        console.stopping()
        console.event({"event": "stopped", "signal": number.name})

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK)
            console.tick()

    def nobody_reads() -> None:
        task.cancel()
        unread.append(_watchdog(1))

    console.on_broken = nobody_reads
    ticker = asyncio.create_task(tick())
    uninstall = install_stop_signals(asyncio.get_running_loop(), stop, stop_signals())
    try:
        code = await task
    except asyncio.CancelledError:
        if not stopped and console.broken is None:
            raise
        code = _unread(console)
    except Exception:
        # What goes wrong while stopping no longer matters to the user.
        if not stopped:
            raise
        code = stopped[0]
    finally:
        ticker.cancel()
        for watchdog in unread:
            if watchdog is not None:
                watchdog.cancel()
        uninstall()
        if stopped:
            stop_at_once_on_signals()
        console.end_progress()
    return stopped[0] if stopped else code


async def finished(work: Coroutine[Any, Any, None]) -> None:
    """Do what must be done at the end to its end, also when this task is cancelled meanwhile; the
    cancellation is passed on afterwards."""
    import asyncio

    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def named_path(text: str, what: str = "PATH") -> Path:
    """The path that was named as `what`, or what it is a link to: whoever names a link means what it leads
    to.

    None at all would mean the current folder, and whoever has a variable that is not set does not mean to
    publish that. Raises `UsageError` if there is nothing, and `DiskError` if that cannot be seen.
    """
    import os
    from pathlib import Path

    from p2p.storage.disk import disk_error

    if not text:
        raise UsageError(f"{what}: must not be empty")
    try:
        path = Path(os.path.realpath(text))
        path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{text}: no such file or folder") from error
    except OSError as error:
        raise disk_error(error, "share", text) from error
    return path


def _watchdog(code: int) -> Timer | None:
    """Begin to wait for a clean stop; a process that has not ended in `STOP_TIME` ends then, with `code`.

    None when no thread can be started: then a second signal ends what does not stop.
    """
    import os
    from threading import Timer

    watchdog = Timer(STOP_TIME, os._exit, (code,))
    watchdog.daemon = True
    try:
        watchdog.start()
    except RuntimeError:
        return None
    return watchdog


def _unread(console: Console) -> int:
    """The exit code when standard output cannot be written: quiet when its reader left, an error when it
    could not be kept."""
    from p2p.cli.console import unread

    error = console.broken
    if error is None or unread(error):
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
    import os
    import time

    from p2p.cli.console import Console

    try:
        json = "--json" in given or truth(os.environ.get("P2P_JSON", ""), "P2P_JSON")
    except UsageError:
        json = False
    Console(name, json=json, quiet=True, environ=os.environ, clock=time.monotonic).error(error)
    return error.exit_code


def _flushed(code: int) -> int:
    import os

    try:
        if sys.stdout is not None:  # a process may be started without one
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _machine() -> Machine:
    import random
    import socket
    from pathlib import Path

    try:
        home: Path | None = Path.home()
    except RuntimeError:
        home = None
    return Machine(sys.platform, home, socket.gethostname(), random.Random())


class _TraceFile:
    """The trace that was asked for; none when none was asked for."""

    def __init__(self, where: str, console: Console) -> None:
        self._where = where
        self._console = console
        self._close: Callable[[], None] = lambda: None

    def __enter__(self) -> Writer | None:
        import time

        from p2p.peer.trace import Trace
        from p2p.storage.disk import disk_error

        if not self._where:
            return None
        if self._where == "-":
            return Trace(lambda line: self._console.complain(line.rstrip("\n")), time.time)
        try:
            file = open(self._where, "a", encoding="ascii", buffering=1)
        except OSError as error:
            raise disk_error(error, "write", self._where) from error
        writer = Trace(file.write, time.time)

        def close() -> None:
            try:
                file.close()
            except OSError as error:
                writer.failed = writer.failed or error
            if writer.failed is not None:
                self._console.warning(
                    f"the trace is cut short: {disk_error(writer.failed, 'write', self._where)}"
                )

        self._close = close
        return writer

    def __exit__(self, *_: object) -> None:
        self._close()
