"""One link: when it counts as dead, and what becomes of those who ask on it when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2p.errors import Unreachable
from p2p.model import Address, ContentId, PeerId
from p2p.net.dial import prepare
from p2p.net.wire import Wire
from p2p.peer import control as module
from p2p.peer.control import ControlConnection, ControlConnections, Me
from p2p.protocol.codec import by_op
from p2p.protocol.peer_messages import PEER_OPS, Replicate
from p2p.storage.disk_io import disk_io
from tests.kit.bad_peers import Message, PlainPeer, Sample, Talk, encoded
from tests.kit.leaks import contained
from tests.kit.waiting import until

CONTENT = ContentId("ab" * 32)
SAMPLE = Sample.random("image.bin", 3_000_000, seed=2)


async def linked() -> tuple[ControlConnection, socket.socket]:
    """A link, and the bare other end, with small buffers between them."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as door:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        prepare(near)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        await loop.sock_connect(near, door.getsockname())
        far, _ = door.accept()
    return ControlConnection(
        Wire(near, by_op(PEER_OPS), disk_io()), PeerId("5f" * 16), "lab-07", {"tcp": 7000}
    ), far


@pytest.mark.parametrize("called_off", [False, True], ids=["waits", "called off"])
def test_a_link_that_ends_before_a_question_was_written_leaves_no_error_that_nobody_sees(
    called_off: bool,
) -> None:
    """The other side decides when it ends: what it can bring to the terminal is a line of ours, and no
    traceback."""

    async def work() -> None:
        link, far = await linked()
        sending = asyncio.create_task(
            link.wire.send([bytes(4_000_000)])
        )  # a manifest that the other side does not read
        await asyncio.sleep(0)
        asking = asyncio.create_task(link.manifest(CONTENT))
        await asyncio.sleep(0)
        assert link._waiting
        link.close()
        link.ended()
        if called_off:
            asking.cancel()
        found = await asyncio.gather(asking, sending, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError if called_off else Unreachable)
        assert not link._waiting
        far.close()

    contained(work)


# -- alive or dead
# -------------------------------------------------------------------------------------------------------------------


class ThinLine(PlainPeer):
    """An honest seed behind a thin link: one line after the other, so that the answer to a ping comes behind
    the manifest."""

    crumbs = 60

    async def on_manifest(self, talk: Talk, message: Message) -> None:
        manifest = self.sample.manifest
        await talk.raw(encoded({"ok": True, "seq": message["seq"], "body": len(manifest)}))
        step = -(-len(manifest) // self.crumbs)
        for at in range(0, len(manifest), step):
            await talk.raw(manifest[at : at + step])
            await asyncio.sleep(0.02)


class Silent(PlainPeer):
    """Accepts a copy, and says nothing more."""

    async def on_ping(self, talk: Talk, message: Message) -> None:
        pass

    async def on_replicate(self, talk: Talk, message: Message) -> None:
        await talk.say({"ok": True, "seq": message["seq"], "state": "accepted"})


class OnlyAsks(Silent):
    """Answers no ping, as one whose answers would stand behind what it is being sent, and pings for its own
    part until it is `tired`."""

    pings = 0
    tired = 4

    async def on_hello(self, talk: Talk, message: Message) -> None:
        await super().on_hello(talk, message)
        while self.pings < self.tired:
            await asyncio.sleep(module.PING_TIME)
            self.pings += 1
            await talk.say({"op": "ping", "seq": self.pings})


class Nobody:
    """Deals with what links bring."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@asynccontextmanager
async def link_to(peer: PlainPeer) -> AsyncIterator[ControlConnection]:
    """A link of ours to a peer that speaks by hand."""
    handler: Any = Nobody()
    source: Any = None
    links = ControlConnections(Me(PeerId("22" * 16), "ours", {"tcp": 7001}), handler, source, disk_io(), None)
    await peer.start()
    try:
        yield await links.connect(Address("127.0.0.1", peer.port), PeerId(peer.peer))
    finally:
        await links.close()
        await peer.stop()


def test_a_link_on_which_a_long_manifest_comes_lives_although_no_ping_is_answered_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PING_TIME", 0.5)
    monkeypatch.setattr(module, "ANSWER_TIME", 0.3)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with link_to(ThinLine(SAMPLE)) as link:
            began = loop.time()
            assert await link.manifest(SAMPLE.id) == SAMPLE.manifest
            assert loop.time() - began > 1, "longer than a ping and its answer may take"
            assert not link.wire.closed

    contained(work)


def test_a_link_on_which_nothing_comes_is_closed_when_its_ping_is_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PING_TIME", 0.2)
    monkeypatch.setattr(module, "ANSWER_TIME", 0.1)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with link_to(Silent(SAMPLE)) as link:
            began = loop.time()
            with pytest.raises(Unreachable):
                async with asyncio.timeout(10):
                    await link.replicate(Replicate(id=CONTENT, name="x", size=1), lambda: None)
            assert link.wire.closed
            assert loop.time() - began >= 0.2

    contained(work)


def test_a_link_whose_other_side_answers_no_ping_but_sends_its_own_lives_until_those_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """We sent it a long manifest: our ping stands behind that, in the buffers of the system, and so does the
    answer to its own."""
    monkeypatch.setattr(module, "PING_TIME", 1.0)
    monkeypatch.setattr(module, "ANSWER_TIME", 0.5)

    async def work() -> None:
        peer = OnlyAsks(SAMPLE)
        async with link_to(peer) as link:
            await until(lambda: link.wire.closed or peer.pings == peer.tired)
            assert not link.wire.closed
            await until(lambda: link.wire.closed)

    contained(work)
