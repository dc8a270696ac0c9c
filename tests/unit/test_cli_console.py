"""p2p/cli/console.py: what reaches the two streams of a command, and what never does."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import select
from collections.abc import Callable
from typing import Any

import pytest

from p2p.cli.console import Console, ConsoleLog
from p2p.errors import NotFound
from p2p.peer.reports import Progress

HOSTILE = "a\x1b]52;c;x\x07\r\n\x9b2J\x7f\u202eb"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "broken")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(
    out: io.StringIO, err: io.StringIO, clock: Callable[[], float] = lambda: 0.0, **options: Any
) -> Console:
    environ = options.pop("environ", {})
    return Console("peer", environ=environ, clock=clock, out=out, err=err, **options)


def test_with_json_nothing_but_events_is_on_standard_output() -> None:
    out, err = io.StringIO(), io.StringIO()
    one = console(out, err, json=True)
    one.event({"event": "done", "path": "/x"})
    one.text("for people")
    one.note("for people")
    one.warning("careful")
    one.error(NotFound("nobody has it"))
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["done", "warning", "error"]
    assert json.loads(out.getvalue().splitlines()[-1]) == {
        "event": "error",
        "code": "not_found",
        "message": "nobody has it",
    }
    assert err.getvalue() == "peer: warning: careful\npeer: error: nobody has it\n"


def test_without_json_there_are_no_events() -> None:
    out, err = io.StringIO(), io.StringIO()
    one = console(out, err)
    one.event({"event": "done"})
    one.text("two", "lines")
    assert out.getvalue() == "two\nlines\n"


@pytest.mark.parametrize("json_output", [False, True])
def test_case_42_no_control_character_reaches_a_stream(json_output: bool) -> None:
    clock, out, err = Clock(), io.StringIO(), Screen()
    one = console(out, err, clock, json=json_output, environ={"NO_COLOR": "1"})
    one.event({"event": HOSTILE, "name": HOSTILE})
    one.text(HOSTILE)
    one.note(HOSTILE)
    one.warning(HOSTILE)
    one.error(NotFound(HOSTILE))
    ConsoleLog(one).emit(logging.LogRecord("n", logging.ERROR, "f", 1, "%s", (HOSTILE,), None))
    one.show(lambda _: HOSTILE)
    for stream in (out, err):
        assert not CONTROLS.search(stream.getvalue().replace("\r", ""))
    assert all(
        "\x0d" not in line.rstrip("\r") or line.startswith("\r") for line in err.getvalue().split("\n")
    )


def test_an_error_is_always_one_line() -> None:
    err = io.StringIO()
    console(io.StringIO(), err).error(NotFound("first\nsecond\tthird"))
    assert err.getvalue() == "peer: error: first second third\n"


def test_progress_is_only_for_a_terminal_and_not_with_quiet() -> None:
    for err, quiet, shown in (
        (io.StringIO(), False, False),
        (Screen(), True, False),
        (Screen(), False, True),
    ):
        one = console(io.StringIO(), err, quiet=quiet)
        one.progress(Progress("hashing", 1, 2, 1.0, 0))
        assert ("hashing" in err.getvalue()) is shown


@pytest.mark.parametrize("out", [Screen(), io.StringIO()])
def test_with_json_progress_is_told_in_events_only(out: io.StringIO) -> None:
    err = Screen()
    one = console(out, err, json=True)
    one.progress(Progress("hashing", 1, 2, 1.0, 0))
    assert err.getvalue() == ""
    assert json.loads(out.getvalue())["phase"] == "hashing"


def test_the_live_line_is_wiped_before_anything_else_is_printed() -> None:
    out, err = io.StringIO(), Screen()
    one = console(out, err, environ={"NO_COLOR": "1"})
    one.progress(Progress("downloading", 1, 2, 1.0, 1))
    one.text("done")
    drawn, blanks = err.getvalue()[1:].split("\r")[:2]
    assert blanks == " " * len(drawn)
    one.warning("careful")
    assert "\x1b" not in err.getvalue()


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_no_color_is_obeyed(environ: dict[str, str], coloured: bool) -> None:
    err = Screen()
    console(io.StringIO(), err, environ=environ).warning("careful")
    assert ("\x1b[" in err.getvalue()) is coloured


def test_nothing_is_raised_when_nobody_reads_and_it_is_told_once() -> None:
    told = []
    one = console(Broken(errno.EPIPE), io.StringIO())
    one.on_broken = lambda: told.append(1)
    one.text("a")
    one.text("b")
    assert told == [1]
    assert one.broken is not None
    assert one.broken.errno == errno.EPIPE


def test_a_standard_error_that_is_full_stops_nobody() -> None:
    one = console(io.StringIO(), Broken(errno.ENOSPC))
    one.endless()
    one.warning("careful")
    assert one.broken is None


def test_a_reader_of_standard_error_that_left_ends_only_endless_commands() -> None:
    told = []
    one = console(io.StringIO(), Broken(errno.EPIPE))
    one.on_broken = lambda: told.append(1)
    one.warning("careful")
    assert one.broken is None
    one.endless()
    one.warning("careful")
    assert one.broken is not None
    assert told == [1]


@pytest.mark.skipif(not hasattr(select, "poll"), reason="readers can be asked for where there is poll")
def test_a_reader_that_left_is_noticed_though_nothing_is_written() -> None:
    there, here = os.pipe()
    with os.fdopen(here, "w") as out:
        one = console(out, io.StringIO())  # type: ignore[arg-type]
        one.tick()
        assert one.broken is None
        os.close(there)
        one.tick()
        assert isinstance(one.broken, BrokenPipeError)


def test_after_ctrl_c_the_next_line_does_not_stand_behind_it() -> None:
    err = Screen()
    one = console(io.StringIO(), err)
    one.show(lambda _: "working")
    one.interrupted()
    one.end_progress()
    assert err.getvalue() == "\rworking\n"
    for out, shown in ((Screen(), "\n"), (io.StringIO(), "")):
        console(out, io.StringIO()).interrupted()
        assert out.getvalue() == shown
    out = Screen()
    console(out, io.StringIO(), json=True).interrupted()
    assert out.getvalue() == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_where_an_exception_came_from_is_logged_only_with_verbose(verbose: bool) -> None:
    err = io.StringIO()
    log = ConsoleLog(console(io.StringIO(), err, verbose=verbose))
    fault = ValueError("inner\x1b")
    log.emit(logging.LogRecord("p2p.x", logging.ERROR, "f", 1, "it broke", (), (ValueError, fault, None)))
    assert err.getvalue().startswith("peer: error: ")
    assert ("p2p.x: " in err.getvalue()) is verbose
    assert "ValueError: inner\\x1b" in err.getvalue()
    assert (err.getvalue().count("\n") > 1) is verbose
