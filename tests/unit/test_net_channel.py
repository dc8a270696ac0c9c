"""Requests and answers on one connection: which answer is whose, what waits to be written, when it is dead,
and what becomes of those that wait when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from p2p.errors import EnjambreError, ProtocolError, Refused, Unreachable
from p2p.model import ContentId
from p2p.net.channel import RequestChannel
from p2p.net.limits import Limits, Timeouts
from p2p.net.wire import Wire
from p2p.protocol.peer_messages import AskManifest, Ping, PingAnswer, Read, Replicate, ReplicateAnswer
from tests.kit.wires import FarEnd, in_virtual_time_with_sockets, socket_pair

CONTENT = ContentId("ab" * 32)
COPY = Replicate(id=CONTENT, name="x", size=1)


def read(length: int) -> Read:
    return Read(id=CONTENT, piece=0, offset=0, length=length)


@dataclass
class Scene:
    channel: RequestChannel
    far: FarEnd
    reader: asyncio.Task[None]

    @property
    def closed(self) -> bool:
        return self.channel.wire.closed


def play(
    act: Callable[[Scene], Awaitable[None]],
    *,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> None:
    """Run a scene with a channel, its reader and the other side, in virtual time."""

    async def work() -> None:
        near, far_socket = socket_pair()
        wire = Wire(near, {}, timeouts=timeouts or Timeouts())
        channel = RequestChannel(wire, "lab-07", timeouts=timeouts or Timeouts(), limits=limits or Limits())

        async def reading() -> None:
            try:
                await channel.read_answers()
                channel.end()
            except EnjambreError as error:
                channel.end(error)
            except OSError:
                channel.end()

        scene = Scene(channel, FarEnd(far_socket), asyncio.create_task(reading()))
        await act(scene)
        channel.close()
        await scene.reader
        scene.far.close()

    in_virtual_time_with_sockets(work)


# -- which answer is whose


def test_each_request_gets_the_answer_with_its_number_in_any_order() -> None:
    async def act(scene: Scene) -> None:
        asking = [asyncio.create_task(scene.channel.ask(AskManifest(id=CONTENT))) for _ in range(3)]
        seqs = [(await scene.far.line())["seq"] for _ in range(3)]
        for seq in reversed(seqs):
            await scene.far.say(b"x" * seq, ok=True, seq=seq)
        assert [(await task).body for task in asking] == [b"x" * seq for seq in seqs]
        assert scene.channel.waiting == 0

    play(act)


def test_a_refusal_is_raised_with_its_code_and_the_channel_goes_on() -> None:
    async def act(scene: Scene) -> None:
        asking = asyncio.create_task(scene.channel.ask(Ping()))
        await scene.far.say(ok=False, seq=(await scene.far.line())["seq"], error="busy", message="later")
        with pytest.raises(Refused, match="later"):
            await asking
        asking = asyncio.create_task(scene.channel.ask(Ping()))
        await scene.far.say(ok=True, seq=(await scene.far.line())["seq"])
        assert (await asking).answer == PingAnswer()

    play(act)


def test_a_body_is_received_into_the_buffer_of_its_fetch_and_nowhere_else() -> None:
    async def act(scene: Scene) -> None:
        around = bytearray(b"\xee" * 60_000)
        fetching = asyncio.create_task(scene.channel.fetch(read(50_000), memoryview(around)[5000:55_000]))
        await scene.far.say(b"x" * 50_000, ok=True, seq=(await scene.far.line())["seq"])
        await fetching
        assert around == b"\xee" * 5000 + b"x" * 50_000 + b"\xee" * 5000

    play(act)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_body_of_another_length_ends_the_channel(size: int) -> None:
    async def act(scene: Scene) -> None:
        buffer = bytearray(b"\xee" * 4)
        fetching = asyncio.create_task(scene.channel.fetch(read(4), memoryview(buffer)))
        behind = asyncio.create_task(scene.channel.ask(Ping()))
        seq = (await scene.far.line())["seq"]
        await scene.far.say(b"x" * size, ok=True, seq=seq)
        with pytest.raises(ProtocolError, match="4 bytes were asked for"):
            await fetching
        with pytest.raises(EnjambreError):
            await behind
        assert buffer == b"\xee" * 4
        assert scene.closed

    play(act)


def test_an_answer_for_which_nobody_waits_any_more_is_dropped() -> None:
    async def act(scene: Scene) -> None:
        cancelled = asyncio.create_task(scene.channel.fetch(read(40_000), memoryview(bytearray(40_000))))
        seq = (await scene.far.line())["seq"]
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        asking = asyncio.create_task(scene.channel.ask(Ping()))
        await scene.far.line()
        await scene.far.say(b"x" * 40_000, ok=True, seq=seq)
        await scene.far.say(ok=True, seq=seq + 1)
        assert (await asking).answer == PingAnswer()

    play(act)


def test_a_fetch_cancelled_in_the_middle_of_its_body_closes_the_channel() -> None:
    """More of the body would follow, into a buffer that is another's by then."""

    async def act(scene: Scene) -> None:
        buffer = bytearray(100_000)
        fetching = asyncio.create_task(scene.channel.fetch(read(100_000), memoryview(buffer)))
        behind = asyncio.create_task(scene.channel.ask(Ping()))
        seq = (await scene.far.line())["seq"]
        await scene.far.raw(b'{"ok":true,"body":100000,"seq":%d}\n' % seq + b"x" * 20_000)
        await asyncio.sleep(1)
        assert any(buffer)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        with pytest.raises(Unreachable):
            await behind
        await scene.reader
        assert scene.closed

    play(act)


def test_a_request_with_two_answers_tells_of_the_first_and_returns_the_second() -> None:
    async def act(scene: Scene) -> None:
        told: list[float] = []
        loop = asyncio.get_running_loop()
        asking = asyncio.create_task(scene.channel.ask(COPY, 10.0, lambda: told.append(loop.time())))
        seq = (await scene.far.line())["seq"]
        await asyncio.sleep(5)
        await scene.far.say(ok=True, seq=seq, state="accepted")
        await asyncio.sleep(3600)
        await scene.far.say(ok=True, seq=seq, state="verified")
        assert (await asking).answer == ReplicateAnswer(state="verified")
        assert told == [1005.0]

    play(act)


def test_both_answers_may_come_at_once() -> None:
    async def act(scene: Scene) -> None:
        told: list[bool] = []
        asking = asyncio.create_task(scene.channel.ask(COPY, 10.0, lambda: told.append(True)))
        seq = (await scene.far.line())["seq"]
        first, second = (
            b'{"ok":true,"seq":%d,"state":"accepted"}\n',
            b'{"ok":true,"seq":%d,"state":"verified"}\n',
        )
        await scene.far.raw(first % seq + second % seq)
        assert (await asking).answer == ReplicateAnswer(state="verified")
        assert told == [True]

    play(act)


# -- what waits to be written


def test_requests_of_one_turn_are_written_together() -> None:
    async def act(scene: Scene) -> None:
        asking = [asyncio.create_task(scene.channel.ask(Ping())) for _ in range(20)]
        await asyncio.sleep(0.1)
        assert scene.far.sock.recv(65_536).count(b"\n") == 20
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    play(act)


def test_a_side_that_does_not_read_is_disconnected_when_the_outbox_is_full() -> None:
    async def act(scene: Scene) -> None:
        for _ in range(100):
            scene.channel.post(b"x" * 10_000)
            await asyncio.sleep(0)
        assert scene.closed
        with pytest.raises(Unreachable):
            await scene.channel.ask(Ping())

    play(act, limits=Limits(outbox_bytes=100_000))


def test_the_time_for_an_answer_begins_when_the_request_has_been_written() -> None:
    async def act(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        long = asyncio.create_task(scene.channel.wire.send([b"x" * 200_000]))
        await asyncio.sleep(0)
        asking = asyncio.create_task(scene.channel.ask(Ping(), 10.0))
        left = 200_000
        while left:
            await asyncio.sleep(3)
            got = len(await loop.sock_recv(scene.far.sock, min(left, 20_000)))
            assert got, "it hung up"
            left -= got
        await long
        written = loop.time()
        assert not asking.done()
        with pytest.raises(Unreachable, match="lab-07 does not answer"):
            await asking
        assert written < loop.time() <= written + 10.0
        assert not scene.closed

    play(act)


# -- alive or dead

QUICK = Timeouts(ping_s=20.0, answer_s=10.0)


def test_a_connection_whose_pings_are_answered_lives() -> None:
    async def act(scene: Scene) -> None:
        heartbeat = asyncio.create_task(scene.channel.keep_alive())
        for _ in range(50):
            line = await scene.far.line()
            assert line["op"] == "ping"
            await scene.far.say(ok=True, seq=line["seq"])
        assert asyncio.get_running_loop().time() == 1000.0 + 50 * 20.0
        assert not scene.closed
        heartbeat.cancel()

    play(act, timeouts=QUICK)


def test_a_connection_on_which_nothing_comes_is_closed_after_its_ping() -> None:
    async def act(scene: Scene) -> None:
        asking = asyncio.create_task(scene.channel.ask(COPY))
        await scene.channel.keep_alive()
        assert scene.closed
        assert asyncio.get_running_loop().time() == 1000.0 + 20.0 + 10.0
        with pytest.raises(Unreachable):
            await asking

    play(act, timeouts=QUICK)


def test_a_connection_on_which_a_manifest_comes_slowly_needs_no_answered_ping() -> None:
    """The answer to the ping stands behind the manifest."""

    async def act(scene: Scene) -> None:
        heartbeat = asyncio.create_task(scene.channel.keep_alive())
        asking = asyncio.create_task(scene.channel.ask(AskManifest(id=CONTENT)))
        seq = (await scene.far.line())["seq"]
        await scene.far.raw(b'{"ok":true,"body":600,"seq":%d}\n' % seq)
        for _ in range(60):
            await scene.far.raw(b"x" * 10)
            await asyncio.sleep(8)
        assert len((await asking).body) == 600
        assert not scene.closed
        await heartbeat
        assert scene.closed, "nothing came any more"

    play(act, timeouts=QUICK)


# -- the end


@pytest.mark.parametrize("cancelled", [False, True], ids=["waits", "cancelled"])
def test_a_channel_that_ends_before_a_request_was_written_leaves_no_unseen_error(cancelled: bool) -> None:
    """The other side decides when it ends. What it can bring to the terminal is a line of ours, and no
    traceback."""

    async def act(scene: Scene) -> None:
        unseen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        sending = asyncio.create_task(scene.channel.wire.send([bytes(400_000)]))
        await asyncio.sleep(0)
        asking = asyncio.create_task(scene.channel.ask(Ping()))
        await asyncio.sleep(0)
        assert scene.channel.waiting
        scene.channel.end()
        if cancelled:
            asking.cancel()
        found = await asyncio.gather(asking, sending, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError if cancelled else Unreachable)
        assert scene.channel.waiting == 0
        await scene.reader
        assert not unseen

    play(act)


def test_when_the_other_side_hangs_up_all_that_wait_are_told_once() -> None:
    async def act(scene: Scene) -> None:
        buffer = memoryview(bytearray(10))
        waiting = [
            asyncio.create_task(scene.channel.ask(Ping())),
            asyncio.create_task(scene.channel.fetch(read(10), buffer)),
            asyncio.create_task(scene.channel.ask(COPY, 10.0, lambda: None)),
        ]
        await scene.far.line()
        scene.far.close()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(one) for one in found] == ["connection to lab-07 broke"] * 3
        assert all(isinstance(one, Unreachable) for one in found)
        with pytest.raises(Unreachable):
            await scene.channel.ask(Ping())

    play(act)


def test_a_connection_that_is_refused_is_told_with_the_code() -> None:
    async def act(scene: Scene) -> None:
        asking = asyncio.create_task(scene.channel.ask(Ping()))
        await scene.far.line()
        await scene.far.say(ok=False, error="busy", message="too many connections")
        with pytest.raises(Refused, match="too many connections"):
            await asking
        assert scene.closed

    play(act)
