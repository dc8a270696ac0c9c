"""Write the tables of docs/performance.md from the results in docs/performance/.

    python3 bench/run.py --out docs/performance     measure, on a machine that does nothing else
    python3 bench/lib/page.py                       write the tables
    python3 bench/lib/page.py --check               only check that they are up to date

Between `<!-- figures: NAME -->` and `<!-- end -->` is the table of `docs/performance/NAME.json`. After
`<!-- yardsticks -->` are all ratios that have a bound.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from bench.lib.figures import Figure  # noqa: E402 (a script is started from anywhere)

PAGE: Final = ROOT / "docs/performance.md"
RESULTS: Final = ROOT / "docs/performance"
_MARKED: Final = re.compile(r"<!-- (?:figures: ([a-z-]+)|yardsticks) -->\n.*?<!-- end -->", re.DOTALL)


def current(page: str, results: Path) -> str:
    """The page with current tables. Raises `FileNotFoundError` for figures without results."""
    names = [found[1] for found in _MARKED.finditer(page) if found[1]]
    return _MARKED.sub(
        lambda found: _section(found[1], results) if found[1] else _summary(names, results), page
    )


def _summary(names: Sequence[str], results: Path) -> str:
    rows = ["| what | against | ours / it, median (min-max) | |", "| --- | --- | --- | --- |"]
    for name in names:
        for found in json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["figures"]:
            figure = Figure.from_json(found)
            for stick in figure.yardsticks:
                ratios = figure.ratios(stick.against)
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                rows.append(
                    f"| {figure.title} | {stick.against} | {ratio} | {figure.verdict(stick.against)} |"
                )
    return "\n".join(["<!-- yardsticks -->", "", *rows, "", "<!-- end -->"])


def _section(name: str, results: Path) -> str:
    measured = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    figures = [Figure.from_json(found) for found in measured["figures"]]
    rows = ["| what | of | median (min-max) | ours / this |", "| --- | --- | --- | --- |"]
    for figure in figures:
        what = f"{figure.title}, {figure.unit}"
        for contender, median, least, most, ratio, _ in figure.rows():
            rows.append(f"| {what} | {contender} | {median} ({least}-{most}) | {ratio or 'ours'} |")
            what = ""
    notes = dict.fromkeys(note for figure in figures for note in figure.notes)
    rounds = max(len(values) for figure in figures for values in figure.samples.values())
    last = f"*{' '.join([*notes, measured['machine']])}; {rounds} rounds.*"
    return "\n".join([f"<!-- figures: {name} -->", "", *rows, "", last, "", "<!-- end -->"])


def main(argv: Sequence[str]) -> int:
    """Return the exit code."""
    if argv not in ([], ["--check"]):
        print("usage: python3 bench/lib/page.py [--check]", file=sys.stderr)
        return 2
    page = PAGE.read_text(encoding="utf-8")
    wanted = current(page, RESULTS)
    if page == wanted:
        return 0
    if argv:
        print(
            f"{PAGE.name} does not have its current results; run: python3 bench/lib/page.py", file=sys.stderr
        )
        return 1
    PAGE.write_text(wanted, encoding="utf-8", newline="\n")
    print(f"{PAGE.name} is rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
