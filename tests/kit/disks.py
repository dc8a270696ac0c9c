"""Real disks for tests, which are small, full, read-only or fail, and downloads whose sender waits at a
block.

A `tmpfs` has a fixed size and number of files. An `Ext4` lies in an image behind a loop device, and can be
made to fail as a real disk does. All need root, and are unmounted in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from p2p.model import Address
from tests.kit.bad_peers import PlainPeer, Sample, Talk
from tests.kit.processes import Ended, Running, clean_environment, command, run
from tests.kit.waiting import HANG_S, hang_guard

IS_ROOT = sys.platform == "linux" and os.geteuid() == 0
NEEDED = ("mount", "umount", "losetup", "mkfs.ext4", "setpriv", "prlimit")


def _why_not() -> str:
    """Why no disks can be made here; empty when they can."""
    if not IS_ROOT:
        return "only root can mount disks"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


needs_disks = [pytest.mark.needs_root, pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "never")]
"""Marks of a test that mounts."""

OBEYS_MODES = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Put before a command: it runs as root, but file modes apply to it."""

_SHUT_DOWN = 0x8004587D
"""The number of `EXT4_IOC_SHUTDOWN`."""


def _run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


def _mount(place: Path, *words: str | Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    _run("mount", *words, place)


def _mount_or_skip(place: Path, *words: str | Path) -> None:
    """Mount a new disk. Where that cannot be done, as in most containers, the test cannot be run."""
    try:
        _mount(place, *words)
    except OSError as error:
        pytest.skip(f"cannot mount here: {error}")


def _unmount(place: Path) -> None:
    """Unmount a disk. A loop device releases the disk of its image a moment after it is unmounted itself."""
    end = time.monotonic() + 5
    while os.path.ismount(place):
        try:
            _run("umount", place)
        except OSError:
            if time.monotonic() > end:
                _run("umount", "-l", place)  # nothing may be left behind, also when a test has failed
                raise
            time.sleep(0.02)


@contextmanager
def _told_elsewhere(place: Path) -> Iterator[None]:
    """An unmount in the folder `place` reaches every mount namespace.

    `ip netns exec` and containers copy all mounts for as long as they run. Such a copy would keep a disk
    alive that is unmounted here, and its device busy. With a shared mount above it an unmount is passed on to
    the copies (mount_namespaces(7)).
    """
    _mount_or_skip(place, "-t", "tmpfs", "-o", "size=64K", "tmpfs")
    try:
        _run("mount", "--make-shared", place)
        yield
    finally:
        _unmount(place)


def _let_go(image: Path) -> None:
    """Wait until no loop device has the image. Before that a mount would not read the disk anew.

    Raises `TimeoutError` if something keeps it.
    """
    end = time.monotonic() + 60
    while devices := subprocess.run(
        ["losetup", "-j", str(image)], capture_output=True, text=True, check=True
    ).stdout:
        if time.monotonic() > end:
            raise TimeoutError(f"something keeps a disk that was unmounted: {devices.strip()}")
        time.sleep(0.02)


def bring_to_disk(place: Path) -> None:
    """Wait until the kernel has written what it holds of the disk at `place`, and of no other disk."""
    _run("sync", "-f", place)


def more_files(place: Path, files: int) -> None:
    """Give a disk in memory room for so many files."""
    _run("mount", "-o", f"remount,nr_inodes={files}", place)


@contextmanager
def tmpfs(place: Path, size: int, *, files: int = 0) -> Iterator[Path]:
    """A disk in memory of `size` bytes, with room for so many `files` and folders (0: no limit)."""
    _mount_or_skip(
        place, "-t", "tmpfs", "-o", f"size={size}" + (f",nr_inodes={files}" if files else ""), "tmpfs"
    )
    try:
        yield place
    finally:
        _unmount(place)


@dataclass
class Ext4:
    """An ext4 disk that is mounted at `place`."""

    place: Path
    image: Path

    def mount(self, *options: str) -> None:
        """Mount it again, as after a reboot. Raises `OSError` where that fails, as for a damaged disk."""
        _mount(self.place, *self.words(*options))

    def words(self, *options: str) -> list[str | Path]:
        """The arguments of `mount`, without the place."""
        return ["-o", ",".join(["loop", *options]), self.image]

    def unmount(self) -> None:
        """Unmount it; it must not be in use."""
        _unmount(self.place)
        _let_go(self.image)

    def abort(self) -> None:
        """Mark it as damaged: it is read-only from now on, also for open files."""
        _run("mount", "-o", "remount,abort", self.place)

    def pull_out(self) -> None:
        """Remove the device: everything is an I/O error from now on."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUT_DOWN, struct.pack("I", 2))
        finally:
            os.close(fd)


@contextmanager
def ext4(place: Path, image: Path, size: int, *, thin: bool = False) -> Iterator[Ext4]:
    """A new ext4 disk of `size` bytes in the file `image`; `thin` if the image's own disk has less room.

    The blocks of a thin one are as large as pages, so that a write never lies half in a page that the image
    has: a loop device reports such a half write as a success (seen with Linux 6.18).
    """
    with image.open("wb") as file:
        file.truncate(size)
    _run(
        "mkfs.ext4",
        "-q",
        "-F",
        "-m",
        "0",
        *(["-O", "^has_journal", "-b", "4096"] if thin else ["-O", "has_journal"]),
        image,
    )
    with _told_elsewhere(place):
        disk = Ext4(place / "disk", image)
        _mount_or_skip(disk.place, *disk.words())
        try:
            yield disk
        finally:
            disk.unmount()


@contextmanager
def overlay(place: Path, upper: Path) -> Iterator[Path]:
    """A disk as in a container: an empty lower folder, and writes go to the folder `upper`."""
    below, work = place.with_name(f"{place.name}-below"), upper.with_name(f"{upper.name}-work")
    for folder in (below, upper, work):
        folder.mkdir()
    _mount_or_skip(
        place, "-t", "overlay", "-o", f"lowerdir={below},upperdir={upper},workdir={work}", "overlay"
    )
    try:
        yield place
    finally:
        _unmount(place)


@contextmanager
def disk_of(kind: str, tmp_path: Path, size: int) -> Iterator[Path]:
    """A disk with a little more than `size` bytes of room."""
    if kind == "tmpfs":
        with tmpfs(tmp_path / "disk", size) as place:
            yield place
    else:
        with ext4(tmp_path / "disk", tmp_path / "image", size + (3 << 20)) as disk:
            yield disk.place


def fill_up(disk: Path, leave: int = 0) -> Path:
    """Write a file that takes all the room of a small disk but `leave` bytes; returns it."""
    assert shutil.disk_usage(disk).total <= 1 << 30, f"{disk} is not a disk of a test"
    path = disk / "other"
    with path.open("ab", buffering=0) as file:
        while (room := shutil.disk_usage(disk).free - leave) > 0:
            try:
                file.write(bytes(min(room, 1 << 20)))
            except OSError:  # full, or nearly
                break
    return path


# -- contents and their senders


@dataclass(frozen=True)
class Tree(Sample):
    """A content of several files, with a manifest of any names."""

    files: Sequence[tuple[str, int]] = field(default_factory=tuple)
    folders: Sequence[str] = ()

    @property
    def manifest(self) -> bytes:
        """The canonical form, of whatever names."""
        plain = {
            **json.loads(super().manifest),
            "files": [{"path": path, "size": size} for path, size in self.files],
            "folders": list(self.folders),
            "kind": "folder",
        }
        return json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )

    @classmethod
    def many(cls, name: str, count: int, size: int) -> Tree:
        """So many files of one size."""
        data = Sample.random(name, count * size).data
        return cls(
            name,
            data,
            files=[
                (f"d{index % 7}/f{index:04}", size)
                for index in sorted(range(count), key=lambda n: (n % 7, n))
            ],
        )


class Gate(PlainPeer):
    """An honest peer that sends only `open_for` blocks until it is opened."""

    vice = "gate"

    def __init__(self, sample: Sample, open_for: int, name: str | None = None) -> None:
        super().__init__(sample, name)
        self.open_for = open_for
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        self.given = 0

    def let_through(self, count: int) -> None:
        """Send up to so many blocks in all, and then wait again."""
        self.open_for = count
        self.reached.clear()
        self.opened.set()
        self.opened.clear()

    async def answer_read(self, talk: Talk, message: dict[str, Any], block: bytes) -> None:
        """Send the block, or wait."""
        if self.given >= self.open_for:
            self.reached.set()
            await self.opened.wait()
        self.given += 1
        await super().answer_read(talk, message, block)


# -- downloads as processes


async def download(
    tracker: Address, content: str, out: Path, state: Path, *words: str, before: Sequence[str] = ()
) -> Ended:
    """Run `peer download` to its end, behind the words of `before`, while this loop goes on."""
    return await peer(tracker, state, "download", content, "-o", str(out), *words, before=before)


async def peer(
    tracker: Address, state: Path, *words: str, before: Sequence[str] = (), cwd: Path | None = None
) -> Ended:
    """Run a peer command to its end while this loop goes on."""
    line = [
        *before,
        *command("peer"),
        words[0],
        "--json",
        "--tracker",
        str(tracker),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        *words[1:],
    ]
    process = await asyncio.create_subprocess_exec(
        *line,
        env=clean_environment(state),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with hang_guard():
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode(errors="replace"))


def peer_words(tracker: Running, *words: str) -> list[str]:
    """The arguments of a peer on loopback at a free port."""
    place = (
        ["--host", "127.0.0.1", "--port", "0"]
        if words[0] in ("serve", "share", "download", "upload", "info")
        else []
    )
    return [*command("peer"), words[0], "--json", "--tracker", tracker.address, *place, *words[1:]]


def modest_end(tmp_path: Path, tracker: Running, *words: str, state: Path | None = None) -> Ended:
    """Run a command to which file modes apply, to its end."""
    return run(
        [*OBEYS_MODES, *peer_words(tracker, *words)],
        clean_environment(state or tmp_path / "modest"),
        timeout=HANG_S,
    )


def disk_message(done: Ended) -> str:
    """The message of a command that failed for its disk: code 7, one line, one event, no traceback."""
    assert done.code == 7, f"{done.code}: {done.out}{done.err}"
    told = [line for line in done.err.splitlines() if ": warning: " not in line]
    assert len(told) == 1, done.err
    assert ": error: " in told[0]
    assert "Traceback" not in done.out + done.err
    event = done.event("error")
    assert event["code"] == "disk"
    assert event["message"] in told[0]
    return str(event["message"])


def fetched(done: Ended) -> int:
    """The bytes that a successful download had from other peers."""
    assert done.code == 0, f"{done.code}: {done.out}{done.err}"
    return sum(done.event("done")["bytes_from"].values())


def digest(path: Path) -> str:
    """A short name of a file's content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
