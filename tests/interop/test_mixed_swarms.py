"""Swarms in which some peers speak only TCP and some prefer gRPC: all get the right bytes, and the account
says by which way."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2p.model import MIB
from p2p.net.limits import Timeouts
from p2p.peer.node import Node
from p2p.peer.reports import Downloaded
from tests.kit.leaks import KEPT_BY_GRPC, contained
from tests.kit.processes import ROOT, Running, clean_environment, start_tracker
from tests.kit.swarm_kit import Swarm, old_file
from tests.kit.waiting import until

KEPT = KEPT_BY_GRPC
"""What gRPC's core keeps for later."""
SIZE = 6 * MIB + 12_345


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, bytes]:
    """A file to share, and its bytes."""
    seed = random.randrange(2**32)
    print(f"chance seed {seed}")
    data = random.Random(seed).randbytes(SIZE)
    return old_file(tmp_path / "shared" / "image.bin", data), data


def swarm(tmp_path: Path, play: Callable[[Swarm], Awaitable[None]]) -> None:
    """Let a play run on a swarm, and see that it leaves nothing."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            await play(swarm)

    contained(work, kept=KEPT)


async def fetched(leech: Node, content: Any, folder: Path, data: bytes) -> Downloaded:
    """Download, and check the bytes and the account."""
    done = await leech.download(content, folder)
    assert done.path.read_bytes() == data
    assert sum(done.bytes_by.values()) == sum(done.bytes_from.values()) >= done.size
    return done


@pytest.mark.parametrize(
    ("seeds", "leech", "ways"),
    [
        (["grpc"], "grpc", {"grpc"}),
        (["tcp"], "grpc", {"tcp"}),
        (["grpc"], "tcp", {"tcp"}),
        (["tcp", "grpc"], "grpc", {"tcp", "grpc"}),
        (["tcp", "grpc"], "tcp", {"tcp"}),
        (["grpc", "grpc", "grpc"], "grpc", {"grpc"}),
    ],
)
def test_a_download_takes_the_way_that_both_sides_have(
    tmp_path: Path, image: tuple[Path, bytes], seeds: list[str], leech: str, ways: set[str]
) -> None:
    path, data = image

    async def play(swarm: Swarm) -> None:
        # Slow enough that the leech finds all seeds before one alone has given everything.
        nodes = [
            await swarm.peer(f"seed-{n}", transport=name, limit_up=2 * MIB) for n, name in enumerate(seeds)
        ]
        for node in nodes:
            shared = await node.share(path)
        done = await fetched(await swarm.peer("leech", transport=leech), shared.id, tmp_path / "out", data)
        assert set(done.bytes_by) == ways

    swarm(tmp_path, play)


def test_a_whole_mixed_classroom_ends_with_the_same_bytes(tmp_path: Path, image: tuple[Path, bytes]) -> None:
    path, data = image

    async def play(swarm: Swarm) -> None:
        # Slow enough that each leech also has something of the origin, or of another, by the way that it
        # prefers.
        shared = await (await swarm.peer("origin", transport="grpc", limit_up=2 * MIB)).share(path)
        leeches = [await swarm.peer(f"leech-{n}", transport="grpc" if n % 2 else "tcp") for n in range(6)]
        done = await asyncio.gather(
            *(fetched(one, shared.id, tmp_path / f"out-{n}", data) for n, one in enumerate(leeches))
        )
        for number, one in enumerate(done):
            assert ("grpc" in one.bytes_by) == bool(number % 2)

    swarm(tmp_path, play)


def test_a_peer_that_loses_its_grpc_port_in_the_middle_goes_on_over_tcp(
    tmp_path: Path, image: tuple[Path, bytes]
) -> None:
    path, data = image

    async def play(swarm: Swarm) -> None:
        seed = await swarm.peer("seed", transport="grpc", limit_up=3 * MIB)
        shared = await seed.share(path)
        leech = await swarm.peer("leech", transport="grpc")
        task = asyncio.create_task(fetched(leech, shared.id, tmp_path / "out", data))
        local = seed.library.get(shared.id)
        await until(lambda: local.participant.sent > MIB)
        (door,) = [one for one in seed._listeners if type(one).__name__ == "GrpcServer"]
        await door.close()
        done = await task
        assert set(done.bytes_by) == {"grpc", "tcp"}
        assert min(done.bytes_by.values()) > 0

    swarm(tmp_path, play)


@asynccontextmanager
async def something_else(greeting: bytes) -> Any:
    """A port at which something answers that is no gRPC; yields the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        try:
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("what", ["nobody", "its own TCP port", "silence", "a web server"])
def test_a_peer_whose_grpc_port_is_none_is_fetched_from_over_tcp(
    tmp_path: Path, image: tuple[Path, bytes], what: str
) -> None:
    path, data = image

    async def play(swarm: Swarm) -> None:
        seed = await swarm.peer("seed")
        me = seed.controls.me
        async with something_else(
            b"HTTP/1.1 400 Bad Request\r\n\r\n" if what == "a web server" else b""
        ) as other:
            port = {"nobody": 1024, "its own TCP port": me.listen["tcp"]}.get(what, other)
            seed._me = dataclasses.replace(me, listen={**me.listen, "grpc": port})
            shared = await seed.share(path)
            leech = await swarm.peer("leech", transport="grpc", timeouts=Timeouts(dial_s=1.0))
            done = await fetched(leech, shared.id, tmp_path / "out", data)
            assert set(done.bytes_by) == {"tcp"}
            (connection,) = leech.controls.all()
            assert leech.data.failed(connection.key) == {"grpc"}, "gRPC was not even tried"
            for name in ("leech", "seed"):
                await swarm.stop(name)

    swarm(tmp_path, play)


def test_a_peer_that_sends_wrong_bytes_over_grpc_is_dropped(
    tmp_path: Path, image: tuple[Path, bytes]
) -> None:
    path, data = image

    async def play(swarm: Swarm) -> None:
        liar, honest = (
            await swarm.peer("liar", transport="grpc"),
            await swarm.peer("honest", limit_up=4 * MIB),
        )
        shared = await liar.share(path)
        await honest.share(path)
        other = old_file(tmp_path / "other", random.Random(1).randbytes(SIZE))
        local = liar.library.get(shared.id)
        doctored = os.open(other, os.O_RDONLY)
        real = local.storage.opened

        @contextmanager
        def opened(block: Any) -> Iterator[Any]:
            with real(block) as spans:
                yield [type(span)(doctored, span.offset, span.length) for span in spans]

        local.storage.opened = opened  # type: ignore[method-assign]
        done = await fetched(await swarm.peer("leech", transport="grpc"), shared.id, tmp_path / "out", data)
        assert done.bytes_from.get("liar", 0) < SIZE / 2
        os.close(doctored)

    swarm(tmp_path, play)


def test_a_folder_of_many_small_files_arrives_whole_over_grpc(tmp_path: Path) -> None:
    for number in range(300):
        old_file(
            tmp_path / "set" / f"{number % 7}" / f"{number}.txt",
            random.Random(number).randbytes(number * 11 % 2000),
        )

    async def play(swarm: Swarm) -> None:
        shared = await (await swarm.peer("seed", transport="grpc")).share(tmp_path / "set")
        done = await (await swarm.peer("leech", transport="grpc")).download(shared.id, tmp_path / "out")
        assert set(done.bytes_by) == {"grpc"}
        for path in (tmp_path / "set").rglob("*.txt"):
            assert (done.path / path.relative_to(tmp_path / "set")).read_bytes() == path.read_bytes()

    swarm(tmp_path, play)


# -- real processes


@contextmanager
def grpc_peer(folder: Path, *words: str, tracker: str, name: str) -> Iterator[Running]:
    """A peer with `--transport grpc` as a process that may import third-party packages."""
    line = [
        sys.executable,
        str(ROOT / "bin" / "peer"),
        words[0],
        "--json",
        "--tracker",
        tracker,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    with Running(
        [*line, "--name", name, "--transport", "grpc", *words[1:]],
        clean_environment(folder / f"state-{name}"),
    ) as peer:
        yield peer


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_case_73_a_grpc_seed_killed_or_stopped_half_way_is_replaced(
    tmp_path: Path, image: tuple[Path, bytes], how: signal.Signals
) -> None:
    path, data = image
    with start_tracker(tmp_path) as tracker:
        share = ["share", str(path), "--limit-up", "1M"]
        with (
            grpc_peer(tmp_path, *share, tracker=tracker.address, name="one") as one,
            grpc_peer(tmp_path, *share, tracker=tracker.address, name="two") as two,
        ):
            content = one.event("shared")["id"]
            two.event("shared")
            with grpc_peer(
                tmp_path,
                "download",
                content,
                "-o",
                str(tmp_path / "out"),
                tracker=tracker.address,
                name="leech",
            ) as leech:
                while leech.event("progress")["bytes"] < MIB:
                    pass
                one.send(how)
                try:
                    done = leech.event("done")
                finally:
                    if how is signal.SIGSTOP:
                        one.send(signal.SIGCONT)
                assert leech.wait() == 0
                assert leech.err == "", "gRPC's core talks to the user"
    assert (tmp_path / "out" / "image.bin").read_bytes() == data
    assert set(done["bytes_by"]) == {"grpc"}
    assert done["bytes_from"]["two"] > 0
