"""The same file over TCP, over gRPC, and over a stream of raw grpcio with the same hash; and gRPC's two
servers.

Each time is the wall time of the whole receiving command. The raw stream is that of gRPC's own tutorial with
a blake2b hash of each chunk, written to a file or dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.lib.figures import Figure, Yardstick, alternate
from bench.lib.lab import ROOT, Lab, cpu_of, event, timed
from bench.rivals.tools import python_with

GRPC, TCP = "enjambre over gRPC", "enjambre over TCP"
KEPT, LOST = "raw grpcio, blake2b, to a file", "raw grpcio, blake2b, thrown away"
OURS = "threads, chunks packed by us"
_RAW = str(ROOT / "bench/rivals/raw_grpc.py")


def measure(lab: Lab, _say: Callable[[str], None]) -> Iterator[Figure]:
    """Wall time and memory of the four, then of the kinds of server. Raises `Missing` without the extra."""
    python = python_with("grpc_reflection")
    path = lab.random_file(lab.folder("src") / "data.bin", lab.size)
    out = lab.work / "out"
    tracker, _ = lab.tracker()
    content, _ = lab.seed(tracker, path, "--transport", "grpc", python=python)
    raw = lab.start([python, _RAW, "serve", str(path), "threads", "protobuf"])
    port = str(event(raw, "listening")["port"])
    memory: dict[str, list[float]] = {}

    def run(name: str, argv: list[str]) -> Callable[[], float]:
        def once() -> float:
            lab.folder("out")
            lab.warm(2 * lab.size)
            used = timed(argv)
            memory.setdefault(name, []).append(used.memory)
            return used.seconds

        return once

    commands = {
        GRPC: lab.download(tracker, content, out, "--transport", "grpc", python=python),
        TCP: lab.download(tracker, content, out, "--transport", "tcp", python=python),
        KEPT: [python, _RAW, "fetch", port, str(out / "data.bin")],
        LOST: [python, _RAW, "fetch", port, "-"],
    }
    seconds = alternate(lab.runs, {name: run(name, argv) for name, argv in commands.items()})
    title = f"{lab.size} MiB, one sender, one receiver, over each transport"
    yield Figure(title, "s", seconds, GRPC, (Yardstick(KEPT, most=1.15, aim=1.0),), (lab.place,))
    yield Figure(
        "Largest memory of the receiver",
        "MiB",
        {name: values[-lab.runs :] for name, values in memory.items()},
        GRPC,
    )
    yield from servers(lab, python)


def servers(lab: Lab, python: str) -> Iterator[Figure]:
    """gRPC's threads against its asyncio, chunks packed by protobuf and by us, without hashing or writing."""
    path = lab.work / "src/data.bin"
    used: dict[str, list[float]] = {}
    contenders: dict[str, Callable[[], float]] = {}
    for kind in ("threads", "asyncio"):
        for packed in ("us", "protobuf"):
            server = lab.start([python, _RAW, "serve", str(path), kind, packed])
            port = str(event(server, "listening")["port"])

            def once(
                name: str = f"{kind}, chunks packed by {packed}", pid: int = server.pid, port: str = port
            ) -> float:
                before = cpu_of(pid)
                seconds = timed([python, _RAW, "drain", port]).seconds
                used.setdefault(name, []).append(cpu_of(pid) - before)
                return seconds

            contenders[f"{kind}, chunks packed by {packed}"] = once
    seconds = alternate(lab.runs, contenders)
    yield Figure(f"{lab.size} MiB in one gRPC stream, by kind of server", "s", seconds, OURS)
    yield Figure(
        "Processor time of that server",
        "s",
        {name: values[-lab.runs :] for name, values in used.items()},
        OURS,
    )
