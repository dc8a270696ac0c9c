"""The commands that ask the tracker: `list`, `search`, `peers`, `status`, `info`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.commands import SIZE, HostileTracker, error_of
from tests.kit.processes import Ended, Running, old_file, run_peer, start_peer, start_tracker


def test_list_search_peers_and_status_print_what_the_tracker_knows(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    def ask(*words: str) -> Ended:
        done = run_peer(tmp_path, *words, tracker=tracker.address)
        assert (done.code, done.err) == (0, "")
        return done

    row = ask("list").event("content")
    assert (row["name"], row["size"], row["seeds"], row["peers"]) == ("lab.img", SIZE, 1, 1)
    assert ask("search", "LAB", "img").event("content") == row
    assert ask("search", "nothing").events == []
    peer = ask("peers").event("peer")
    assert (peer["name"], peer["host"], peer["contents"]) == ("origin", "127.0.0.1", 1)
    assert set(peer["transports"]) == {"tcp"}
    assert ask("status").event("stats")["contents"] == 1


def test_people_get_tables(tmp_path: Path, tracker: Running, seed: Running) -> None:
    for words, head in (
        (["list"], "NAME"),
        (["search", "lab"], "NAME"),
        (["peers"], "NAME"),
        (["info", "lab.img"], "lab.img (file)"),
    ):
        done = run_peer(tmp_path, *words, tracker=tracker.address, text=True)
        assert done.code == 0, done.err
        assert done.out.startswith(head)
        assert "event" not in done.out
    assert "tracker 127.0.0.1" in run_peer(tmp_path, "status", tracker=tracker.address, text=True).out


def test_an_empty_directory_is_no_failure(tmp_path: Path, tracker: Running) -> None:
    done = run_peer(tmp_path, "list", tracker=tracker.address, text=True)
    assert (done.code, done.out) == (0, "")
    assert "nothing is shared" in done.err


def test_info_prints_the_files_and_the_peers_that_have_them(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    done = run_peer(tmp_path, "info", "lab.img", tracker=tracker.address)
    assert done.code == 0, done.err
    assert done.event("content")["pieces"] == 5
    assert done.event("file") == {"event": "file", "path": "lab.img", "size": SIZE}
    assert done.event("peer")["have"] == SIZE


def test_case_45_a_name_is_found_however_its_accents_are_kept(tmp_path: Path) -> None:
    path = old_file(tmp_path / "cafe\u0301.bin", b"x")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
    ):
        peer.event("shared")
        assert run_peer(tmp_path, "info", "caf\u00e9.bin", tracker=tracker.address).code == 0


@pytest.mark.parametrize(
    "words", [["list"], ["search", "x"], ["peers"], ["info", "x"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize("following", [0, 5, 10], ids=["round in a circle", "past the end", "beyond all"])
def test_case_40_pages_of_a_list_that_lead_nowhere_are_not_followed(
    tmp_path: Path, words: list[str], following: int
) -> None:
    rows = "peers" if words == ["peers"] else "hits"
    page = f'{{"ok":true,"seq":SEQ,"total":4,"next":{following},"{rows}":[]}}'
    with HostileTracker([page] * 50) as hostile:
        done = run_peer(tmp_path, *words, tracker=hostile.address)
    if words[0] == "info":
        assert (done.code, done.event("error")["code"]) == (3, "not_found")
    else:
        assert (done.code, done.events) == (0, [])


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["search", "x"],
        ["peers"],
        ["status"],
        ["login", "alice"],
        ["info", "x"],
        ["download", "x"],
        ["upload", __file__],
    ],
    ids=lambda words: words[0],
)
def test_case_40_without_a_tracker_every_command_fails_with_its_address(
    tmp_path: Path, words: list[str]
) -> None:
    more = ["--port", "0"] if words[0] in ("info", "download", "upload") else []
    message = error_of(run_peer(tmp_path, *words, *more, tracker="127.0.0.1:1"), 6)
    assert "127.0.0.1:1" in message


def test_a_content_that_nobody_shares_is_not_found(tmp_path: Path, tracker: Running) -> None:
    for target in ("nope", "ab" * 32, f"p2p:{'ab' * 32}"):
        error_of(
            run_peer(
                tmp_path, "download", target, "-o", str(tmp_path), "--port", "0", tracker=tracker.address
            ),
            3,
        )
        error_of(run_peer(tmp_path, "info", target, "--port", "0", tracker=tracker.address), 3)


def test_a_name_of_several_contents_is_refused_with_their_ids(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    old_file(tmp_path / "other" / "lab.img", b"another")
    with start_peer(
        tmp_path, "serve", str(tmp_path / "other"), tracker=tracker.address, name="second"
    ) as second:
        second.event("shared")
        done = run_peer(
            tmp_path, "download", "lab.img", "-o", str(tmp_path), "--port", "0", tracker=tracker.address
        )
        message = error_of(done, 3)
        assert len(re.findall(r"[0-9a-f]{64}", message)) == 2
