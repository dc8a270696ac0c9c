"""Tests of the project as a package: the wheel holds every module, and each command that it installs
starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.kit.processes import ROOT, clean_environment

CODE = ("p2p", "transports", "protos")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because a build writes beside the code."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in CODE:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    words = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(copy))
    subprocess.run([*PIP, *words], check=True, capture_output=True)
    return next(built.glob("*.whl"))


def test_the_wheel_has_every_module(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for name in CODE for path in (ROOT / name).rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert modules <= set(archive.namelist())


def test_every_installed_command_starts(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environ = {**clean_environment(tmp_path), "PYTHONPATH": str(site)}
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(commands) >= {"p2p-tracker", "p2p-peer", "p2p-demo", "p2p-simulate"}
    for command in commands:
        done = subprocess.run(
            [sys.executable, str(site / "bin" / command), "--help"],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
