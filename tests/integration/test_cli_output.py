"""What reaches a terminal, and what happens when the reader of an output leaves."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.kit.commands import POSIX, peer_line
from tests.kit.processes import (
    Running,
    check_stopped,
    clean_environment,
    command,
    events_of,
    old_file,
    run_peer,
)
from tests.kit.waiting import HANG_S, eventually


def on_terminal(
    words: list[str], environ: dict[str, str], *, columns: int = 80, stdout_too: bool = False
) -> tuple[int, str, str]:
    """Run with standard error on a terminal. Return exit code, standard output, and what the terminal got."""
    import fcntl
    import pty
    import struct
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {**environ, "COLUMNS": str(columns)}
    process = subprocess.Popen(
        words,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=side if stdout_too else subprocess.PIPE,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    shown, printed = b"", b""
    pipes = [main] if process.stdout is None else [main, process.stdout.fileno()]
    try:
        while pipes:
            for ready in select.select(pipes, [], [], HANG_S)[0]:
                try:
                    data = os.read(ready, 65536)
                except OSError:  # Linux says so when the last writer has closed a terminal
                    data = b""
                if not data:
                    pipes.remove(ready)
                elif ready == main:
                    shown += data
                else:
                    printed += data
        return process.wait(HANG_S), printed.decode(), shown.decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(main)
        if process.stdout is not None:
            process.stdout.close()


def download_on_terminal(
    tmp_path: Path, tracker: Running, *more: str, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    words = peer_line(
        "download", "lab.img", "-o", str(out), "--limit", "200K", *more, tracker=tracker.address
    )
    return on_terminal(words, clean_environment(tmp_path / "state-me", env))


@POSIX
def test_progress_on_a_terminal_is_one_line_that_is_redrawn(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    code, printed, shown = download_on_terminal(tmp_path, tracker)
    assert code == 0
    assert "downloading" in shown
    assert re.search(r"\d+%", shown)
    assert all(len(part) < 80 for part in re.split(r"[\r\n]", shown))
    assert "\x1b" not in shown
    assert shown.rsplit("\r", 2)[1].strip() == ""
    assert printed.startswith("saved ")


@POSIX
def test_a_narrow_terminal_gets_a_shorter_progress_line(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    words = peer_line("download", "lab.img", "-o", str(tmp_path / "o"), tracker=tracker.address)
    code, _, shown = on_terminal([*words, "--limit", "200K"], clean_environment(tmp_path / "s"), columns=40)
    assert code == 0
    parts = re.split(r"[\r\n]", shown)
    assert all(len(part) < 40 for part in parts)
    assert "..." not in shown
    assert any(re.fullmatch(r"downloading +\d+% .*/s .* left *", part) for part in parts)


@POSIX
def test_with_json_no_progress_is_drawn_even_on_a_terminal(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    code, printed, shown = download_on_terminal(tmp_path, tracker, "--json")
    assert (code, shown) == (0, "")
    assert any(event["event"] == "progress" for event in events_of(printed))


@POSIX
def test_after_ctrl_c_the_prompt_begins_on_its_own_line(tmp_path: Path) -> None:
    import pty

    main, side = pty.openpty()
    words = [*command("tracker"), "--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    try:
        with subprocess.Popen(
            words,
            env=clean_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=side,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(HANG_S) == 130
        assert os.read(main, 100) == b"\r\n"
    finally:
        os.close(side)
        os.close(main)


@POSIX
def test_quiet_silences_progress_and_no_color_takes_the_colour_of_errors(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    assert download_on_terminal(tmp_path, tracker, "--quiet")[2] == ""
    words = peer_line("info", "nope", tracker=tracker.address)
    assert "\x1b[31m" in on_terminal(words, clean_environment(tmp_path / "s"))[2]
    assert "\x1b" not in on_terminal(words, clean_environment(tmp_path / "s", {"NO_COLOR": "1"}))[2]


@POSIX
def test_json_stays_pure_when_both_streams_are_one_terminal(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    words = peer_line("download", "lab.img", "--json", "-o", str(tmp_path / "o"), tracker=tracker.address)
    code, _, shown = on_terminal(words, clean_environment(tmp_path / "s"), stdout_too=True)
    assert code == 0
    assert events_of(shown.replace("\r\n", "\n"))[-1]["event"] == "done"


@contextlib.contextmanager
def started(
    words: list[str], environ: dict[str, str], out: int, err: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A command with these streams, killed at the end if it runs on."""
    with subprocess.Popen(words, env=environ, stdout=out, stderr=err) as process:
        try:
            yield process
        finally:
            process.kill()


def leave_after_a_line(stream: IO[bytes] | None) -> None:
    """Be a reader that leaves as `head -1` does."""
    assert stream is not None
    assert stream.readline()
    stream.close()


@POSIX
def test_a_reader_that_leaves_ends_a_command_quietly(tmp_path: Path, tracker: Running, seed: Running) -> None:
    words = peer_line("serve", str(tmp_path / "shared"), "--json", tracker=tracker.address)
    with started(words, clean_environment(tmp_path / "s"), subprocess.PIPE, subprocess.PIPE) as process:
        leave_after_a_line(process.stdout)
        old_file(tmp_path / "shared" / "more.bin", b"more")
        assert process.wait(HANG_S) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


@POSIX
@pytest.mark.parametrize("trace", [False, True], ids=["stdout", "stderr"])
@pytest.mark.parametrize("json_output", [False, True], ids=["text", "json"])
def test_a_peer_whose_reader_left_leaves_the_directory(
    tmp_path: Path, tracker: Running, trace: bool, json_output: bool
) -> None:
    """The reader goes after one line, and nothing more is written."""
    options = [*(["--json"] if json_output else []), *(["--trace", "-"] if trace else [])]
    file = old_file(tmp_path / "one.bin", b"1")
    words = peer_line("share", str(file), *options, tracker=tracker.address)
    out, err = (subprocess.DEVNULL, subprocess.PIPE) if trace else (subprocess.PIPE, subprocess.DEVNULL)
    with started(words, clean_environment(tmp_path / "s"), out, err) as process:
        eventually(lambda: run_peer(tmp_path, "peers", tracker=tracker.address).events)
        leave_after_a_line(process.stderr if trace else process.stdout)
        began = time.monotonic()
        assert process.wait(HANG_S) == 1
        check_stopped(time.monotonic() - began)
    assert run_peer(tmp_path, "peers", tracker=tracker.address).events == []


@POSIX
def test_a_tracker_whose_reader_left_stops(tmp_path: Path) -> None:
    words = [*command("tracker"), "--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    with started(words, clean_environment(tmp_path), subprocess.PIPE, subprocess.DEVNULL) as process:
        leave_after_a_line(process.stdout)
        assert process.wait(HANG_S) == 1


@POSIX
def test_a_download_whose_reader_left_at_its_end_leaves_the_directory(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    """The reader leaves before the end is printed, so that the peer finds out while it is leaving."""
    words = peer_line("download", "lab.img", "-o", str(tmp_path / "out"), "--quiet", tracker=tracker.address)
    line = f"{shlex.join(words)} | true; exit 0"
    subprocess.run(
        ["sh", "-c", line],
        env=clean_environment(tmp_path / "s"),
        capture_output=True,
        timeout=HANG_S,
        check=True,
    )
    assert [event["name"] for event in run_peer(tmp_path, "peers", tracker=tracker.address).events] == [
        "origin"
    ]


@POSIX
@pytest.mark.parametrize("where", ["-", "pipe"])
def test_a_download_whose_trace_has_no_reader_finishes_its_file(
    tmp_path: Path, tracker: Running, seed: Running, where: str
) -> None:
    words = peer_line("download", "lab.img", "-o", str(tmp_path / "out"), tracker=tracker.address)
    there, here = os.pipe()
    target = "-" if where == "-" else f"/dev/fd/{here}"
    with subprocess.Popen(
        [*words, "--limit", "200K", "--trace", target],
        env=clean_environment(tmp_path / "s"),
        stdout=subprocess.PIPE,
        stderr=here if where == "-" else subprocess.DEVNULL,
        pass_fds=[here],
    ) as process:
        os.close(here)
        assert os.read(there, 1)
        os.close(there)
        assert process.stdout is not None
        assert b"saved " in process.stdout.read()
        assert process.wait(HANG_S) == 0
    assert (tmp_path / "out" / "lab.img").read_bytes() == (tmp_path / "shared" / "lab.img").read_bytes()
    assert [event["name"] for event in run_peer(tmp_path, "peers", tracker=tracker.address).events] == [
        "origin"
    ]


@POSIX
@pytest.mark.parametrize(
    "words",
    [
        "peer --help",
        "peer --version",
        "peer list --tracker 127.0.0.1:1",
        "peer list --json --tracker 127.0.0.1:1",
    ],
)
def test_a_missing_or_full_standard_output_shows_no_traceback(tmp_path: Path, words: str) -> None:
    name, *rest = words.split()
    line = shlex.join([*command(name), *rest])
    for target in (">&-", "> /dev/full", "2>&- >&-"):
        done = subprocess.run(
            ["sh", "-c", f"{line} {target}"],
            env=clean_environment(tmp_path),
            capture_output=True,
            timeout=HANG_S,
            check=False,
        )
        assert b"Traceback" not in done.stderr + done.stdout
        assert done.returncode in (0, 6, 7)
