"""A peer's serving side against a model made of plain dicts: whatever is said on any of its connections, in
any order."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from p2p.model import Address, ContentId, PeerId
from p2p.net.limits import Timeouts
from p2p.peer.node import Node
from p2p.peer.settings import NodeSettings
from p2p.protocol.framing import MAX_LINE
from tests.kit.bad_peers import Client, Message, encoded
from tests.kit.effort import stateful
from tests.kit.leaks import Snapshot, check_back_to
from tests.kit.swarm_kit import old_file
from tests.kit.waiting import until
from transports import load

T = TypeVar("T")

PIECE: Final = 65_536
FILES: Final = {
    "three.bin": Random(1).randbytes(2 * PIECE + 12_345),
    "tiny.txt": b"hello, swarm",
    "empty": b"",
}
PEERS: Final = [f"{number:032x}" for number in (1, 2)]
PORTS: Final = [5000, 6000]
NOWHERE: Final = ContentId("cd" * 32)
TOO_MUCH: Final = 1 << 42

Key = tuple[str, int]

GARBAGE: Final[list[tuple[bytes, str, bool, bool]]] = [
    # what is said, the code of the error line, whether the connection then ends, and whether it counts as a
    # first line
    (b"\n", "bad_json", True, True),
    (b"[]\n", "bad_json", True, True),
    (b"{}\n", "bad_field", True, True),
    (b'{"op":"ping","op":"ping"}\n', "bad_json", True, True),
    (b"[" * 1000 + b"\n", "bad_json", True, True),
    (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}\n", "bad_json", True, True),
    (b"\xff\xfe\n", "bad_json", True, True),
    (b"GET / HTTP/1.1\r\n", "bad_json", True, True),
    (b"x" * MAX_LINE, "line_too_long", True, True),
    (b'{"ok":true,"seq":99999}\n', "bad_field", True, True),
    (b'{"ok":false,"error":"busy","seq":99999}\n', "bad_field", True, True),
    (b'{"op":"ping","body":-1}\n', "bad_body", True, True),
    (b'{"op":"ping","seq":-1,"body":1}\n', "bad_field", True, True),
    (b'{"op":"zzz"}\n', "unsupported", False, True),
    (b'{"op":"announce"}\n', "unsupported", False, True),
    (b'{"op":7}\n', "bad_field", False, True),
    (b'{"op":"read"}\n', "bad_field", False, True),
    (b'{"op":"ping","seq":-1}\n', "bad_field", False, False),
    (b'{"op":"ping","seq":null}\n', "bad_field", False, False),
]


@dataclass(frozen=True)
class Content:
    """A content as the model knows it."""

    id: ContentId
    data: bytes
    manifest: bytes

    @property
    def pieces(self) -> int:
        return -(-len(self.data) // PIECE)


@dataclass(eq=False)
class Talk:
    """One connection to the peer: what the model knows of it, and what was told on it and not yet
    expected."""

    client: Client
    fresh: bool = True
    link: Key | None = None
    joined: set[ContentId] = field(default_factory=set)
    told: list[Message] = field(default_factory=list)
    early: list[tuple[Message, bytes]] = field(default_factory=list)
    """Answers that came while something told was waited for: the two may overtake each other."""

    async def answer(self) -> tuple[Message, bytes] | None:
        """The next answer; what is told comes to `told`. None when the other side has hung up."""
        if self.early:
            return self.early.pop(0)
        while (heard := await self.client.hear()) is not None:
            if "op" not in heard[0]:
                return heard
            self.told.append(heard[0])
        return None

    async def tells(self, message: Message) -> None:
        """Wait until exactly this was told."""
        while message not in self.told:
            heard = await self.client.hear()
            assert heard is not None, f"hung up, where {message} was due"
            if "op" in heard[0]:
                self.told.append(heard[0])
            else:
                self.early.append(heard)
        self.told.remove(message)


PATIENT: Final = Timeouts(line_s=3600.0, idle_s=3600.0, ping_s=3600.0)
"""The model has no clock: on a busy machine no ping may come, and no connection may end for being slow."""
WITH_A_TALK: Final = precondition(lambda self: bool(self.open))
WHICH: Final = st.integers(0, 11)
"""Which connection, of those that are open."""


class PeerMachine(RuleBasedStateMachine):
    """Says the same to a real peer and to the model, and compares every answer, and which connections are
    open."""

    accepts: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="peer-model-")
        self.runner = asyncio.Runner()
        self.seqs = itertools.count(1)
        self.open: list[Talk] = []
        self.by_key: dict[Key, Talk] = {}
        self.known: dict[str, Content] = {}
        self.shared: dict[ContentId, str] = {}
        self.spoilt: set[ContentId] = set()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the peer's loop run until this is done."""
        return self.runner.run(work)

    @property
    def path(self) -> Path:
        return Path(self.folder.name)

    # -- what the model says

    def ended(self, talk: Talk) -> None:
        """The connection is over, and so is its link."""
        self.open.remove(talk)
        if talk.link is not None and self.by_key.get(talk.link) is talk:
            del self.by_key[talk.link]

    async def hung_up(self, talk: Talk) -> None:
        """The peer must hang up without another answer."""
        assert await talk.answer() is None
        await talk.client.close()
        self.ended(talk)

    async def refused(self, talk: Talk, code: str, seq: int | None, *, ends: bool = False) -> None:
        heard = await talk.answer()
        assert heard is not None, f"hung up, where {code} was due"
        message = heard[0]
        assert (message["ok"], message["error"], message.get("seq")) == (False, code, seq), message
        assert len(encoded(message)) < 1024
        if ends:
            await self.hung_up(talk)

    async def gone(self, content: ContentId) -> None:
        """A content is shared no more: each link that took part in it is told so."""
        del self.shared[content]
        self.spoilt.discard(content)
        for talk in self.open:
            if content in talk.joined:
                talk.joined.remove(content)
                await talk.tells({"op": "have", "id": content, "none": True})

    def talk(self, at: int) -> Talk:
        """One of the open connections."""
        return self.open[at % len(self.open)]

    def content(self, name: str) -> ContentId:
        return self.known[name].id if name in self.known else NOWHERE

    def what(self, content: ContentId) -> Content | None:
        """A content that is shared now."""
        return self.known[self.shared[content]] if content in self.shared else None

    # -- coming and going

    @initialize()
    def start(self) -> None:
        async def work() -> None:
            settings = NodeSettings(
                name="model",
                tracker=Address("127.0.0.1", 1),
                state=self.path / "state",
                host="127.0.0.1",
                port=0,
                accept_uploads=self.accepts,
                folder=self.path / "kept",
            )
            (self.path / "kept").mkdir()
            self.node = Node(settings, load, lambda _report: None, rng=Random(1), timeouts=PATIENT)
            await self.node.start(announce=False)
            self.port = self.node.controls.me.listen["tcp"]
            await self.dial()

        self.do(work())
        self.share("three.bin")

    async def dial(self) -> Talk:
        talk = Talk(await Client.dial(self.port))
        self.open.append(talk)
        return talk

    @precondition(lambda self: len(self.open) < 6)
    @rule()
    def connect(self) -> None:
        self.do(self.dial())

    @precondition(lambda self: len(self.open) < 6)
    @rule(peer=st.sampled_from(PEERS), port=st.sampled_from(PORTS), name=st.sampled_from(list(FILES)))
    def link(self, peer: str, port: int, name: str) -> None:
        """What a peer does first: dial, say who it is, and tell what it has."""
        self.connect()
        self.greet(self.open[-1], peer, port, 1)
        self.tell(self.open[-1], name, {"add": []})

    @WITH_A_TALK
    @rule(
        at=WHICH,
        half=st.sampled_from([b"", b'{"op":"pi', b"\xff", b'{"op":"ping"}\n{"op":']),
        reset=st.booleans(),
    )
    def leave(self, at: int, half: bytes, reset: bool) -> None:
        """Half a line, then the end, or a reset: nothing changes but that this connection is gone."""
        talk = self.talk(at)

        async def work() -> None:
            await talk.client.say(half)
            if reset:
                talk.client.hang_up()
            await talk.client.close()
            self.ended(talk)
            await until(lambda: len(self.node.controls) == len(self.by_key), what="the link is gone")

        self.do(work())

    # -- what is shared

    @rule(name=st.sampled_from(list(FILES)))
    def share(self, name: str) -> None:
        async def work() -> None:
            shared = await self.node.share(old_file(self.path / "share" / name, FILES[name]))
            self.known[name] = Content(shared.id, FILES[name], self.node.manifest(shared.id))
            self.shared[shared.id] = name

        if self.content(name) not in self.shared:
            self.do(work())

    @rule(name=st.sampled_from(list(FILES)))
    def withdraw(self, name: str) -> None:
        async def work() -> None:
            self.node.publisher.retract(self.content(name), self.path / "share" / name)
            if self.content(name) in self.shared:
                await self.gone(self.content(name))

        self.do(work())

    @rule(name=st.sampled_from(list(FILES)))
    def spoil(self, name: str) -> None:
        """The file changes under the peer, which finds out when it is asked for bytes of it, or for a
        copy."""
        content = self.what(self.content(name))
        if content is not None and content.data:
            with open(self.path / "share" / name, "ab") as file:
                file.write(b"!")
            os.utime(self.path / "share" / name, (5, 5))
            self.spoilt.add(content.id)

    # -- what is said

    @WITH_A_TALK
    @rule(
        at=WHICH,
        peer=st.sampled_from([None, *PEERS, "self"]),
        port=st.sampled_from([None, *PORTS]),
        version=st.sampled_from([1, 1, 1, 2]),
    )
    def hello(self, at: int, peer: str | None, port: int | None, version: int) -> None:
        self.greet(self.talk(at), peer, port, version)

    def greet(self, talk: Talk, peer: str | None, port: int | None, version: int) -> None:
        seq = next(self.seqs)
        who = self.node.peer if peer == "self" else peer
        message: Message = {"op": "hello", "version": version, "seq": seq}
        message.update(
            {} if who is None else {"peer": who}, **({} if port is None else {"listen": {"tcp": port}})
        )
        fresh, talk.fresh = talk.fresh, False

        async def work() -> None:
            await talk.client.say(message)
            if not fresh:
                await self.refused(talk, "bad_field", seq, ends=True)
                return
            if version != 1:
                await self.refused(talk, "unsupported", seq)
                return
            heard = await talk.answer()
            assert heard is not None
            expected = {
                "ok": True,
                "version": 1,
                "role": "peer",
                "name": "model",
                "peer": self.node.peer,
                "listen": {"tcp": self.port},
            }
            assert heard[0] == {**expected, "seq": seq}
            if who is None or port is None:
                return
            if who == self.node.peer:
                await self.hung_up(talk)
                return
            talk.link = (PeerId(who), port)
            older = self.by_key.get(talk.link)
            self.by_key[talk.link] = talk
            if older is not None:
                await self.hung_up(older)

        self.do(work())

    @WITH_A_TALK
    @rule(at=WHICH, numbered=st.booleans())
    def ping(self, at: int, numbered: bool) -> None:
        talk = self.talk(at)
        self.do(self.pinged(talk, numbered))

    async def pinged(self, talk: Talk, numbered: bool = True) -> None:
        talk.fresh = False
        number = {"seq": next(self.seqs)} if numbered else {}
        await talk.client.say({"op": "ping", **number})
        assert await talk.answer() == ({"ok": True, **number}, b"")

    @WITH_A_TALK
    @rule(at=WHICH, name=st.sampled_from(list(FILES)))
    def manifest(self, at: int, name: str) -> None:
        talk = self.talk(at)
        talk.fresh = False
        seq, content = next(self.seqs), self.what(self.content(name))

        async def work() -> None:
            await talk.client.say({"op": "manifest", "id": self.content(name), "seq": seq})
            if content is None:
                await self.refused(talk, "not_found", seq)
            else:
                assert await talk.answer() == (
                    {"ok": True, "body": len(content.manifest), "seq": seq},
                    content.manifest,
                )

        self.do(work())

    @WITH_A_TALK
    @rule(
        at=WHICH,
        name=st.sampled_from(list(FILES)),
        blocks=st.lists(
            st.tuples(
                st.sampled_from([0, 0, 1, 2, 2, 3, 1 << 17]),
                st.sampled_from([0, 0, 1, 12_000, PIECE - 1, PIECE]),
                st.sampled_from([1, 12, 345, PIECE - 1, PIECE, 1 << 20]),
            ),
            min_size=1,
            max_size=6,
        ),
    )
    def read(self, at: int, name: str, blocks: list[tuple[int, int, int]]) -> None:
        """Several blocks asked for at once: each is answered in its turn, up to the first that is no block of
        this content."""
        talk = self.talk(at)
        talk.fresh = False
        asked = [(next(self.seqs), *block) for block in blocks]

        async def work() -> None:
            content = self.content(name)
            await talk.client.say(
                b"".join(
                    encoded(
                        {
                            "op": "read",
                            "id": content,
                            "piece": piece,
                            "offset": offset,
                            "length": length,
                            "seq": seq,
                        }
                    )
                    for seq, piece, offset, length in asked
                )
            )
            for seq, piece, offset, length in asked:
                if not await self.block(talk, content, seq, piece * PIECE + offset, piece, offset, length):
                    return

        self.do(work())

    async def block(
        self, talk: Talk, content: ContentId, seq: int, start: int, piece: int, offset: int, length: int
    ) -> bool:
        """The answer to one read; False when it ends the connection."""
        found = self.what(content)
        if found is None:
            await self.refused(talk, "not_found", seq)
            return True
        size = min(PIECE, len(found.data) - piece * PIECE)
        if piece >= found.pieces or offset + length > size:
            await self.refused(talk, "bad_range", seq, ends=True)
            return False
        if content in self.spoilt:
            await self.refused(talk, "not_found", seq)
            await self.gone(content)
            return True
        assert await talk.answer() == (
            {"ok": True, "body": length, "seq": seq},
            found.data[start : start + length],
        )
        return True

    @WITH_A_TALK
    @rule(
        at=WHICH,
        name=st.sampled_from(list(FILES)),
        more=st.sampled_from(
            [
                *(
                    {"all": True},
                    {"none": True},
                    {"add": [0]},
                    {"add": [0, 2]},
                    {"add": []},
                    {"pieces": b"\x80"},
                    {"pieces": b"\xa0"},
                ),
                *(
                    {"pieces": b""},
                    {"pieces": b"\xff"},
                    {"pieces": b"\0\0"},
                    {"add": [3]},
                    {"all": True, "suggest": [2]},
                ),
                *({"pieces": b"\xe0", "add": [1]}, {"suggest": [9]}, {"none": True, "add": [7]}),
            ]
        ),
    )
    def have(self, at: int, name: str, more: dict[str, Any]) -> None:
        self.tell(self.talk(at), name, more)

    def tell(self, talk: Talk, name: str, more: dict[str, Any]) -> None:
        talk.fresh = False
        seq, content = next(self.seqs), self.content(name)
        bits = {"pieces": base64.b64encode(more["pieces"]).decode()} if "pieces" in more else {}

        async def work() -> None:
            await talk.client.say({"op": "have", "id": content, **more, **bits, "seq": seq})
            found = self.what(content)
            if talk.link is None:
                await self.refused(talk, "not_allowed", seq)
            elif found is None:
                if "none" not in more:
                    await talk.tells({"op": "have", "id": content, "none": True})
            elif not _fits(more, found.pieces):
                await self.refused(talk, "bad_field", seq, ends=True)
                return
            elif "none" in more:
                talk.joined.discard(content)
            elif content not in talk.joined:
                talk.joined.add(content)
                await talk.tells({"op": "have", "id": content, "all": True})
            await self.pinged(talk)
            self.suggestions(talk)

        self.do(work())

    def suggestions(self, talk: Talk) -> None:
        """What else was told are suggestions, of pieces that there are, of contents that this link took part
        in."""
        for message in talk.told:
            assert message.keys() == {"op", "id", "suggest"}, message
            (content,) = (one for one in self.known.values() if one.id == message["id"])
            assert message["suggest"]
            assert all(0 <= piece < content.pieces for piece in message["suggest"])
        talk.told.clear()

    @WITH_A_TALK
    @rule(at=WHICH, name=st.sampled_from(list(FILES)))
    def replicate(self, at: int, name: str) -> None:
        talk = self.talk(at)
        talk.fresh = False
        seq, content = next(self.seqs), self.content(name)

        async def work() -> None:
            await talk.client.say(
                {"op": "replicate", "id": content, "name": name, "size": TOO_MUCH, "seq": seq}
            )
            if talk.link is None or not self.accepts:
                await self.refused(talk, "not_allowed", seq)
            elif self.what(content) is None:
                await self.refused(talk, "quota", seq)
            else:
                assert await talk.answer() == ({"ok": True, "state": "accepted", "seq": seq}, b"")
                if (
                    content in self.spoilt
                ):  # which is looked for, and would be fetched anew if there were room
                    await self.refused(talk, "quota", seq)
                    await self.gone(content)
                else:
                    assert await talk.answer() == ({"ok": True, "state": "verified", "seq": seq}, b"")

        self.do(work())

    @WITH_A_TALK
    @rule(at=WHICH, garbage=st.sampled_from(GARBAGE))
    def garbage(self, at: int, garbage: tuple[bytes, str, bool, bool]) -> None:
        talk = self.talk(at)
        data, code, ends, first = garbage
        talk.fresh = talk.fresh and not first

        async def work() -> None:
            await talk.client.say(data)
            await self.refused(talk, code, None, ends=ends)

        self.do(work())

    @WITH_A_TALK
    @rule(at=WHICH)
    def refuse_the_connection(self, at: int) -> None:
        """A refusal of the connection itself: on a link it is no news; who only asks may not answer."""
        talk = self.talk(at)
        talk.fresh = False

        async def work() -> None:
            await talk.client.say({"ok": False, "error": "busy"})
            if talk.link is None:
                await self.hung_up(talk)
            else:
                await self.pinged(talk)

        self.do(work())

    @WITH_A_TALK
    @rule(at=WHICH, and_at=WHICH)
    def two_at_once(self, at: int, and_at: int) -> None:
        """Half a line here, a whole one there, and then the other half: neither waits for the other."""
        one, other = self.talk(at), self.talk(and_at)
        if one is other:
            return
        one.fresh = False
        seq = next(self.seqs)

        async def work() -> None:
            line = encoded({"op": "ping", "seq": seq})
            await one.client.say(line[:9])
            await self.pinged(other)
            await one.client.say(line[9:])
            assert await one.answer() == ({"ok": True, "seq": seq}, b"")

        self.do(work())

    # -- what must hold at the end

    def teardown(self) -> None:
        try:
            self.do(self.all_in_order())
        finally:
            self.runner.close()
            self.folder.cleanup()

    async def all_in_order(self) -> None:
        """Every connection that the model has open is answered, a fresh one too, the links are those of the
        model, and nothing is left."""
        try:
            for talk in self.open:
                await self.pinged(talk)
            fresh = await self.dial()
            await self.pinged(fresh)
            assert {(link.peer, link.listen["tcp"]) for link in self.node.controls.all()} == set(self.by_key)
            assert {local.id for local in self.node.library} == set(self.shared)
            uploads = self.node.uploads.queue
            await until(lambda: uploads.serving == uploads.waiting == 0)
        finally:
            for talk in self.open:
                await talk.client.close()
            await self.node.stop()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, what="all tasks are done")


def _fits(have: dict[str, Any], pieces: int) -> bool:
    """Whether a `have` can be said of a content of so many pieces."""
    if any(piece >= pieces for piece in (*have.get("add", ()), *have.get("suggest", ()))):
        return False
    bits = have.get("pieces")
    if bits is None:
        return True
    return len(bits) == -(-pieces // 8) and not int.from_bytes(bits, "big") & (
        (1 << (len(bits) * 8 - pieces)) - 1
    )


class AcceptingPeer(PeerMachine):
    accepts = 1 << 30


class SharingPeer(PeerMachine):
    accepts = 0


@pytest.mark.parametrize("machine", [AcceptingPeer, SharingPeer])
def test_case_11_a_peer_answers_as_its_model_whatever_is_said_on_any_connection(
    machine: type[PeerMachine],
) -> None:
    before = Snapshot.take()
    run_state_machine_as_test(machine, settings=stateful(40))
    check_back_to(before)
