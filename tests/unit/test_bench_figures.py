"""How benchmarks are judged: ratios within a round, their median, bounds on both sides; and how a page and a
plot tell it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest

from bench import page
from bench.figures import Figure, Yardstick, alternate
from bench.plot import svg
from bench.rivals import tools
from bench.run import BENCHMARKS
from bench.soaking.report import Outcome, Times

FIGURE = Figure(
    "1 MiB, <one> sender",
    "s",
    {"enjambre": [1.0, 4.0, 3.0], "curl": [2.0, 2.0, 3.0]},
    "enjambre",
    (Yardstick("curl", most=2.0, aim=1.3),),
    ("Files are in memory.",),
)


def test_a_ratio_is_taken_within_a_round_and_the_median_of_them_counts() -> None:
    assert FIGURE.ratios("curl") == [0.5, 2.0, 1.0]
    assert FIGURE.verdict("curl") == "must be at most 2, aim 1.3: met"
    assert "1.00 (0.50-2.00)" in FIGURE.text()


@pytest.mark.parametrize(("ratio", "met"), [(0.9, False), (0.95, True), (1.05, True), (1.06, False)])
def test_a_bound_may_be_on_both_sides(ratio: float, met: bool) -> None:
    stick = Yardstick("2 MiB/s", most=1.05, least=0.95)
    assert stick.met(ratio) is met
    assert stick.verdict(ratio).endswith(": met" if met else ": NOT met")


def test_contenders_take_turns_to_go_first_and_the_first_round_does_not_count() -> None:
    went: list[str] = []

    def contender(name: str) -> float:
        went.append(name)
        return float(len(went))

    found = alternate(2, {name: partial(contender, name) for name in "abc"})
    assert [went[at : at + 3] for at in (0, 3, 6)] == [["c", "a", "b"], ["a", "b", "c"], ["b", "c", "a"]]
    assert found == {"a": [4.0, 9.0], "b": [5.0, 7.0], "c": [6.0, 8.0]}


def test_a_figure_survives_being_written_as_json() -> None:
    assert Figure.from_json(json.loads(json.dumps(FIGURE.to_json()))) == FIGURE


def test_a_latency_of_which_there_is_no_sample_keeps_no_bound() -> None:
    outcome, some, none = Outcome("idle", "peer"), Times.of([0.001], 0, {}), Times.of([], 0, {})
    outcome.check("p99, ms", some.p99, 20)
    assert outcome.passed
    for figure in (none.p50, none.p99, none.p99 - some.p99, some.p99 - none.p99):
        outcome.checks.clear()
        outcome.check("p99, ms", figure, 20)
        assert not outcome.passed


def test_the_plot_is_xml_with_a_bar_for_each_contender() -> None:
    root = ET.fromstring(svg(FIGURE))
    widths = [
        float(str(one.get("width"))) for one in root.iter("{http://www.w3.org/2000/svg}rect") if one.get("x")
    ]
    assert widths == [pytest.approx(420 * 3 / 4), pytest.approx(420 * 2 / 4)]
    assert FIGURE.title in "".join(root.itertext())


def test_the_page_is_made_from_the_results_beside_it(tmp_path: Path) -> None:
    (tmp_path / "startup.json").write_text(json.dumps({"machine": "2 cores", "figures": [FIGURE.to_json()]}))
    text = (
        "# P\n\n<!-- yardsticks -->\n<!-- end -->\n\n<!-- figures: startup -->\nold\n<!-- end -->\n\nwords\n"
    )
    made = page.current(text, tmp_path)
    assert "old" not in made
    assert "| 1 MiB, <one> sender | curl | 1.00 (0.50-2.00) | must be at most 2, aim 1.3: met |" in made
    assert "| curl | 2.00 | 2.00 | 3.00 | 1.00 (0.50-2.00) | must be at most 2, aim 1.3: met |" in made
    assert "*2 cores; 3 rounds.*" in made
    assert made.endswith("<!-- end -->\n\nwords\n")
    assert page.current(made, tmp_path) == made


def test_the_page_tells_of_every_benchmark_and_shows_plots_that_are_there() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"figures: ([a-z-]+) -->", text)) == set(BENCHMARKS)
    plots = re.findall(r"\]\((performance/[a-z-]+-\d+\.svg)\)", text)
    assert plots
    for plot in plots:
        assert (page.PAGE.parent / plot).is_file(), plot


def test_a_missing_comparator_is_named_with_the_package_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_PLACES", str(tmp_path))
    with pytest.raises(tools.Missing, match=r"^wrk is missing: apt-get install wrk$"):
        tools.program("wrk")
    assert any(
        line.startswith("b2sum") and line.endswith("-- b2sum is missing: apt-get install coreutils")
        for line in tools.survey()
    )
