"""Tests of `bench/run.py` as a command, with small sizes. The figures themselves are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.rivals.tools import DEBIAN, PYPI
from bench.run import BENCHMARKS
from tests.kit.processes import ROOT
from tests.kit.waiting import HANG_S

__test__ = sys.platform.startswith("linux")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(ROOT / "bench/run.py"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANG_S)


def figures(folder: Path, name: str) -> list[dict[str, Any]]:
    written: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert written["name"] == name
    assert "Python" in written["machine"]
    found: list[dict[str, Any]] = written["figures"]
    return found


def test_benchmarks_print_ratios_and_write_json(tmp_path: Path) -> None:
    where = ["--folder", str(tmp_path), "--out", str(tmp_path / "out")]
    done = bench("many", "startup", "--runs", "1", "--size", "4", *where)
    assert done.returncode == 0, done.stderr
    for figure in figures(tmp_path / "out", "many"):
        assert len(figure["samples"]) == 2
        assert all(value > 0 for values in figure["samples"].values() for value in values)
    assert len(figures(tmp_path / "out", "startup")) == 2
    assert "ours/this" in done.stdout
    assert "must be at most 1.5" in done.stdout, "the yardstick of --help"
    assert [one.name for one in tmp_path.iterdir()] == ["out"], "nothing is left behind"


def test_the_list_has_every_benchmark_and_every_comparator() -> None:
    done = bench("--list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    told = {line.split()[0] for line in lines if line}
    assert told == {*BENCHMARKS, *DEBIAN, *PYPI}


def test_an_unknown_benchmark_or_bad_option_is_a_usage_error(tmp_path: Path) -> None:
    for words in (["marathon"], ["startup", "--runs", "0"], ["startup", "--size", "big"]):
        done = bench(*words, "--out", str(tmp_path / "out"))
        assert done.returncode == 2
        assert "one-to-one" in done.stderr or words[1] in done.stderr
        assert not (tmp_path / "out").exists()
