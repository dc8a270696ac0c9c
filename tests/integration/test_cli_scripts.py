"""The scripts in `bin/`: from anywhere, by any Python, with wrong words, at any early moment."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kit.commands import POSIX, error_of
from tests.kit.processes import Running, clean_environment, command, old_file, run, run_peer
from tests.kit.waiting import HANG_S


@pytest.mark.parametrize("name", ["tracker", "peer", "demo"])
def test_the_scripts_run_from_anywhere_and_answer_help_at_once(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [*command(name), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert done.stderr == ""
    version = subprocess.run(
        [*command(name), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert version.stdout.startswith("enjambre ")


@pytest.mark.parametrize("name", ["tracker", "peer", "demo"])
def test_the_scripts_tell_an_old_python_what_they_need_before_any_import(name: str) -> None:
    script = command(name)[-1]
    code = (
        "import sys; sys.version_info = (3, 10, 13, 'final', 0); sys.path[:] = []; "
        "sys.argv[:] = [sys.argv[1]];"
        "source = open(sys.argv[0]).read(); exec(compile(source, sys.argv[0], 'exec'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, script],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"{name}: needs Python 3.11 or newer, this is 3.10\n",
    )
    head = Path(script).read_text(encoding="utf-8").partition("sys.exit(")[0]
    assert re.findall(r"^(?:from|import) .*", head, re.MULTILINE) == ["import sys"]


@pytest.mark.parametrize("name", ["tracker", "peer", "demo", "simulate"])
def test_the_scripts_hold_nothing_that_an_old_python_cannot_read(name: str) -> None:
    """Where none is, too. A Python reads a whole file before it runs its first line."""
    source = Path(command(name)[-1]).read_text(encoding="utf-8")
    assert source.isascii()
    known = (
        "Module If Compare Lt Attribute Name Load Constant Tuple Import ImportFrom alias Expr Call BinOp Mod "
        "Subscript Slice"
    )
    assert {type(node).__name__ for node in ast.walk(ast.parse(source))} <= set(known.split()), (
        "as old as the language, or new?"
    )


def _old_pythons() -> dict[str, str]:
    """Old Pythons that are here and run, by their versions."""
    folders = [*os.get_exec_path(), *map(str, (Path.home() / ".pyenv" / "versions").glob("*/bin"))]
    found = {
        old: shutil.which(f"python{old}", path=os.pathsep.join(folders[::-1]))
        for old in ("2.7", "3.6", "3.10")
    }
    return {
        old: path
        for old, path in found.items()
        if path is not None
        and not subprocess.run(
            [path, "--version"], capture_output=True, timeout=HANG_S, check=False
        ).returncode
    }


OLD_PYTHONS = _old_pythons()


if OLD_PYTHONS:

    @pytest.mark.parametrize("old", OLD_PYTHONS)
    @pytest.mark.parametrize("name", ["tracker", "peer", "demo"])
    def test_an_installed_old_python_reads_the_scripts_and_says_what_they_need(name: str, old: str) -> None:
        done = subprocess.run(
            [OLD_PYTHONS[old], command(name)[-1], "--help"],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, f"{name}: needs Python 3.11 or newer, this is {old}\n")


def test_help_does_not_import_the_modules_of_a_running_command() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from p2p.cli.peer import main; "
        "main(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert not {"asyncio", "socket", "sqlite3", "logging", "transports"} & set(done.stderr.split())


@pytest.mark.parametrize(
    "words",
    [["serve", "/no/such/folder"], ["share", "/no/such/file"], ["upload", "/no/such/file"],
     ["download", "p2p:nonsense"], ["login", "a\nb"],
     ["download", "x", "--port", "22"], ["download", "x", "--limit", "fast"],
     ["list", "--transport", "pigeon"], ["download", ""],
     ["share", ""], ["serve", ""], ["upload", ""], ["serve", "/tmp", "--host", "a..b"],
     ["serve", "/tmp", "--host", "x" * 70]],
)  # fmt: skip
def test_wrong_words_end_with_2_and_one_line(tmp_path: Path, words: list[str]) -> None:
    error_of(run_peer(tmp_path, *words), 2)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    assert "P2P_TRACKER" in error_of(
        run([*command("peer"), "list", "--json"], clean_environment(tmp_path, {"P2P_TRACKER": "a:b:c"})), 2
    )


@pytest.mark.parametrize("word", ["download", "serve", "upload", "share"])
def test_grpc_without_its_extra_says_what_to_install(tmp_path: Path, word: str) -> None:
    old_file(tmp_path / "folder" / "x", b"x")
    words = [*command("peer"), word, str(tmp_path / "folder"), "--transport", "grpc"]  # nothing installed
    done = run(words, clean_environment(tmp_path / "state"))
    assert done.code == 2
    assert done.err == "peer: error: the grpc transport needs an extra: pip install '.[grpc]'\n"
    assert done.out == ""


@POSIX
def test_an_early_signal_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    """The interpreter's own first milliseconds are not ours; from the first line of the script on, no
    traceback comes."""
    for step in range(8):
        words = [*command("tracker"), "--json", "--port", "0", "--host", "127.0.0.1", "--store", "memory"]
        with Running(words, clean_environment(tmp_path)) as running:
            # Where a signal lands is what varies here; the wait is that variation, not a wait for something.
            threading.Event().wait(0.06 + step * 0.02)
            code, _ = running.stop(signal.SIGTERM)
        assert code in (143, -signal.SIGTERM)
        assert "Traceback" not in running.err
