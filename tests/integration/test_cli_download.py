"""`download`: the file, its events, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.kit.commands import POSIX, SIZE, error_of
from tests.kit.processes import (
    ROOT,
    Running,
    clean_environment,
    command,
    old_file,
    run,
    run_peer,
    start_peer,
    start_tracker,
)


def test_download_fetches_the_file_and_prints_the_events_of_the_contract(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    done = run_peer(
        tmp_path, "download", "lab.img", "-o", str(tmp_path / "out"), "--name", "me", tracker=tracker.address
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "lab.img").read_bytes() == (tmp_path / "shared" / "lab.img").read_bytes()
    manifest, end = done.event("manifest"), done.event("done")
    assert {"name", "id", "size", "pieces"} <= set(manifest)
    assert end["bytes_from"] == {"origin": SIZE}
    assert (end["id"], end["size"], end["path"]) == (manifest["id"], SIZE, str(tmp_path / "out" / "lab.img"))
    progress = [event for event in done.events if event["event"] == "progress"]
    assert all({"bytes", "size", "rate", "peers"} <= set(event) for event in progress)
    assert progress[-1]["bytes"] == SIZE


def test_a_link_needs_no_tracker_and_no_name(tmp_path: Path, tracker: Running) -> None:
    path = old_file(tmp_path / "a b.bin", os.urandom(1000))
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as origin:
        link = origin.event("shared")["link"]
        assert re.fullmatch(r"p2p:[0-9a-f]{64}\?tracker=\S+:\d+&name=a%20b\.bin", link)
        words = [*command("peer"), "download", "--json", link, "-o", str(tmp_path / "out")]
        done = run(words, clean_environment(tmp_path / "state-me"))
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "a b.bin").read_bytes() == path.read_bytes()


def test_a_download_with_seed_serves_afterwards(tmp_path: Path, tracker: Running, seed: Running) -> None:
    with start_peer(
        tmp_path,
        "download",
        "lab.img",
        "--seed",
        "-o",
        str(tmp_path / "out"),
        tracker=tracker.address,
        name="second",
    ) as second:
        second.event("done")
        assert run_peer(tmp_path, "list", tracker=tracker.address).event("content")["seeds"] == 2
        code, _ = second.stop()
    assert code == 143
    assert run_peer(tmp_path, "list", tracker=tracker.address).event("content")["seeds"] == 1


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_case_51_a_stopped_download_resumes(
    tmp_path: Path, tracker: Running, number: signal.Signals, code: int
) -> None:
    path = old_file(tmp_path / "shared" / "big.img", os.urandom(24 << 20))
    out = str(tmp_path / "out")
    with start_peer(
        tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address, name="origin"
    ) as origin:
        origin.event("shared")
        with start_peer(
            tmp_path, "download", "big.img", "-o", out, "--limit", "6M", tracker=tracker.address, name="me"
        ) as me:
            while me.event("progress", phase="downloading")["bytes"] < 4 << 20:
                pass
            exit_code, _ = me.stop(number)
        assert (exit_code, me.err) == (code, "")
        assert not (tmp_path / "out" / "big.img").exists()
        done = run_peer(tmp_path, "download", "big.img", "-o", out, "--port", "0", tracker=tracker.address)
        assert done.code == 0, done.err
    assert (tmp_path / "out" / "big.img").read_bytes() == path.read_bytes()
    fetched = done.event("done")["bytes_from"]["origin"]
    assert fetched < 22 << 20
    last = [event for event in done.events if event["event"] == "progress"][-1]
    assert last["rate"] == pytest.approx(fetched / done.event("done")["seconds"], rel=0.01)


def test_an_existing_file_is_never_replaced_unasked(tmp_path: Path, tracker: Running, seed: Running) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lab.img").write_bytes(b"mine")
    words = ["download", "lab.img", "-o", str(tmp_path / "out"), "--port", "0"]
    assert "--overwrite" in error_of(run_peer(tmp_path, *words, tracker=tracker.address), 7)
    assert (tmp_path / "out" / "lab.img").read_bytes() == b"mine"
    assert run_peer(tmp_path, *words, "--overwrite", tracker=tracker.address).code == 0


def test_a_target_folder_that_is_a_file_is_a_disk_error(
    tmp_path: Path, tracker: Running, seed: Running
) -> None:
    (tmp_path / "file").write_bytes(b"")
    error_of(
        run_peer(
            tmp_path,
            "download",
            "lab.img",
            "-o",
            str(tmp_path / "file"),
            "--port",
            "0",
            tracker=tracker.address,
        ),
        7,
    )


def test_grpc_is_imported_only_when_it_is_asked_for(tmp_path: Path, tracker: Running, seed: Running) -> None:
    words = [
        "download",
        "lab.img",
        "-o",
        str(tmp_path / "out"),
        "--tracker",
        tracker.address,
        "--port",
        "0",
        "--quiet",
    ]
    line = [sys.executable, "-X", "importtime", str(ROOT / "bin" / "peer"), *words]
    done = run(line, clean_environment(tmp_path / "state"))
    assert done.code == 0
    imported = {
        row.rpartition("|")[2].strip().partition(".")[0]
        for row in done.err.splitlines()
        if row.startswith("import time:")
    }
    assert "p2p" in imported
    assert not imported & {"grpc", "google", "grpc_health", "grpc_reflection", "protos"}


def test_every_setting_can_come_from_the_environment(tmp_path: Path, tracker: Running, seed: Running) -> None:
    environ = {
        "P2P_TRACKER": tracker.address,
        "P2P_OUTPUT": str(tmp_path / "out"),
        "P2P_NAME": "from-env",
        "P2P_PORT": "0",
        "P2P_JSON": "1",
        "P2P_TRACE": str(tmp_path / "trace"),
        "P2P_LIMIT": "100M",
        "P2P_HOST": "127.0.0.1",
    }
    done = run([*command("peer"), "download", "lab.img"], clean_environment(tmp_path / "state-me", environ))
    assert done.code == 0, done.err
    assert done.event("done")["path"] == str(tmp_path / "out" / "lab.img")
    assert '"name":"from-env"' in (tmp_path / "trace").read_text()


def test_a_file_name_that_the_locale_cannot_write_is_a_disk_error(tmp_path: Path) -> None:
    """PYTHONUTF8=0 and no coercion: as some boot scripts run it."""
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = old_file(tmp_path / "\u00f1am.bin", b"x")
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
    ):
        content = peer.event("shared")["id"]
        environ = clean_environment(tmp_path / "state-run", latin)
        line = [
            sys.executable,
            "-S",
            command("peer")[-1],
            "download",
            content,
            "--json",
            "--tracker",
            tracker.address,
        ]
        done = run([*line, "-o", str(tmp_path / "out")], environ)
    assert done.code == 7
    assert "PYTHONUTF8" in done.event("error")["message"]
    assert not (tmp_path / "out").exists()


def test_a_trace_has_the_events_of_the_swarm_besides_the_control_lines(tmp_path: Path) -> None:
    path = old_file(tmp_path / "share" / "image.bin", os.urandom(200_000))
    trace = tmp_path / "trace.jsonl"
    with (
        start_tracker(tmp_path) as tracker,
        start_peer(tmp_path, "share", str(path), tracker=tracker.address, name="origin") as seed,
    ):
        content = seed.event("shared")["id"]
        ended = run_peer(
            tmp_path,
            "download",
            content,
            "-o",
            str(tmp_path / "out"),
            "--trace",
            str(trace),
            tracker=tracker.address,
        )
        assert ended.code == 0, ended.err
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {"sent", "received", "joined", "asked", "fetched", "verified", "completed"} <= {
        event["event"] for event in events
    }
    assert sorted(event["piece"] for event in events if event["event"] == "verified") == [0, 1, 2, 3]
