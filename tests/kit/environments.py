"""Virtual environments for `bin/test`, which runs this with the standard library alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
HOME: Final = Path(os.environ.get("P2P_TEST_VENV") or ROOT / ".venv-test").resolve()
OLDEST: Final = 11
"""Python 3.N: the oldest that is supported."""
NEWEST: Final = 13
"""Python 3.N: the newest whose absence is worth a note."""
CHECKERS: Final = ("coverage", "mypy", "ruff", "types-", "grpc-stubs")
"""Requirements that a second Python, which only runs the unit tests, can do without."""


def requirements(*extras: str) -> list[str]:
    """The requirements of these extras of the project."""
    import tomllib  # Python 3.11: `pythons` runs under older ones too

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return [requirement for extra in extras for requirement in known[extra]]


def make(folder: Path, wanted: list[str], python: str = sys.executable) -> Path | None:
    """Make the virtual environment `folder`, unless it is as wanted. Returns its Python; None on failure."""
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, contents = folder / "enjambre.json", json.dumps([python, *wanted])
    if inside.exists() and stamp.is_file() and stamp.read_text() == contents:
        return inside
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        print(f"{folder} is no virtual environment; it is left as it is")
        return None
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    for command in (python, "-m", "venv", "--clear", str(folder)), (str(inside), *install):
        print("==", *command, flush=True)
        if subprocess.call(command):
            return None
    stamp.write_text(contents)
    return inside


def whole() -> Path | None:
    """The environment with all extras, under this Python."""
    return make(HOME, requirements("grpc", "test"))


def oldest_grpc() -> Path | None:
    """An environment with the oldest libraries that the extra `grpc` allows."""
    oldest = [re.sub(r">=([^,]+).*", r"==\1", one) for one in requirements("grpc")]
    tools = next(one for one in oldest if one.startswith("grpcio==")).replace("grpcio", "grpcio-tools")
    rest = [one for one in requirements("test") if one.startswith(("pytest", "hypothesis", "grpclib"))]
    return make(Path(f"{HOME}-oldest-grpc"), [*oldest, tools, *rest])


def under(minor: int, python: str) -> Path | None:
    """An environment for the unit tests under another Python."""
    wanted = [one for one in requirements("grpc", "test") if not one.startswith(CHECKERS)]
    return make(Path(f"{HOME}-3.{minor}"), wanted, python)


def pythons() -> dict[int, str]:
    """The Pythons that run here, from the oldest supported on: 3.N and path. This one wins over its likes."""
    given = [path for path in os.environ.get("P2P_TEST_PYTHONS", "").split(os.pathsep) if path]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    usual = [f"python3.{minor}" for minor in range(OLDEST, 20)]
    found: dict[int, str] = {}
    for name in [sys.executable, *given, *usual, *map(str, sorted(pyenv.glob("3.*/bin/python3")))]:
        probe = [name, "-I", "-c", "import sys; print(sys.version_info.minor, sys.executable)"]
        try:
            minor, path = subprocess.check_output(probe, stderr=subprocess.DEVNULL, text=True).split()
        except (OSError, ValueError, subprocess.CalledProcessError):
            continue  # not installed, or a shim that starts none
        if int(minor) >= OLDEST:
            found.setdefault(int(minor), path)
    return found
