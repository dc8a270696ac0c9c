"""One origin and many receivers behind shaped links: how near each engine comes to size / link rate.

    sudo python3 bench/run.py swarm                    16 receivers, 64 MiB, 20 Mbit/s, all engines found
    sudo python3 bench/run.py swarm --case killed --only enjambre      4 of 16 are killed half way
    sudo python3 bench/run.py swarm --peers 8 --size 128M --rate 50

Hosts are network namespaces on a bridge (Linux, root, iproute2). `tc tbf` shapes their links both ways, and
each peer is a process. A receiver's time runs from when it begins to fetch; it stays and serves when it is
done. The completion ratio is the time of the slowest receiver over size / link rate. Origin copies are the
bytes that left the origin's host, headers included, over the size."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from bench.lib.lab import MIB, Lab, machine, size
from bench.lib.netns import Host, lab, why_not
from bench.lib.netns import Lab as Net
from bench.rivals.swarms import CONTENDERS, Contender
from bench.rivals.tools import Missing

CASES: Final = {
    "equal": "all links are equal",
    "killed": "a quarter of the receivers is killed when half of them have half of it",
    "slow": "half of the receivers have a link of a quarter of the rate",
}
GIVE_UP: Final = 6.0
"""A run is given up after so many times its ideal time, or four times that where half of the links are
slow."""


@dataclass(slots=True)
class Receiver:
    """What one receiver did. Seconds: `began` since the first was started, the others since it began to
    fetch."""

    name: str
    slow: bool = False
    began: float = 0.0
    seconds: float | None = None
    killed: bool = False
    origin: int | None = None
    steps: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the first receiver was started, and bytes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one contender. `ratio` is of the slowest that counts; `copies` of the origin are bytes on
    its link."""

    contender: str
    ratio: float
    median: float
    slow_ratio: float | None
    copies: float
    payload_copies: float | None
    busy: float
    """Share of the processors' time used. Near 1, the machine may be the limit and not the links."""
    receivers: list[Receiver]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contenders in turn. Returns 1 when that is impossible here or one of them failed."""
    args = _parser().parse_args(argv)
    reason = why_not()
    if reason:
        print(f"no lab can be made here: {reason}", file=sys.stderr)
        return 1
    outcomes: list[Outcome] = []
    missing: dict[str, str] = {}
    names = [
        name
        for name in CONTENDERS
        if not args.only or name.split(",")[0].split()[0] in args.only or name in args.only
    ]
    for number in range(args.runs):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name in missing:
                continue
            try:
                outcome = run(name, args)
            except (Missing, RuntimeError) as error:
                missing[name] = str(error)
                print(f"{name} could not be measured: {error}", file=sys.stderr, flush=True)
                continue
            outcomes.append(outcome)
            print(_line(outcome), flush=True)
    print(f"\n{args.peers} receivers, {args.size} MiB, {args.rate} Mbit/s; {CASES[args.case]}; {machine()}")
    print(table(outcomes))
    if args.out:
        measured = {
            "machine": machine(),
            "peers": args.peers,
            "size": args.size,
            "rate": args.rate,
            "case": args.case,
        }
        Path(args.out).write_text(
            json.dumps({**measured, "outcomes": [asdict(one) for one in outcomes]}) + "\n"
        )
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/run.py swarm", description="one to many behind shaped links, beside other engines"
    )
    parser.add_argument("--peers", type=int, default=16, help="receivers (default 16)")
    parser.add_argument("--size", type=size, default=64, metavar="SIZE", help="what is sent (default 64M)")
    parser.add_argument("--rate", type=int, default=20, help="Mbit/s of every link, each way (default 20)")
    parser.add_argument(
        "--case",
        choices=CASES,
        default="equal",
        help="; ".join(f"{name}: {what}" for name, what in CASES.items()),
    )
    parser.add_argument(
        "--only", nargs="*", help=f"contenders by first word or whole name: {'; '.join(CONTENDERS)}"
    )
    parser.add_argument("--runs", type=int, default=1, help="rounds; the contenders take turns (default 1)")
    parser.add_argument("--out", metavar="FILE", help="write all that was measured there, as JSON")
    return parser


def run(name: str, args: argparse.Namespace) -> Outcome:
    """One run. Raises `Missing`, and `RuntimeError` when a surviving receiver does not end in time."""
    with Lab.open(None, 1, args.size) as work, lab(args.peers + 2, rate=f"{args.rate}mbit") as net:
        path = work.random_file(work.folder("src") / "data.bin", args.size)
        tracker, origin, *hosts = net.hosts
        receivers = [
            Receiver(f"peer{number}", args.case == "slow" and number % 2 == 1) for number in range(args.peers)
        ]
        for host, receiver in zip(hosts, receivers, strict=True):
            if receiver.slow:
                net.shape(host, f"{args.rate * 1_000_000 // 4}bit")
        contender = CONTENDERS[name](work, net, path)
        contender.publish(tracker, origin)
        before, used = _sent(net, origin), _processors()
        _watch(contender, hosts, receivers, args, work)
        copies = (_sent(net, origin) - before) / contender.size
        busy, idle = (now - then for now, then in zip(_processors(), used, strict=True))
    ideal = args.size * MIB * 8 / (args.rate * 1_000_000)
    fast = [one.seconds / ideal for one in receivers if one.seconds is not None and not one.slow]
    slow = [one.seconds / ideal / 4 for one in receivers if one.seconds is not None and one.slow]
    counted = [one.origin for one in receivers if one.origin is not None]
    payload = sum(counted) / contender.size if counted else None
    return Outcome(
        name,
        max(fast),
        statistics.median(fast),
        max(slow, default=None),
        copies,
        payload,
        busy / (busy + idle),
        receivers,
    )


def _watch(
    contender: Contender,
    hosts: Sequence[Host],
    receivers: Sequence[Receiver],
    args: argparse.Namespace,
    work: Lab,
) -> None:
    """Start the receivers, follow them to their end, and do what the case says."""
    began = time.monotonic()
    processes = []
    readers = []
    for number, (host, receiver) in enumerate(zip(hosts, receivers, strict=True)):
        process = contender.receive(host, number, work.folder(receiver.name))
        started = time.monotonic() - began
        reader = threading.Thread(
            target=_read, args=(contender, process, receiver, began, started), daemon=True
        )
        reader.start()
        processes.append(process)
        readers.append(reader)
    ideal = args.size * MIB * 8 / (args.rate * 1_000_000)
    until = time.monotonic() + GIVE_UP * ideal * (4 if args.case == "slow" else 1)
    while any(one.seconds is None and not one.killed for one in receivers):
        if time.monotonic() > until:
            raise RuntimeError(f"after {time.monotonic() - began:.0f} s not all receivers are done")
        dead = [
            one.name
            for one, process in zip(receivers, processes, strict=True)
            if process.poll() is not None and not one.killed
        ]
        if dead:
            raise RuntimeError(f"{dead[0]} ended with {processes[int(dead[0][4:])].returncode}")
        if (
            args.case == "killed"
            and not any(one.killed for one in receivers)
            and _half_way(receivers, contender.size)
        ):
            for receiver, process in list(zip(receivers, processes, strict=True))[::4]:
                receiver.killed = True
                process.kill()
        time.sleep(0.02)
    for process in processes:
        process.kill()
    for reader in readers:
        reader.join(5)


def _half_way(receivers: Sequence[Receiver], whole: int) -> bool:
    """Whether half of the receivers have half of it."""
    return statistics.median(one.steps[-1][1] if one.steps else 0 for one in receivers) >= whole / 2


def _read(
    contender: Contender, process: subprocess.Popen[bytes], receiver: Receiver, began: float, started: float
) -> None:
    receiver.began = started
    for line in process.stdout or ():
        step = contender.step(line.decode(errors="replace"), contender.size)
        if step is None:
            continue
        now = time.monotonic() - began
        receiver.steps.append((round(now, 3), step.done))
        if step.ended and receiver.seconds is None:
            receiver.origin = step.origin
            receiver.began = started if step.seconds is None else now - step.seconds
            receiver.seconds = now - receiver.began


def _sent(net: Net, host: Host) -> int:
    """Bytes that have left a host by its link."""
    return int(net.run(host, ["cat", "/sys/class/net/eth0/statistics/tx_bytes"]).stdout)


def _processors() -> tuple[int, int]:
    """How long all processors together were busy and idle since the machine's start, in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, idle


def _line(outcome: Outcome) -> str:
    slow = "" if outcome.slow_ratio is None else f", slow ones {outcome.slow_ratio:.3f} of their own ideal"
    payload = (
        ""
        if outcome.payload_copies is None
        else f", {outcome.payload_copies:.3f} without headers and what was lost"
    )
    return (
        f"{outcome.contender}: slowest {outcome.ratio:.3f}, median {outcome.median:.3f}{slow}, "
        f"origin copies {outcome.copies:.3f}{payload}; processors {outcome.busy:.0%} busy"
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Medians and spreads, a row a contender."""
    rows = [
        "| | completion ratio of the slowest | of the median peer | origin copies |",
        "| --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(one.contender for one in outcomes):
        mine = [one for one in outcomes if one.contender == name]
        cells = [
            _spread([one.ratio for one in mine]),
            _spread([one.median for one in mine]),
            _spread([one.copies for one in mine]),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
