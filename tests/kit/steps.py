"""The steps of `bin/test`: runs commands and pytest, counts what passed, prints the summary.

`bin/test` uses this with the standard library alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
HANG_S: Final = 3600
"""Seconds after which a command is taken to hang."""
_STEERS: Final = re.compile(r"P2P_(?!TEST_|NO_SKIPS)|PYTHON(PATH|HOME)|COVERAGE_|PYTEST_ADDOPTS")
"""Variables that steer the interpreter, pytest or the programs under test."""


class Steps:
    """The outcome of each test and check so far: passed, failed or skipped, and which one and why."""

    def __init__(self) -> None:
        self._outcomes: list[tuple[str, str]] = []

    def run(self, *command: object, **more: str) -> bool:
        """Run a command in the checkout, with `more` variables. Returns whether it succeeded."""
        words = [str(word) for word in command]
        environ = {key: value for key, value in os.environ.items() if not _STEERS.match(key)}
        print("==", *words, flush=True)
        options: dict[str, Any] = {"cwd": ROOT, "env": {**environ, **more}, "stdin": subprocess.DEVNULL}
        try:
            return subprocess.call(words, timeout=HANG_S, **options) == 0
        except subprocess.TimeoutExpired:
            return False

    def check(self, name: str, ok: object) -> None:
        """Count one check, which passed if `ok` is true."""
        self._outcomes.append(("passed" if ok else "failed", name))

    def skip(self, name: str, why: str) -> None:
        """Count one check that could not be made."""
        self._outcomes.append(("skipped", f"{name}: {why}"))

    def pytest(self, name: str, *command: object, **more: str) -> None:
        """Run a command that ends in pytest and its arguments, and count each test."""
        found: list[tuple[str, str]] = []
        with tempfile.TemporaryDirectory(prefix="enjambre-test-") as folder:
            report = Path(folder, "report.xml")
            ok = self.run(*command, f"--junitxml={report}", **more)
            for case in ElementTree.parse(report).iter("testcase") if report.is_file() else ():
                why = {child.tag: child.get("message") or "" for child in case}
                failed, skipped = {"failure", "error"} & why.keys(), "skipped" in why
                kind = "failed" if failed else "skipped" if skipped else "passed"
                test = f"{name}: {case.get('classname')}::{case.get('name')}"
                found.append((kind, f"{test}: {why['skipped']}" if skipped else test))
        self._outcomes += found
        if not ok and "failed" not in dict(found):
            self.check(f"{name}: pytest failed although none of its tests did", False)

    def finish(self) -> int:
        """Print what failed and what was skipped, and the totals as the last line. Returns the exit code."""
        lines = [f"{kind}: {what}" for kind, what in self._outcomes if kind != "passed"]
        kinds = [kind for kind, _ in self._outcomes]
        totals = (f"{kinds.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
        print("== summary", *lines, ", ".join(totals), sep="\n", flush=True)
        no_skips = os.environ.get("P2P_NO_SKIPS", "") not in ("", "0")
        return 1 if "failed" in kinds or (no_skips and "skipped" in kinds) else 0
