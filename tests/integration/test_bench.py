"""`bench/run.py` as a user runs it, small enough to take seconds. What it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.rivals.tools import DEBIAN, PYPI
from bench.run import BENCHMARKS
from tests.kit.processes import ROOT

__test__ = sys.platform.startswith("linux")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(ROOT / "bench/run.py"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)


def figures(folder: Path, name: str) -> list[dict[str, Any]]:
    written: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert written["name"] == name
    assert "Python" in written["machine"]
    for number, _ in enumerate(written["figures"], 1):
        assert (folder / f"{name}-{number}.svg").read_text().startswith("<svg")
    found: list[dict[str, Any]] = written["figures"]
    return found


def test_benchmarks_run_print_ratios_and_write_what_they_found(tmp_path: Path) -> None:
    done = bench(
        "many",
        "startup",
        "--runs",
        "1",
        "--size",
        "4",
        "--folder",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    for figure in figures(tmp_path / "out", "many"):
        assert len(figure["samples"]) == 2
        assert all(value > 0 for values in figure["samples"].values() for value in values)
    assert len(figures(tmp_path / "out", "startup")) == 2
    assert "ours/this" in done.stdout
    assert "must be at most 1.5" in done.stdout, "the yardstick of --help"
    assert [one.name for one in tmp_path.iterdir()] == ["out"], "nothing is left behind"


def test_the_list_tells_every_benchmark_and_every_comparator() -> None:
    done = bench("--list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    told = {line.split()[0] for line in lines if line}
    assert told == {*BENCHMARKS, *DEBIAN, *PYPI}


def test_what_there_is_not_is_told_with_what_there_is(tmp_path: Path) -> None:
    for words in (["marathon"], ["startup", "--runs", "0"], ["startup", "--size", "big"]):
        done = bench(*words, "--out", str(tmp_path / "out"))
        assert done.returncode == 2
        assert "one-to-one" in done.stderr or words[1] in done.stderr
        assert not (tmp_path / "out").exists()
