"""Write the tables and plots of docs/performance.md from the results beside it.

    python3 bench/run.py --out docs/performance     measure, on a machine that does nothing else
    python3 bench/lib/page.py                           bring the page up to date
    python3 bench/lib/page.py --check                   only say whether it is

Each `<!-- figures: NAME -->` of the page is followed by what `docs/performance/NAME.json` says, up to `<!--
end -->`; so is `<!-- yardsticks -->` by all ratios for which a bound is given.
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
    """The page as it should be. Raises `FileNotFoundError` where it names figures that nobody has
    measured."""
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
    parts = [f"<!-- figures: {name} -->"]
    for found in measured["figures"]:
        figure = Figure.from_json(found)
        parts += [
            f"**{figure.title}**",
            figure.markdown(),
        ]
    rounds = max(len(values) for figure in measured["figures"] for values in figure["samples"].values())
    parts.append(f"*{measured['machine']}; {rounds} rounds.*")
    return "\n\n".join([*parts, "<!-- end -->"])


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
        print(f"{PAGE.name} is not as its results say; run: python3 bench/lib/page.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8", newline="\n")
    print(f"{PAGE.name} is rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
