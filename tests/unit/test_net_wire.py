"""One connection: what is written in pieces, and how long it may take."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2p.errors import Refused
from p2p.model import FileSpan
from p2p.net import wire as module
from p2p.net.dial import prepare
from p2p.net.wire import Wire
from p2p.storage.disk_io import disk_io
from tests.kit.leaks import contained

BODY = bytes(range(256)) * 4096


async def connected() -> tuple[Wire, socket.socket]:
    """A wire, and the bare other end, with small buffers between them."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as door:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        prepare(near)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        await loop.sock_connect(near, door.getsockname())
        far, _ = door.accept()
        far.setblocking(False)
    return Wire(near, {}, disk_io()), far


def test_a_long_body_may_take_its_time_as_long_as_bytes_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_TIME", 2.0)  # no pause of a busy machine is so long

    async def work() -> None:
        loop = asyncio.get_running_loop()
        wire, far = await connected()
        began = loop.time()
        sending = asyncio.create_task(wire.send([b"line\n", BODY]))
        got = b""
        while len(got) < 5 + len(BODY):
            got += await loop.sock_recv(far, 65_536)
            await asyncio.sleep(0.1)
        await sending
        assert got == b"line\n" + BODY
        assert loop.time() - began > 2.0, "longer than a stall"
        wire.close()
        far.close()

    contained(work)


def test_a_side_that_takes_nothing_is_given_up_and_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_TIME", 0.2)

    async def work() -> None:
        wire, far = await connected()
        with pytest.raises(TimeoutError):
            await wire.send([BODY])
        assert wire.closed
        far.close()

    contained(work)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_cases_60_62_what_cannot_be_sent_for_want_of_a_descriptor_or_a_thread_is_refused_and_the_connection_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")

    async def work() -> None:
        loop = asyncio.get_running_loop()
        wire, far = await connected()
        wire._senders = senders = ThreadPoolExecutor(1)
        fd = os.open(tmp_path / "file", os.O_RDONLY)

        for owner, name, fault, code in (
            (threading.Thread, "start", RuntimeError("can't start new thread"), "unavailable"),
            (socket.socket, "dup", OSError(errno.EMFILE, "too many"), "busy"),
        ):
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, _raising(fault))
                with pytest.raises(Refused) as refused:
                    await wire.send([b"line\n", FileSpan(fd, 0, 7)])
            assert refused.value.code == code
            assert not wire.closed
        await wire.send([b"line\n", FileSpan(fd, 0, 7)])
        got = b""
        while len(got) < 12:
            got += await loop.sock_recv(far, 100)
        assert got == b"line\ncontent", "and nothing of what was refused"
        os.close(fd)
        wire.close()
        far.close()
        senders.shutdown()

    contained(work)


def _raising(fault: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise fault

    return fail
