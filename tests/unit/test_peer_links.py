"""One link: what becomes of those who ask on it when it ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from p2p.errors import Unreachable
from p2p.model import ContentId, PeerId
from p2p.peer.dial import prepare
from p2p.peer.links import Link
from p2p.peer.wire import Wire
from p2p.protocol.codec import by_op
from p2p.protocol.messages import PEER_OPS
from p2p.system import disk_io
from tests.leaks import contained

CONTENT = ContentId("ab" * 32)


async def linked() -> tuple[Link, socket.socket]:
    """A link, and the bare other end, with small buffers between them."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as door:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        prepare(near)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        await loop.sock_connect(near, door.getsockname())
        far, _ = door.accept()
    return Link(Wire(near, by_op(PEER_OPS), disk_io()), PeerId("5f" * 16), "lab-07", {"tcp": 7000}), far


@pytest.mark.parametrize("called_off", [False, True], ids=["waits", "called off"])
def test_a_link_that_ends_before_a_question_was_written_leaves_no_error_that_nobody_sees(called_off: bool) -> None:
    """The other side decides when it ends: what it can bring to the terminal is a line of ours, and no traceback."""

    async def work() -> None:
        link, far = await linked()
        sending = asyncio.create_task(link.wire.send([bytes(4_000_000)]))  # a manifest that the other side does not read
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
