"""Control connections: which of several to one peer is kept, how many there are, and how a replica ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from p2p.errors import DiskError, Refused, Unreachable
from p2p.model import ContentId, PeerId
from p2p.net.admission import AdmissionLimits
from p2p.net.limits import Limits, Timeouts
from p2p.net.wire import Wire
from p2p.peer.control import ControlConnection, ControlConnections, Me
from p2p.peer.conversation import converse
from p2p.protocol.codec import by_op
from p2p.protocol.peer_messages import PEER_OPS, Have, Replicate
from p2p.storage.disk_io import disk_io
from tests.kit.wires import FarEnd, in_virtual_time_with_sockets, socket_pair

CONTENT = ContentId("ab" * 32)
COPY = Replicate(id=CONTENT, name="x", size=1)
OURS = PeerId("22" * 16)


class Handled:
    """Notes what control connections bring."""

    def __init__(self) -> None:
        self.connected: list[ControlConnection] = []
        self.disconnected: list[ControlConnection] = []
        self.haves: list[Have] = []
        self.replicas: list[asyncio.Future[None]] = []

    def on_connected(self, connection: ControlConnection) -> None:
        self.connected.append(connection)

    def on_disconnected(self, connection: ControlConnection) -> None:
        self.disconnected.append(connection)

    def on_have(self, connection: ControlConnection, have: Have) -> None:
        self.haves.append(have)

    def manifest(self, content: ContentId) -> bytes:
        return b"manifest"

    def replicate(self, connection: ControlConnection, request: Replicate) -> Awaitable[object]:
        self.replicas.append(asyncio.get_running_loop().create_future())
        return self.replicas[-1]


@dataclass
class Scene:
    controls: ControlConnections
    handled: Handled
    timeouts: Timeouts
    limits: Limits
    ends: list[FarEnd] = field(default_factory=list)

    async def incoming(self, peer: str = "5f" * 16, port: int = 7000) -> FarEnd:
        """A peer dials us and says hello."""
        near, far = socket_pair()
        wire = Wire(near, by_op(PEER_OPS), timeouts=self.timeouts)
        source: Any = None
        converse(wire, source, self.controls, self.timeouts, self.limits)
        self.ends.append(end := FarEnd(far))
        await end.say(op="hello", version=1, peer=peer, name="lab-07", listen={"tcp": port}, seq=1)
        assert (await end.line())["peer"] == OURS
        await asyncio.sleep(0)
        return end


def play(
    act: Callable[[Scene], Awaitable[None]],
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> None:
    """Run a scene in virtual time."""

    async def work() -> None:
        handled = Handled()
        source: Any = None
        scene = Scene(
            ControlConnections(
                lambda: Me(OURS, "ours", {"tcp": 7001}),
                handled,
                source,
                disk_io(),
                timeouts=timeouts or Timeouts(),
                limits=limits or Limits(),
            ),
            handled,
            timeouts or Timeouts(),
            limits or Limits(),
        )
        await act(scene)
        await scene.controls.close()
        for end in scene.ends:
            end.close()
        await asyncio.sleep(1.0)
        assert not len(scene.controls)
        assert len(handled.connected) == len(handled.disconnected)

    in_virtual_time_with_sockets(work)


def test_a_peer_that_says_hello_with_its_ports_has_a_control_connection() -> None:
    async def act(scene: Scene) -> None:
        end = await scene.incoming()
        (connection,) = scene.controls.all()
        assert (connection.peer, connection.name, connection.host) == ("5f" * 16, "lab-07", "127.0.0.1")
        assert scene.controls.get(connection.key) is connection
        assert not connection.dialled
        await end.say(op="have", id=CONTENT, all=True)
        await asyncio.sleep(0.1)
        assert scene.handled.haves == [Have(id=CONTENT, all=True)]

    play(act)


def test_a_second_connection_of_one_peer_takes_the_place_of_the_first() -> None:
    async def act(scene: Scene) -> None:
        await scene.incoming()
        (first,) = scene.controls.all()
        await scene.incoming()
        await asyncio.sleep(0.1)
        (second,) = scene.controls.all()
        assert second is not first
        assert first.closed
        assert scene.handled.disconnected == [first]

    play(act)


def test_an_idle_connection_makes_room_for_a_new_one_and_an_active_one_does_not() -> None:
    async def act(scene: Scene) -> None:
        active = await scene.incoming("01" * 16)
        await active.say(op="have", id=CONTENT, all=True)
        idle = await scene.incoming("02" * 16)
        await asyncio.sleep(2.0)
        await scene.incoming("03" * 16)
        await asyncio.sleep(0.1)
        assert {one.peer for one in scene.controls.all()} == {"01" * 16, "03" * 16}
        with pytest.raises(ConnectionResetError):
            await idle.line()
        await scene.incoming("04" * 16)
        await asyncio.sleep(0.1)
        assert {one.peer for one in scene.controls.all()} == {"01" * 16, "03" * 16}, "idle for too short"

    play(act, limits=Limits(control_connections=AdmissionLimits(total=2, idle_s=1.0)))


def test_a_quiet_connection_is_closed_when_its_ping_is_not_answered() -> None:
    async def act(scene: Scene) -> None:
        await scene.incoming()
        (connection,) = scene.controls.all()
        asking = asyncio.create_task(connection.replicate(COPY, lambda: None))
        await asyncio.sleep(31.0)
        assert connection.closed
        with pytest.raises(Unreachable):
            await asking
        assert scene.handled.disconnected == [connection]

    play(act, Timeouts(ping_s=20.0, answer_s=10.0))


def test_a_connection_that_answers_no_ping_but_sends_its_own_lives_until_those_end() -> None:
    """We sent it a long manifest: our ping stands behind that, in the buffers of the system, and so does the
    answer to its own."""

    async def act(scene: Scene) -> None:
        end = await scene.incoming()
        (connection,) = scene.controls.all()
        for number in range(10):
            await asyncio.sleep(20.0)
            await end.say(op="ping", seq=number)
        assert not connection.closed
        await asyncio.sleep(40.0)
        assert connection.closed

    play(act, Timeouts(ping_s=20.0, answer_s=10.0))


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (None, {"ok": True, "state": "verified"}),
        (DiskError("/home/me is full"), {"ok": False, "error": "disk"}),
        (Refused("quota", "more than 5 GB"), {"ok": False, "error": "quota", "message": "more than 5 GB"}),
        (Unreachable("10.0.0.9 is away"), {"ok": False, "error": "unavailable"}),
    ],
    ids=["verified", "disk", "refused", "unreachable"],
)
def test_a_replica_is_accepted_at_once_and_its_end_is_told(
    outcome: Exception | None, answer: dict[str, Any]
) -> None:
    async def act(scene: Scene) -> None:
        end = await scene.incoming()
        await end.say(op="replicate", id=CONTENT, name="x", size=1, seq=5)
        assert await end.line() == {"ok": True, "state": "accepted", "seq": 5}
        await end.say(op="replicate", id=CONTENT, name="x", size=1, seq=6)
        again = await end.line()
        assert (again["seq"], again["error"]) == (6, "busy")
        if outcome is None:
            scene.handled.replicas[0].set_result(None)
        else:
            scene.handled.replicas[0].set_exception(outcome)
        last = await end.line()
        assert last.items() >= {**answer, "seq": 5}.items()
        assert "home" not in last.get("message", "")
        assert "10.0.0.9" not in last.get("message", "")

    play(act)


def test_a_replica_that_we_asked_for_is_told_accepted_and_ends_when_verified() -> None:
    async def act(scene: Scene) -> None:
        end = await scene.incoming()
        (connection,) = scene.controls.all()
        told: list[bool] = []
        asking = asyncio.create_task(connection.replicate(COPY, lambda: told.append(True)))
        line = await end.line()
        await end.say(ok=True, state="accepted", seq=line["seq"])
        await asyncio.sleep(0.1)
        assert told == [True]
        await end.say(ok=True, state="verified", seq=line["seq"])
        await asking
        assert told == [True]

    play(act)
