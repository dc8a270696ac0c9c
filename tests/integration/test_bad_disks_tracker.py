"""A tracker whose store is on a bad disk (hostile cases 46, 47, 48): it reports that, loses nothing that it
promised, and recovers by itself."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.disks import (
    OBEYS_MODES,
    bring_to_disk,
    disk_message,
    disk_of,
    ext4,
    fill_up,
    needs_disks,
    tmpfs,
)
from tests.kit.processes import Ended, Running, clean_environment, command, run
from tests.kit.waiting import HANG_S

pytestmark = needs_disks

MIB = 1 << 20


def command_for(store: Path, before: Sequence[str] = ()) -> list[str]:
    """How to start a tracker with a store there."""
    return [
        *before,
        *command("tracker"),
        "--json",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--store",
        f"sqlite:{store}",
    ]


@contextmanager
def tracker_on(store: Path, state: Path, before: Sequence[str] = ()) -> Iterator[Running]:
    """A tracker that listens."""
    with Running(command_for(store, before), clean_environment(state)) as tracker:
        tracker.port = tracker.event("listening")["port"]
        yield tracker


def start_and_fail(store: Path, state: Path, before: Sequence[str] = ()) -> Ended:
    """Start a tracker that cannot; returns how it ended."""
    return run(command_for(store, before), clean_environment(state), timeout=HANG_S)


class Client:
    """One that announces contents, and remembers which of them were acknowledged."""

    def __init__(self, tracker: Running) -> None:
        self._socket = socket.create_connection(("127.0.0.1", tracker.port), timeout=HANG_S)
        self._file = self._socket.makefile("rb")
        self.count = 0
        self.promised: set[str] = set()

    def ask(self, **message: Any) -> dict[str, Any]:
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._file.readline())
        return answer

    def announce(self, count: int = 40) -> str:
        """Announce so many new contents with long names; returns `ok` or the error."""
        contents: list[dict[str, Any]] = []
        fresh: set[str] = set()
        for _ in range(count):
            self.count += 1
            content = f"{self.count:064x}"
            contents.append({"id": content, "name": f"{self.count:06} " + "n" * 200, "size": 5, "have": 5})
            fresh.add(content)
        answer = self.ask(op="announce", peer="a" * 32, name="p", listen={"tcp": 5000}, contents=contents)
        if answer["ok"]:
            self.promised |= fresh
        return "ok" if answer["ok"] else str(answer["error"])

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def client_of(tracker: Running) -> Iterator[Client]:
    """A client that has logged in."""
    with contextlib.closing(Client(tracker)) as client:
        assert client.ask(op="login", user="u")["ok"]
        yield client


def listed(tracker: Running) -> set[str]:
    """The ids of all contents that it knows."""
    with contextlib.closing(Client(tracker)) as client:
        found: set[str] = set()
        offset: int | None = 0
        while offset is not None:
            page = client.ask(op="list", offset=offset, limit=100)
            found |= {hit["id"] for hit in page["hits"]}
            offset = page.get("next")
        return found


def announce_until(client: Client, wanted: str, most: int = 400) -> None:
    """Announce until the answer is this; every other must be `ok` or `unavailable`."""
    for _ in range(most):
        got = client.announce()
        if got == wanted:
            return
        assert got in ("ok", "unavailable"), got
    raise AssertionError(f"never {wanted}")


def check_log(tracker: Running) -> None:
    """Check what a tracker logged about its disk: few lines and no traceback."""
    assert "Traceback" not in tracker.out + tracker.err
    assert "the store cannot be written" in tracker.err
    assert len(tracker.err) < 4000


def killed_and_back(tracker: Running, store: Path, state: Path, promised: set[str]) -> None:
    """Kill it; one that starts on the same store knows all that was promised."""
    tracker.stop(signal.SIGKILL)
    with tracker_on(store, state) as again:
        assert promised <= listed(again)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_case_46_a_tracker_with_a_full_disk_refuses_and_goes_on_when_there_is_room(
    tmp_path: Path, kind: str
) -> None:
    with disk_of(kind, tmp_path, 2 * MIB) as place:
        store = place / "t.db"
        with tracker_on(store, tmp_path / "s") as tracker, client_of(tracker) as client:
            assert client.announce() == "ok"
            other = fill_up(place, leave=64 * 1024)
            announce_until(client, "unavailable")
            assert client.promised
            assert client.ask(op="ping")["ok"]
            other.unlink()
            announce_until(client, "ok")
            check_log(tracker)
            assert client.promised <= listed(tracker)
            killed_and_back(tracker, store, tmp_path / "s", client.promised)


@pytest.mark.parametrize("how", ["abort", "pull_out"])
def test_case_47_a_tracker_whose_disk_fails_promises_nothing_and_loses_nothing(
    tmp_path: Path, how: str
) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk:
        store = disk.place / "t.db"
        with tracker_on(store, tmp_path / "s") as tracker, client_of(tracker) as client:
            for _ in range(5):
                assert client.announce() == "ok"
            bring_to_disk(disk.place)
            getattr(disk, how)()
            announce_until(client, "unavailable", most=3)
            assert client.announce() == "unavailable"
            assert client.ask(op="ping")["ok"]
            assert tracker.stop()[0] == 143
            check_log(tracker)
        disk.unmount()
        disk.mount()
        with tracker_on(store, tmp_path / "s") as again:
            assert client.promised <= listed(again)


@pytest.mark.parametrize("how", ["removed", "moved", "folder"])
def test_case_47_a_tracker_whose_store_is_missing_promises_nothing(tmp_path: Path, how: str) -> None:
    """SQLite would go on writing into a file that has no name any more, and each announce would be lost with
    the process."""
    folder = tmp_path / "place"
    store = folder / "t.db"
    with tracker_on(store, tmp_path / "s") as tracker, client_of(tracker) as client:
        assert client.announce() == "ok"
        if how == "removed":
            store.unlink()
        elif how == "moved":
            store.rename(folder / "aside")
        else:
            folder.rename(tmp_path / "aside")
        promised = set(client.promised)
        assert client.announce() == "unavailable"
        assert client.announce() == "unavailable"
        check_log(tracker)
        assert str(store) in tracker.err
        if how == "removed":
            return
        if how == "moved":
            (folder / "aside").rename(store)
        else:
            (tmp_path / "aside").rename(folder)
        announce_until(client, "ok", most=2000)
        assert promised < client.promised
        killed_and_back(tracker, store, tmp_path / "s", client.promised)


# -- at the start


def refused_at_start(store: Path, state: Path, *words: str, before: Sequence[str] = ()) -> None:
    """A tracker that cannot use its store ends at once and says why."""
    message = disk_message(start_and_fail(store, state, before))
    for word in (str(store.parent), *words):
        assert word in message, message


def test_case_46_a_tracker_on_a_full_disk_ends_with_the_reason(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", MIB) as disk:
        other = fill_up(disk)
        refused_at_start(disk / "t.db", tmp_path / "s", "full")
        other.unlink()
        with tracker_on(disk / "t.db", tmp_path / "s") as tracker:
            assert listed(tracker) == set()


def test_case_46_a_tracker_on_a_disk_without_free_inodes_ends_with_the_reason(
    tmp_path: Path,
) -> None:
    for files in range(1, 5):
        with tmpfs(tmp_path / "disk", MIB, files=files) as disk:
            refused_at_start(disk / "t.db", tmp_path / "s")


def test_case_47_a_tracker_on_a_read_only_disk_ends_with_the_reason(
    tmp_path: Path,
) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image", 8 * MIB) as disk:
        store = disk.place / "t.db"
        with tracker_on(store, tmp_path / "s") as tracker, client_of(tracker) as client:
            assert client.announce() == "ok"
        disk.unmount()
        disk.mount("ro")
        refused_at_start(store, tmp_path / "s", "ead-only")
        refused_at_start(disk.place / "new.db", tmp_path / "s", "ead-only")


@pytest.mark.parametrize("closed", ["folder", "above", "file", "lock"])
def test_case_47_a_tracker_without_permission_for_its_store_ends_with_the_reason(
    tmp_path: Path, closed: str
) -> None:
    folder = tmp_path / "above" / "folder"
    store = folder / "t.db"
    with tracker_on(store, tmp_path / "s"):
        pass
    place = {"folder": folder, "above": folder.parent, "file": store, "lock": folder / "t.db.lock"}[closed]
    place.chmod(0)
    refused_at_start(store, tmp_path / "s", "ermission", before=OBEYS_MODES)
    place.chmod(0o700)


def test_case_47_a_store_that_is_a_folder_or_lies_below_a_file_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    refused_at_start(tmp_path / "folder", tmp_path / "s", "folder")
    refused_at_start(tmp_path / "file" / "t.db", tmp_path / "s", "file")


def test_case_48_with_no_umask_every_folder_and_file_of_a_store_is_private(tmp_path: Path) -> None:
    """The folder is made with those above it, and in one of those that others may write into they could put
    another in its place."""
    store = tmp_path / "one" / "two" / "t.db"
    with (
        tracker_on(store, tmp_path / "s", ("sh", "-c", 'umask 000; exec "$@"', "sh")) as tracker,
        client_of(tracker) as client,
    ):
        assert client.announce() == "ok"
        for path in (tmp_path / "one").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    shutil.rmtree(tmp_path / "one")
