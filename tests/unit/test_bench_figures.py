"""Tests of how benchmarks are judged (ratios within a round, their median, bounds) and of their page."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from bench.lib import page
from bench.lib.figures import Figure, Yardstick, alternate
from bench.rivals import tools
from bench.run import BENCHMARKS
from tests.load.report import Outcome, Times

FIGURE = Figure(
    "1 MiB, <one> sender",
    "s",
    {"enjambre": [1.0, 4.0, 3.0], "curl": [2.0, 2.0, 3.0]},
    "enjambre",
    (Yardstick("curl", most=2.0, aim=1.3),),
    ("Files are in memory.",),
)


def test_the_median_of_the_ratios_within_a_round_counts() -> None:
    assert FIGURE.ratios("curl") == [0.5, 2.0, 1.0]
    assert FIGURE.verdict("curl") == "must be at most 2, aim 1.3: met"
    assert "1.00 (0.50-2.00)" in FIGURE.text()


@pytest.mark.parametrize(("ratio", "met"), [(0.9, False), (0.95, True), (1.05, True), (1.06, False)])
def test_a_bound_may_be_on_both_sides(ratio: float, met: bool) -> None:
    stick = Yardstick("2 MiB/s", most=1.05, least=0.95)
    assert stick.met(ratio) is met
    assert stick.verdict(ratio).endswith(": met" if met else ": NOT met")


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    went: list[str] = []

    def contender(name: str) -> float:
        went.append(name)
        return float(len(went))

    found = alternate(2, {name: partial(contender, name) for name in "abc"})
    assert [went[at : at + 3] for at in (0, 3, 6)] == [["c", "a", "b"], ["a", "b", "c"], ["b", "c", "a"]]
    assert found == {"a": [4.0, 9.0], "b": [5.0, 7.0], "c": [6.0, 8.0]}


def test_a_figure_survives_being_written_as_json() -> None:
    assert Figure.from_json(json.loads(json.dumps(FIGURE.to_json()))) == FIGURE


def test_a_latency_without_samples_meets_no_bound() -> None:
    outcome, some, none = Outcome("idle", "peer"), Times.of([0.001], 0, {}), Times.of([], 0, {})
    outcome.check("p99, ms", some.p99, 20)
    assert outcome.passed
    for figure in (none.p50, none.p99, none.p99 - some.p99, some.p99 - none.p99):
        outcome.checks.clear()
        outcome.check("p99, ms", figure, 20)
        assert not outcome.passed


def test_the_page_is_made_from_the_results_beside_it(tmp_path: Path) -> None:
    (tmp_path / "startup.json").write_text(json.dumps({"machine": "2 cores", "figures": [FIGURE.to_json()]}))
    text = (
        "# P\n\n<!-- yardsticks -->\n<!-- end -->\n\n<!-- figures: startup -->\nold\n<!-- end -->\n\nwords\n"
    )
    made = page.current(text, tmp_path)
    assert "old" not in made
    assert "| 1 MiB, <one> sender | curl | 1.00 (0.50-2.00) | must be at most 2, aim 1.3: met |" in made
    assert "| 1 MiB, <one> sender, s | enjambre | 3.00 (1.00-4.00) | ours |" in made
    assert "|  | curl | 2.00 (2.00-3.00) | 1.00 (0.50-2.00) |" in made
    assert "*Files are in memory. 2 cores; 3 rounds.*" in made
    assert made.endswith("<!-- end -->\n\nwords\n")
    assert page.current(made, tmp_path) == made


def test_the_page_has_the_figures_of_every_benchmark() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"figures: ([a-z-]+) -->", text)) == set(BENCHMARKS)


def test_a_missing_comparator_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(tools.Missing, match=r"^wrk is missing: apt-get install wrk$"):
        tools.program("wrk", str(tmp_path))
    assert any(
        line.startswith("b2sum") and line.endswith("-- b2sum is missing: apt-get install coreutils")
        for line in tools.survey(str(tmp_path))
    )
