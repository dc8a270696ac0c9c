"""Runs the README: each `sh` block as it stands, in order, in one folder, with real processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2p.errors import EXIT_OF_CODE
from p2p.protocol.session import TRANSITIONS
from tests.kit.processes import ROOT, Running, clean_environment, old_file
from tests.kit.waiting import HANG_S

README = (ROOT / "README.md").read_text(encoding="utf-8")
SIZE = 3_000_000
FOREVER = ("tracker", "serve", "share", "--seed")


def _blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a fresh clone, with the files that the README names beside it."""
    folder = tmp_path / "enjambre"
    folder.mkdir()
    for name in ("bin", "p2p", "transports", "protos"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    old_file(folder / "lab.img", os.urandom(SIZE))
    return folder


def _line(command: str, tracker: str, link: str) -> list[str]:
    words = shlex.split(command.replace("laptop:6969", tracker).replace("LINK", link))
    if words[0] == "mkdir" or words[0].startswith(".venv/"):
        return words
    return [sys.executable, *words] if words[0].startswith("bin/") else [sys.executable, *words[1:]]


def _is_endless(words: list[str]) -> bool:
    return any(word in FOREVER or word.endswith("/tracker") for word in words)


@pytest.mark.timeout(300)  # `pip install` of the extra fetches packages
def test_every_command_of_the_readme_works(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    tracker, link = "", ""
    environ = clean_environment(checkout / "state", {"P2P_HOST": "127.0.0.1", "P2P_PORT": "0"})
    ended = []
    with ExitStack() as stack:
        for command in [line for block in _blocks() for line in block.splitlines()]:
            words = _line(command, tracker, link)
            print(words)
            if not _is_endless(words):
                done = subprocess.run(
                    words,
                    cwd=checkout,
                    env=environ,
                    capture_output=True,
                    text=True,
                    timeout=HANG_S,
                    check=False,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                ended.append((command, done))
                continue
            running = stack.enter_context(Running([*words, "--json"], environ))
            if "share" in words:
                link = running.event("shared")["link"]
            elif "--seed" in words:
                running.event("done")
            elif any(word.endswith("/tracker") for word in words):
                tracker = f"127.0.0.1:{running.event('listening')['port']}"
                environ["P2P_TRACKER"] = tracker
            else:
                running.event("listening")
    _check_results(checkout, dict(ended))


def _check_results(folder: Path, ended: dict[str, subprocess.CompletedProcess[str]]) -> None:
    original = (folder / "lab.img").read_bytes()
    for copy in ("images", "copies", "traced"):
        assert (folder / copy / "lab.img").read_bytes() == original
    received = list((folder / "store").glob("lab.img"))
    assert [path.read_bytes() for path in received] == [original]
    outputs = {command.split("--tracker")[0].strip(): done for command, done in ended.items()}
    assert "over grpc" in outputs[".venv/bin/python bin/demo --transport grpc"].stdout
    assert "lab.img" in outputs["bin/peer list"].stdout
    assert "lab.img" in outputs['bin/peer search "lab img"'].stdout
    assert '"op":"read"' in outputs["bin/peer download lab.img -o traced"].stderr.replace(" ", "")
    upload = json.loads(outputs["bin/peer upload lab.img --copies 1"].stdout.splitlines()[-1])
    assert upload["event"] == "done"
    assert upload["copies"] == 1
    stats = json.loads(outputs["bin/peer status"].stdout.splitlines()[-1])
    assert stats["user"] == "alice"


def test_every_link_in_a_command_is_quoted() -> None:
    lines = [line for block in _blocks() for line in block.splitlines() if "LINK" in line]
    assert lines
    assert all('"LINK"' in line for line in lines)


def test_the_state_diagram_equals_the_transition_table() -> None:
    drawn = README.split("<!-- transitions -->")[1].split("<!-- end -->")[0]
    arrows = set(re.findall(r"^    (\w+) --> (\w+): ([\w ]+)$", drawn, re.MULTILINE))
    assert arrows == {(state.value, to.value, step.value) for (state, step), to in TRANSITIONS.items()}


def test_the_table_of_exit_codes_has_every_code() -> None:
    table = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE) for code in row.split(",")
    }
    assert set(EXIT_OF_CODE.values()) <= table
    assert {0, 1, 2, 130, 143} <= table


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
