"""Nothing that another machine, a disk or the command line says reaches a terminal raw."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.commands import CONTROLS, POSIX, HostileTracker
from tests.kit.processes import Running, old_file, run_peer, start_peer

EVIL = "\\u001b[2J\\u001b]52;c;eA==\\u0007\\r\\n\\u009b31m\\u007f"
BIDI = "gnp\\u202e.exe\\u2066"
ID = "ab" * 32
PEER = (
    f'{{"peer":"{"5f" * 16}","name":"%s","user":"%s","host":"10.0.0.7","listen":{{"tcp":6970}},'
    '"contents":4,"age":3}'
)
HIT = f'{{"id":"{ID}","name":"%s","size":7,"seeds":1,"peers":1}}'
FIGURES = ",".join(
    f'"{name}":1' for name in ("uptime", "peers", "contents", "shares", "bytes", "sessions", "requests")
)
HOSTILE = [
    (["list"], '{"ok":true,"seq":SEQ,"total":1,"hits":[' + HIT + "]}"),
    (["search", "x"], '{"ok":true,"seq":SEQ,"total":1,"hits":[' + HIT + "]}"),
    (["peers"], '{"ok":true,"seq":SEQ,"total":1,"peers":[' + PEER + "]}"),
    (["status"], '{"ok":true,"seq":SEQ,"version":"%s",' + FIGURES + ',"user":"%s"}'),
    (["login", "alice"], '{"ok":false,"seq":SEQ,"error":"not_allowed","message":"%s"}'),
    (["list"], '{"ok":false,"seq":SEQ,"error":"%s","message":"%s"}'),
    (["list"], '{"ok":false,"error":"busy","message":"%s"}'),
    (["list"], "%s"),
]  # fmt: skip


@pytest.mark.parametrize("evil", [EVIL, BIDI], ids=["controls", "bidi"])
@pytest.mark.parametrize("text", [True, False], ids=["text", "json"])
@pytest.mark.parametrize(
    ("words", "answer"), HOSTILE, ids=[f"{index}-{words[0]}" for index, (words, _) in enumerate(HOSTILE)]
)
def test_case_42_the_answers_of_a_hostile_tracker_are_escaped(
    tmp_path: Path, words: list[str], answer: str, text: bool, evil: str
) -> None:
    with HostileTracker([answer.replace("%s", evil)] * 2) as hostile:
        done = run_peer(tmp_path, *words, tracker=hostile.address, text=text)
    assert not CONTROLS.search(done.out + done.err), (done.out, done.err)
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    if not text:
        assert done.events


def test_case_42_hostile_words_of_the_command_line_are_escaped(tmp_path: Path, tracker: Running) -> None:
    evil = "\x1b[2J\x9b31m\u202e"
    for words in (
        ["info", evil],
        ["download", evil],
        ["serve", evil],
        ["share", evil],
        ["login", evil],
        [evil],
        ["list", "--tracker", evil],
    ):
        done = run_peer(
            tmp_path, *words, *(["--tracker", tracker.address] if "--tracker" not in words else [])
        )
        assert done.code in (2, 3)
        assert not CONTROLS.search(done.out + done.err)


@POSIX
def test_case_42_hostile_names_on_the_disk_are_escaped(tmp_path: Path, tracker: Running) -> None:
    old_file(tmp_path / "shared" / "bad\x1b[31m\nname", b"x")
    old_file(tmp_path / "shared" / "good", b"x")
    with start_peer(tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address) as peer:
        peer.event("shared", name="good")
        peer.stop()
    assert not CONTROLS.search(peer.out + peer.err)
