"""Hostile and broken trackers (hostile cases 37 to 39, 40, 55, 57, 58) against a real client: it raises an
error that names the address, and nothing is written to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import Refused, Unreachable
from p2p.model import MIB, Address, ContentId
from p2p.net.limits import Limits, Timeouts
from p2p.peer import tracker_client
from p2p.peer.hedging import SearchLimits
from p2p.peer.node import Node
from p2p.peer.operations import resolve
from p2p.peer.settings import NodeSettings
from p2p.peer.tracker_client import ListRows, TrackerClient
from p2p.protocol.peer_messages import Ping
from p2p.protocol.tracker_messages import HitRow, HitsAnswer, List, Lookup
from tests.kit.bad_trackers import USELESS, BadTracker, EndlessPages, Pages, Told, line
from tests.kit.leaks import contained
from tests.kit.waiting import until
from transports import load

CONTENT = ContentId("ab" * 32)


def victim(tracker: BadTracker, folder: Path, **settings: Any) -> Node:
    """A peer that asks this tracker."""
    state = folder / "state"
    given = NodeSettings(
        name="victim", tracker=tracker.address, state=state, host="127.0.0.1", port=0, **settings
    )
    return Node(given, load, lambda report: None)


@pytest.mark.parametrize("vice", USELESS, ids=lambda vice: vice.vice)
def test_case_37_a_tracker_that_answers_nonsense_is_an_error_with_its_address(
    vice: type[BadTracker],
) -> None:
    async def work() -> int:
        async with vice() as tracker:
            address = tracker.address
            client = TrackerClient(address, timeouts=Timeouts(tracker_s=1.0))
            tracemalloc.start()
            try:
                for _ in range(2):
                    with pytest.raises(Unreachable, match=str(tracker.address)):
                        await client.ask(Ping())
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                await client.close()

    assert contained(work) < 4 * MIB


@pytest.mark.parametrize("size", [-1, 2**63, "7", 1.5, True, None])
def test_case_38_a_wrong_size_is_refused_before_anything_is_written(tmp_path: Path, size: object) -> None:

    async def answer(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        hit = {"id": CONTENT, "name": "x", "size": size, "seeds": 1, "peers": 1}
        writer.write(line({"ok": True, "seq": message["seq"], "content": hit, "sources": []}))

    async def work() -> None:
        async with Told(answer) as tracker:
            node = victim(tracker, tmp_path)
            await node.start(announce=False)
            with pytest.raises(Unreachable):
                await node.download(CONTENT, tmp_path / "out")
            await node.stop()
            assert not (tmp_path / "out").exists()

    contained(work)


def test_a_search_ends_when_none_of_the_named_peers_can_be_reached(tmp_path: Path) -> None:
    """Each lookup names a hundred peers that are not there."""

    async def answer(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        hit = {"id": CONTENT, "name": "x", "size": 7, "seeds": 1, "peers": 1}
        sources = [
            {
                "peer": f"{n:032x}",
                "name": "x",
                "host": "127.0.0.1",
                "listen": {"tcp": 1024 + n % 7},
                "have": 7,
            }
            for n in range(100)
        ]
        writer.write(line({"ok": True, "seq": message["seq"], "content": hit, "sources": sources}))

    async def work() -> None:
        async with Told(answer) as tracker:
            node = victim(tracker, tmp_path, search_limits=SearchLimits(pause=0.05))
            await node.start(announce=False)
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
                await node.download(CONTENT, tmp_path / "out")
            await node.stop()

    contained(work)


def test_case_55_after_a_request_without_an_answer_the_next_has_a_new_connection() -> None:
    """The old connection may be half open, and would swallow everything until the system gives it up."""
    connections: list[asyncio.StreamWriter] = []

    async def first_is_dead(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        if writer not in connections:
            connections.append(writer)
        if len(connections) > 1:
            writer.write(line({"ok": True, "seq": message["seq"]}))

    async def work() -> None:
        async with Told(first_is_dead) as tracker:
            address = tracker.address
            client = TrackerClient(address, timeouts=Timeouts(tracker_s=1.0))
            with pytest.raises(Unreachable):
                await client.ask(Ping())
            for _ in range(20):  # on a busy machine the first answers may be late
                with contextlib.suppress(Unreachable):
                    await client.ask(Ping())
                    break
            else:
                pytest.fail("no new connection is opened")
            await client.close()

    contained(work)


def test_case_40_a_connection_that_the_tracker_ends_is_told_and_our_own_end_is_not() -> None:
    async def work() -> None:
        told: list[Unreachable] = []
        writers: list[asyncio.StreamWriter] = []

        async def answer(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
            writers.append(writer)
            writer.write(line({"ok": True, "seq": message["seq"]}))

        async with Told(answer) as tracker:
            client = TrackerClient(tracker.address)
            client.watch(told.append)
            await client.ask(Ping())
            writers[0].transport.abort()
            await until(lambda: told)
            assert str(tracker.address) in str(told[0])
            await client.ask(Ping())
            await client.close()
            assert len(told) == 1

    contained(work)


def test_many_requests_at_once_each_get_their_own_answer() -> None:
    async def backwards(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        if message["op"] == "ping":
            writer.write(line({"ok": True, "seq": message["seq"]}))
        else:
            writer.write(
                line({"ok": False, "seq": message["seq"], "error": "not_found", "message": message["id"][:2]})
            )

    async def work() -> None:
        async with Told(backwards) as tracker:
            address = tracker.address
            client = TrackerClient(address)
            ids = [ContentId(f"{n:02x}" * 32) for n in range(50)]
            found = await asyncio.gather(
                *(client.ask(Lookup(id=content)) for content in ids),
                client.ask(Ping()),
                return_exceptions=True,
            )
            assert [str(refused)[:2] for refused in found[:-1] if isinstance(refused, Refused)] == [
                content[:2] for content in ids
            ]
            await client.close()
            await client.close()

    contained(work)


def test_a_tracker_whose_pages_never_end_is_given_up() -> None:
    async def work() -> None:
        async with EndlessPages() as tracker:
            address = tracker.address
            client = TrackerClient(address, limits=Limits(barren_pages=20))
            with pytest.raises(Unreachable, match=f"list of tracker {address} does not end"):
                await resolve(client, "image.bin")
            await client.close()

    contained(work)


@pytest.mark.parametrize(
    "ids", [lambda offset: "ab" * 32, lambda offset: f"{offset:064x}"], ids=["the same", "others"]
)
def test_a_tracker_that_always_has_one_row_more_is_given_up(
    ids: Callable[[int], str],
) -> None:
    async def work() -> None:
        async with Pages(ids, 2**53 - 1) as tracker:
            client = TrackerClient(tracker.address, limits=Limits(barren_pages=20, list_rows=50))
            with pytest.raises(Unreachable, match=f"list of tracker {tracker.address} does not end"):
                async for _ in client.pages(lambda offset: List(offset=offset), HitsAnswer):
                    pass
            await client.close()

    contained(work)


def test_a_list_may_have_any_number_of_pages_while_each_has_a_new_row() -> None:
    """Five million contents, of which a connection without a session gets some twenty with a page, are more
    pages than anything counts."""
    count = 1000

    async def work() -> None:
        async with Pages(lambda offset: f"{offset:064x}", count) as tracker:
            client = TrackerClient(tracker.address, limits=Limits(barren_pages=0))
            rows = 0
            async for _, page in client.pages(lambda offset: List(offset=offset), HitsAnswer):
                rows += len(page.hits)
            assert rows == count
            await client.close()

    contained(work)


def test_a_row_that_comes_again_on_a_later_page_is_one_row() -> None:
    async def work() -> None:
        ids = ["ab" * 32, "ab" * 32, "cd" * 32, "ab" * 32]
        async with Pages(ids.__getitem__, len(ids)) as tracker:
            client = TrackerClient(tracker.address)
            pages = [page async for _, page in client.pages(lambda offset: List(offset=offset), HitsAnswer)]
            assert [hit.id for page in pages for hit in page.hits] == ["ab" * 32, "cd" * 32]
            await client.close()

    contained(work)


def test_of_an_endless_list_only_the_last_rows_are_remembered() -> None:
    rows = ListRows(remembered=3)
    ids = [f"{number:064x}" for number in (*range(100), 99, 0)]
    hits = tuple(HitRow(id=ContentId(id_), name="x", size=1, seeds=1, peers=1) for id_ in ids)
    page = rows.fresh(HitsAnswer(hits=hits, total=len(hits)))
    assert [hit.id for hit in page.hits] == [*ids[:100], ids[-1]]
    assert len(rows) == 3
    assert rows.count == 101


def test_a_name_is_not_ambiguous_because_its_content_comes_on_two_pages() -> None:
    async def work() -> None:
        async with Pages(lambda offset: CONTENT, 2) as tracker:
            client = TrackerClient(tracker.address)
            assert await resolve(client, "image.bin") == CONTENT
            await client.close()

    contained(work)


# -- addresses that lead nowhere


def test_case_58_an_address_without_a_listener_is_an_error_that_names_it() -> None:

    async def work() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", taken.getsockname()[1])
            client = TrackerClient(address)
            with pytest.raises(Unreachable, match=f"tracker {address} cannot be reached: connection refused"):
                await client.ask(Ping())
            await client.close()

    contained(work)


def test_case_58_a_name_without_an_address_is_an_error_with_the_name(monkeypatch: pytest.MonkeyPatch) -> None:

    async def work() -> None:
        def resolve(*_args: object, **_options: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with pytest.raises(
            Unreachable, match=r"tracker nowhere\.example:6969 cannot be reached: no such host"
        ):
            await TrackerClient(Address("nowhere.example", 6969)).ask(Ping())

    contained(work)


def test_case_57_a_connection_that_is_reset_as_it_is_made_leaks_nothing(tmp_path: Path) -> None:
    """At the first message boundary there is."""

    async def work() -> None:
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            door.listen(50)
            door.setblocking(False)
            address = Address("127.0.0.1", door.getsockname()[1])

            async def slam() -> None:
                while True:
                    sock, _ = await asyncio.get_running_loop().sock_accept(door)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()

            slamming = asyncio.create_task(slam())
            settings = NodeSettings(
                name="victim", tracker=address, state=tmp_path / "state", host="127.0.0.1", port=0
            )
            node = Node(settings, load, lambda report: None)
            await node.start(announce=False)
            for _ in range(50):
                for attempt in (node.controls.connect(address, node.peer), node.tracker.ask(Ping())):
                    with pytest.raises(Unreachable, match=str(address)):
                        await attempt
            await node.stop()
            slamming.cancel()
            await asyncio.gather(slamming, return_exceptions=True)

    contained(work)


def test_a_socket_that_was_reset_before_its_first_use_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The narrow gap between a connect and the first look at the socket."""
    from p2p.peer import control as links
    from p2p.storage.disk_io import disk_io
    from transports import tcp

    async def work() -> None:
        made: list[socket.socket] = []

        async def dial(*args: object, **options: object) -> socket.socket:
            made.append(socket.socket())  # connected to nobody, as after a reset
            return made[-1]

        for module in (tcp, links, tracker_client):
            monkeypatch.setattr(module, "dial", dial)
        address = Address("127.0.0.1", 7000)
        with pytest.raises(Unreachable, match=str(address)):
            await tcp.TcpTransport(disk_io()).connect(address)
        with pytest.raises(Unreachable, match=str(address)):
            await TrackerClient(address).ask(Ping())
        assert [sock.fileno() for sock in made] == [-1, -1]

    contained(work)
