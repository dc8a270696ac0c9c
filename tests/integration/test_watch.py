"""Real processes: what `serve` and `share` publish as their files come and go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.processes import (
    Running,
    clean_environment,
    command,
    old_file,
    run_peer,
    start_peer,
    start_tracker,
)


@pytest.mark.parametrize("named", ["share", "./share/", "other/../share"])
def test_a_folder_is_shared_once_however_its_path_is_written(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_file(tmp_path / "share" / "a.txt", b"some words")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with start_tracker(tmp_path) as tracker:
        words = [
            *command("peer"),
            "serve",
            named,
            "--json",
            "--tracker",
            tracker.address,
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        with Running(words, clean_environment(tmp_path / "state")) as peer:
            first = peer.event("shared")
            old_file(tmp_path / "share" / "b.txt", b"other words")
            second = peer.event("shared")
            assert (first["name"], second["name"]) == ("a.txt", "b.txt")
            os.utime(tmp_path / "share" / "b.txt")
            assert peer.event("withdrawn")["name"] == "b.txt"
            assert peer.event("shared")["name"] == "b.txt"
            assert peer.out.count('"shared"') == 3


@pytest.mark.parametrize("written", ["whole", "relative"])
def test_a_received_replica_is_not_hashed_again_and_withdrawn_when_removed(
    tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = old_file(tmp_path / "from" / "image.bin", os.urandom(200_000))
    store = tmp_path / "store"
    store.mkdir()
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(
            tmp_path,
            "serve",
            str(store) if written == "whole" else "store",
            "--accept-uploads",
            "10M",
            tracker=tracker.address,
            name="target",
        ) as target,
    ):
        target.event("listening")
        assert run_peer(tmp_path, "upload", str(path), tracker=tracker.address).code == 0
        received = target.event("received")
        old_file(store / "later.txt", b"words")
        assert target.event("shared")["name"] == "later.txt"
        assert '"shared","name":"image.bin"' not in target.out.replace(" ", "")
        (store / "image.bin").unlink()
        assert target.event("withdrawn")["id"] == received["id"]


def test_hidden_files_and_unfinished_downloads_are_not_shared(tmp_path: Path) -> None:
    for name in (".hidden", "x.part", "x.part.manifest", "seen.txt"):
        old_file(tmp_path / "share" / name, b"words")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(
            tmp_path, "serve", str(tmp_path / "share"), tracker=tracker.address, name="origin"
        ) as peer,
    ):
        assert peer.event("shared")["name"] == "seen.txt"
        listed = run_peer(tmp_path, "list", tracker=tracker.address).events
        assert [event["name"] for event in listed] == ["seen.txt"]


def test_one_content_at_two_paths_is_shared_from_the_second_after_the_first(
    tmp_path: Path,
) -> None:
    first = old_file(tmp_path / "x" / "a.txt", b"words")
    second = old_file(tmp_path / "y" / "a.txt", b"words")
    later = tmp_path / "z" / "later.txt"
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(
            tmp_path, "share", str(first), str(second), tracker=tracker.address, name="origin"
        ) as peer,
    ):
        content = peer.event("shared")["id"]
        first.unlink()
        assert peer.event("withdrawn")["id"] == content
        assert peer.event("shared")["id"] == content
        assert (
            run_peer(tmp_path, "download", content, "-o", str(later.parent), tracker=tracker.address).code
            == 0
        )


def test_a_path_that_cannot_be_shared_ends_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "nested"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    with start_tracker(tmp_path) as tracker:
        ended = run_peer(tmp_path, "share", str(folder / "pipe"), tracker=tracker.address)
    assert ended.code == 7
    assert "pipe" in ended.err


def test_a_port_where_a_peer_listens_is_no_tracker(tmp_path: Path) -> None:
    path = old_file(tmp_path / "share" / "a.txt", b"words")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as peer,
    ):
        port = peer.event("listening")["port"]
        ended = run_peer(tmp_path, "list", tracker=f"127.0.0.1:{port}")
    assert ended.code == 6
    assert "no tracker" in ended.err
