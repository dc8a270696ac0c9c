"""The lab of a benchmark: a folder, processes that end with it, and measures of time, processor and
memory."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
MIB: Final = 1024 * 1024
MEMORY: Final = "/dev/shm"
"""A folder in memory, where the system has one."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a process that has ended: wall and processor seconds, and its largest memory in MiB."""

    seconds: float
    cpu: float
    memory: float


class Lab:
    """A folder for one benchmark and its processes. `size` is the MiB to send, `runs` the number of
    rounds."""

    def __init__(self, work: Path, runs: int, size: int) -> None:
        self.work = work
        self.runs = runs
        self.size = size
        self._stack = contextlib.ExitStack()

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str | None, runs: int, size: int) -> Iterator[Lab]:
        """A lab in `folder`, or in memory where possible: a disk varies more from run to run than programs
        do."""
        place = folder or (MEMORY if os.access(MEMORY, os.W_OK) else None)
        with tempfile.TemporaryDirectory(prefix="enjambre-bench-", dir=place) as name:
            # Byte code is compiled once, as after a first run. The folder of the sources may be read-only.
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            os.environ["PYTHONPYCACHEPREFIX"] = f"{name}/compiled"
            lab = cls(Path(name), runs, size)
            with lab._stack:
                yield lab

    # -- files

    def folder(self, name: str) -> Path:
        """An empty folder of that name."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def random_file(self, path: Path, mib: int) -> Path:
        """A file of random bytes."""
        with path.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        return path

    def warm(self, mib: int) -> None:
        """Touch as much free memory as a run needs.

        A virtual machine gives free memory back to its host within seconds. The next write pays for getting
        it again, which can double the time of one run and not of the next."""
        code = f"b = bytearray({mib * MIB})\nfor at in range(0, len(b), 4096): b[at] = 1"
        subprocess.run([sys.executable, "-c", code], check=True)

    # -- processes

    def start(self, argv: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """Start a process that ends with the lab."""
        return self._stack.enter_context(running(argv, **more))

    def tracker(self, *more: str, store: str = "memory", cpu: int | None = None) -> tuple[str, int]:
        """Start our tracker. Returns its address and process id."""
        argv = [
            sys.executable,
            str(ROOT / "bin/tracker"),
            "--json",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--store",
            store,
            *self.state,
            *more,
        ]
        process = self.start(pinned(argv, cpu))
        return f"127.0.0.1:{event(process, 'listening')['port']}", process.pid

    def seed(self, tracker: str, path: Path, *more: str, python: str = sys.executable) -> tuple[str, int]:
        """Start our peer, which shares a file or folder. Returns the content id and the process id."""
        argv = [*peer("share", str(path), python=python), "--json", "--tracker", tracker, *self.state, *more]
        process = self.start(argv, stderr=subprocess.DEVNULL)
        return str(event(process, "shared")["id"]), process.pid

    def download(
        self, tracker: str, content: str, out: Path, *more: str, python: str = sys.executable
    ) -> list[str]:
        """The command that downloads a content into a folder."""
        return [
            *peer("download", content, python=python),
            "-o",
            str(out),
            "--tracker",
            tracker,
            "--quiet",
            *self.state,
            *more,
        ]

    @property
    def place(self) -> str:
        """The file system of the folder, as a sentence."""
        found = subprocess.run(
            ["df", "--output=fstype", str(self.work)], capture_output=True, text=True, check=False
        ).stdout.split()
        return f"Files are on {found[-1] if found else 'an unknown file system'}."

    @property
    def state(self) -> list[str]:
        """The option that puts our programs' state into this lab."""
        return ["--state", str(self.work / "state")]

    def wait_for_port(self, port: int) -> None:
        """Wait until a process listens there. Raises `RuntimeError` after ten seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.01)
        raise RuntimeError(f"no process listens on port {port}")


def peer(*words: str, python: str = sys.executable) -> list[str]:
    """A command of `bin/peer` on a free port of loopback."""
    return [python, str(ROOT / "bin/peer"), *words, "--host", "127.0.0.1", "--port", "0"]


def pinned(argv: Sequence[str], cpu: int | None) -> list[str]:
    """The command, bound to the processor `cpu` unless that is None (Linux)."""
    return [*argv] if cpu is None else ["taskset", "-c", str(cpu), *argv]


@contextlib.contextmanager
def running(argv: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    process: subprocess.Popen[str] = subprocess.Popen(
        argv, **{"stdout": subprocess.PIPE, "text": True, **more}
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def event(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    """The next event `name` in a command's output. Raises `RuntimeError` when it ends without one."""
    for line in process.stdout or ():
        found: dict[str, Any] = json.loads(line)
        if found["event"] == name:
            return found
    raise RuntimeError(f"no event {name!r} came")


def timed(argv: Sequence[str], within: float = 300.0) -> Usage:
    """Run a command that must succeed `within` so many seconds. Raises `RuntimeError` with its output
    else."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=output)
        watchdog = threading.Timer(within, process.kill)
        watchdog.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watchdog.cancel()
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(
                f"{argv[:3]} ended with {process.returncode}: {output.read()[-500:].decode(errors='replace')}"
            )
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def cpu_of(pid: int) -> float:
    """Processor seconds that a process and its threads have used, in steps of 0.01 (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> tuple[float, float]:
    """Memory of a process now, and its peak, in MiB (Linux)."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024, int(lines["VmHWM"].split()[0]) / 1024


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def size(text: str) -> int:
    """MiB from `512M`, `1G` or a number of MiB. Raises `argparse.ArgumentTypeError`."""
    number, factor = text.upper().removesuffix("IB"), 1
    if number[-1:] in "MG" and number:
        number, factor = number[:-1], 1024 if number[-1] == "G" else 1
    if not number.isdigit() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; say 256M or 1G")
    return int(number) * factor


def machine() -> str:
    """The machine that was measured, in a line."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        models = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores of {cpu}, {system}, Python {platform.python_version()}"
