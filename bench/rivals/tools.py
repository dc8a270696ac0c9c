"""Find the comparators on this machine, and say how to install those that are missing. Nothing is
installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from typing import Final

from bench.lib.lab import ROOT

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
"""The requirement that holds each module, for pip."""
PLACES: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])


class Missing(Exception):
    """A comparator is not installed. The text says how to install it."""


def program(name: str, places: str = PLACES) -> str:
    """The path of a program in one of the folders `places`. Raises `Missing`."""
    found = shutil.which(name, path=places)
    if found is None:
        raise Missing(f"{name} is missing: apt-get install {DEBIAN[name]}")
    return found


@cache
def python_with(module: str) -> str:
    """A Python that has this module: this one, or that of `.venv-bench` or `.venv-test`. Raises `Missing`."""
    here = (str(ROOT / name / "bin/python") for name in (".venv-bench", ".venv-test"))
    for python in filter(os.path.exists, (sys.executable, *here)):
        imported = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
        if imported.returncode == 0:
            return python
    install = f"python3 -m venv .venv-bench && .venv-bench/bin/pip install {PYPI[module]}"
    raise Missing(f"{module} is missing: {install}")


def survey(places: str = PLACES) -> list[str]:
    """A line for each comparator: its path, or how to install it."""
    lines = []
    for name in (*DEBIAN, *PYPI):
        try:
            lines.append(f"{name:12} {python_with(name) if name in PYPI else program(name, places)}")
        except Missing as missing:
            lines.append(f"{name:12} -- {missing}")
    return lines
