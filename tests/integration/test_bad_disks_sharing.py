"""Peers that share from bad disks or receive onto them (cases 35, 44 to 47): the others go on."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.disks import (
    OBEYS_MODES,
    disk_message,
    ext4,
    fill_up,
    modest_end,
    needs_disks,
    peer_words,
    tmpfs,
)
from tests.kit.processes import (
    Running,
    clean_environment,
    command,
    old_file,
    run,
    run_peer,
    start_peer,
    start_tracker,
)
from tests.kit.waiting import HANG_S

pytestmark = needs_disks

MIB = 1 << 20


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Running]:
    with start_tracker(tmp_path) as running:
        yield running


def modest(tmp_path: Path, tracker: Running, *words: str) -> Running:
    """A peer to which file modes apply."""
    return Running([*OBEYS_MODES, *peer_words(tracker, *words)], clean_environment(tmp_path / "modest"))


def until(true: object, seconds: float = 20.0) -> None:
    """Wait until a call is true."""
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def room_of(folder: Path, tracker: Running, name: str) -> int:
    """How many bytes a peer accepts, as the tracker knows."""
    rows = run_peer(folder, "peers", tracker=tracker.address).events
    return sum(row["room"] for row in rows if row["name"] == name)


# -- copies for others


def test_case_46_a_full_disk_of_one_receiver_does_not_stop_the_other(
    tmp_path: Path,
) -> None:
    with start_tracker(
        tmp_path, "--ttl", "3"
    ) as tracker:  # so that it soon hears of the room that there is again
        two_receivers(tmp_path, tracker)


def two_receivers(tmp_path: Path, tracker: Running) -> None:
    """One whose disk fills up, and one whose disk does not."""
    path = old_file(tmp_path / "results.tar", os.urandom(5 * MIB))
    with (
        tmpfs(tmp_path / "small", 12 * MIB) as small,
        start_peer(
            tmp_path,
            "serve",
            str(small / "kept"),
            "--accept-uploads",
            "1G",
            tracker=tracker.address,
            name="small",
        ) as full,
        start_peer(
            tmp_path,
            "serve",
            str(tmp_path / "kept"),
            "--accept-uploads",
            "1G",
            tracker=tracker.address,
            name="large",
        ) as large,
    ):
        for receiver in (full, large):
            receiver.event("listening")
        with start_peer(
            tmp_path,
            "upload",
            str(path),
            "--copies",
            "2",
            "--limit-up",
            "3M",
            tracker=tracker.address,
            name="origin",
        ) as uploader:
            part = small / "kept" / "results.tar.part"
            until(lambda: part.exists() and part.stat().st_blocks)
            other = fill_up(small)
            uploader.event("replicated", peer="large")
            assert uploader.event("warning")["message"].startswith("small: ")
            assert str(small) not in uploader.out + uploader.err
            assert uploader.event("error")["message"].startswith("1 of 2 copies are made: small: ")
            assert uploader.wait() == 3
        said = full.event("warning")["message"]
        assert "disk full: need " in said
        assert str(part) in said
        assert not (small / "kept" / "results.tar").exists()
        assert (tmp_path / "kept" / "results.tar").read_bytes() == path.read_bytes()
        other.unlink()
        until(lambda: room_of(tmp_path, tracker, "small") > 5 * MIB)
        done = run_peer(tmp_path, "upload", str(path), "--port", "0", tracker=tracker.address)
        assert done.code == 0, done.err
        assert done.event("done")["origin_copies"] < 1
        assert (small / "kept" / "results.tar").read_bytes() == path.read_bytes()
        for receiver in (full, large):
            assert "Traceback" not in receiver.err
            assert receiver.stop()[0] == 143


def test_case_46_a_receiver_without_room_from_the_start_is_not_chosen(
    tmp_path: Path, tracker: Running
) -> None:
    path = old_file(tmp_path / "results.tar", os.urandom(2 * MIB))
    with (
        tmpfs(tmp_path / "small", MIB) as small,
        start_peer(
            tmp_path, "serve", str(small), "--accept-uploads", "1G", tracker=tracker.address, name="small"
        ) as receiver,
    ):
        receiver.event("listening")
        done = run_peer(tmp_path, "upload", str(path), "--port", "0", tracker=tracker.address)
        assert done.code == 3
        assert "has room" in done.event("error")["message"]
        assert list(small.iterdir()) == []


# -- what is served


@pytest.mark.parametrize("how", ["closed", "moved", "file"])
def test_case_44_an_unreadable_file_is_withdrawn_and_shared_again_when_back(
    tmp_path: Path, tracker: Running, how: str
) -> None:
    folder = tmp_path / "shared"
    path = old_file(folder / "lab.img", os.urandom(100_000))
    with modest(tmp_path, tracker, "serve", str(folder)) as peer:
        content = peer.event("shared")["id"]
        if how == "closed":
            folder.chmod(0)
        elif how == "file":
            path.chmod(0)
        else:
            folder.rename(tmp_path / "aside")
        peer.event("withdrawn", id=content)
        assert (
            run_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), tracker=tracker.address).code
            == 3
        )
        if how == "closed":
            folder.chmod(0o755)
        elif how == "file":
            path.chmod(0o644)
        else:
            (tmp_path / "aside").rename(folder)
        peer.event("shared", id=content)
        done = run_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), tracker=tracker.address)
        assert done.code == 0, done.err
        assert (tmp_path / "out" / "lab.img").read_bytes() == path.read_bytes()
        assert "Traceback" not in peer.err
        assert peer.err.count("warning") == 1
        assert peer.stop()[0] == 143


def test_case_47_a_seed_whose_disk_is_gone_keeps_no_download_from_another_seed(
    tmp_path: Path, tracker: Running
) -> None:
    data = os.urandom(3 * MIB)
    with ext4(tmp_path / "disk", tmp_path / "image", 16 * MIB) as disk:
        bad = old_file(disk.place / "lab.img", data)
        good = old_file(tmp_path / "good" / "lab.img", data)
        with (
            start_peer(tmp_path, "share", str(bad), tracker=tracker.address, name="bad") as first,
            start_peer(tmp_path, "share", str(good), tracker=tracker.address, name="good") as second,
        ):
            content = first.event("shared")["id"]
            second.event("shared")
            disk.pull_out()
            done = run_peer(
                tmp_path,
                "download",
                content,
                "-o",
                str(tmp_path / "out"),
                "--port",
                "0",
                tracker=tracker.address,
            )
            assert done.code == 0, done.err
            assert done.event("done")["bytes_from"] == {"good": len(data)}
            assert "Traceback" not in first.err + done.err
            assert first.stop()[0] == 143


def strange_things(folder: Path) -> list[str]:
    """Put what must not be shared into a folder; returns the names."""
    os.mkfifo(folder / "fifo")
    os.mknod(
        folder / "device", 0o600 | 0o020000, os.makedev(1, 5)
    )  # /dev/zero: who reads it never comes to an end
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(folder / "socket"))
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    old_file(folder / "closed", b"secret").chmod(0)
    return ["fifo", "device", "socket", "link", "loop", "up", "closed"]


def test_case_44_what_is_no_readable_file_is_skipped_with_a_warning(
    tmp_path: Path, tracker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    folder = Path("shared")
    old_file(folder / "tree" / "good", b"good" * 1000)
    old_file(folder / "plain", b"plain")
    names = [*strange_things(folder), *strange_things(folder / "tree")]
    with modest(tmp_path, tracker, "serve", str(tmp_path / "shared")) as peer:
        assert {peer.event("shared")["name"] for _ in range(2)} == {"tree", "plain"}
        until(lambda: peer.out.count('"warning"') >= len(names))
        warned = [line for line in peer.out.splitlines() if '"warning"' in line]
        for where in ("shared/", "shared/tree/"):
            for name in names[:7]:
                assert sum(f"{where}{name}'" in line for line in warned) == 1, name
        done = run_peer(tmp_path, "download", "tree", "-o", str(tmp_path / "out"), tracker=tracker.address)
        assert done.code == 0, done.err
        assert [path.name for path in (tmp_path / "out" / "tree").iterdir()] == ["good"]
        assert peer.stop()[0] == 143


def test_case_45_of_two_colliding_names_one_is_shared_with_a_warning(
    tmp_path: Path, tracker: Running
) -> None:
    tree = tmp_path / "shared" / "tree"
    for name in ("README", "readme", "stra\u00dfe", "STRASSE", "caf\u00e9", "cafe\u0301"):
        old_file(tree / name, name.encode())
    with start_peer(tmp_path, "serve", str(tmp_path / "shared"), tracker=tracker.address) as peer:
        peer.event("shared", name="tree")
        assert peer.out.count('"warning"') == 3
        done = run_peer(tmp_path, "download", "tree", "-o", str(tmp_path / "out"), tracker=tracker.address)
        assert done.code == 0, done.err
        came = {path.name: path.read_bytes() for path in (tmp_path / "out" / "tree").iterdir()}
        assert len(came) == 3
        assert all(data == name.encode() for name, data in came.items())


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 131_072])
def test_case_35_sizes_at_the_borders_of_a_piece_go_from_one_machine_to_another(
    tmp_path: Path, tracker: Running, size: int
) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(size))
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared")["id"]
        done = run_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), tracker=tracker.address)
        assert done.code == 0, done.err
        assert done.event("done")["size"] == size
        assert (tmp_path / "out" / "a.bin").read_bytes() == path.read_bytes()


def test_case_35_a_sparse_file_is_shared_and_fetched_in_little_memory(
    tmp_path: Path, tracker: Running
) -> None:
    """512 MiB of holes with a few bytes at both ends and in the middle. The memory of both sides must not
    depend on its size."""
    path, size = tmp_path / "sparse.img", 1 << 29
    with path.open("wb") as file:
        for place in (0, size // 2 + 1, size - 5):
            file.seek(place)
            file.write(b"bytes")
    os.utime(path, (1, 1))
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared")["id"]
        with start_peer(
            tmp_path,
            "download",
            content,
            "-o",
            str(tmp_path / "out"),
            "--seed",
            tracker=tracker.address,
            name="d",
        ) as fetcher:
            fetcher.event("done")
            for process in (peer, fetcher):
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = int(status.partition("VmHWM:")[2].split()[0])
                assert most < 100 * 1024, f"{most} KiB"
    came = tmp_path / "out" / "sparse.img"
    assert subprocess.run(["cmp", path, came], check=False).returncode == 0
    shutil.rmtree(tmp_path / "out")


# -- what is refused at the start


@pytest.mark.parametrize(
    "words", ["serve closed/folder", "share closed/file", "share closed", "upload closed/file", "share file"]
)
def test_case_44_to_share_what_cannot_be_read_ends_with_its_path(
    tmp_path: Path, tracker: Running, words: str
) -> None:
    closed = tmp_path / "closed"
    (closed / "folder").mkdir(parents=True)
    old_file(closed / "file", b"x")
    old_file(tmp_path / "file", b"x").chmod(0)
    closed.chmod(0)
    verb, name = words.split()
    said = disk_message(modest_end(tmp_path, tracker, verb, str(tmp_path / name)))
    assert str(tmp_path / name) in said
    assert "no permission" in said


def test_case_44_a_demo_of_a_file_that_cannot_be_seen_ends_with_its_path(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    old_file(closed / "file", b"x")
    closed.chmod(0)
    said = disk_message(
        run(
            [*OBEYS_MODES, *command("demo"), "--json", str(closed / "file")],
            clean_environment(tmp_path / "s"),
        )
    )
    assert str(closed / "file") in said
    assert "no permission" in said


@pytest.mark.parametrize(
    "words",
    ["download x", "serve .", "share .", "share x", "upload x", "list", "status", "login a", "info x"],
)
def test_case_47_a_current_folder_that_was_deleted_is_no_internal_error(
    tmp_path: Path, tracker: Running, words: str
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {shlex.join(peer_words(tracker, *words.split()))}"
    done = run(["sh", "-c", line], clean_environment(tmp_path / "s"), timeout=HANG_S)
    assert "internal" not in done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert done.code in ((0,) if words in ("list", "status", "login a") else (2, 3, 7))


def test_case_47_a_download_into_a_deleted_current_folder_says_why_it_ends(
    tmp_path: Path, tracker: Running
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    path = old_file(tmp_path / "a.bin", b"abc")
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared")["id"]
        line = f"cd {gone} && rmdir {gone} && exec {shlex.join(peer_words(tracker, 'download', content))}"
        done = run(["sh", "-c", line], clean_environment(tmp_path / "s"), timeout=HANG_S)
        assert "the current folder does not exist any more" in disk_message(done)
