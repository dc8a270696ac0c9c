"""The parsers of tracker, peer, demo and simulator, and the completions that must know the same words."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p import __version__
from p2p.cli import demo, peer, simulate, tracker
from p2p.cli.config import variable_names
from p2p.errors import UsageError
from p2p.sim.scenarios import SCENARIOS
from tests.kit.waiting import HANG_S

COMPLETIONS = Path(__file__).resolve().parents[2] / "completions"
PARSERS = [tracker.build_parser(), peer.build_parser(), demo.build_parser(), simulate.build_parser()]
COMMANDS = [
    "serve",
    "share",
    "list",
    "search",
    "peers",
    "info",
    "download",
    "upload",
    "login",
    "logout",
    "status",
]


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


EVERY = [one for parser in PARSERS for one in all_parsers(parser)]


def test_the_peer_has_the_commands_of_the_contract() -> None:
    assert list(peer.COMMANDS) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_leads_to_a_function(command: str) -> None:
    from importlib import import_module

    module, _, function = peer.COMMANDS[command].does.partition(":")
    assert callable(getattr(import_module(f"p2p.cli.commands.{module}"), function))


@pytest.mark.parametrize("parser", EVERY, ids=lambda parser: parser.prog)
def test_every_help_has_a_sentence_and_examples_and_can_be_shown_anywhere(
    parser: argparse.ArgumentParser,
) -> None:
    text = parser.format_help()
    assert parser.description
    assert "bin/" in (parser.epilog or "")
    assert text.isascii()


@pytest.mark.parametrize("parser", EVERY, ids=lambda parser: parser.prog)
def test_every_option_has_a_variable(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if action.option_strings and action.dest not in ("help", "version"):
            variable = "P2P_" + action.option_strings[-1].lstrip("-").replace("-", "_").upper()
            assert variable in variable_names()
            assert variable in (action.help or "")


def test_options_for_all_may_stand_before_and_after_the_command() -> None:
    parser = peer.build_parser()
    before, after = (
        parser.parse_args(["--tracker", "h:1", "list"]),
        parser.parse_args(["list", "--tracker", "h:1"]),
    )
    assert before.tracker == after.tracker == "h:1"
    assert parser.parse_args(["--json", "list", "--quiet"]).json


@pytest.mark.parametrize(
    "words", [["--version"], *([command, "--version"] for command in COMMANDS)], ids=" ".join
)
def test_every_command_tells_the_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.main(words) == 0
    assert capsys.readouterr().out == f"enjambre {__version__}\n"


@pytest.mark.parametrize("option", ["--host", "--port", "--name", "--advertise"])
def test_every_command_that_fetches_or_serves_says_where_it_listens(option: str) -> None:
    parser = peer.build_parser()
    for words in (["serve", "d"], ["share", "p"], ["info", "x"], ["download", "x"], ["upload", "p"]):
        assert getattr(parser.parse_args([*words, option, "h"]), option[2:]) == "h"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["download"],
        ["serve"],
        ["share"],
        ["login"],
        ["list", "x"],
        ["download", "a", "b"],
        ["search"],
    ],
)
def test_wrong_words_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        peer.build_parser().parse_args(words)


@pytest.mark.parametrize("name", ["enjambre.bash", "_enjambre"])
def test_the_completions_know_every_option_and_command(name: str) -> None:
    text = (COMPLETIONS / name).read_text(encoding="utf-8")
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    options = {option for parser in EVERY for option in parser._option_string_actions}
    assert options <= known
    assert all(re.search(rf"\b{command}\b", text) for command in COMMANDS)
    assert {option for option in known if option.startswith("--")} <= options


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
class TestBash:
    """What bash makes of its completion."""

    SCRIPT = COMPLETIONS / "enjambre.bash"

    def complete(self, *words: str, path: str | None = None) -> list[str]:
        """What is offered for the last of `words`."""
        quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
        code = (
            f'source "{self.SCRIPT}"; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _enjambre; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environ = {**os.environ, **({"PATH": path} if path else {})}
        done = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, check=False, timeout=HANG_S, env=environ
        )
        assert done.stderr == ""
        return done.stdout.split("\n")[:-1]

    def test_the_simulator_is_offered_its_scenarios(self) -> None:
        assert self.complete("simulate", "") == list(SCENARIOS)

    def test_the_script_is_right(self) -> None:
        assert subprocess.run(["bash", "-n", str(self.SCRIPT)], check=False, timeout=HANG_S).returncode == 0

    def test_commands_and_their_options_are_offered(self) -> None:
        assert self.complete("bin/peer", "lo") == ["login", "logout"]
        assert self.complete("peer", "download", "--se") == ["--seed"]
        assert self.complete("p2p-peer", "--tra") == ["--trace", "--tracker", "--transport"]
        assert self.complete("tracker", "--tt") == ["--ttl"]
        assert self.complete("demo", "--pe") == ["--peers"]
        assert self.complete("peer", "list", "--transport", "g") == ["grpc"]
        for words in (["tracker"], ["demo"], ["simulate"], ["peer"], ["peer", "list"], ["peer", "download"]):
            assert self.complete(*words, "--ver") == ["--verbose", "--version"]

    def test_a_hostile_name_of_a_content_is_offered_and_never_run(self, tmp_path: Path) -> None:
        made = tmp_path / "made"
        name = f"lab $(touch {made}) `touch {made}` * ~"
        fake = tmp_path / "peer"
        fake.write_text(
            f'#!/bin/sh\ncat <<\'X\'\n{{"event":"content","name":"{name}","size":1}}\nX\n', encoding="utf-8"
        )
        fake.chmod(0o755)
        assert self.complete(str(fake), "download", "la") == [name]
        assert not made.exists()
