"""The two streams of a command: events or text on standard output; progress, warnings and errors on standard
error."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from p2p.cli.progress import LiveLine, ProgressFeed
from p2p.cli.render import progress_text
from p2p.errors import EnjambreError
from p2p.peer.reports import Progress
from p2p.peer.trace import json_line
from p2p.text import printable

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


class Console:
    """What a command prints. No control character of another machine ever reaches a terminal.

    No method raises. When the reader of standard output has left, `broken` is set and `on_broken` is called
    once. For a command without an end of its own (`endless`) the reader of standard error counts too; other
    commands finish what they were asked for.
    """

    def __init__(
        self,
        prog: str,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        environ: Mapping[str, str],
        clock: Callable[[], float],
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.prog = prog
        self.json = json
        self.verbose = verbose
        self.broken: OSError | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self._out = _prepared(out or sys.stdout)
        self._err = _prepared(err or sys.stderr)
        self._clock = clock
        err_is_terminal = _is_terminal(self._err)
        self._colours = err_is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._terminal = (
            self._err if err_is_terminal else self._out if not json and _is_terminal(self._out) else None
        )
        # With --json the events say how far the work is.
        self._shows_progress = err_is_terminal and not quiet and not json
        self._endless = False
        self._err_broken: OSError | None = None
        self._feed = ProgressFeed()
        self._live = LiveLine(self._write_err, clock)
        self._phase = ""
        self._phase_since = 0.0
        self._stopping = False

    # -- standard output

    def event(self, data: Mapping[str, Any]) -> None:
        """Print one JSON object, with `--json` only."""
        if self.json:
            self._print(json_line(dict(data)))

    def text(self, *lines: str) -> None:
        """Print lines for people, without `--json` only."""
        if not self.json and lines:
            self._live.wipe()
            self._print("".join(printable(line) + "\n" for line in lines))

    def _print(self, text: str) -> None:
        if self.broken is not None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except OSError as error:
            self._on_out_broken(error)
        except ValueError:
            self._on_out_broken(OSError(errno.EPIPE, "standard output is closed"))

    def _on_out_broken(self, error: OSError) -> None:
        _silence(self._out)
        if self.broken is None:
            self.broken = error
            self.on_broken()

    def _on_err_broken(self, error: OSError) -> None:
        if unread(error):
            _silence(self._err)
            self._err_broken = error
            self._end_if_unread()

    def endless(self) -> None:
        """From now on the command has no end of its own: it ends when either stream has lost its reader."""
        self._endless = True
        self._end_if_unread()

    def _end_if_unread(self) -> None:
        if self._endless and self._err_broken is not None and self.broken is None:
            self.broken = self._err_broken
            self.on_broken()

    def look_for_readers(self) -> None:
        """Find out whether both streams still have a reader, also while nothing is written."""
        if self.broken is None and _reader_left(self._out):
            self._on_out_broken(BrokenPipeError(errno.EPIPE, "nobody reads standard output"))
        if self._err_broken is None and _reader_left(self._err):
            self._on_err_broken(BrokenPipeError(errno.EPIPE, "nobody reads standard error"))

    # -- standard error

    def note(self, message: str) -> None:
        """Print a line for people."""
        if not self.json:
            self.complain(f"{self.prog}: {_one_line(message)}")

    def warning(self, message: str) -> None:
        """Print what went wrong where the command goes on."""
        self.event({"event": "warning", "message": message})
        self.complain(f"{self.prog}: {self.paint('warning:', 'yellow')} {_one_line(message)}")

    def error(self, error: EnjambreError) -> None:
        """Print the error that ends the command: one line, and with `--json` an event too."""
        self.failed(error.code, str(error))

    def failed(self, code: str, message: str) -> None:
        """Print an error by its code and message, as `error` does."""
        self.event({"event": "error", "code": code, "message": _one_line(message)})
        self.complain(f"{self.prog}: {self.paint('error:', 'red')} {_one_line(message)}")

    def complain(self, line: str) -> None:
        """Print one line, made printable by the caller."""
        self._live.wipe()
        self._write_err(line + "\n")

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in a colour, where standard error is a terminal and `NO_COLOR` is not set."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._colours else text

    def _write_err(self, text: str) -> None:
        # A standard error that is closed or full is no reason to give up a download, and nowhere else is a
        # place to say so.
        with contextlib.suppress(ValueError):
            try:
                self._err.write(text)
                self._err.flush()
            except OSError as error:
                self._on_err_broken(error)

    # -- progress

    def progress(self, progress: Progress) -> None:
        """Show how far the work is: on the live line, and with `--json` as events."""
        if self._stopping:
            return
        now = self._clock()
        if progress.phase != self._phase:
            self._phase, self._phase_since = progress.phase, now
        self.show(lambda columns: progress_text(progress, self._clock() - self._phase_since, columns))
        if self.json and (event := self._feed.on_progress(progress, now)) is not None:
            self.event(event)

    def phase(self, name: str) -> None:
        """Name on the live line a phase in which nothing can be counted. It is no event."""
        waiting, since = Progress(name), self._clock()
        self.show(lambda columns: progress_text(waiting, self._clock() - since, columns))

    def show(self, line: Callable[[int], str]) -> None:
        """Show what `line` returns for a number of columns on the live line, until `end_progress`."""
        if self._shows_progress and not self._stopping:
            self._live.show(line)

    def tick(self) -> None:
        """Bring progress up to date and look for readers. To be called some four times a second."""
        self.look_for_readers()
        self._live.tick()
        if self.json and (event := self._feed.on_tick(self._clock())) is not None:
            self.event(event)

    def end_progress(self) -> None:
        """Take the live line away: the work is done."""
        self._feed.on_done()
        self._phase = ""
        self._live.clear()

    def stopping(self) -> None:
        """The command was told to stop. What its work still reports is not shown."""
        self.end_progress()
        self._stopping = True

    def interrupted(self) -> None:
        """Ctrl-C was pressed. What follows, and the shell's prompt, does not stand behind the `^C`."""
        self._live.abandon()
        if self._terminal is self._err:
            self._write_err("\n")
        elif self._terminal is not None:
            self._print("\n")


class ConsoleLog(logging.Handler):
    """Prints log records as single lines on standard error; with `-v` also where an exception came from."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.DEBUG if console.verbose else logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        console = self._console
        lines = record.getMessage().split("\n")[: None if console.verbose else 1]
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and console.verbose:
            lines += [
                part for text in traceback.format_exception(error) for part in text.rstrip().split("\n")
            ]
        elif error is not None:
            lines[0] += f": {type(error).__name__}: {error}"
        level = record.levelname.lower()
        for line in lines:
            where = f"{record.name}: " if console.verbose else ""
            console.complain(f"{console.prog}: {level}: {where}{printable(line)}")


class _Nowhere(io.StringIO):
    """A stream that forgets what is written to it."""

    def write(self, text: str) -> int:
        """Forget `text`."""
        return len(text)


def _prepared(stream: TextIO | None) -> TextIO:
    """Return a stream that takes every character. A service may be started without one."""
    if stream is None:
        return _Nowhere()
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace", newline="\n")
    return stream


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def unread(error: OSError) -> bool:
    """Return whether a write failed because its reader left. Windows says EINVAL of a pipe without one."""
    return isinstance(error, BrokenPipeError) or error.errno in (errno.EINVAL, errno.EPIPE)


def _reader_left(stream: TextIO) -> bool:
    """Return whether a pipe or a socket has lost its reader. Without `poll` the next write finds out."""
    if not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))
    except (OSError, ValueError):
        return False


def _silence(stream: TextIO) -> None:
    """Send what is left in a broken stream nowhere: Python flushes it once more at its end, and would
    complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))
