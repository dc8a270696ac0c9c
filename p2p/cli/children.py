"""Other commands of this project as child processes: started, listened to, and always stopped, by their own
process objects only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from p2p.errors import EnjambreError
from p2p.text import printable

MAX_LINE: Final = 1 << 20
"""Longest event of a child, in bytes."""
STOP_TIME: Final = 1.2
"""Seconds that children have to stop cleanly; below what the parent itself has."""
TAIL: Final = 5
"""Lines of a child's standard error that are kept."""


class ChildFailed(EnjambreError):
    """A child ended, or was silent, where it should not; the message ends with its own error."""


def command(name: str, *, bare: bool) -> list[str]:
    """How to start `tracker` or `peer` of this very code, from a checkout or installed. `bare` leaves out
    everything installed."""
    flags = ["-I", "-S"] if bare else []
    root = Path(__file__).resolve().parent.parent.parent
    script = root / "bin" / name
    if script.is_file():
        return [sys.executable, *flags, str(script)]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from p2p.cli.entry import start; sys.exit(start({name!r}))"
    return [sys.executable, *flags, "-c", code]


class Child:
    """One running command and the events that it prints."""

    def __init__(self, name: str, process: Process, heard: Callable[[dict[str, Any]], None]) -> None:
        self.name = name
        self.process = process
        self._heard = heard
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._readers = [
            asyncio.create_task(self._read_events()),
            asyncio.create_task(self._read_complaints()),
        ]

    @classmethod
    async def start(
        cls,
        name: str,
        words: Sequence[str],
        environ: Mapping[str, str],
        heard: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Child:
        """Start `words`, which print JSON events; `heard` is told each. Variables of this project are not
        passed on."""
        clean = {key: value for key, value in environ.items() if not key.startswith("P2P_")}
        process = await asyncio.create_subprocess_exec(
            *words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, limit=MAX_LINE, env=clean
        )
        return cls(name, process, heard)

    async def next(self, kind: str, silence: float) -> dict[str, Any]:
        """Wait for the next event of a kind. Raises `ChildFailed` when the child ends first, or prints
        nothing for `silence` seconds."""
        while True:
            try:
                async with asyncio.timeout(silence):
                    event = await self._events.get()
            except TimeoutError:
                raise self.failed(f"is silent for {silence:g} s") from None
            if event is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2.5):
                        await self.ended()
                raise self.failed("prints nothing any more")
            if event.get("event") == kind:
                return event

    async def ended(self) -> NoReturn:
        """Wait until the child ends, where it should not. Raises `ChildFailed`."""
        code = await self.process.wait()
        # What it complained last may still be on its way; a process that it left behind may hold that pipe
        # open.
        await asyncio.wait([self._readers[1]], timeout=1.0)
        raise self.failed(f"ended with exit code {code}")

    def failed(self, why: str) -> ChildFailed:
        """The error for this child, with the error that it ended with, or else the last lines that it
        complained."""
        errors = [line for line in self._tail if ": error: " in line]
        said = " | ".join(errors[-1:] or self._tail)
        return ChildFailed(f"{self.name} {why}" + (f"; it said: {said}" if said else ""))

    async def close(self) -> None:
        """Stop reading; the process has ended."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read_events(self) -> None:
        out = self.process.stdout
        try:
            while out is not None and (line := await out.readline()):
                event = json.loads(line)
                self._heard(event)
                self._events.put_nowait(event)
        except (ValueError, OSError) as error:
            self._tail.append(f"(an event that cannot be read: {error})")
        finally:
            self._events.put_nowait(None)

    async def _read_complaints(self) -> None:
        err = self.process.stderr
        with contextlib.suppress(ValueError, OSError):
            while err is not None and (line := await err.readline()):
                self._tail.append(printable(line.decode(errors="replace").strip()))


async def stop_all(children: Iterable[Child]) -> None:
    """Ask all to stop, and end those that do not within `STOP_TIME`."""
    every = list(children)
    waits = [asyncio.ensure_future(child.process.wait()) for child in every]
    for child in every:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    if waits:
        await asyncio.wait(waits, timeout=STOP_TIME)
    for child in every:
        if child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
    await asyncio.gather(*waits)
    await asyncio.gather(*(child.close() for child in every))
