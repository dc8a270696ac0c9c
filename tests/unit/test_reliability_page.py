"""Tests of the pages: links lead to files, and docs/reliability.md names a test for each hostile case."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "protos/PROTOCOL.md"])
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
def test_each_case_has_a_test_in_every_file_named_for_it(case: int) -> None:
    what, files = ROWS[case]
    named = re.findall(r"`([^`]+)`", files)
    assert bool(named) != what.startswith("waits for ")
    for name in named:
        assert case in cases_of(ROOT / "tests" / name), name


def test_every_file_named_on_the_page_exists() -> None:
    before = PAGE.partition("## The eighty cases")[0]
    for name in re.findall(r"`((?:integration|unit|property|fuzz|kit)/[\w./]*|\w+\.py)`", before):
        places = [ROOT / "tests" / name, ROOT / "tests" / "integration" / name, ROOT / "tests" / "kit" / name]
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
