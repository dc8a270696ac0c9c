"""Find the comparators on this machine, and say how to get those that are not there. Nothing is installed by
us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from typing import Final

from bench.lab import ROOT

DEBIAN: Final = {
    "nginx": "nginx-light",
    "curl": "curl",
    "b2sum": "coreutils",
    "sha256sum": "coreutils",
    "aria2c": "aria2",
    "rsync": "rsync",
    "opentracker": "opentracker",
    "wrk": "wrk",
    "cc": "gcc libc6-dev",
    "taskset": "util-linux",
}
"""The Debian packages that hold each program."""
PYPI: Final = {"libtorrent": "libtorrent", "grpc_reflection": "'.[grpc]'"}
"""What to ask pip for, for each module."""
_PLACES: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])


class Missing(Exception):
    """A comparator is not here; its text says how to get it."""


def program(name: str) -> str:
    """Where a program is. Raises `Missing`."""
    found = shutil.which(name, path=_PLACES)
    if found is None:
        raise Missing(f"{name} is missing: apt-get install {DEBIAN[name]}")
    return found


@cache
def python_with(module: str) -> str:
    """A Python that has this module: the one that runs, or that of `.venv-bench` or `.venv-test` here. Raises
    `Missing`."""
    for python in (
        sys.executable,
        *(str(ROOT / name / "bin/python") for name in (".venv-bench", ".venv-test")),
    ):
        if (
            os.path.exists(python)
            and not subprocess.run(
                [python, "-c", f"import {module}"], capture_output=True, check=False
            ).returncode
        ):
            return python
    raise Missing(
        f"{module} is missing: python3 -m venv .venv-bench && .venv-bench/bin/pip install {PYPI[module]}"
    )


def survey() -> list[str]:
    """A line for each comparator: where it is, or how to get it."""
    lines = []
    for name in (*DEBIAN, *PYPI):
        try:
            lines.append(f"{name:12} {python_with(name) if name in PYPI else program(name)}")
        except Missing as missing:
            lines.append(f"{name:12} -- {missing}")
    return lines
