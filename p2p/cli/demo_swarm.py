"""Runs the demo's swarm: makes the file, starts the processes, follows their events, compares the copies, and
leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import filecmp
import json
import os
import random
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import transports
from p2p.cli.config import DemoConfig
from p2p.cli.demo_report import Fetched, Outcome, receiver_event
from p2p.cli.events import Event
from p2p.cli.paths import named_path
from p2p.cli.render import bar, count_text, fitting, percent, rate_text, size_text
from p2p.cli.run import Job, finished
from p2p.content.names import local_path
from p2p.errors import DiskError, EnjambreError
from p2p.model import MIB
from p2p.storage.disk import disk_error, free_space
from p2p.storage.disk_io import disk_io
from p2p.text import printable

SILENCE_S: Final = 30.0
"""A process that prints no event for so long is stuck. A working peer prints one each second."""
HASHING_SILENCE_S: Final = 600.0
"""The same for the origin while it hashes a large folder of small files."""
STOP_TIME_S: Final = 1.2
"""For a clean stop of all processes. It is less than the demo itself has."""
MAX_EVENT_BYTES: Final = 1 << 20
TAIL_LINES: Final = 5
"""Last lines of a child's standard error that may be quoted."""
ORIGIN: Final = "origin"


async def run_demo(job: Job[DemoConfig], clock: Callable[[], float]) -> Outcome:
    """Run the demo in a temporary folder, which is removed unless `--keep` says otherwise.

    `clock` gives seconds. Raises `UsageError`, `DiskError`, `ChildFailed`.
    """
    config, console, began = job.config, job.console, clock()
    transports.load(config.transport, disk_io())  # says at once what is missing, before anything is started
    source = None if job.words.file is None else named_path(job.words.file, "FILE")
    try:
        folder = Path(tempfile.mkdtemp(prefix="enjambre-demo-"))
    except OSError as error:
        raise disk_error(error, "make", error.filename or "a temporary folder") from error
    try:
        doing = "making a file" if source is None else "looking at the file"
        console.show(lambda _: doing)
        await asyncio.to_thread(_check_room, folder, source, config)
        if source is None:
            source = folder / "demo.bin"
            await asyncio.to_thread(generate, source, config.size)
        swarm = DemoSwarm(job, folder)
        try:
            return await swarm.run(source.absolute(), lambda: clock() - began)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            console.end_progress()
            await finished(stop_all(swarm.children))
    finally:
        if config.keep:
            console.note(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


class DemoSwarm:
    """A tracker, an origin and some downloads as child processes, and how far each download is."""

    def __init__(self, job: Job[DemoConfig], folder: Path, size: int = 0) -> None:
        """`folder` takes the copies and what the processes keep. `size` is known when the origin shares."""
        self.children: list[Child] = []
        self._job = job
        self._folder = folder
        self._progress: dict[str, Event] = {}
        self._done: set[str] = set()
        self._size = size

    async def run(self, source: Path, elapsed: Callable[[], float]) -> Outcome:
        """Share `source`, let all others fetch it, compare. `elapsed` gives the seconds since the demo began.

        The children that it started run on. Raises `ChildFailed`, `DiskError`, also in an `ExceptionGroup`.
        """
        config, console = self._job.config, self._job.console
        console.show(lambda _: "starting the tracker and the origin")
        tracker = await self._start("tracker", "--store", "memory", "--host", "127.0.0.1", "--port", "0")
        address = f"127.0.0.1:{(await tracker.event('listening', SILENCE_S))['port']}"
        origin = await self._start_peer(ORIGIN, address, "share", str(source))
        shared = await origin.event("shared", HASHING_SILENCE_S)
        content, name = shared["id"], shared["name"]
        self._size = shared["size"]
        console.event({"event": "shared", "peer": ORIGIN, "name": name, "id": content, "size": self._size})
        others = count_text(config.peers - 1, "other peer")
        console.text(
            f"{name}, {size_text(self._size)}, goes from one peer to {others} over {config.transport}.",
            f"tracker {address}, started with its peers in {elapsed():.1f} s",
            "",
        )
        console.show(self.live_line)
        receivers = []
        for number in range(1, config.peers):
            name = f"peer-{number}"
            words = ["download", content, "--seed", "-o", str(self._folder / name)]
            receivers.append(await self._start_peer(name, address, *words))
        async with asyncio.TaskGroup() as group:
            guards = [group.create_task(child.fail_at_end()) for child in (tracker, origin)]
            fetches = [group.create_task(self._fetched(peer, source)) for peer in receivers]
            await asyncio.wait(fetches)
            for guard in guards:
                guard.cancel()
        return Outcome(ORIGIN, self._size, tuple(task.result() for task in fetches))

    async def _start_peer(self, name: str, tracker: str, command: str, *words: str) -> Child:
        state, transport = str(self._folder / "state" / name), self._job.config.transport
        here = ["--host", "127.0.0.1", "--port", "0", "--name", name]
        settings = ["--state", state, "--tracker", tracker, "--transport", transport, *here]
        return await self._start(name, command, *settings, *words)

    async def _start(self, name: str, *words: str) -> Child:
        program = "tracker" if name == "tracker" else "peer"
        line = [*program_line(program, bare=self._job.config.transport == "tcp"), *words, "--json"]
        child = await Child.start(name, line, self._folder / f"{name}.err")
        self.children.append(child)
        self._job.console.event({"event": "started", "name": name, "pid": child.process.pid})
        return child

    async def _fetched(self, peer: Child, source: Path) -> Fetched:
        """Follow a download to its end and compare its copy."""
        while (event := await peer.next_event(SILENCE_S))["event"] != "done":
            self.on_event(peer.name, event)
        self._done.add(peer.name)
        same = await asyncio.to_thread(identical, source, Path(event["path"]), self._size)
        fetched = Fetched(peer.name, event["seconds"], event["bytes_from"], same, event["bytes_by"])
        self._job.console.event(receiver_event(fetched, self._size))
        return fetched

    def on_event(self, name: str, event: Event) -> None:
        """Show how far a download is."""
        if event["event"] == "progress" and event["phase"] in ("downloading", "finishing"):
            complete = event["phase"] == "finishing"
            self._progress[name] = {**event, "bytes": self._size, "rate": 0} if complete else event
            self._job.console.show(self.live_line)

    def live_line(self, columns: int) -> str:
        """Return the line on the terminal: how far all downloads are together."""
        receivers = self._job.config.peers - 1
        whole = self._size * receivers
        at_work = [event for name, event in self._progress.items() if name not in self._done]
        have = self._size * len(self._done) + sum(event["bytes"] for event in at_work)
        rate = rate_text(sum(event["rate"] for event in at_work))
        done, count = f"{percent(have, whole)}%", f"{len(self._done)} of {receivers} done"
        return fitting(
            columns,
            f"downloading {done:>4}  {bar(have, whole, min(max(columns - 56, 8), 24))}  {rate}  {count}",
            f"downloading {done:>4}  {rate}  {count}",
            f"downloading {done} {rate} {len(self._done)}/{receivers}",
        )


class ChildFailed(EnjambreError):
    """A child process ended, or was silent, where it should not. The message ends with its own error."""


class Child:
    """A command of this project as a child process, with the events that it prints.

    Its standard error goes to a file, so that nothing needs to read it while the process runs.
    """

    def __init__(self, name: str, process: Process, errors: Path) -> None:
        self.name = name
        self.process = process
        self._errors = errors

    @classmethod
    async def start(cls, name: str, line: Sequence[str], errors: Path) -> Child:
        """Start a command that prints JSON events. Variables of this project are not passed on.

        Raises `DiskError` when the file for its errors cannot be made.
        """
        environ = {key: value for key, value in os.environ.items() if not key.startswith("P2P_")}
        try:
            file = errors.open("wb")
        except OSError as error:
            raise disk_error(error, "write", errors) from error
        with file:
            process = await asyncio.create_subprocess_exec(
                *line, stdin=DEVNULL, stdout=PIPE, stderr=file, limit=MAX_EVENT_BYTES, env=environ
            )
        return cls(name, process, errors)

    async def next_event(self, silence_s: float) -> Event:
        """Wait for the next event. Raises `ChildFailed` when the child ends, or is silent for too long."""
        try:
            async with asyncio.timeout(silence_s):
                line = await self._read_line()
        except TimeoutError:
            raise self._failed(f"is silent for {silence_s:g} s") from None
        if not line:
            await self.fail_at_end()
        try:
            event: Any = json.loads(line)
        except ValueError as error:
            raise self._failed(f"printed what is no event: {error}") from error
        return dict(event)

    async def event(self, kind: str, silence_s: float) -> Event:
        """Wait for the next event of a kind. Raises as `next_event`."""
        while (event := await self.next_event(silence_s))["event"] != kind:
            pass
        return event

    async def fail_at_end(self) -> NoReturn:
        """Read until the child ends, where it should not. Raises `ChildFailed`."""
        while await self._read_line():
            pass
        code = await self.process.wait()
        raise self._failed(f"ended with exit code {code}")

    async def _read_line(self) -> bytes:
        if self.process.stdout is None:
            return b""
        try:
            return await self.process.stdout.readline()
        except ValueError as error:
            raise self._failed(f"printed a line that is too long: {error}") from error

    def _failed(self, why: str) -> ChildFailed:
        """Return the error for this child. It quotes the error that the child ended with, or else its last
        lines."""
        lines: list[str] = []
        with contextlib.suppress(OSError):
            text = self._errors.read_bytes()[-MAX_EVENT_BYTES:].decode(errors="replace")
            lines = [printable(line.strip()) for line in text.splitlines()][-TAIL_LINES:]
        said = " | ".join([line for line in lines if ": error: " in line][-1:] or lines)
        return ChildFailed(f"{self.name} {why}" + (f"; it said: {said}" if said else ""))

    async def stop(self) -> None:
        """Ask the process to stop; kill it when it has not within `STOP_TIME_S`."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(STOP_TIME_S):
                await self.process.communicate()  # reads to the end, else the pipe would not be closed
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()


async def stop_all(children: Iterable[Child]) -> None:
    """Stop all of them at once."""
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.stop())


def program_line(name: str, *, bare: bool) -> list[str]:
    """Return how to start `tracker` or `peer` of this very code, from a checkout or installed.

    `bare` leaves out everything that is installed.
    """
    flags = ["-I", "-S"] if bare else []
    root = Path(__file__).resolve().parent.parent.parent
    script = root / "bin" / name
    if script.is_file():
        return [sys.executable, *flags, str(script)]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); "
        f"from p2p.cli.entry import start; sys.exit(start({name!r}))"
    )
    return [sys.executable, *flags, "-c", code]


def generate(path: Path, size: int, rng_seed: int = 1) -> None:
    """Write `size` random bytes, the same for the same number. Raises `DiskError`."""
    rng = random.Random(rng_seed)
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
    """Return whether `copy` has `size` bytes in all, and each of its files has the bytes of the original's.

    Blocks.
    """
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
    """Raise `DiskError` when the copies will not fit."""
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
