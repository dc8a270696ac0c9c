"""The tracker against a model of plain dicts: announce, ask, place, log in and out, expire, disconnect and
restart in any order."""

from __future__ import annotations

import itertools
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from p2p.errors import Refused
from p2p.model import ContentId, PeerId
from p2p.protocol.peer_messages import Answer, Hello, HelloAnswer, Request
from p2p.protocol.tracker_messages import (
    Announce,
    AnnounceAnswer,
    HitsAnswer,
    List,
    Login,
    LoginAnswer,
    Logout,
    LogoutAnswer,
    Lookup,
    LookupAnswer,
    Peers,
    PeersAnswer,
    Place,
    PlaceAnswer,
    Search,
    Share,
    Stats,
    StatsAnswer,
    Withdraw,
    WithdrawAnswer,
)
from p2p.tracker.service import Client, TrackerService, session_key
from p2p.tracker.store.base import fold
from p2p.tracker.store.interface import TrackerStore
from p2p.tracker.store.memory import MemoryStore
from p2p.tracker.store.sqlite import SqliteStore
from tests.kit.effort import stateful

TTL = 30
HOST = "127.0.0.1"
PEERS = [PeerId(f"{number:032x}") for number in range(4)]
IDS = [ContentId(f"{number:064x}") for number in range(4)]
NAMES = ["Linux ISO", "linux iso", "Straße", "a_b %"]
SIZE = 8


@dataclass
class ModelPeer:
    secret: str
    seen: float
    name: str
    room: int = 0
    has: dict[ContentId, tuple[str, int]] = field(default_factory=dict)


class TrackerMachine(RuleBasedStateMachine):
    """Does the same to a real service and to the model, and compares each answer."""

    durable: ClassVar[bool]
    connections = Bundle("connections")
    secrets = Bundle("secrets")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tokens = (f"{number:032x}" for number in itertools.count(1))
        self.folder = tempfile.TemporaryDirectory(prefix="tracker-model-")
        self.store = self.open()
        self.service = self.serve()
        self.users: dict[str, str] = {}
        self.peers: dict[PeerId, ModelPeer] = {}
        self.order: dict[ContentId, list[PeerId]] = {}
        self.accepting: list[PeerId] = []
        self.in_session: dict[int, str | None] = {}
        self.clients: dict[int, Client] = {}
        self.next_connection = 0

    def open(self) -> TrackerStore:
        return SqliteStore(Path(self.folder.name) / "tracker.db", self.now) if self.durable else MemoryStore()

    def serve(self) -> TrackerService:
        return TrackerService(
            self.store.directory, random.Random(1), lambda: next(self.tokens), ttl=TTL, started=self.now
        )

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    # -- the model

    def session_of(self, connection: int) -> str | None:
        secret = self.in_session[connection]
        return secret if secret in self.users else None

    def forget_peer(self, peer_id: PeerId) -> int:
        peer = self.peers.pop(peer_id)
        if peer_id in self.accepting:
            self.accepting.remove(peer_id)
        for content_id in peer.has:
            self.order[content_id].remove(peer_id)
        return len(peer.has)

    def let_leases_end(self) -> None:
        for peer_id in [peer_id for peer_id, peer in self.peers.items() if peer.seen + TTL <= self.now]:
            self.forget_peer(peer_id)

    def name_of(self, content_id: ContentId) -> str:
        return self.peers[self.order[content_id][0]].has[content_id][0]

    def known(self) -> list[ContentId]:
        return [content_id for content_id, order in self.order.items() if order]

    def ask(self, connection: int, request: Request) -> Answer | str:
        """The answer, or the code of the refusal."""
        try:
            return self.service.handle(request, self.clients[connection], self.now)
        except Refused as error:
            return error.code

    def may(self, secret: str | None, peer: ModelPeer | None) -> str | None:
        """Why a session may not change a peer."""
        if secret is None:
            return "login_needed"
        return "not_allowed" if peer is not None and peer.secret != secret else None

    # -- what can happen

    @initialize(target=connections)
    def start(self) -> object:
        return multiple(*(self.connect() for _ in range(2)))

    @rule(target=connections)
    def connect(self) -> int:
        self.next_connection += 1
        self.clients[self.next_connection] = Client(HOST, HOST)
        self.in_session[self.next_connection] = None
        return self.next_connection

    @rule(connection=connections)
    def disconnect(self, connection: int) -> None:
        """The connection is lost and made anew: nothing leaves the directory, and the new one is in no
        session."""
        self.clients[connection] = Client(HOST, HOST)
        self.in_session[connection] = None

    @rule(target=secrets, connection=connections, user=st.sampled_from(["alice", "bob"]))
    def login(self, connection: int, user: str) -> str:
        answer = self.service.handle(Login(user=user), self.clients[connection], self.now)
        assert isinstance(answer, LoginAnswer)
        self.users[answer.session] = user
        self.in_session[connection] = answer.session
        return answer.session

    @rule(connection=connections, secret=secrets)
    def resume(self, connection: int, secret: str) -> None:
        answer = self.ask(connection, Hello(version=1, session=secret))
        if secret in self.users:
            assert isinstance(answer, HelloAnswer)
            self.in_session[connection] = secret
        else:
            assert answer == "login_needed"

    @rule(connection=connections)
    def logout(self, connection: int) -> None:
        secret = self.session_of(connection)
        self.let_leases_end()
        answer = self.ask(connection, Logout())
        if secret is None:
            assert answer == "login_needed"
            return
        mine = [peer_id for peer_id, peer in self.peers.items() if peer.secret == secret]
        assert answer == LogoutAnswer(
            peers=len(mine), contents=sum([self.forget_peer(peer_id) for peer_id in mine])
        )
        del self.users[secret]

    @rule(
        connection=connections,
        peer_id=st.sampled_from(PEERS),
        name=st.sampled_from(["one", "two"]),
        room=st.sampled_from([0, SIZE, 100]),
        shares=st.lists(
            st.tuples(st.sampled_from(IDS), st.sampled_from(NAMES), st.sampled_from([0, 3, SIZE])), max_size=4
        ),
    )
    def register(
        self, connection: int, peer_id: PeerId, name: str, room: int, shares: list[tuple[ContentId, str, int]]
    ) -> None:
        contents = tuple(
            Share(id=content_id, name=title, size=SIZE, have=have) for content_id, title, have in shares
        )
        request = Announce(peer=peer_id, name=name, listen={"tcp": 7000}, room=room, contents=contents)
        secret = self.session_of(connection)
        self.let_leases_end()
        peer = self.peers.get(peer_id)
        answer = self.ask(connection, request)
        if (why := self.may(secret, peer)) is not None:
            assert answer == why
            return
        assert secret is not None
        if peer is None:
            peer = self.peers[peer_id] = ModelPeer(secret, self.now, name)
        peer.seen, peer.name, peer.room = self.now, name, room
        if room and peer_id not in self.accepting:
            self.accepting.append(peer_id)
        elif not room and peer_id in self.accepting:
            self.accepting.remove(peer_id)
        for content_id, title, have in shares:
            if content_id not in peer.has:
                self.order.setdefault(content_id, []).append(peer_id)
            peer.has[content_id] = (title, have)
        assert answer == AnnounceAnswer(ttl=TTL, known=len(peer.has))

    @rule(
        connection=connections, peer_id=st.sampled_from(PEERS), ids=st.lists(st.sampled_from(IDS), max_size=3)
    )
    def withdraw(self, connection: int, peer_id: PeerId, ids: list[ContentId]) -> None:
        secret = self.session_of(connection)
        self.let_leases_end()
        peer = self.peers.get(peer_id)
        answer = self.ask(connection, Withdraw(peer=peer_id, ids=tuple(ids)))
        if (why := self.may(secret, peer)) is not None:
            assert answer == why
            return
        withdrawn = 0
        if peer is not None and ids:
            for content_id in set(ids) & set(peer.has):
                del peer.has[content_id]
                self.order[content_id].remove(peer_id)
                withdrawn += 1
        elif peer is not None:
            withdrawn = self.forget_peer(peer_id)
        assert answer == WithdrawAnswer(withdrawn=withdrawn)

    @rule(seconds=st.sampled_from([0.5, 10.0, 29.5, 30.0, 45.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.service.expire(self.now)

    @rule()
    def commit(self) -> None:
        changes = self.store.take_pending()
        self.store.commit(changes)
        self.store.settle(changes, written=True)

    @rule()
    def commit_fails(self) -> None:
        self.store.settle(self.store.take_pending(), written=False)

    @rule()
    def restart(self) -> None:
        """What was committed is there again; all leases and connections begin anew. A store in memory just
        goes on."""
        if not self.durable:
            return
        self.let_leases_end()
        self.service.expire(self.now)
        self.commit()
        self.store.close()
        self.store = self.open()
        self.service = self.serve()
        self.accepting = [peer.id for peer in self.store.directory.accepting()]
        assert set(self.accepting) == {peer_id for peer_id, peer in self.peers.items() if peer.room}
        for peer in self.peers.values():
            peer.seen = self.now
        for connection in self.clients:
            self.disconnect(connection)

    # -- what must hold

    @rule(text=st.sampled_from(["", "linux", "ISO lin", "strasse", "%", "_", "zzz"]))
    def search(self, text: str) -> None:
        self.let_leases_end()
        words = text.casefold().split()
        answer = self.service.handle(Search(text=text), Client(HOST, HOST), self.now)
        expected = {
            cid for cid in self.known() if all(word in self.name_of(cid).casefold() for word in words)
        }
        assert isinstance(answer, HitsAnswer)
        assert {hit.id for hit in answer.hits} == expected
        assert answer.total == len(expected)

    @rule(offset=st.integers(0, 3), limit=st.integers(1, 3))
    def list_a_page(self, offset: int, limit: int) -> None:
        self.let_leases_end()
        answer = self.service.handle(List(offset=offset, limit=limit), Client(HOST, HOST), self.now)
        assert isinstance(answer, HitsAnswer)
        everything = sorted(self.known(), key=lambda cid: (fold(self.name_of(cid)), cid))
        page = everything[offset : offset + limit]
        assert [(hit.id, hit.name) for hit in answer.hits] == [(cid, self.name_of(cid)) for cid in page]
        assert answer.total == len(everything)
        assert answer.next == (offset + limit if page and offset + limit < len(everything) else None)

    @rule(
        content_id=st.sampled_from(IDS),
        size=st.sampled_from([0, SIZE, SIZE + 1, 101]),
        copies=st.integers(1, 3),
        exclude=st.lists(st.sampled_from(PEERS), max_size=2),
    )
    def place(self, content_id: ContentId, size: int, copies: int, exclude: list[PeerId]) -> None:
        """Peers with room that lack the content, the one that was placed at longest ago first."""
        self.let_leases_end()
        answer = self.service.handle(
            Place(id=content_id, size=size, copies=copies, exclude=tuple(exclude)),
            Client(HOST, HOST, self.a_session()),
            self.now,
        )
        assert isinstance(answer, PlaceAnswer)
        lack = [
            peer for peer in self.accepting if content_id not in self.peers[peer].has and peer not in exclude
        ]
        chosen = [peer for peer in lack if self.peers[peer].room >= size][:copies]
        if self.a_session() is None:
            chosen = chosen[: len(answer.targets)] if answer.targets else chosen
        assert [target.peer for target in answer.targets] == chosen
        for peer in chosen:
            self.accepting.remove(peer)
            self.accepting.append(peer)

    def a_session(self) -> str | None:
        """The key of a session that is open: a client without one gets shorter answers."""
        return next(iter(map(session_key, self.users)), None)

    @rule(connection=connections, content_id=st.sampled_from(IDS))
    def lookup(self, connection: int, content_id: ContentId) -> None:
        self.let_leases_end()
        peers = {
            peer_id: self.peers[peer_id].has[content_id][1] for peer_id in self.order.get(content_id, [])
        }
        answer = self.ask(connection, Lookup(id=content_id))
        if not peers:
            assert answer == "not_found"
            return
        assert isinstance(answer, LookupAnswer)
        assert {source.peer: source.have for source in answer.sources} == peers
        seeds = sum(have == SIZE for have in peers.values())
        assert (answer.content.name, answer.content.seeds, answer.content.peers) == (
            self.name_of(content_id),
            seeds,
            len(peers),
        )

    @invariant()
    def the_figures_and_the_peers_agree(self) -> None:
        self.let_leases_end()
        stats = self.service.handle(Stats(), Client(HOST, HOST), self.now)
        assert isinstance(stats, StatsAnswer)
        shares = sum(len(peer.has) for peer in self.peers.values())
        assert (stats.peers, stats.contents, stats.shares, stats.bytes, stats.sessions) == (
            len(self.peers),
            len(self.known()),
            shares,
            SIZE * len(self.known()),
            len(self.users),
        )
        answer = self.service.handle(Peers(), Client(HOST, HOST), self.now)
        assert isinstance(answer, PeersAnswer)
        assert [(row.peer, row.name, row.user, row.contents) for row in answer.peers] == [
            (peer_id, peer.name, self.users[peer.secret], len(peer.has))
            for peer_id, peer in sorted(self.peers.items(), key=lambda item: (item[1].name, item[0]))
        ]


class MemoryMachine(TrackerMachine):
    durable = False


class SqliteMachine(TrackerMachine):
    durable = True


@pytest.mark.parametrize(("machine", "sequences"), [(MemoryMachine, 60), (SqliteMachine, 40)])
def test_case_11_a_tracker_over_each_store_answers_as_its_model(
    machine: type[TrackerMachine], sequences: int
) -> None:
    run_state_machine_as_test(machine, settings=stateful(sequences))
