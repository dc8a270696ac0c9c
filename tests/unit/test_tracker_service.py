"""The tracker's answers, one request and one moment at a time; no sockets."""

from __future__ import annotations

import itertools
import random
from typing import TypeVar, cast

import pytest

from p2p.errors import ProtocolError, Refused
from p2p.model import MAX_SIZE, ContentId, PeerId
from p2p.protocol.codec import decode_answer, decode_line, encode_answer, encode_request
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.peer_messages import Answer, Hello, HelloAnswer, Ping, PingAnswer, Request
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
from p2p.tracker.service import AMPLIFY, PAGE_BYTES, Client, TrackerService
from p2p.tracker.store.base import PeerRecord, StoreLimits
from p2p.tracker.store.directory import Directory

A = TypeVar("A", bound=Answer)

HOME = "127.0.0.1"


class World:
    """A service, a clock, and a few verbs."""

    def __init__(self, limits: StoreLimits | None = None, *, trust_advertised: bool = False) -> None:
        secrets = (f"{number:032x}" for number in itertools.count(1))
        self.directory = Directory(limits)
        self.service = TrackerService(
            self.directory, random.Random(5), lambda: next(secrets), ttl=30, trust_advertised=trust_advertised
        )
        self.now = 0.0

    def ask(self, client: Client, request: Request, kind: type[A]) -> A:
        answer = self.service.handle(request, client, self.now)
        assert type(answer) is kind
        return answer

    def refused(self, client: Client, request: Request) -> str:
        with pytest.raises((Refused, ProtocolError)) as caught:
            self.service.handle(request, client, self.now)
        return cast(Refused, caught.value).code

    def client(self, host: str = HOME, reached: str = HOME, *, user: str | None = None) -> Client:
        client = Client(host, reached)
        if user is not None:
            self.ask(client, Login(user=user), LoginAnswer)
        return client

    def announce(self, client: Client, number: int, *shares: Share, **more: object) -> int:
        return self.ask(client, announced(number, *shares, **more), AnnounceAnswer).known


def pid(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def cid(number: int) -> ContentId:
    return ContentId(f"{number:064x}")


def share(number: int, name: str = "", size: int = 7, have: int = 7) -> Share:
    return Share(id=cid(number), name=name or f"file-{number}", size=size, have=have)


def announced(number: int, *shares: Share, **more: object) -> Announce:
    fields: dict[str, object] = {"name": f"peer-{number}", "listen": {"tcp": 7000}, **more}
    return Announce(peer=pid(number), contents=shares, **fields)  # type: ignore[arg-type]


def test_hello_is_answered_and_other_versions_are_unsupported() -> None:
    world = World()
    answer = world.ask(world.client(), Hello(version=1), HelloAnswer)
    assert (answer.version, answer.role) == (1, "tracker")
    assert world.refused(world.client(), Hello(version=2)) == "unsupported"
    assert world.ask(world.client(), Ping(), PingAnswer) == PingAnswer()


def test_a_session_is_resumed_by_its_secret_and_by_nothing_else() -> None:
    world = World()
    secret = world.ask(world.client(), Login(user="alice"), LoginAnswer).session
    other = world.client()
    world.ask(other, Hello(version=1, session=secret), HelloAnswer)
    assert world.ask(other, Stats(), StatsAnswer).user == "alice"
    for wrong in ("0" * 32, secret[::-1]):
        client = world.client()
        assert world.refused(client, Hello(version=1, session=wrong)) == "login_needed"
        assert client.session is None


def test_case_67_the_store_never_sees_the_secret_of_a_session() -> None:
    world = World()
    client = world.client()
    secret = world.ask(client, Login(user="alice"), LoginAnswer).session
    assert world.directory.session(secret) is None
    assert client.session is not None
    assert secret not in client.session
    assert world.directory.session(client.session) is not None


def test_to_announce_and_to_withdraw_takes_a_session_and_to_ask_does_not() -> None:
    world = World()
    without_session = world.client()
    for request in (announced(1), Withdraw(peer=pid(1), ids=()), Logout()):
        assert world.refused(without_session, request) == "login_needed"
    assert world.ask(without_session, Search(text="x"), HitsAnswer).total == 0
    assert world.ask(without_session, Stats(), StatsAnswer).user is None


def test_case_71_a_peer_of_another_session_cannot_be_changed_or_withdrawn() -> None:
    world = World()
    alice, eve = world.client(user="alice"), world.client(user="eve")
    world.announce(alice, 1, share(1))
    assert world.refused(eve, announced(1, share(2))) == "not_allowed"
    assert world.refused(eve, Withdraw(peer=pid(1), ids=(cid(1),))) == "not_allowed"
    assert world.refused(eve, Withdraw(peer=pid(1))) == "not_allowed"
    assert world.ask(eve, Stats(), StatsAnswer).shares == 1


def test_a_second_login_opens_another_session_and_ends_nothing() -> None:
    world = World()
    client = world.client()
    first = world.ask(client, Login(user="alice"), LoginAnswer).session
    world.announce(client, 1, share(1))
    world.ask(client, Login(user="bob"), LoginAnswer)
    assert world.ask(client, Stats(), StatsAnswer).user == "bob"
    assert world.refused(client, announced(1)) == "not_allowed"
    back = world.client()
    world.ask(back, Hello(version=1, session=first), HelloAnswer)
    assert world.announce(back, 1) == 1


@pytest.mark.parametrize("end", ["logout", "logout elsewhere", "idle"])
def test_cases_71_79_after_its_session_ended_an_open_connection_must_log_in(end: str) -> None:
    world = World()
    client, elsewhere = world.client(), world.client()
    secret = world.ask(client, Login(user="alice"), LoginAnswer).session
    world.ask(elsewhere, Hello(version=1, session=secret), HelloAnswer)
    world.announce(client, 1, share(1), share(2))
    if end == "idle":
        world.now = 30.0
        world.service.expire(world.now)
        world.now += StoreLimits().session_idle_s
    else:
        answer = world.ask(client if end == "logout" else elsewhere, Logout(), LogoutAnswer)
        assert (answer.peers, answer.contents) == (1, 2)
        assert world.refused(client, Lookup(id=cid(1))) == "not_found"
    for connection in (client, elsewhere):
        assert world.refused(connection, announced(1, share(1))) == "login_needed"
        assert world.refused(connection, Withdraw(peer=pid(1), ids=(cid(1),))) == "login_needed"
        assert world.refused(connection, Logout()) == "login_needed"
    assert world.ask(client, Stats(), StatsAnswer).peers == 0


def test_an_announce_says_how_many_contents_are_known() -> None:
    world = World()
    client = world.client(user="alice")
    assert world.announce(client, 1) == 0
    assert world.announce(client, 1, share(1), share(2)) == 2
    assert world.announce(client, 1) == 2
    world.now = 31.0
    assert world.announce(client, 1) == 0


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (share(2, name="a/b"), r"contents\[1\]\.name: "),
        (share(2, name=".."), r"contents\[1\]\.name: "),
        (share(2, name="a\u202eb"), r"contents\[1\]\.name: "),
        (share(2, size=5, have=6), r"contents\[1\]\.have: "),
    ],
)
def test_an_announce_with_one_wrong_content_changes_nothing_and_names_the_field(
    wrong: Share, where: str
) -> None:
    world = World()
    client = world.client(user="alice")
    with pytest.raises(ProtocolError, match="^" + where) as caught:
        world.service.handle(announced(1, share(1), wrong), client, 0.0)
    assert (caught.value.code, caught.value.fatal) == ("bad_field", False)
    assert world.ask(client, Stats(), StatsAnswer).peers == 0


def test_case_15_a_quota_refuses_contents_but_keeps_the_peer_alive() -> None:
    world = World(StoreLimits(contents_per_peer=2))
    client = world.client(user="alice")
    assert world.announce(client, 1, share(1), share(2)) == 2
    assert world.refused(client, announced(1, share(3))) == "quota"
    world.now = 20.0
    assert world.refused(client, announced(1, share(3))) == "quota"
    world.now = 40.0
    assert world.announce(client, 1) == 2


def test_case_17_an_advertised_host_counts_only_where_the_operator_allows_it() -> None:
    for trust, expected in ((False, "203.0.113.5"), (True, "lab.example")):
        world = World(trust_advertised=trust)
        world.announce(world.client("203.0.113.5", user="alice"), 1, share(1), advertise="lab.example")
        answer = world.ask(world.client("198.51.100.1"), Lookup(id=cid(1)), LookupAnswer)
        assert [source.host for source in answer.sources] == [expected]
    world = World()
    assert world.refused(world.client(user="alice"), announced(1, advertise="169.254.169.254")) == "bad_field"


def test_a_heartbeat_from_elsewhere_moves_the_peer() -> None:
    world = World()
    client = world.client("203.0.113.5", user="alice")
    world.announce(client, 1, share(1))
    client.host = "203.0.113.6"
    world.announce(client, 1, name="new name", listen={"tcp": 7001, "grpc": 7002}, room=9)
    (row,) = world.ask(client, Peers(), PeersAnswer).peers
    assert (row.host, row.name, row.listen, row.room, row.contents, row.user) == (
        "203.0.113.6",
        "new name",
        {"tcp": 7001, "grpc": 7002},
        9,
        1,
        "alice",
    )


def test_withdraw_takes_contents_out_or_without_ids_the_peer_itself() -> None:
    world = World()
    client = world.client(user="alice")
    world.announce(client, 1, share(1), share(2), share(3))
    assert world.ask(client, Withdraw(peer=pid(1), ids=(cid(1), cid(9))), WithdrawAnswer).withdrawn == 1
    assert world.refused(client, Lookup(id=cid(1))) == "not_found"
    assert world.ask(client, Withdraw(peer=pid(2), ids=(cid(1),)), WithdrawAnswer).withdrawn == 0
    assert world.ask(client, Withdraw(peer=pid(1)), WithdrawAnswer).withdrawn == 2
    stats = world.ask(client, Stats(), StatsAnswer)
    assert (stats.peers, stats.shares, stats.sessions) == (0, 0, 1)


def test_a_lookup_lists_the_peers_of_a_content_without_the_client_itself() -> None:
    world = World()
    client = world.client(user="alice")
    world.announce(client, 1, share(1, name="lab.img", size=10, have=10))
    world.announce(client, 2, share(1, name="lab.img", size=10, have=4))
    answer = world.ask(client, Lookup(id=cid(1)), LookupAnswer)
    content = answer.content
    assert (content.id, content.name, content.size, content.seeds, content.peers) == (
        cid(1),
        "lab.img",
        10,
        1,
        2,
    )
    assert [(source.peer, source.have, source.host, source.listen) for source in answer.sources] == [
        (pid(1), 10, HOME, {"tcp": 7000}),
        (pid(2), 4, HOME, {"tcp": 7000}),
    ]
    assert [
        source.peer for source in world.ask(client, Lookup(id=cid(1), peer=pid(1)), LookupAnswer).sources
    ] == [pid(2)]
    assert len(world.ask(client, Lookup(id=cid(1), peer=pid(77)), LookupAnswer).sources) == 2
    assert len(world.ask(client, Lookup(id=cid(1), limit=1), LookupAnswer).sources) == 1
    assert world.refused(client, Lookup(id=cid(2))) == "not_found"


def test_case_20_no_answer_shows_a_peer_whose_lease_is_over() -> None:
    world = World()
    client = world.client(user="alice")
    world.announce(client, 1, share(1), room=100)
    world.now = 29.9
    assert world.ask(client, Lookup(id=cid(1)), LookupAnswer).content.peers == 1
    world.now = 30.0
    assert world.refused(client, Lookup(id=cid(1))) == "not_found"
    assert world.ask(client, Peers(), PeersAnswer).total == 0
    assert world.ask(client, Search(text="file"), HitsAnswer).total == 0
    assert world.ask(client, List(), HitsAnswer).total == 0
    assert world.ask(client, Place(id=cid(2), size=1), PlaceAnswer).targets == ()


def test_search_and_list_go_page_by_page_to_the_end() -> None:
    world = World()
    client = world.client(user="alice")
    for start in range(0, 250, 50):
        world.announce(
            client, 1, *(share(number, name=f"file-{number:03}") for number in range(start, start + 50))
        )
    for searching in (False, True):
        seen: list[str] = []
        offset: int | None = 0
        while offset is not None:
            page = world.ask(
                client, Search(text="file", offset=offset) if searching else List(offset=offset), HitsAnswer
            )
            assert page.total == 250
            seen += [hit.name for hit in page.hits]
            offset = page.next
        assert seen == [f"file-{number:03}" for number in range(250)]
    assert world.ask(client, List(offset=250), HitsAnswer) == HitsAnswer(total=250, hits=())


def test_a_page_never_exceeds_what_a_line_can_carry() -> None:
    world = World(trust_advertised=True)
    client = world.client(user='"' * 64)
    far = ".".join(["x" * 62] * 4)
    listen = {f"transport{number:07}": 65535 for number in range(8)}
    for number in range(100):
        # Quotes double on the wire; these are the largest rows there are.
        contents = (share(number, name=f"{number:03}" + '"' * 252), share(777))
        world.announce(client, number, *contents, name='"' * 64, listen=listen, advertise=far, room=10)
    requests: list[Request] = [
        Search(text='"', limit=100),
        List(limit=100),
        Peers(limit=100),
        Lookup(id=cid(777), limit=100),
    ]
    for request in [*requests, Place(id=cid(888), size=1, copies=100)]:
        answer = world.service.handle(request, client, 0.0)
        line = encode_answer(answer, 2**53 - 1)
        assert PAGE_BYTES * 0.9 < len(line) < MAX_LINE, request.OP
    seen = 0
    offset: int | None = 0
    while offset is not None:
        page = world.ask(client, Peers(limit=100, offset=offset), PeersAnswer)
        seen += len(page.peers)
        offset = page.next
    assert seen == 100


def test_case_19_without_a_session_an_answer_is_at_most_100_times_its_request() -> None:
    world = World()
    alice = world.client(user="alice")
    for number in range(200):
        world.announce(alice, number, share(number), share(777), share(999), room=10)
    without_session = world.client()
    requests: list[Request] = [
        List(),
        List(limit=100),
        Search(text=""),
        Search(text="f", limit=100),
        Peers(),
        Peers(limit=100),
    ]
    for request in [*requests, Lookup(id=cid(777), limit=100), Place(id=cid(888), size=1, copies=100)]:
        answer = encode_answer(world.service.handle(request, without_session, 0.0))
        assert len(answer) <= AMPLIFY * len(encode_request(request)), request.OP
        assert len(encode_answer(world.service.handle(request, alice, 0.0))) >= len(answer)
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = world.ask(without_session, List(offset=offset), HitsAnswer)
        seen += [hit.id for hit in page.hits]
        offset = page.next
    assert len(set(seen)) == len(seen) == 202


def test_peers_are_shown_as_the_client_can_reach_them_and_pages_lead_to_all() -> None:
    world = World()
    for number, host in enumerate(("203.0.113.5", "192.168.1.5", "127.0.0.1", "192.168.1.6", "203.0.113.6")):
        world.announce(world.client(host, user="alice"), number)
    outside = world.client("198.51.100.1", "203.0.113.1")
    answer = world.ask(outside, Peers(), PeersAnswer)
    assert [row.host for row in answer.peers] == ["203.0.113.5", "203.0.113.1", "203.0.113.6"]
    assert (answer.total, answer.next) == (5, None)
    hosts: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = world.ask(outside, Peers(offset=offset, limit=1), PeersAnswer)
        hosts += [row.host for row in page.peers]
        offset = page.next
    assert hosts == ["203.0.113.5", "203.0.113.1", "203.0.113.6"]
    inside = world.client("192.168.1.9", "192.168.1.2")
    assert [row.host for row in world.ask(inside, Peers(), PeersAnswer).peers][1:3] == [
        "192.168.1.5",
        "192.168.1.2",
    ]


def test_the_age_of_a_peer_is_the_time_since_its_heartbeat() -> None:
    world = World()
    client = world.client(user="alice")
    world.announce(client, 1)
    world.now = 12.7
    assert [row.age for row in world.ask(client, Peers(), PeersAnswer).peers] == [12]


def test_copies_go_round_robin_to_peers_that_accept_have_room_and_lack_it() -> None:
    world = World()
    client = world.client(user="alice")
    for number, room in enumerate((0, 100, 100, 5, 100, 100)):
        world.announce(client, number, *([share(1)] if number == 5 else []), room=room)
    request = Place(id=cid(1), size=50, copies=2, exclude=(pid(4),))
    assert [target.peer for target in world.ask(client, request, PlaceAnswer).targets] == [pid(1), pid(2)]
    turns = [
        target.peer
        for _ in range(4)
        for target in world.ask(client, Place(id=cid(1), size=50), PlaceAnswer).targets
    ]
    assert turns == [pid(4), pid(1), pid(2), pid(4)]
    assert world.ask(client, Place(id=cid(1), size=101), PlaceAnswer).targets == ()


def test_stats_are_the_figures_of_the_directory() -> None:
    world = World()
    client = world.client(user="alice")
    world.announce(client, 1, share(1, size=10, have=3), share(2, size=5, have=5))
    world.announce(client, 2, share(1, size=10, have=10))
    world.now = 7.5
    world.service.connections = 4
    stats = world.ask(client, Stats(), StatsAnswer)
    assert (stats.uptime, stats.peers, stats.contents, stats.shares, stats.bytes) == (7, 2, 2, 3, 15)
    assert (stats.sessions, stats.connections, stats.requests, stats.user) == (1, 4, 4, "alice")


def test_many_peers_of_one_content_cost_a_lookup_one_look_at_each() -> None:
    world = World()
    client = world.client(user="alice")
    for number in range(2000):
        world.directory.put_peer(
            PeerRecord(
                pid(number), cast(str, client.session), "p", "alice", "10.0.0.7", None, {"tcp": 7000}, 0, 0.0
            )
        )
        world.announce(client, number, share(1), name="p")
    answer = world.ask(client, Lookup(id=cid(1), limit=100), LookupAnswer)
    assert len({source.peer for source in answer.sources}) == 100
    assert answer.content.peers == 2000


def test_case_15_figures_beyond_what_the_wire_carries_are_capped() -> None:
    """Contents that no peer has cost a peer nothing, and are as large as it says."""
    world = World()
    client = world.client(user="eve")
    for start in range(0, 2**11 + 64, 64):
        world.announce(
            client, 1, *(share(number, size=MAX_SIZE, have=0) for number in range(start, start + 64))
        )
    assert world.directory.totals().bytes > 2**53
    stats = world.ask(client, Stats(), StatsAnswer)
    assert stats.bytes == 2**53 - 1
    assert decode_answer(decode_line(encode_answer(stats)[:-1]), Stats) == stats
