"""One file from one process to another over loopback: ours, verified, against nginx → curl, unverified, and with `b2sum` after it.

    python3 bench/one_to_one.py [--size MIB] [--runs N]

Each figure is the wall time of the whole receiving command, from its start to its end, interpreter and all. nginx, curl and b2sum are used
if they are there; what is missing is said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.pairs import alternate, table  # noqa: E402 (a script is started from anywhere)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], **more: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended with the block."""
    process: subprocess.Popen[str] = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def event(process: subprocess.Popen[str], name: str) -> dict[str, object]:
    """The next event of that name that a command prints."""
    for line in process.stdout or ():
        found: dict[str, object] = json.loads(line)
        if found["event"] == name:
            return found
    raise RuntimeError(f"no event {name!r} came")


def timed(argv: list[str]) -> float:
    """Wall seconds of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


@contextlib.contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """An nginx that serves a folder; yields its URL."""
    port = free_port()
    conf = work / "nginx.conf"
    conf.write_text(
        f"daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log; user root;\n"
        "events {}\nhttp { access_log off; sendfile on; tcp_nopush on;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    with running([shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx", "-c", str(conf), "-p", str(work)]):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def seed(path: Path, work: Path) -> Iterator[tuple[str, str]]:
    """A tracker and a peer that shares a file; yields the tracker's address and the content id."""
    state = ["--state", str(work / "state")]
    tracker = [sys.executable, str(ROOT / "bin/tracker"), "--json", "--host", "127.0.0.1", "--port", "0", "--store", "memory"]
    with running([*tracker, *state]) as one:
        address = f"127.0.0.1:{event(one, 'listening')['port']}"
        peer = [sys.executable, str(ROOT / "bin/peer"), "share", str(path), "--json", "--tracker", address, "--port", "0"]
        with running([*peer, *state]) as two:
            yield address, str(event(two, "shared")["id"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="one file, one sender, one receiver")
    parser.add_argument("--size", type=int, default=1024, help="MiB (default 1024)")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enjambre-bench-") as name, contextlib.ExitStack() as stack:
        work = Path(name)
        source = work / "www"
        source.mkdir()
        path = source / "data.bin"
        with path.open("wb") as file:
            for _ in range(args.size):
                file.write(os.urandom(1024 * 1024))
        address, content = stack.enter_context(seed(path, work))
        out = work / "out"

        def fresh() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        def ours() -> float:
            fresh()
            peer = [sys.executable, str(ROOT / "bin/peer"), "download", content, "-o", str(out), "--tracker", address, "--port", "0"]
            return timed([*peer, "--quiet", "--state", str(work / "state")])

        contenders = {"enjambre, verified": ours}
        if shutil.which("curl") and shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
            url = stack.enter_context(nginx(source, work))
            curl = ["curl", "-s", "-o", str(out / "data.bin"), f"{url}/data.bin"]
            b2sum = ["b2sum", "-l", "256", str(out / "data.bin")]

            def theirs() -> float:
                fresh()
                return timed(curl)

            def careful() -> float:
                fresh()
                return timed(curl) + timed(b2sum)

            contenders["nginx -> curl, unverified"] = theirs
            contenders["nginx -> curl, then b2sum"] = careful
        else:
            print("nginx or curl is missing: apt-get install nginx-light curl", file=sys.stderr)
        print(f"{args.size} MiB over loopback, seconds, {args.runs} alternating runs")
        print(table(alternate(args.runs, contenders), "enjambre, verified"))


if __name__ == "__main__":
    main()
