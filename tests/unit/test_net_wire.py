"""One connection: what is written in pieces, and how long it may take."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.errors import Refused
from p2p.model import FileSpan
from p2p.net.limits import Timeouts
from p2p.net.sending import FileSender
from p2p.net.wire import Wire
from p2p.protocol.session import BadRequest
from p2p.storage.disk_io import disk_io
from tests.kit.leaks import contained
from tests.kit.wires import in_virtual_time_with_sockets, socket_pair

BODY = bytes(range(256)) * 4096


def test_a_long_body_may_take_its_time_as_long_as_bytes_move() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket_pair()
        wire = Wire(near, {}, timeouts=Timeouts(stall_s=20.0))
        began = loop.time()
        sending = asyncio.create_task(wire.send([b"line\n", BODY]))
        got = b""
        while len(got) < 5 + len(BODY):
            got += await loop.sock_recv(far, 65_536)
            await asyncio.sleep(5.0)
        await sending
        assert got == b"line\n" + BODY
        assert loop.time() - began > 20.0, "longer than a stall"
        wire.close()
        far.close()

    in_virtual_time_with_sockets(work)


def test_a_receiver_that_takes_nothing_is_disconnected_after_the_stall_timeout() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket_pair()
        wire = Wire(near, {}, timeouts=Timeouts(stall_s=20.0))
        began = loop.time()
        with pytest.raises(TimeoutError):
            await wire.send([BODY])
        assert loop.time() - began == pytest.approx(20.0)
        assert wire.closed
        far.close()

    in_virtual_time_with_sockets(work)


@pytest.mark.parametrize("idle_s", [None, 90.0])
def test_a_line_must_be_whole_soon_after_its_first_byte(idle_s: float | None) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket_pair()
        wire = Wire(near, {}, timeouts=Timeouts(line_s=10.0))
        waiting = asyncio.create_task(wire.next_event(idle_s))
        await asyncio.sleep(60.0)
        for byte in b'{"op":':
            await loop.sock_sendall(far, bytes([byte]))
            await asyncio.sleep(1.0)
        assert not waiting.done(), "it waited for the first byte"
        with pytest.raises(TimeoutError):
            await waiting
        assert loop.time() == pytest.approx(1000.0 + 60.0 + 10.0)
        wire.close()
        far.close()

    in_virtual_time_with_sockets(work)


def test_a_silent_connection_is_given_up_after_the_idle_timeout() -> None:
    async def work() -> None:
        near, far = socket_pair()
        wire = Wire(near, {})
        with pytest.raises(TimeoutError):
            await wire.next_event(90.0)
        await asyncio.get_running_loop().sock_sendall(far, b"[]\n")
        assert isinstance(await wire.next_event(90.0), BadRequest)
        wire.close()
        far.close()

    in_virtual_time_with_sockets(work)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_cases_60_62_without_a_descriptor_or_thread_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the connection lives."""
    (tmp_path / "file").write_bytes(b"content")

    async def work() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket_pair()
        files = FileSender(disk_io(), 1)
        wire = Wire(near, {}, files=files)
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
        files.close()

    contained(work)


def _raising(fault: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise fault

    return fail
