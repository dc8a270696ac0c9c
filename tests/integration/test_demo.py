"""`bin/demo` as a newcomer runs it: nothing installed, nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.kit.processes import Running, check_stopped, clean_environment, command, old_file, run


def environment(tmp_path: Path) -> dict[str, str]:
    """Put the demo's temporary folder into the test's, so that a file that it leaves is seen."""
    (tmp_path / "temp").mkdir()
    return clean_environment(
        tmp_path / "state",
        {"TMPDIR": str(tmp_path / "temp"), "TEMP": str(tmp_path / "temp"), "P2P_PORT": "6970"},
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_demo_needs_no_installation_and_fits_80_columns(tmp_path: Path) -> None:
    done = run([*command("demo"), "--peers", "4", "--size", "8M"], environment(tmp_path))
    assert done.code == 0, done.err
    assert done.err == ""
    assert max(map(len, done.out.splitlines())) <= 80
    assert [done.out.count(name) >= 2 for name in ("peer-1", "peer-2", "peer-3")] == [True] * 3
    assert "origin copies" in done.out
    assert "Every copy is identical to the original" in done.out
    assert list((tmp_path / "temp").iterdir()) == []


def test_the_demo_prints_events_for_programs_and_leaves_no_process(tmp_path: Path) -> None:
    done = run([*command("demo"), "--json", "--peers", "3", "--size", "2M"], environment(tmp_path))
    assert done.code == 0, done.err
    result = done.event("result")
    assert result["identical"] is True
    assert result["size"] == 2 << 20
    assert 0.9 <= result["origin_copies"] <= 2.0
    receivers = [event for event in done.events if event["event"] == "done"]
    assert [sum(event["bytes_from"].values()) for event in receivers] == [2 << 20] * 2
    assert [event["bytes_by"] for event in receivers] == [{"tcp": 2 << 20}] * 2
    pids = [event["pid"] for event in done.events if event["event"] == "started"]
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids)


def test_a_file_or_a_folder_of_ones_own_can_be_used_and_copies_kept(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    old_file(folder / "a" / "one.bin", os.urandom(100_000))
    old_file(folder / "two: x.txt", b"two")
    done = run([*command("demo"), str(folder), "--peers", "2", "--keep"], environment(tmp_path))
    assert done.code == 0, done.err
    (kept,) = (tmp_path / "temp").iterdir()
    assert str(kept) in done.err
    assert (kept / "peer-1" / "set" / "a" / "one.bin").read_bytes() == (folder / "a" / "one.bin").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="freezes a process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_demo_leaves_no_process_and_no_file(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The origin is frozen until the signal is sent, so that the downloads cannot end before."""
    with Running(
        [*command("demo"), "--json", "--peers", "3", "--size", "30M"], environment(tmp_path)
    ) as demo:
        pids = [demo.event("started")["pid"] for _ in range(2)]
        demo.event("shared")
        os.kill(pids[1], signal.SIGSTOP)
        pids += [demo.event("started")["pid"] for _ in range(2)]
        began = time.monotonic()
        demo.send(number)
        os.kill(pids[1], signal.SIGCONT)
        assert demo.wait() == code
        check_stopped(time.monotonic() - began)
    assert not any(alive(pid) for pid in pids)
    assert list((tmp_path / "temp").iterdir()) == []
    assert "Traceback" not in demo.err


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_peer_that_dies_is_named_and_all_is_cleaned_up(tmp_path: Path) -> None:
    with Running(
        [*command("demo"), "--json", "--peers", "3", "--size", "300M"], environment(tmp_path)
    ) as demo:
        started = [demo.event("started") for _ in range(4)]
        os.kill(started[-1]["pid"], signal.SIGKILL)
        assert "peer-2 ended" in demo.event("error")["message"]
        assert demo.wait() == 1
    assert "peer-2" in demo.err
    assert not any(alive(one["pid"]) for one in started)
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
@pytest.mark.parametrize("number", [0, 1], ids=["tracker", "origin"])
def test_the_demo_does_not_wait_for_an_origin_or_a_tracker_that_died(tmp_path: Path, number: int) -> None:
    with Running(
        [*command("demo"), "--json", "--peers", "3", "--size", "300M"], environment(tmp_path)
    ) as demo:
        started = [demo.event("started") for _ in range(4)]
        os.kill(started[number]["pid"], signal.SIGKILL)
        assert f"{started[number]['name']} ended" in demo.event("error")["message"]
        assert demo.wait() == 1
    assert not any(alive(one["pid"]) for one in started)


@pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")
def test_a_link_to_a_file_is_shared_as_the_file(tmp_path: Path) -> None:
    old_file(tmp_path / "image-7.bin", b"7" * 1000)
    (tmp_path / "latest").symlink_to("image-7.bin")
    done = run([*command("demo"), "--json", str(tmp_path / "latest"), "--peers", "2"], environment(tmp_path))
    assert done.code == 0, done.err
    assert (done.event("shared")["name"], done.event("result")["identical"]) == ("image-7.bin", True)


def test_a_file_that_cannot_be_shared_ends_the_demo_with_the_reason(tmp_path: Path) -> None:
    path = old_file(tmp_path / "bad\\name" if os.name == "posix" else tmp_path / "bad\u200bname", b"x")
    done = run([*command("demo"), "--json", str(path), "--peers", "2"], environment(tmp_path))
    assert done.code == 1
    assert "origin ended with exit code 7; it said: peer: error: " in done.event("error")["message"]
    assert list((tmp_path / "temp").iterdir()) == []


def test_wrong_words_are_refused_before_anything_starts(tmp_path: Path) -> None:
    environ = environment(tmp_path)
    for words in (
        ["--peers", "1"],
        ["--peers", "x"],
        ["--size", "big"],
        [str(tmp_path / "missing")],
        ["--transport", "pigeon"],
    ):
        done = run([*command("demo"), *words], environ)
        assert done.code == 2
        assert done.err.count("\n") == 1
    assert list((tmp_path / "temp").iterdir()) == []
