"""p2p/cli/run.py: every way in which a command can end, and its exit code."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from p2p.cli.config import PeerConfig
from p2p.cli.options import Parser, add_version
from p2p.cli.run import Job, Program, finished, run
from p2p.cli.signals import stop_signals
from p2p.errors import (
    DiskError,
    EnjambreError,
    IntegrityError,
    NotFound,
    Refused,
    TransportUnavailable,
    Unreachable,
    UsageError,
)
from p2p.peer.reports import Progress
from tests.kit.processes import ROOT, Running, clean_environment
from tests.kit.waiting import HANG_S

Work = Callable[[Job[PeerConfig]], Awaitable[int]]


@pytest.fixture(autouse=True)
def clean_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("P2P_STATE", str(tmp_path))
    for name in ("P2P_JSON", "P2P_VERBOSE", "P2P_TRACE"):
        monkeypatch.delenv(name, raising=False)


def build() -> ArgumentParser:
    parser = Parser(prog="peer")
    add_version(parser)
    PeerConfig.add_options(parser, "list")
    return parser


def run_with(work: Work, *argv: str) -> int:
    return run(Program("peer", build, PeerConfig, work), argv)


def failing(error: BaseException) -> Work:
    async def work(_: Job[PeerConfig]) -> int:
        raise error

    return work


async def fine(_: Job[PeerConfig]) -> int:
    return 0


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (EnjambreError("x"), "internal", 1),
        (UsageError("x"), "usage", 2),
        (TransportUnavailable("x"), "transport_unavailable", 2),
        (NotFound("x"), "not_found", 3),
        (Refused("login_needed", "x"), "login_needed", 4),
        (Refused("not_allowed", "x"), "not_allowed", 4),
        (Refused("unavailable", "x"), "unavailable", 6),
        (IntegrityError("x"), "integrity", 5),
        (Unreachable("x"), "unreachable", 6),
        (DiskError("x"), "disk", 7),
    ],
)
def test_each_error_has_its_exit_code_its_event_and_its_line(
    error: EnjambreError, code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(failing(error), "--json") == exit_code
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"event": "error", "code": code, "message": "x"}
    assert printed.err == "peer: error: x\n"


def test_an_unexpected_exception_is_one_line_and_a_traceback_only_with_verbose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(failing(ZeroDivisionError("so\nbad\x1b"))) == 1
    err = capsys.readouterr().err
    assert (
        err == "peer: error: internal error: ZeroDivisionError: so bad\\x1b (run with -v for the traceback)\n"
    )
    assert run_with(failing(ZeroDivisionError("so bad")), "-v") == 1
    assert "test_cli_run.py" in capsys.readouterr().err


def test_a_wrong_command_line_is_one_line_that_says_where_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fine, "--nonsense") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--nonsense" in err
    assert "peer --help" in err


@pytest.mark.parametrize("argv", [("--json", "--nonsense"), ("--json", "--tracker", "a:b:c")])
def test_a_wrong_command_line_is_an_event_too_with_json(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(fine, *argv) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "usage"


def test_a_wrong_command_line_is_an_event_too_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("P2P_JSON", "1")
    assert run_with(fine, "--nonsense") == 2
    assert json.loads(capsys.readouterr().out)["code"] == "usage"


def test_options_are_never_guessed_from_their_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fine, "--track", "h:1") == 2
    assert "--track" in capsys.readouterr().err


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fine, "--help") == 0
    assert run_with(fine, "--version") == 0
    assert "enjambre 0" in capsys.readouterr().out


@pytest.mark.interrupts_loop
def test_a_ctrl_c_before_the_signals_are_ours_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", ["bytes", "list"])
def test_an_error_of_a_background_task_is_printed_in_one_line(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(_: Job[PeerConfig]) -> int:
        async def lost() -> None:
            raise ValueError(words)

        asyncio.get_running_loop().create_task(lost())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        import gc

        gc.collect()
        return 0

    assert run_with(work) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"ValueError: {words}" in err


def test_a_reader_that_left_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    async def work(job: Job[PeerConfig]) -> int:
        job.console.text("a row")
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr("sys.stdout", Gone())
    assert run_with(work) == 1
    assert capsys.readouterr().err == ""


def test_cleaning_up_is_finished_though_the_reader_leaves_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    left = []

    async def leave() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left.append(True)

    async def work(job: Job[PeerConfig]) -> int:
        try:
            job.console.text("saved")
        finally:
            await finished(leave())
        return 0

    monkeypatch.setattr("sys.stdout", Gone())
    assert run_with(work) == 1
    assert left == [True]


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No timer's thread can be started, so that none ends us; signals are as they were afterwards."""

    def fail(_: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", fail)
    before = [(number, signal.getsignal(number)) for number in stop_signals()]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_case_51_nothing_is_printed_after_a_command_was_stopped(
    no_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(job: Job[PeerConfig]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), HANG_S)
        finally:
            job.console.progress(Progress("hashing", 1, 2, 1.0, 0))
        return 0

    assert run_with(work, "--json") == 143
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["stopped"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_case_62_the_first_signal_stops_a_command_without_a_watchdog_thread(
    no_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(_: Job[PeerConfig]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.Event().wait(), HANG_S)
        return 0

    assert run_with(work, "--json") == 143
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"event": "stopped", "signal": "SIGTERM"}
    assert printed.err == ""


def test_case_62_a_reader_that_left_ends_a_command_without_a_watchdog_thread(
    no_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    async def work(job: Job[PeerConfig]) -> int:
        job.console.text("a row")
        await asyncio.wait_for(asyncio.Event().wait(), HANG_S)
        return 0

    monkeypatch.setattr("sys.stdout", Gone())
    assert run_with(work) == 1
    assert capsys.readouterr().err == ""


def test_an_output_that_cannot_be_kept_is_a_disk_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    async def work(job: Job[PeerConfig]) -> int:
        job.console.text("a row")
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr("sys.stdout", Full())
    assert run_with(work) == 7
    assert "standard output" in capsys.readouterr().err


def test_a_trace_goes_to_its_file_line_by_line(tmp_path: Path) -> None:
    target = tmp_path / "trace"

    async def work(job: Job[PeerConfig]) -> int:
        assert job.trace is not None
        job.trace("sent", "h:1", b'{"op":"ping"}')
        assert json.loads(target.read_text())["message"] == {"op": "ping"}
        return 0

    assert run_with(work, "--trace", str(target)) == 0


def test_a_trace_that_cannot_be_written_is_a_disk_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(fine, "--trace", str(tmp_path / "no" / "trace")) == 7
    assert "trace" in capsys.readouterr().err


def test_a_trace_to_standard_error_is_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(job: Job[PeerConfig]) -> int:
        assert job.trace is not None
        job.trace("received", "h:1", b'{"ok":true}')
        return 0

    assert run_with(work, "--trace", "-") == 0
    assert json.loads(capsys.readouterr().err)["event"] == "received"


HANGING_STOP = """
import asyncio, sys, threading

def fail(_timer):
    raise RuntimeError("no watchdog")

threading.Timer.start = fail
sys.path.insert(0, sys.argv[1])
from p2p.cli.config import DemoConfig
from p2p.cli.options import Parser
from p2p.cli.run import Program, run

def build():
    parser = Parser(prog="demo")
    DemoConfig.add_options(parser)
    return parser

async def work(job):
    job.console.event({"event": "started"})
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()

sys.exit(run(Program("demo", build, DemoConfig, work), ["--json"]))
"""
"""A command whose clean stop never ends."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [(signal.SIGTERM, signal.SIGINT, 130), (signal.SIGINT, signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_second_signal_does_not_wait_for_a_clean_stop(
    tmp_path: Path, first: signal.Signals, second: signal.Signals, code: int
) -> None:
    words = [sys.executable, "-I", "-S", "-c", HANGING_STOP, str(ROOT)]
    with Running(words, clean_environment(tmp_path)) as running:
        running.event("started")
        running.send(first)
        running.event("stopped")
        running.send(second)
        assert running.wait() == code
