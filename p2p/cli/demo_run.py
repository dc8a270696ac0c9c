"""The run of the demo: files, processes, the live line, the comparison, and an end that leaves nothing
behind."""

from __future__ import annotations

import asyncio
import filecmp
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import transports
from p2p.cli.children import Child, command, stop_all
from p2p.cli.common import Job, finished, named_path
from p2p.cli.config import DemoConfig
from p2p.cli.demo_report import Fetched, Outcome, receiver_event, report, result_event
from p2p.cli.render import bar, count_text, fitting, percent, rate_text, size_text
from p2p.content.names import local_path
from p2p.errors import DiskError, IntegrityError
from p2p.model import MIB
from p2p.storage.disk import disk_error, free_space
from p2p.storage.disk_io import disk_io

SILENCE: Final = 30.0
"""Seconds without any event after which a process is held to be stuck; a working peer prints one each
second."""
SHARE_SILENCE: Final = 600.0
"""The same for the origin while it hashes a large folder of small files."""
ORIGIN: Final = "origin"


class Demo:
    """One run: what it started, and how far it is."""

    def __init__(self, job: Job[DemoConfig], folder: Path) -> None:
        self._job = job
        self._folder = folder
        self._children: list[Child] = []
        self._progress: dict[str, dict[str, Any]] = {}
        self._done: set[str] = set()
        self._size = 0

    async def run(self, source: Path, began: float) -> Outcome:
        """Share `source`, let all fetch it, compare. Raises `ChildFailed`, `DiskError`."""
        config, console = self._job.config, self._job.console
        console.show(lambda _: "starting the tracker and the origin")
        directory = await self._start("tracker", "--store", "memory", "--host", "127.0.0.1", "--port", "0")
        tracker = f"127.0.0.1:{(await directory.next('listening', SILENCE))['port']}"
        origin = await self._start(ORIGIN, "share", str(source), tracker=tracker)
        shared = await origin.next("shared", SHARE_SILENCE)
        self._size = shared["size"]
        console.event(
            {
                "event": "shared",
                "peer": ORIGIN,
                "name": shared["name"],
                "id": shared["id"],
                "size": self._size,
            }
        )
        others = count_text(config.peers - 1, "other peer")
        console.text(
            f"{shared['name']}, {size_text(self._size)}, goes from one peer to {others} over {config.transport}.",
            f"tracker {tracker}, started with its peers in {time.monotonic() - began:.1f} s",
            "",
        )
        console.show(self._live_line)
        names = [f"peer-{number}" for number in range(1, config.peers)]
        peers = [
            await self._start(
                name, "download", shared["id"], "--seed", "-o", str(self._folder / name), tracker=tracker
            )
            for name in names
        ]
        async with asyncio.TaskGroup() as group:
            guards = [group.create_task(child.ended()) for child in (directory, origin)]
            tasks = [group.create_task(self._fetched(peer, source)) for peer in peers]
            await asyncio.wait(tasks)
            for guard in guards:
                guard.cancel()
        console.end_progress()
        return Outcome(ORIGIN, self._size, tuple(task.result() for task in tasks))

    async def stop(self) -> None:
        """End all processes that were started."""
        await stop_all(self._children)

    async def _start(self, name: str, *words: str, tracker: str = "") -> Child:
        config, console = self._job.config, self._job.console
        line = command("peer" if tracker else "tracker", bare=config.transport == "tcp")
        line += [words[0], "--json", "--state", str(self._folder / "state" / name)] if tracker else ["--json"]
        if tracker:
            line += [
                "--tracker",
                tracker,
                "--transport",
                config.transport,
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--name",
                name,
            ]
            words = words[1:]
        child = await Child.start(name, [*line, *words], os.environ, lambda event: self._heard(name, event))
        self._children.append(child)
        console.event({"event": "started", "name": name, "pid": child.process.pid})
        return child

    async def _fetched(self, peer: Child, source: Path) -> Fetched:
        done = await peer.next("done", SILENCE)
        self._done.add(peer.name)
        same = await asyncio.to_thread(identical, source, Path(done["path"]), self._size)
        fetched = Fetched(peer.name, done["seconds"], done["bytes_from"], same, done["bytes_by"])
        self._job.console.event(receiver_event(fetched, self._size))
        return fetched

    def _heard(self, name: str, event: dict[str, Any]) -> None:
        if event.get("event") == "progress" and event.get("phase") in ("downloading", "finishing"):
            there = event["phase"] == "finishing"
            self._progress[name] = {**event, "bytes": self._size, "rate": 0} if there else event
            self._job.console.show(self._live_line)

    def _live_line(self, columns: int) -> str:
        receivers = self._job.config.peers - 1
        whole = self._size * receivers
        at_work = {name: event for name, event in self._progress.items() if name not in self._done}
        have = self._size * len(self._done) + sum(event["bytes"] for event in at_work.values())
        rate = sum(event["rate"] for event in at_work.values())
        done, pace, count = (
            f"{percent(have, whole)}%",
            rate_text(rate),
            f"{len(self._done)} of {receivers} done",
        )
        return fitting(
            columns,
            f"downloading {done:>4}  {bar(have, whole, min(max(columns - 56, 8), 24))}  {pace}  {count}",
            f"downloading {done:>4}  {pace}  {count}",
            f"downloading {done} {pace} {len(self._done)}/{receivers}",
        )


async def demo(job: Job[DemoConfig]) -> int:
    """Run the demo. Raises `UsageError`, `DiskError`, `ChildFailed`, and `IntegrityError` when a copy
    differs."""
    config, console = job.config, job.console
    began = time.monotonic()
    transports.load(config.transport, disk_io())  # says at once what is missing, before anything is started
    source = named_path(job.words.file, "FILE") if job.words.file is not None else None
    try:
        folder = Path(tempfile.mkdtemp(prefix="enjambre-demo-"))
    except OSError as error:
        raise disk_error(error, "make", error.filename or "a temporary folder") from error
    swarm = Demo(job, folder)
    try:
        doing = "making a file" if source is None else "looking at the file"
        console.show(lambda _: doing)
        await asyncio.to_thread(_check_room, folder, source, config)
        if source is None:
            source = folder / "demo.bin"
            await asyncio.to_thread(generate, source, config.size)
        try:
            outcome = await swarm.run(source.absolute(), began)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            console.end_progress()
            await finished(swarm.stop())
    finally:
        if config.keep:
            console.note(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    console.event(result_event(outcome, seconds))
    console.text(*report(outcome, seconds))
    if not outcome.identical:
        raise IntegrityError(
            f"{', '.join(one.peer for one in outcome.receivers if not one.identical)}: the copy differs from the original"
        )
    console.text("", "Every copy is identical to the original, byte by byte.")
    return 0


def generate(path: Path, size: int, seed: int = 1) -> None:
    """Write `size` random bytes, the same for the same seed. Raises `DiskError`."""
    rng = random.Random(seed)
    try:
        with path.open("wb") as file:
            for start in range(0, size, MIB):
                file.write(rng.randbytes(min(MIB, size - start)))
        # A file changed just now is taken for one that is still being written, and is shared a moment later.
        before = time.time() - 60
        os.utime(path, (before, before))
    except OSError as error:
        raise disk_error(error, "write", path, need=size) from error


def identical(original: Path, copy: Path, size: int) -> bool:
    """Whether `copy` has `size` bytes in all, and each of its files has the bytes of the original's.
    Blocks."""
    if not original.is_dir():
        return copy.is_file() and copy.stat().st_size == size and filecmp.cmp(original, copy, shallow=False)
    sources = {
        local_path(path.relative_to(original).as_posix()): path
        for path in original.rglob("*")
        if path.is_file()
    }
    total = 0
    for path in copy.rglob("*"):
        if path.is_dir():
            continue
        source = sources.get(path.relative_to(copy).as_posix())
        if source is None or not filecmp.cmp(source, path, shallow=False):
            return False
        total += path.stat().st_size
    return total == size


def _check_room(folder: Path, source: Path | None, config: DemoConfig) -> None:
    if source is None:
        need = config.size * config.peers
    else:
        files = [source] if source.is_file() else source.rglob("*")
        need = sum(path.lstat().st_size for path in files if path.is_file()) * (config.peers - 1)
    have = free_space(folder)
    if have < need:
        raise DiskError(
            f"disk full: the demo needs {size_text(need)} in {folder.parent}, which has {size_text(have)}"
        )
