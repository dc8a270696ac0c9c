"""The two streams of a command: events or text on standard output, progress, warnings and errors on standard
error."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import select
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from p2p.cli.events import ProgressFeed
from p2p.cli.render import cut, progress_text, width
from p2p.errors import EnjambreError
from p2p.peer.reports import Progress
from p2p.peer.trace import json_line
from p2p.text import printable

REDRAW_LEAST: Final = 0.1
REDRAW_MOST: Final = 0.7
"""Seconds between two drawings of the live line: no oftener than the first, no rarer than the second plus one
tick."""

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


class Console:
    """What a command prints goes through here, so that no control character of another machine ever reaches a
    terminal.

    Nothing here raises: when nobody reads standard output any more, `broken` is set and `on_broken` is called
    once. A command without an end of its own (`endless`) takes a reader of standard error that left in the
    same way; others finish what they were asked for.
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
        # Events tell a program how far it is; nobody needs to be told twice.
        self.live = err_is_terminal and not quiet and not json
        self._endless = False
        self._err_left: OSError | None = None
        self._feed = ProgressFeed()
        self._line: Callable[[int], str] | None = None
        self._drawn = ""
        self._drawn_at = float("-inf")
        self._phase = ""
        self._phase_since = 0.0
        self._stopping = False

    # -- standard output
    # ---------------------------------------------------------------------------------------------------------------

    def event(self, data: Mapping[str, Any]) -> None:
        """Print one JSON object, with `--json` only."""
        if self.json:
            self._print(json_line(dict(data)))

    def text(self, *lines: str) -> None:
        """Print lines for people, without `--json` only."""
        if not self.json and lines:
            self._wipe()
            self._print("".join(printable(line) + "\n" for line in lines))

    def _print(self, text: str) -> None:
        if self.broken is not None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError) as error:
            self._out_broke(
                error if isinstance(error, OSError) else OSError(errno.EPIPE, "standard output is closed")
            )

    def _out_broke(self, error: OSError) -> None:
        _silence(self._out)
        if self.broken is None:
            self.broken = error
            self.on_broken()

    def _err_broke(self, error: OSError) -> None:
        if unread(error):
            _silence(self._err)
            self._err_left = error
            self._end_unread()

    def endless(self) -> None:
        """From now on the command has no end of its own: it ends when either stream has lost its reader."""
        self._endless = True
        self._end_unread()

    def _end_unread(self) -> None:
        if self._endless and self._err_left is not None and self.broken is None:
            self.broken = self._err_left
            self.on_broken()

    def look_for_readers(self) -> None:
        """See whether the readers of both streams are still there, also while nothing is written."""
        if self.broken is None and _reader_left(self._out):
            self._out_broke(BrokenPipeError(errno.EPIPE, "nobody reads standard output"))
        if self._err_left is None and _reader_left(self._err):
            self._err_broke(BrokenPipeError(errno.EPIPE, "nobody reads standard error"))

    # -- standard error
    # ----------------------------------------------------------------------------------------------------------------

    def note(self, message: str) -> None:
        """A line for people, on standard error."""
        if not self.json:
            self.complain(f"{self.prog}: {_one_line(message)}")

    def warning(self, message: str) -> None:
        """Something went wrong, and the command goes on."""
        self.event({"event": "warning", "message": message})
        self.complain(f"{self.prog}: {self.paint('warning:', 'yellow')} {_one_line(message)}")

    def error(self, error: EnjambreError) -> None:
        """The error that ends the command: one line, and with `--json` an event too."""
        self.failed(error.code, str(error))

    def failed(self, code: str, message: str) -> None:
        """As `error`, by its code and message."""
        self.event({"event": "error", "code": code, "message": _one_line(message)})
        self.complain(f"{self.prog}: {self.paint('error:', 'red')} {_one_line(message)}")

    def complain(self, line: str) -> None:
        """Print one line, made printable by the caller, on standard error."""
        self._wipe()
        self._write_err(line + "\n")

    def paint(self, text: str, colour: str) -> str:
        """`text` in a colour, where standard error is a terminal and `NO_COLOR` is not set."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._colours else text

    def _write_err(self, text: str) -> None:
        # A standard error that is closed or full is no reason to give up a download, and there is nowhere
        # else to say so.
        with contextlib.suppress(ValueError):
            try:
                self._err.write(text)
                self._err.flush()
            except OSError as error:
                self._err_broke(error)

    # -- progress
    # ----------------------------------------------------------------------------------------------------------------------

    def progress(self, progress: Progress) -> None:
        """Show how far it is: on the live line, and with `--json` as events."""
        if self._stopping:
            return
        now = self._clock()
        if progress.phase != self._phase:
            self._phase, self._phase_since = progress.phase, now
        self.show(lambda columns: progress_text(progress, self._clock() - self._phase_since, columns))
        if self.json and (event := self._feed.news(progress, now)) is not None:
            self.event(event)

    def phase(self, name: str) -> None:
        """Name on the live line what is waited for, where nothing can be counted and no program needs to be
        told."""
        waiting, since = Progress(name, 0, 0, 0.0, 0), self._clock()
        self.show(lambda columns: progress_text(waiting, self._clock() - since, columns))

    def show(self, line: Callable[[int], str]) -> None:
        """Show what `line` makes for so many columns, until `end_progress`; it is asked again as time
        passes."""
        if self._stopping:
            return
        self._line = line
        if self._clock() - self._drawn_at >= REDRAW_LEAST:
            self._draw()

    def tick(self) -> None:
        """Time has passed: redraw what got old, and see who still reads. To be called some four times a
        second."""
        self.look_for_readers()
        if self._clock() - self._drawn_at >= REDRAW_MOST:
            self._draw()
        if self.json and (event := self._feed.tick(self._clock())) is not None:
            self.event(event)

    def end_progress(self) -> None:
        """Take the live line away: the work is done."""
        self._feed.rest()
        self._line = None
        self._phase = ""
        self._wipe()
        self._drawn_at = float("-inf")

    def stopping(self) -> None:
        """The command was told to stop: what was under way may still report for a moment, and nobody wants to
        know."""
        self.end_progress()
        self._stopping = True

    def interrupted(self) -> None:
        """Ctrl-C was pressed: what follows, and the shell's prompt, begins on a line of its own, not behind
        the `^C`."""
        self._line, self._drawn = None, ""
        if self._terminal is self._err:
            self._write_err("\n")
        elif self._terminal is not None:
            self._print("\n")

    def _draw(self) -> None:
        if self._line is None or not self.live:
            return
        self._drawn_at = self._clock()
        columns = max(shutil.get_terminal_size().columns - 1, 20)
        text = cut(printable(self._line(columns)), columns)
        gap = " " * max(width(self._drawn) - width(text), 0)
        self._write_err(f"\r{text}{gap}")
        self._drawn = text

    def _wipe(self) -> None:
        if self._drawn:
            self._write_err("\r" + " " * width(self._drawn) + "\r")
            self._drawn = ""


class ConsoleLog(logging.Handler):
    """Log records as single lines on standard error; where an exception came from is shown with `-v` only."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.DEBUG if console.verbose else logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
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
    """Forgets what is written to it."""

    def write(self, text: str) -> int:
        """Forget `text`."""
        return len(text)


def _prepared(stream: TextIO | None) -> TextIO:
    """A stream that takes every character; where there is none (a service without one), one that forgets."""
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
    """Whether a write failed because its reader left; Windows says EINVAL of a pipe without a reader."""
    return isinstance(error, BrokenPipeError) or error.errno in (errno.EINVAL, errno.EPIPE)


def _reader_left(stream: TextIO) -> bool:
    """Whether `stream` is a pipe or a socket without a reader. Where this cannot be asked, the next write
    tells."""
    if not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))
    except (OSError, ValueError):
        return False


def _silence(stream: TextIO) -> None:
    """Let what is left in a broken stream go nowhere: Python flushes it once more at its end, and would
    complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))
