"""docs/reliability.md names tests that are there, and has a row for each hostile case."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = {
    int(number): (what, files)
    for number, what, files in re.findall(r"^\| (\d+) \| (.*?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
}


@cache
def cases_of(path: Path) -> frozenset[int]:
    """The cases that the tests of a file name."""
    found: set[int] = set()
    for name in re.findall(r"def test_cases?_((?:\d+_)+)", path.read_text(encoding="utf-8")):
        found.update(int(number) for number in name.split("_") if number)
    return frozenset(found)


def test_every_case_has_its_row() -> None:
    assert sorted(ROWS) == list(range(1, 81))


@pytest.mark.parametrize("case", sorted(ROWS))
def test_a_case_waits_or_the_files_named_have_tests_that_name_it(case: int) -> None:
    what, files = ROWS[case]
    named = re.findall(r"`([^`]+)`", files)
    assert bool(named) != what.startswith("waits for ")
    for name in named:
        assert case in cases_of(ROOT / "tests" / name), name


def test_every_file_that_the_page_names_is_there() -> None:
    before = PAGE.partition("## The eighty cases")[0]
    for name in re.findall(r"`((?:integration|unit|property|fuzz|kit)/[\w./]*|\w+\.py)`", before):
        places = [ROOT / "tests" / name, ROOT / "tests" / "integration" / name, ROOT / "tests" / "kit" / name]
        assert any(place.exists() for place in places), name
