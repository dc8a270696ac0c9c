"""The parts of the demo that need no swarm: its report, its file, its comparison, and children that fail."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from p2p.cli.config import DemoConfig
from p2p.cli.console import Console
from p2p.cli.demo_report import Fetched, Outcome, receiver_event, report, result_event
from p2p.cli.demo_swarm import Child, ChildFailed, DemoSwarm, generate, identical, program_line, stop_all
from p2p.cli.run import Job


def outcome(receivers: int, size: int = 1 << 20, *, same: bool = True) -> Outcome:
    names = [f"peer-{number}" for number in range(1, receivers + 1)]
    each = size // receivers
    rows = tuple(
        Fetched(
            name,
            1.25,
            {"origin": each, **{other: each for other in names if other != name}},
            same or name != "peer-1",
        )
        for name in names
    )
    return Outcome("origin", size, rows)


@pytest.mark.parametrize("receivers", [1, 2, 4, 12, 13, 63])
def test_the_report_fits_in_80_columns(receivers: int) -> None:
    lines = report(outcome(receivers), 5.0)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("peer-") for line in lines) >= receivers


def test_origin_copies_are_what_the_origin_sent_over_the_size() -> None:
    one = outcome(4)
    assert one.origin_copies == 1.0
    assert result_event(one, 5.0)["origin_copies"] == 1.0
    assert any(line.startswith("origin copies  1.00") for line in report(one, 5.0))


def test_the_matrix_says_who_fetched_from_whom() -> None:
    lines = report(outcome(2), 5.0)
    start = next(index for index, line in enumerate(lines) if line.startswith("Who fetched"))
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["origin", "1", "2"],
        ["peer-1", "50%", ".", "50%"],
        ["peer-2", "50%", "50%", "."],
    ]


def test_an_empty_file_and_no_time_at_all_are_reported_too() -> None:
    one = Outcome("origin", 0, (Fetched("peer-1", 0.0, {}, True),))
    assert one.origin_copies == 0.0
    assert report(one, 0.0)


def test_a_copy_that_differs_is_seen_in_table_and_event() -> None:
    one = outcome(3, same=False)
    assert not one.identical
    assert sum("DIFFERENT" in line for line in report(one, 1.0)) == 1
    assert [receiver_event(row, one.size)["identical"] for row in one.receivers] == [False, True, True]


def test_the_generated_file_is_random_and_always_the_same(tmp_path: Path) -> None:
    generate(tmp_path / "a", (2 << 20) + 7)
    generate(tmp_path / "b", (2 << 20) + 7)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    assert len(data) == (2 << 20) + 7
    assert data[:4096] != data[1 << 20 : (1 << 20) + 4096]


def test_files_are_compared_byte_by_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "b").write_bytes(b"x" * 99_999 + b"y")
    (tmp_path / "c").write_bytes(b"x" * 100_000)
    for name in "abc":
        os.utime(tmp_path / name, (1, 1))
    assert identical(tmp_path / "a", tmp_path / "c", 100_000)
    assert not identical(tmp_path / "a", tmp_path / "b", 100_000)
    assert not identical(tmp_path / "a", tmp_path / "missing", 100_000)
    assert not identical(tmp_path / "a", tmp_path / "c", 99_999)


def test_folders_are_compared_file_by_file(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        (tmp_path / copy / "sub").mkdir(parents=True)
        (tmp_path / copy / "sub" / "one").write_bytes(b"1")
        (tmp_path / copy / "two").write_bytes(b"22")
    assert identical(tmp_path / "a", tmp_path / "b", 3)
    (tmp_path / "b" / "two").write_bytes(b"23")
    assert not identical(tmp_path / "a", tmp_path / "b", 3)
    (tmp_path / "b" / "two").unlink()
    assert not identical(tmp_path / "a", tmp_path / "b", 3)


async def start(name: str, code: str, folder: Path) -> Child:
    """A child process that runs some lines of Python."""
    return await Child.start(name, [sys.executable, "-I", "-S", "-c", code], folder / f"{name}.err")


def failure(folder: Path, code: str, work: Callable[[Child], Awaitable[object]], name: str = "origin") -> str:
    """How a child fails while `work` waits for it."""

    async def case() -> str:
        child = await start(name, code, folder)
        try:
            with pytest.raises(ChildFailed) as failed:
                await work(child)
        finally:
            await stop_all([child])
        assert child.process.returncode is not None
        return str(failed.value)

    return asyncio.run(case())


def test_a_child_that_ends_too_early_is_quoted(tmp_path: Path) -> None:
    code = "import sys; print('why\\x1b', file=sys.stderr); sys.exit(7)"
    found = failure(tmp_path, code, lambda child: child.event("done", 10.0), "peer-1")
    assert found == "peer-1 ended with exit code 7; it said: why\\x1b"


def test_the_error_of_a_child_is_quoted_and_not_its_other_lines(tmp_path: Path) -> None:
    code = "import sys; print('a warning\\npeer: error: full\\n', file=sys.stderr)"
    found = failure(tmp_path, code, lambda child: child.event("shared", 10.0))
    assert found == "origin ended with exit code 0; it said: peer: error: full"


def test_a_child_that_ends_after_its_events_is_quoted_too(tmp_path: Path) -> None:
    code = "import sys; print('{}'); print('the last line', file=sys.stderr); sys.exit(7)"
    found = failure(tmp_path, code, lambda child: child.fail_at_end())
    assert found == "origin ended with exit code 7; it said: the last line"


def test_a_child_that_prints_what_is_no_event_fails(tmp_path: Path) -> None:
    code = "import time; print('hello', flush=True); time.sleep(60)"
    assert "no event" in failure(tmp_path, code, lambda child: child.event("done", 10.0))


def test_a_child_that_is_silent_for_too_long_fails(tmp_path: Path) -> None:
    code = "import time; time.sleep(60)"
    assert "silent" in failure(tmp_path, code, lambda child: child.event("done", 0.05))


@pytest.mark.parametrize(("peers", "columns"), [(2, 20), (5, 39), (64, 39), (64, 60), (64, 200)])
def test_the_live_line_fits_the_terminal_and_keeps_percent_and_rate(
    tmp_path: Path, peers: int, columns: int
) -> None:
    console = Console("demo", environ={}, clock=lambda: 0.0, out=io.StringIO(), err=io.StringIO())
    swarm = DemoSwarm(Job(Namespace(), DemoConfig(peers=peers), console, None, None), tmp_path, size=1 << 30)
    for number in range(1, peers):
        event = {"event": "progress", "phase": "downloading", "bytes": 1 << 29, "rate": 123 << 20}
        swarm.on_event(f"peer-{number}", event)
    line = swarm.live_line(columns)
    assert len(line) <= columns
    if columns > 20:
        assert "50%" in line
        assert "/s" in line
        assert str(peers - 1) in line


def test_a_peer_that_writes_its_last_bytes_counts_as_having_all(tmp_path: Path) -> None:
    console = Console("demo", environ={}, clock=lambda: 0.0, out=io.StringIO(), err=io.StringIO())
    swarm = DemoSwarm(Job(Namespace(), DemoConfig(peers=2), console, None, None), tmp_path, size=1 << 30)
    swarm.on_event("peer-1", {"event": "progress", "phase": "finishing", "bytes": 0, "rate": 5})
    assert "100%" in swarm.live_line(80)


@pytest.mark.skipif(sys.platform == "win32", reason="ignores a signal of POSIX")
def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        'print(\'{"event":"up"}\', flush=True); time.sleep(60)'
    )

    async def case() -> int | None:
        child = await start("stubborn", code, tmp_path)
        await child.event("up", 10.0)
        await stop_all([child])
        return child.process.returncode

    assert asyncio.run(case()) not in (None, 0)


def test_a_child_does_not_inherit_the_variables_of_this_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2P_PORT", "1")
    code = (
        "import json,os; names = [name for name in os.environ if name.startswith('P2P_')]; "
        "print(json.dumps({'event': 'env', 'names': names}), flush=True)"
    )

    async def case() -> object:
        child = await start("child", code, tmp_path)
        try:
            return (await child.event("env", 10.0))["names"]
        finally:
            await stop_all([child])

    assert asyncio.run(case()) == []


def test_children_are_this_very_code_and_bare_unless_an_extra_is_needed() -> None:
    assert program_line("peer", bare=True)[:3] == [sys.executable, "-I", "-S"]
    assert "-S" not in program_line("peer", bare=False)
