"""Peers that share from, and receive onto, bad disks (hostile cases 35, 44-47): all others go on, and what is wrong is told in a line."""

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

from tests.integration.disks import OBEYS_MODES, disk_message, fill_up, needs_disks, tmpfs
from tests.integration.processes import Ended, Running, clean_environment, command, old_file, run, run_peer, start_peer, start_tracker

pytestmark = [*needs_disks, pytest.mark.timeout(120)]

MIB = 1 << 20


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Running]:
    with start_tracker(tmp_path) as running:
        yield running


def peer_words(tracker: Running, *words: str) -> list[str]:
    """How to start a peer of loopback at a free port."""
    place = ["--host", "127.0.0.1", "--port", "0"] if words[0] in ("serve", "share", "download", "upload", "info") else []
    return [*command("peer"), words[0], "--json", "--tracker", tracker.address, *place, *words[1:]]


def modest(tmp_path: Path, tracker: Running, *words: str) -> Running:
    """A peer that modes of files bind like everybody else."""
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


# -- copies for others -----------------------------------------------------------------------------------------------------------------


def test_case_46_of_two_receivers_one_whose_disk_fills_up_is_told_of_and_the_other_finishes(tmp_path: Path, tracker: Running) -> None:
    path = old_file(tmp_path / "results.tar", os.urandom(5 * MIB))
    with (
        tmpfs(tmp_path / "small", 12 * MIB) as small,
        start_peer(tmp_path, "serve", str(small / "kept"), "--accept-uploads", "1G", tracker=tracker.address, name="small") as full,
        start_peer(tmp_path, "serve", str(tmp_path / "kept"), "--accept-uploads", "1G", tracker=tracker.address, name="large") as large,
    ):
        for receiver in (full, large):
            receiver.event("listening")
        with start_peer(
            tmp_path, "upload", str(path), "--copies", "2", "--limit-up", "3M", tracker=tracker.address, name="origin"
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


def test_case_46_a_receiver_without_room_from_the_start_is_not_chosen(tmp_path: Path, tracker: Running) -> None:
    path = old_file(tmp_path / "results.tar", os.urandom(2 * MIB))
    with (
        tmpfs(tmp_path / "small", MIB) as small,
        start_peer(tmp_path, "serve", str(small), "--accept-uploads", "1G", tracker=tracker.address, name="small") as receiver,
    ):
        receiver.event("listening")
        done = run_peer(tmp_path, "upload", str(path), "--port", "0", tracker=tracker.address)
        assert done.code == 3
        assert "has room" in done.event("error")["message"]
        assert list(small.iterdir()) == []


# -- what is served --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "moved", "file"])
def test_case_44_what_becomes_unreadable_or_vanishes_is_taken_back_and_shared_again_when_it_is_back(
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
        assert run_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), tracker=tracker.address).code == 3
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


def strange_things(folder: Path) -> list[str]:
    """Put what must not be shared into a folder; returns the names."""
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "device", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: who reads it never comes to an end
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(folder / "socket"))
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    old_file(folder / "closed", b"secret").chmod(0)
    return ["fifo", "device", "socket", "link", "loop", "up", "closed"]


def test_case_44_fifos_devices_sockets_links_and_unreadable_files_are_skipped_with_a_warning(
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


def test_case_45_of_two_names_in_a_served_folder_that_collide_elsewhere_one_is_shared_with_a_warning(
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
def test_case_35_sizes_at_the_borders_of_a_piece_go_from_one_machine_to_another(tmp_path: Path, tracker: Running, size: int) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(size))
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared")["id"]
        done = run_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), tracker=tracker.address)
        assert done.code == 0, done.err
        assert done.event("done")["size"] == size
        assert (tmp_path / "out" / "a.bin").read_bytes() == path.read_bytes()


def test_case_35_a_sparse_file_is_shared_and_fetched_in_little_memory(tmp_path: Path, tracker: Running) -> None:
    """1 GiB of holes with a few bytes at both ends and in the middle; what both sides keep in memory must not follow from its size."""
    path, size = tmp_path / "sparse.img", 1 << 30
    with path.open("wb") as file:
        for place in (0, size // 2 + 1, size - 5):
            file.seek(place)
            file.write(b"bytes")
    os.utime(path, (1, 1))
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared", timeout=60)["id"]
        with start_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), "--seed", tracker=tracker.address, name="d") as fetcher:
            fetcher.event("done", timeout=60)
            for process in (peer, fetcher):
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = int(status.partition("VmHWM:")[2].split()[0])
                assert most < 100 * 1024, f"{most} KiB"
    came = tmp_path / "out" / "sparse.img"
    assert subprocess.run(["cmp", path, came], check=False).returncode == 0
    shutil.rmtree(tmp_path / "out")


# -- what is refused at the start ------------------------------------------------------------------------------------------------------


def modest_end(tmp_path: Path, tracker: Running, *words: str, state: Path | None = None) -> Ended:
    """Run a command that modes of files bind, to its end."""
    return run([*OBEYS_MODES, *peer_words(tracker, *words)], clean_environment(state or tmp_path / "modest"), timeout=30)


@pytest.mark.parametrize("words", ["serve closed/folder", "share closed/file", "share closed", "upload closed/file", "share file"])
def test_case_44_to_share_what_cannot_be_read_ends_with_its_path(tmp_path: Path, tracker: Running, words: str) -> None:
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
    said = disk_message(run([*OBEYS_MODES, *command("demo"), "--json", str(closed / "file")], clean_environment(tmp_path / "s")))
    assert str(closed / "file") in said
    assert "no permission" in said


@pytest.mark.parametrize("words", ["download x", "serve .", "share .", "share x", "upload x", "list", "status", "login a", "info x"])
def test_case_47_a_current_folder_that_was_deleted_is_no_internal_error(tmp_path: Path, tracker: Running, words: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {shlex.join(peer_words(tracker, *words.split()))}"
    done = run(["sh", "-c", line], clean_environment(tmp_path / "s"), timeout=30)
    assert "internal" not in done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert done.code in ((0,) if words in ("list", "status", "login a") else (2, 3, 7))


def test_case_47_a_download_below_a_current_folder_that_was_deleted_ends_with_the_reason(tmp_path: Path, tracker: Running) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    path = old_file(tmp_path / "a.bin", b"abc")
    with start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared")["id"]
        line = f"cd {gone} && rmdir {gone} && exec {shlex.join(peer_words(tracker, 'download', content))}"
        done = run(["sh", "-c", line], clean_environment(tmp_path / "s"), timeout=30)
        assert "the current folder does not exist any more" in disk_message(done)


# -- the state folder, the trace, and standard output ----------------------------------------------------------------------------------


def test_case_46_a_login_on_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path, tracker: Running) -> None:
    with tmpfs(tmp_path / "disk", MIB) as disk:
        state = disk / "state"
        other = fill_up(disk)
        said = disk_message(run(peer_words(tracker, "login", "alice"), clean_environment(state)))
        assert "disk full" in said
        assert str(state) in said
        assert not state.exists() or list(state.iterdir()) == []
        other.unlink()
        assert run(peer_words(tracker, "login", "alice"), clean_environment(state)).code == 0
        fill_up(disk)
        assert run(peer_words(tracker, "logout"), clean_environment(state)).code == 0


@pytest.mark.parametrize("how", ["full", "closed"])
def test_case_47_a_state_folder_that_cannot_be_written_keeps_nobody_from_sharing_and_fetching(
    tmp_path: Path, tracker: Running, how: str
) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(100_000))
    with tmpfs(tmp_path / "disk", MIB) as disk:
        state = disk / "state"
        state.mkdir()
        if how == "full":
            fill_up(disk)
        else:
            state.chmod(0o500)
        with Running([*OBEYS_MODES, *peer_words(tracker, "share", str(path))], clean_environment(state)) as peer:
            content = peer.event("shared")["id"]
            assert "it will be hashed again next time" in peer.out
            assert str(state) in peer.out
            done = modest_end(tmp_path, tracker, "download", content, "-o", str(tmp_path / "out"), state=state)
            assert done.code == 0, done.err
            said = disk_message(modest_end(tmp_path, tracker, "login", "alice", state=state))
            assert str(state) in said


def test_case_47_a_state_folder_that_cannot_be_read_is_named(tmp_path: Path, tracker: Running) -> None:
    state = tmp_path / "state"
    assert modest_end(tmp_path, tracker, "login", "alice", state=state).code == 0
    state.chmod(0)
    for words in (["status"], ["logout"], ["login", "bob"]):
        assert str(state) in disk_message(modest_end(tmp_path, tracker, *words, state=state))
    state.chmod(0o700)


@pytest.mark.parametrize("where", ["disk", "/dev/full"])
def test_case_46_a_trace_that_finds_no_room_is_told_of_and_the_download_finishes(tmp_path: Path, tracker: Running, where: str) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(2_000_000))
    with tmpfs(tmp_path / "disk", 64 * 1024) as disk, start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer:
        content = peer.event("shared")["id"]
        fill_up(disk, leave=8192)
        trace = where if where != "disk" else str(disk / "trace")
        done = run_peer(tmp_path, "download", content, "-o", str(tmp_path / "out"), "--trace", trace, tracker=tracker.address)
        assert done.code == 0, done.err
        said = done.event("warning")["message"]
        assert said.startswith("the trace is cut short: disk full: have ")
        assert said.endswith(f"; cannot write '{trace}'")
        assert "Traceback" not in done.err
        assert (tmp_path / "out" / "a.bin").read_bytes() == path.read_bytes()


def test_case_47_a_trace_that_cannot_be_begun_ends_the_command_before_it_does_anything(tmp_path: Path, tracker: Running) -> None:
    for where in (tmp_path / "none" / "trace", tmp_path):
        said = disk_message(modest_end(tmp_path, tracker, "list", "--trace", str(where)))
        assert str(where) in said


@pytest.mark.parametrize("verb", ["download", "share", "upload", "tracker"])
@pytest.mark.parametrize("target", ["> /dev/full", ">&-", "| true"])
@pytest.mark.parametrize("json_output", [True, False], ids=["json", "text"])
def test_case_46_standard_output_that_is_full_closed_or_unread_shows_no_traceback(
    tmp_path: Path, tracker: Running, verb: str, target: str, json_output: bool
) -> None:
    path = old_file(tmp_path / "a.bin", os.urandom(100_000))
    with (
        start_peer(tmp_path, "share", str(path), tracker=tracker.address) as peer,
        start_peer(tmp_path, "serve", str(tmp_path / "kept"), "--accept-uploads", "1G", tracker=tracker.address, name="keeper") as keeper,
    ):
        keeper.event("listening")
        content = peer.event("shared")["id"]
        more = old_file(tmp_path / "b.bin", b"b")
        words = {
            "download": ["download", content, "-o", str(tmp_path / "out"), "--quiet"],
            "share": ["share", str(more)],
            "upload": ["upload", str(more), "--quiet"],
        }.get(verb)
        line = peer_words(tracker, *words) if words else [*command("tracker"), "--json", "--port", "0", "--store", "memory"]
        if not json_output:
            line.remove("--json")
        if target == ">&-" and verb in ("share", "tracker"):
            pytest.skip("a service without an output runs on")
        done = run(["bash", "-c", f"set -o pipefail; {shlex.join(line)} {target}"], clean_environment(tmp_path / "s"), timeout=30)
        assert "Traceback" not in done.err
        assert "Exception" not in done.err
        told = [row for row in done.err.splitlines() if "links work on this machine only" not in row]
        if target == "> /dev/full":
            assert done.code == 7
            assert [row.partition(": error: ")[2] for row in told] == ["cannot write standard output: no space left on device"]
        else:
            assert done.code in (0, 1)
            assert told == []
