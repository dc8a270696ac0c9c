"""One file from one process to another over loopback: over TCP, over gRPC, and by raw grpcio streaming with the same hash.

    pip install '.[grpc]'
    python3 bench/transports.py [--size MIB] [--runs N] [--folder DIR] [--svg FILE] [--models]

Each figure is the wall time of the whole receiving command, from its start to its end, interpreter and all. Ours writes a file. The raw
ones are what gRPC's own tutorial would do, one call in one stream of 1 MiB chunks, each chunk hashed with blake2b; one throws the
bytes away, the other writes them to a file. The files are in memory where the system has a folder for that, because a disk, which has
nothing to do with transports, takes more time than they differ by; `--folder` names another place, where both wait until the bytes are on
disk (fsync). `--models` instead compares gRPC's two ways to run a server, threads and asyncio, with chunks packed by protobuf and by us.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.one_to_one import event, running  # noqa: E402 (a script is started from anywhere)
from bench.pairs import alternate, table  # noqa: E402

MIB = 1024 * 1024
MEMORY = "/dev/shm"
"""A folder in memory, where the system has one."""
PREFACE = f"""
import hashlib, os, sys
sys.path.insert(0, {str(ROOT)!r})
import grpc
from protos import transfer_pb2 as pb, transfer_pb2_grpc as rpc
"""

RAW_SERVER = (
    PREFACE
    + """
from concurrent.futures import ThreadPoolExecutor
class Server(rpc.TransferServicer):
    def Read(self, request, context):
        with open(sys.argv[1], "rb") as file:
            while data := file.read(1 << 20):
                yield pb.Chunk(data=data)
server = grpc.server(ThreadPoolExecutor(4))
rpc.add_TransferServicer_to_server(Server(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print('{"event":"listening","port":%d}' % port, flush=True)
server.wait_for_termination()
"""
)

RAW_CLIENT = (
    PREFACE
    + """
out = open(sys.argv[2], "wb") if len(sys.argv) > 2 else None
for chunk in rpc.TransferStub(grpc.insecure_channel("127.0.0.1:" + sys.argv[1])).Read(pb.ReadRequest()):
    hashlib.blake2b(chunk.data, digest_size=32).digest()
    if out:
        out.write(chunk.data)
if out:
    out.flush()
    os.fsync(out.fileno())
"""
)

MODEL_SERVER = (
    PREFACE
    + """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from transports.grpc.words import READ, SERVICE, chunk
kind, packed = sys.argv[2], sys.argv[3]
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
def message(data):
    return pb.Chunk(data=data).SerializeToString() if packed == "protobuf" else chunk((memoryview(data),), len(data))
def read(request, context):
    for at in range(0, size, 1 << 20):
        yield message(os.pread(fd, 1 << 20, at))
async def read_async(request, context):
    loop = asyncio.get_running_loop()
    for at in range(0, size, 1 << 20):
        await context.write(message(await loop.run_in_executor(None, os.pread, fd, 1 << 20, at)))
def handlers(read):
    method = grpc.unary_stream_rpc_method_handler(read, request_deserializer=pb.ReadRequest.FromString)
    return (grpc.method_handlers_generic_handler(SERVICE, {"Read": method}),)
def say(server):
    print('{"event":"listening","port":%d}' % server.add_insecure_port("127.0.0.1:0"), flush=True)
async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(read_async))
    say(server)
    await server.start()
    await server.wait_for_termination()
if kind == "asyncio":
    asyncio.run(main())
else:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(handlers(read))
    say(server)
    server.start()
    server.wait_for_termination()
"""
)

MODEL_CLIENT = (
    PREFACE
    + """
from transports.grpc.words import READ
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=[("grpc.max_receive_message_length", (1 << 20) + 64)])
for message in channel.unary_stream(READ, request_serializer=pb.ReadRequest.SerializeToString)(pb.ReadRequest()):
    pass
"""
)


def warm(size: int) -> None:
    """Touch as much free memory as a run will need.

    A virtual machine may give free memory back to its host within seconds; whoever writes to it next pays for getting it again, which can
    double the time of one run and not of the next.
    """
    code = f"b = bytearray({2 * size * MIB})\nfor at in range(0, len(b), 4096): b[at] = 1"
    subprocess.run([sys.executable, "-c", code], check=True)


class Meter:
    """Runs commands, and keeps the largest memory of each and the processor time of a server beside it."""

    def __init__(self) -> None:
        self.memory: dict[str, int] = {}

    def timed(self, name: str, argv: list[str]) -> float:
        """Wall seconds of a command that must succeed."""
        began = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{name} ended with {process.returncode}")
        self.memory[name] = max(self.memory.get(name, 0), usage.ru_maxrss)
        return seconds


def cpu(pid: int) -> float:
    """Processor seconds that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def seed(path: Path, work: Path) -> Iterator[tuple[str, str]]:
    """A tracker and a peer that shares a file over both transports; yields the tracker's address and the content id."""
    state = ["--state", str(work / "state")]
    tracker = [sys.executable, str(ROOT / "bin/tracker"), "--json", "--host", "127.0.0.1", "--port", "0", "--store", "memory", *state]
    with running(tracker) as one:
        address = f"127.0.0.1:{event(one, 'listening')['port']}"
        peer = [sys.executable, str(ROOT / "bin/peer"), "share", str(path), "--json", "--tracker", address, "--port", "0", *state]
        with running([*peer, "--transport", "grpc"], stderr=subprocess.DEVNULL) as two:
            yield address, str(event(two, "shared")["id"])


def plot(seconds: Mapping[str, list[float]], title: str) -> str:
    """The times as an SVG: a bar to the median, and a line from the fastest to the slowest."""
    most = max(max(times) for times in seconds.values())
    left, wide, high = 320, 420, 34
    rows = []
    for number, (name, times) in enumerate(seconds.items()):
        y = 56 + number * high
        median, low, top = (left + wide * value / most for value in (statistics.median(times), min(times), max(times)))
        color = "#2b6cb0" if name.startswith("enjambre") else "#a0aec0"
        rows.append(
            f'<text x="{left - 12}" y="{y + 15}" text-anchor="end">{name}</text>'
            f'<rect x="{left}" y="{y}" width="{median - left:.1f}" height="20" fill="{color}"/>'
            f'<path d="M{low:.1f} {y + 10}H{top:.1f}M{low:.1f} {y + 5}v10M{top:.1f} {y + 5}v10" stroke="#1a202c" fill="none"/>'
            f'<text x="{top + 8:.1f}" y="{y + 15}">{statistics.median(times):.2f} s</text>'
        )
    height = 66 + len(seconds) * high
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 80}" height="{height}" font-family="sans-serif" font-size="14">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="12" y="28" font-weight="bold">{title}</text>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def transfers(args: argparse.Namespace, path: Path, work: Path, stack: contextlib.ExitStack) -> None:
    """Ours over both transports against raw streaming."""
    meter, out = Meter(), work / "out"
    address, content = stack.enter_context(seed(path, work))
    raw = stack.enter_context(running([sys.executable, "-c", RAW_SERVER, str(path)]))
    port = str(event(raw, "listening")["port"])

    def run(name: str, argv: list[str]) -> Callable[[], float]:
        def once() -> float:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            warm(args.size)
            return meter.timed(name, argv)

        return once

    peer = [sys.executable, str(ROOT / "bin/peer"), "download", content, "-o", str(out), "--tracker", address, "--port", "0", "--quiet"]
    peer += ["--state", str(work / "state"), "--transport"]
    client = [sys.executable, "-c", RAW_CLIENT, port]
    commands = {
        "enjambre over gRPC": [*peer, "grpc"],
        "enjambre over TCP": [*peer, "tcp"],
        "raw grpcio, blake2b, to a file": [*client, str(out / "data.bin")],
        "raw grpcio, blake2b, thrown away": client,
    }
    seconds = alternate(args.runs, {name: run(name, argv) for name, argv in commands.items()})
    print(f"{args.size} MiB over loopback to files in {work.parent}, seconds, {args.runs} alternating runs after one that does not count")
    print(table(seconds, "enjambre over gRPC"))
    print("\nlargest memory, MiB: " + ", ".join(f"{name} {kib >> 10}" for name, kib in meter.memory.items()))
    if args.svg:
        Path(args.svg).write_text(plot(seconds, f"{args.size} MiB from one process to another, seconds (less is better)"))


def models(args: argparse.Namespace, path: Path, stack: contextlib.ExitStack) -> None:
    """Threads against asyncio for the server of a stream, with chunks packed by protobuf and by us; nothing is hashed."""
    meter = Meter()
    contenders: dict[str, Callable[[], float]] = {}
    used: dict[str, list[float]] = {}
    for kind in ("threads", "asyncio"):
        for packed in ("by us", "protobuf"):
            name = f"{kind}, chunks packed {packed}"
            server = stack.enter_context(running([sys.executable, "-c", MODEL_SERVER, str(path), kind, packed]))
            port = str(event(server, "listening")["port"])

            def once(name: str = name, pid: int = server.pid, port: str = port) -> float:
                warm(args.size)
                before = cpu(pid)
                seconds = meter.timed(name, [sys.executable, "-c", MODEL_CLIENT, port])
                used.setdefault(name, []).append(cpu(pid) - before)
                return seconds

            contenders[name] = once
    seconds = alternate(args.runs, contenders)
    print(f"{args.size} MiB in one stream, seconds, {args.runs} alternating runs after one that does not count")
    print(table(seconds, "threads, chunks packed by us"))
    print(
        "\nprocessor seconds of the server, median: "
        + ", ".join(f"{name} {statistics.median(all_[1:]):.2f}" for name, all_ in used.items())
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="TCP against gRPC against raw grpcio streaming")
    parser.add_argument("--size", type=int, default=1024, help="MiB (default 1024)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", metavar="DIR", default=MEMORY if os.path.isdir(MEMORY) else None, help="where the files are")
    parser.add_argument("--svg", metavar="FILE", help="write the plot there")
    parser.add_argument("--models", action="store_true", help="compare gRPC's ways to run a server instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enjambre-bench-", dir=args.folder) as name, contextlib.ExitStack() as stack:
        work = Path(name)
        path = work / "data.bin"
        with path.open("wb") as file:
            for _ in range(args.size):
                file.write(os.urandom(MIB))
        if args.models:
            models(args, path, stack)
        else:
            transfers(args, path, work, stack)


if __name__ == "__main__":
    main()
