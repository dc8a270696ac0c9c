"""Hostile downloaders against an honest peer (hostile cases 23-27, 56, 80): wrong requests are refused,
honest clients are served, and nothing is leaked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p.errors import Unreachable
from p2p.model import MIB, Address, ContentId
from p2p.net.admission import AdmissionLimits
from p2p.net.limits import LIMITS, Limits, Timeouts
from p2p.peer.node import Node
from tests.kit.bad_peers import Client, encoded
from tests.kit.leaks import Snapshot, contained, open_descriptors
from tests.kit.swarm_kit import Swarm, old_file
from tests.kit.waiting import NEVER, hang_guard, until

DATA = Random(6).randbytes(6 * MIB)
WRONG_ID = "ab" * 32


@asynccontextmanager
async def sharer(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Swarm, Node, ContentId, int]]:
    """A peer that shares one content: the swarm, the node, the content id, and the port. Without other
    `timeouts` it ends nothing because of time."""
    async with Swarm(tmp_path) as swarm:
        node = await swarm.peer("sharer", **{"timeouts": NEVER, **settings})
        shared = await node.share(old_file(tmp_path / "share" / "x.bin", DATA))
        yield swarm, node, shared.id, node.controls.me.listen["tcp"]
        async with await Client.dial(node.controls.me.listen["tcp"]) as fresh:
            heard = await fresh.ask({"op": "ping", "seq": 1})
        assert heard is not None
        assert heard[0]["ok"]


def read(content: str, piece: object = 0, offset: object = 0, length: object = 1000) -> dict[str, object]:
    return {"op": "read", "id": content, "piece": piece, "offset": offset, "length": length, "seq": 7}


# -- wrong requests


def test_case_23_a_content_that_is_not_shared_is_not_found(tmp_path: Path) -> None:
    """An unknown id and one that is only on the disk get the same text."""

    async def work() -> None:
        async with sharer(tmp_path) as (_, node, content, port):
            old_file(tmp_path / "share" / "secret.bin", b"secret")
            node.publisher.retract(content, tmp_path / "share" / "x.bin")
            texts = set()
            for wanted in (content, WRONG_ID, "0" * 64):
                for message in (read(wanted), {"op": "manifest", "id": wanted, "seq": 7}):
                    async with await Client.dial(port) as client:
                        heard = await client.ask(message)
                        assert heard is not None
                        assert heard[0]["error"] == "not_found"
                        texts.add(json.dumps(heard[0]))
            assert len(texts) == 1

    contained(work)


NO_IDS = [
    "../../etc/passwd",
    "/etc/passwd",
    "x.bin",
    "",
    "\0",
    "ab" * 31 + "a\0",
    "AB" * 32,
    None,
    7,
    ["ab" * 32],
]


@pytest.mark.parametrize("wanted", NO_IDS)
def test_case_23_a_path_instead_of_an_id_is_a_bad_field(tmp_path: Path, wanted: object) -> None:

    async def work() -> None:
        async with sharer(tmp_path) as (_, _, _, port), await Client.dial(port) as client:
            for message in ({**read(""), "id": wanted}, {"op": "manifest", "id": wanted, "seq": 1}):
                heard = await client.ask(message)
                assert heard is not None
                assert heard[0]["error"] == "bad_field"
                assert heard[0]["message"].startswith("id")

    contained(work)


@pytest.mark.parametrize(
    ("piece", "offset", "length", "code"),
    [
        (-1, 0, 1, "bad_field"),
        (2**63, 0, 1, "bad_field"),
        (96, 0, 1, "bad_range"),
        (2**18 - 1, 0, 1, "bad_range"),
        (0, 65_536, 1, "bad_range"),
        (0, 0, 65_537, "bad_range"),
        (95, 65_535, 2, "bad_range"),
        (0, -1, 1, "bad_field"),
        (0, 0, 0, "bad_field"),
        (0, 0, -65_536, "bad_field"),
        (0, 0, MIB + 1, "bad_field"),
        (0, 0, 2**63, "bad_field"),
        (True, 0, 1, "bad_field"),
        (0, 1.5, 1, "bad_field"),
        (0, 0, "1", "bad_field"),
    ],
)
def test_case_24_a_block_that_does_not_exist_is_a_bad_range(
    tmp_path: Path, piece: object, offset: object, length: object, code: str
) -> None:
    """A range outside of the content ends the connection."""

    async def work() -> None:
        async with sharer(tmp_path) as (_, node, content, port), await Client.dial(port) as client:
            heard = await client.ask(read(content, piece, offset, length))
            assert heard is not None
            assert heard[0]["error"] == code
            assert heard[1] == b""
            assert node.sent(content) == 0
            if code == "bad_range":
                assert await client.ended()
            else:
                heard = await client.ask({"op": "ping", "seq": 8})
                assert heard is not None
                assert heard[0] == {"ok": True, "seq": 8}

    contained(work)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"op":"ping","op":"ping"}\n',
        b"[" * 30_000 + b"\n",
        b"x" * 70_000,
        b'{"ok":true,"seq":1}\n',
        b'{"op":"ping","body":5}\nhello',
    ],
    ids=["http", "tls", "ssh", "http2", "bytes", "list", "twice", "deep", "long", "answer", "body"],
)
def test_case_8_bytes_of_another_protocol_end_the_connection(tmp_path: Path, data: bytes) -> None:

    async def work() -> None:
        async with sharer(tmp_path) as (_, _, _, port), await Client.dial(port) as client:
            await client.say(data)
            if b"\n" not in data and len(data) < 65_536:
                client.writer.write_eof()
            assert await client.ended()

    contained(work)


def test_a_control_connection_takes_a_hello_with_peer_and_listen(tmp_path: Path) -> None:
    async def work() -> None:
        async with sharer(tmp_path) as (_, _, content, port), await Client.dial(port) as client:
            for message in (
                {"op": "have", "id": content, "all": True},
                {"op": "replicate", "id": content, "name": "x", "size": 1},
            ):
                heard = await client.ask({**message, "seq": 3})
                assert heard is not None
                assert heard[0]["error"] == "not_allowed"
            heard = await client.ask({"op": "nonsense", "seq": 4})
            assert heard is not None
            assert heard[0]["error"] == "unsupported"

    contained(work)


@pytest.mark.parametrize(
    "told", [{"add": [96]}, {"pieces": ""}, {"pieces": "AAAA"}, {"all": True, "suggest": [200_000]}]
)
def test_case_24_a_have_that_does_not_fit_its_content_is_refused_with_a_reason(
    tmp_path: Path, told: dict[str, object]
) -> None:
    async def work() -> None:
        async with sharer(tmp_path) as (_, node, content, port), await Client.dial(port) as client:
            await client.hello("ab" * 16)
            heard = await client.ask({"op": "have", "id": content, **told, "seq": 9})
            assert heard is not None
            assert (heard[0]["error"], heard[0]["seq"]) == ("bad_field", 9)
            assert await client.ended()
            await until(lambda: not len(node.controls))

    contained(work)


# -- too many requests


def test_case_25_an_honest_peer_is_served_beside_one_with_two_hundred_connections(tmp_path: Path) -> None:
    """Each of them requests blocks and reads nothing."""

    async def work() -> None:
        async with sharer(tmp_path) as (swarm, node, content, port):
            greedy = [_deaf(port, content) for _ in range(200)]
            try:
                await until(lambda: node.uploads.queue.waiting > 50)
                await until(lambda: node.uploads.queue.demoted >= 4, "slots are taken from who reads nothing")
                honest = await swarm.peer("honest")
                done = await honest.download(content, tmp_path / "out")
                assert done.path.read_bytes() == DATA
            finally:
                for sock in greedy:
                    sock.close()

    contained(work)


def _deaf(port: int, content: str) -> socket.socket:
    """A connection that requests more than a system buffers, and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(b"".join(json.dumps(read(content, n % 96, 0, 65_536)).encode() + b"\n" for n in range(96)))
    return sock


@pytest.mark.parametrize("op", ["have", "ping", "manifest", "hello", "read"])
def test_a_flood_of_one_op_does_not_delay_an_honest_peer(tmp_path: Path, op: str) -> None:
    async def flood(client: Client, content: str) -> None:
        line = {
            "have": {"op": "have", "id": content, "add": [1]},
            "ping": {"op": "ping"},
            "manifest": {"op": "manifest", "id": content},
            "hello": {"op": "hello", "version": 1},
            "read": read(content, 0, 0, 10),
        }[op]
        lines = (json.dumps(line) + "\n").encode() * 500

        async def drain() -> None:
            while await client.reader.read(1_000_000):
                pass

        draining = asyncio.create_task(drain())
        try:
            while True:
                await client.say(lines)
                if client.writer.is_closing():
                    return
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    async def work() -> None:
        async with sharer(tmp_path) as (swarm, _, content, port):
            client = await Client.dial(port)
            await client.hello("5f" * 16)
            flooding = asyncio.create_task(flood(client, content))
            honest = await swarm.peer("honest")
            # A bound on real time, about ten times what it takes: a delay is what a flood would cause.
            async with asyncio.timeout(10):
                done = await honest.download(content, tmp_path / "out")
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
            client.hang_up()
            assert done.path.read_bytes() == DATA

    contained(work)


def test_a_control_connection_that_reads_nothing_is_closed(tmp_path: Path) -> None:
    """Each unknown id is answered with `none`. A client that never reads the answers is disconnected before
    they fill memory."""

    async def work() -> None:
        async with sharer(tmp_path) as (_, node, _, port):
            client = await Client.dial(port)
            await client.hello("5f" * 16)
            rng, transport = Random(1), client.writer.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            async with hang_guard():
                while node.controls.all():
                    lines = b"".join(
                        b'{"op":"have","id":"%064x","all":true}\n' % rng.getrandbits(256) for _ in range(200)
                    )
                    client.writer.write(lines)
                    await until(
                        lambda: transport.get_write_buffer_size() < MIB or not node.controls.all(),
                        "it is read or hung up on",
                    )
                    assert all(link.outbox_bytes <= LIMITS.outbox_bytes for link in node.controls.all())
            client.hang_up()

    contained(work)


def test_case_25_hundreds_of_idle_control_connections_shut_out_no_other(
    tmp_path: Path,
) -> None:
    limits = Limits(control_connections=AdmissionLimits(total=60, idle_s=0.1))

    async def work() -> None:
        async with sharer(tmp_path, limits=limits) as (swarm, node, content, port):
            clients = [await Client.dial(port) for _ in range(60)]
            for number, client in enumerate(clients):
                await client.hello(f"{number + 1:032x}")
            assert len(node.controls) == 60
            honest = await swarm.peer("honest")
            async with hang_guard():
                done = await honest.download(content, tmp_path / "out")
            assert done.path.read_bytes() == DATA
            assert len(node.controls) <= 60
            for client in clients:
                client.hang_up()

    contained(work)


# -- idle clients and clients that leave


def test_case_26_a_handshake_that_is_never_finished_is_ended(tmp_path: Path) -> None:
    """With half a second instead of ten."""

    async def work() -> None:
        async with sharer(tmp_path, timeouts=Timeouts(line_s=0.5)) as (_, _, _, port):
            clients = [await Client.dial(port) for _ in range(300)]
            for number, client in enumerate(clients):
                if number % 3:
                    await client.say(b'{"op":"hel'[: number % 10])
            assert all(await asyncio.gather(*(client.ended() for client in clients)))
            for client in clients:
                client.hang_up()

    contained(work)


def test_case_27_clients_that_leave_in_the_middle_of_blocks_leak_nothing(tmp_path: Path) -> None:

    async def work() -> None:
        async with sharer(tmp_path) as (_, node, content, port):
            await _read_some(port, content)
            before = Snapshot.take()
            for number in range(200):
                client = await Client.dial(port)
                await client.say(
                    b"".join(json.dumps(read(content, n, 0, 65_536)).encode() + b"\n" for n in range(8))
                )
                if number % 2:
                    await client.reader.read(1 + number * 100)
                client.hang_up()
            await until(lambda: node.uploads.queue.serving == node.uploads.queue.waiting == 0)
            await until(lambda: len(open_descriptors()) <= len(before.descriptors) + 2)

    contained(work)


async def _read_some(port: int, content: str) -> None:
    async with await Client.dial(port) as client:
        heard = await client.ask(read(content, 0, 0, 65_536))
        assert heard is not None
        assert heard[1] == DATA[:65_536]


# -- both sides at once


def test_case_80_two_peers_that_dial_each_other_at_once_keep_one_connection(
    tmp_path: Path,
) -> None:
    """Both dial at the same time."""

    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            one, two = await swarm.peer("one", timeouts=NEVER), await swarm.peer("two", timeouts=NEVER)
            ports = {node.peer: Address("127.0.0.1", node.controls.me.listen["tcp"]) for node in (one, two)}
            for number in range(200):
                dials = [
                    one.controls.connect(ports[two.peer], two.peer),
                    two.controls.connect(ports[one.peer], one.peer),
                ]
                if number % 2:
                    dials.reverse()
                await asyncio.gather(*dials)
                await until(lambda: _linked(one, two), "both sides keep the same link")
                (link,) = one.controls.all()
                link.close()
                if number % 5 == 0:
                    two.controls.all()[0].close()
                await until(
                    lambda: not one.controls._by_wire and not two.controls._by_wire,
                    "links that were closed are gone",
                )

    contained(work)


def _linked(one: Node, two: Node) -> bool:
    """Whether both have the same one control connection and no other."""
    if len(one.controls._by_wire) != 1 or len(two.controls._by_wire) != 1:
        return False
    near, far = one.controls.all(), two.controls.all()
    if not near or not far or near[0].wire.closed or far[0].wire.closed:
        return False
    return bool(near[0].wire._sock.getsockname() == far[0].wire._sock.getpeername())


def test_case_80_a_control_connection_closed_from_both_ends_in_use_ends_at_once(
    tmp_path: Path,
) -> None:

    async def work() -> None:
        async with sharer(tmp_path) as (swarm, node, content, port):
            other = await swarm.peer("other", timeouts=NEVER)
            for number in range(200):
                link = await other.controls.connect(Address("127.0.0.1", port), node.peer)
                asking = asyncio.create_task(link.manifest(content))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                closing = [link.close, *(far.close for far in node.controls.all())]
                for close in closing if number % 2 else closing[::-1]:
                    close()
                    close()
                async with hang_guard():
                    await asyncio.gather(asking, return_exceptions=True)
                await until(lambda: not node.controls._by_wire and not other.controls._by_wire)

    contained(work)


def test_a_control_connection_closed_before_its_first_step_fails_its_requests(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            one, other = await swarm.peer("one", timeouts=NEVER), await swarm.peer("other")
            link = await one.link_to(other.peer, Address("127.0.0.1", other.controls.me.listen["tcp"]))
            await one.controls.close()
            assert link.wire.closed
            assert one.controls.all() == []
            with pytest.raises(Unreachable):
                await link.manifest(ContentId(WRONG_ID))

    contained(work)


def test_a_client_with_the_id_of_a_connected_peer_does_not_replace_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            one, other = await swarm.peer("one", timeouts=NEVER), await swarm.peer("other")
            link = await one.link_to(other.peer, Address("127.0.0.1", other.controls.me.listen["tcp"]))
            async with await Client.dial(one.controls.me.listen["tcp"]) as client:
                await client.hello(other.peer, port=5000)
                await until(lambda: len(one.controls.all()) == 2, "the client has a link of its own")
                assert one.controls.get(link.key) is link
            await until(lambda: one.controls.all() == [link], "the client's link is gone")
            assert not link.wire.closed

    contained(work)


# -- replicas


def test_a_replica_requested_thousands_of_times_is_fetched_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node = await swarm.peer("target", accept_uploads=MIB, folder=tmp_path / "target")
            client = await Client.dial(node.controls.me.listen["tcp"])
            await client.hello("5f" * 16)
            content = "ab" * 32
            answers: list[str] = []
            for start in range(0, 5000, 500):
                lines = [
                    {"op": "replicate", "id": content, "name": "x", "size": 10, "seq": start + n + 2}
                    for n in range(500)
                ]
                await client.say(b"".join(map(encoded, lines)))
                for _ in lines:
                    heard = await client.hear()
                    while (
                        heard is not None and "op" in heard[0]
                    ):  # it asks for the manifest, which never comes
                        heard = await client.hear()
                    assert heard is not None
                    answers.append(heard[0].get("state") or heard[0]["error"])
            assert answers == ["accepted"] + ["busy"] * 4999
            assert len(node.controls._tasks) < 100
            assert len(asyncio.all_tasks()) < 100
            client.hang_up()
            await until(lambda: not node.controls._by_wire)
            await until(lambda: not node.controls._tasks, what="nobody waits for the copy any more")
            assert node.replicas._running, "which is fetched all the same, should somebody else have it"

    contained(work)


def test_a_control_connection_waits_for_a_few_replicas_and_is_busy_for_more(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with Swarm(tmp_path) as swarm:
            node = await swarm.peer(
                "target", accept_uploads=MIB, folder=tmp_path / "target", limits=Limits(copies=2)
            )
            client = await Client.dial(node.controls.me.listen["tcp"])
            await client.hello("5f" * 16)
            answers = []
            for number in range(4):
                heard = await client.ask(
                    {
                        "op": "replicate",
                        "id": f"{number + 1:064x}",
                        "name": "x",
                        "size": 10,
                        "seq": number + 2,
                    }
                )
                assert heard is not None
                answers.append(heard[0].get("state") or heard[0]["error"])
            assert answers == ["accepted", "accepted", "busy", "busy"]
            assert len(node.replicas._running) == 2
            client.hang_up()
            await until(lambda: not node.controls._tasks)

    contained(work)
