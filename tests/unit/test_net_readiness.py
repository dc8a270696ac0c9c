"""Waiting for a socket again and again, with one registration and one timer."""

from __future__ import annotations

import asyncio

import pytest

from p2p.net.readiness import Readiness
from p2p.net.wire import Wire
from p2p.protocol.session import BadRequest
from tests.kit.leaks import contained
from tests.kit.wires import in_virtual_time_with_sockets, socket_pair


def test_a_wait_ends_when_bytes_come_and_the_next_one_when_more_come() -> None:
    async def work() -> None:
        near, far = socket_pair()
        ready = Readiness(near)
        for number in range(3):
            far.send(bytes([number]))
            await ready.wait(None)
            assert near.recv(10) == bytes([number])
        ready.pause()
        near.close()
        far.close()

    contained(work)


def test_a_wait_ends_at_its_own_deadline_whatever_the_one_before_it_had() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket_pair()
        ready, began = Readiness(near), loop.time()
        for cut_off, deadline in ((10.0, 25.0), (90.0, 40.0)):
            waiting = asyncio.create_task(ready.wait(began + cut_off))
            await asyncio.sleep(1.0)
            waiting.cancel()
            with pytest.raises(TimeoutError):
                await ready.wait(began + deadline)
            assert loop.time() == pytest.approx(began + deadline)
        ready.pause()
        near.close()
        far.close()

    in_virtual_time_with_sockets(work)


def test_bytes_that_nobody_waits_for_do_not_keep_the_loop_busy() -> None:
    async def work() -> None:
        near, far = socket_pair()
        ready = Readiness(near)
        far.send(b"x")
        await ready.wait(None)
        await asyncio.sleep(60.0)  # would never end: this clock moves only when no socket is ready
        await ready.wait(None)
        assert near.recv(10) == b"x"
        ready.pause()
        near.close()
        far.close()

    in_virtual_time_with_sockets(work)


def test_a_cancelled_wait_leaves_the_bytes_to_the_next() -> None:
    async def work() -> None:
        near, far = socket_pair()
        ready = Readiness(near)
        waiting = asyncio.create_task(ready.wait(None))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        far.send(b"x")
        await ready.wait(None)
        assert near.recv(10) == b"x"
        ready.pause()
        near.close()
        far.close()

    contained(work)


def test_a_wire_reads_on_a_loop_that_watches_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        def unknown(*_arguments: object) -> None:
            raise NotImplementedError

        near, far = socket_pair()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", unknown)
        wire = Wire(near, {})
        for _ in range(2):
            loop.call_later(1.0, far.send, b'{"op":"nothing"}\n')
            event = await wire.next_event()
            assert isinstance(event, BadRequest)
            assert event.error.code == "unsupported"
        wire.close()
        far.close()

    in_virtual_time_with_sockets(work)
