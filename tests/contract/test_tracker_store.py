"""The duties of a tracker's store, proved for each kind, and for one on disk also after a restart."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.errors import Refused
from p2p.model import ContentId, PeerId
from p2p.protocol.tracker_messages import Share
from p2p.tracker.store.base import ContentRecord, PeerRecord, StoreLimits, fold
from p2p.tracker.store.directory import Directory
from p2p.tracker.store.interface import TrackerStore
from p2p.tracker.store.memory import MemoryStore
from p2p.tracker.store.sqlite import SqliteStore

EVICTABLE = StoreLimits().session_evictable_s
IDLE = StoreLimits().session_idle_s
TTL = 30.0


def save(store: TrackerStore) -> None:
    changes = store.take_pending()
    store.commit(changes)
    store.settle(changes, written=True)
    assert not store.unsaved


class Opener:
    """Opens a store of one kind, and returns its directory. `again` gives what a restart would find; for
    memory, the directory itself."""

    def __init__(self, folder: Path | None) -> None:
        self.store: TrackerStore
        self._folder = folder
        self._open = False

    def __call__(
        self, limits: StoreLimits | None = None, *, again: Directory | None = None, now: float = 0.0
    ) -> Directory:
        if self._folder is None:
            if again is None:
                self.store = MemoryStore(limits)
        else:
            if again is not None:
                save(self.store)
            self.close()
            self.store = SqliteStore(self._folder / "tracker.db", now, limits)
        self._open = True
        return self.store.directory

    def close(self) -> None:
        if self._open:
            self._open = False
            self.store.close()


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens a store of each kind."""
    opener = Opener(tmp_path if request.param == "sqlite" else None)
    yield opener
    opener.close()


def cid(number: int) -> ContentId:
    return ContentId(f"{number:064x}")


def record(number: int, session: str = "s", name: str = "", room: int = 0, seen: float = 0.0) -> PeerRecord:
    return PeerRecord(
        PeerId(f"{number:032x}"),
        session,
        name or f"peer {number}",
        "alice",
        "10.0.0.7",
        None,
        {"tcp": 7000},
        room,
        seen,
    )


def put(store: Directory, number: int, **more: object) -> PeerRecord:
    store.put_peer(record(number, **more))  # type: ignore[arg-type]
    peer = store.peer(PeerId(f"{number:032x}"))
    assert peer is not None
    return peer


def share(number: int, name: str = "", size: int = 100, have: int = 100) -> Share:
    return Share(id=cid(number), name=name or f"file-{number}", size=size, have=have)


def shape(store: Directory) -> object:
    """All that a restart must keep."""
    contents = [
        (c.id, c.name, c.size, c.seeds, [(peer.id, have) for peer, have in c.peers.items()])
        for c in store.contents()
    ]
    peers = [
        (
            p.id,
            p.session,
            p.name,
            p.user,
            p.host,
            p.advertised,
            p.listen,
            p.room,
            p.contents,
            sorted(c.id for c in store.contents_of(p)),
        )
        for p in store.peers()
    ]
    return peers, contents, store.totals()


def content(store: Directory, number: int) -> ContentRecord:
    found = store.content(cid(number))
    assert found is not None
    return found


def test_a_session_that_was_put_is_found_and_one_that_was_dropped_is_not(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 1.0)
    session = store.session("s")
    assert session is not None
    assert (session.user, session.created, session.used) == ("alice", 1.0, 1.0)
    assert store.session("other") is None
    assert store.drop_session("s") == (0, 0)
    assert store.session("s") is None
    assert store.drop_session("s") == (0, 0)
    store.touch_session("s", 2.0)
    assert store.session("s") is None


def test_everything_is_still_there_after_a_restart(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    store.put_session("t", "bob", 0.0)
    one, two = put(store, 1, name="Zoë", room=5), put(store, 2, session="t")
    store.put_peer(
        PeerRecord(
            PeerId(f"{3:032x}"),
            "t",
            "three",
            "bob",
            "::1",
            "host.example",
            {"tcp": 7000, "grpc": 7001},
            0,
            0.0,
        )
    )
    store.put_shares(one, [share(1), share(2, have=50), share(3, name="Ünï/ code")])
    store.put_shares(two, [share(2), share(1, name="another name", size=7, have=7), share(4)])
    store.drop_shares(two, [cid(4)])
    before = shape(store)
    after = opened(again=store, now=1000.0)
    # The order of announcers is part of it, so the order of peers is compared too; users come from the
    # session.
    assert [row[1:] for row in before[1]] == [row[1:] for row in shape(after)[1]]  # type: ignore[index]
    assert before[2] == shape(after)[2]  # type: ignore[index]
    assert {peer.id: peer.contents for peer in store.peers()} == {
        peer.id: peer.contents for peer in after.peers()
    }
    assert [(p.listen, p.advertised, p.host, p.room) for p in after.peers()] == [
        (p.listen, p.advertised, p.host, p.room) for p in store.peers()
    ]


def test_what_was_dropped_does_not_come_back_after_a_restart(opened: Opener) -> None:
    store = opened()
    for key in ("s", "t"):
        store.put_session(key, "alice", 0.0)
    one, two = put(store, 1), put(store, 2, session="t")
    store.put_shares(one, [share(1), share(2)])
    store.put_shares(two, [share(2)])
    store = opened(again=store)
    assert store.drop_session("s") == (1, 2)
    peer = store.peer(two.id)
    assert peer is not None
    assert store.drop_shares(peer, [cid(2), cid(9)]) == 1
    store = opened(again=store)
    assert store.totals() == (1, 1, 0, 0, 0)
    # The same peer and contents again, in one go with their end: nothing of the old ones is mixed in.
    peer = store.peer(two.id)
    assert peer is not None
    store.put_shares(peer, [share(5)])
    assert store.drop_peer(peer) == 1
    put(store, 2, session="t")
    store = opened(again=store)
    assert store.totals() == (1, 1, 0, 0, 0)


def test_a_loaded_peer_gets_a_fresh_lease(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    peer = put(store, 1)
    store.touch_peer(peer, 500.0)
    store = opened(again=store, now=500.0)
    store.expire(500.0 + TTL - 0.001, TTL)
    assert store.peer(peer.id) is not None
    store.expire(500.0 + TTL, TTL)
    assert store.peer(peer.id) is None


def test_a_lease_ends_when_the_ttl_has_passed_and_takes_the_contents_along(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    old, young = put(store, 1, seen=0.0), put(store, 2, seen=10.0)
    store.put_shares(old, [share(1), share(2)])
    store.put_shares(young, [share(2, have=1)])
    assert store.expire(29.0, TTL) == 30.0
    assert store.expire(30.0, TTL) == 40.0
    assert store.peer(old.id) is None
    assert store.content(cid(1)) is None
    assert (content(store, 2).seeds, len(content(store, 2).peers)) == (0, 1)
    assert store.totals() == (1, 1, 1, 1, 100)
    store.touch_peer(young, 39.0)
    store.expire(40.0, TTL)
    assert store.peer(young.id) is young
    store.expire(69.0, TTL)
    assert store.totals() == (1, 0, 0, 0, 0)


def test_an_idle_session_ends_but_not_while_it_has_peers(opened: Opener) -> None:
    store = opened()
    for key in ("idle", "resumed", "peers"):
        store.put_session(key, "alice", 0.0)
    store.touch_session("resumed", 10.0)
    peer = put(store, 1, session="peers")
    store.touch_peer(peer, IDLE)
    store.expire(IDLE, TTL)
    assert [store.session(key) is not None for key in ("idle", "resumed", "peers")] == [False, True, True]
    # Its idle time begins when its last peer has left.
    store.expire(IDLE + TTL, TTL)
    assert store.peer(peer.id) is None
    store.expire(2 * IDLE + TTL - 1, TTL)
    assert store.session("peers") is not None
    store.expire(2 * IDLE + TTL, TTL)
    assert store.totals().sessions == 0


def test_a_name_is_that_of_the_first_live_announcer(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    one, two, three = put(store, 1), put(store, 2), put(store, 3)
    store.put_shares(one, [share(1, name="first")])
    store.put_shares(two, [share(1, name="second", size=7, have=7)])
    store.put_shares(three, [share(1, name="first", have=3)])
    assert (content(store, 1).name, content(store, 1).size, content(store, 1).seeds) == ("first", 100, 2)
    store.drop_shares(one, [cid(1)])
    assert (content(store, 1).name, content(store, 1).size, content(store, 1).seeds) == ("second", 7, 1)
    assert store.totals().bytes == 7
    assert [c.name for c in store.find(["second"])] == ["second"]
    assert not store.find(["first"])
    store.put_shares(two, [share(1, name="renamed", size=7, have=7)])
    assert content(store, 1).name == "renamed"
    store.put_shares(one, [share(1, name="late")])
    store = opened(again=store)
    assert content(store, 1).name == "renamed"
    first = store.peer(two.id)
    assert first is not None
    store.drop_peer(first)
    assert (content(store, 1).name, content(store, 1).size, content(store, 1).seeds) == ("first", 100, 1)
    third = store.peer(three.id)
    assert third is not None
    store.drop_peer(third)
    assert content(store, 1).name == "late"


def test_two_contents_may_have_one_name(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    store.put_shares(put(store, 1), [share(2, name="same"), share(1, name="same")])
    assert [c.id for c in store.contents()] == [cid(1), cid(2)]


def test_seeds_and_totals_follow_every_change(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    one, two = put(store, 1), put(store, 2)
    store.put_shares(one, [share(1, have=0)])
    assert content(store, 1).seeds == 0
    store.put_shares(one, [share(1)])
    store.put_shares(two, [share(1), share(2, size=0, have=0)])
    assert (content(store, 1).seeds, content(store, 2).seeds) == (2, 1)
    assert store.totals() == (1, 2, 2, 3, 100)
    store.put_shares(two, [share(1, have=99)])
    assert content(store, 1).seeds == 1
    assert (one.contents, two.contents) == (1, 2)
    assert store.drop_shares(two, [cid(1), cid(1), cid(2)]) == 2
    assert store.totals() == (1, 2, 1, 1, 100)


def test_peers_come_by_name_and_a_new_name_moves_them(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    for number, name in ((1, "b"), (2, "A"), (3, "ß"), (4, "a")):
        put(store, number, name=name)
    assert [peer.name for peer in store.peers()] == ["A", "a", "b", "ß"]
    put(store, 2, name="z")
    assert [peer.name for peer in store.peers()] == ["a", "b", "ß", "z"]
    store.drop_session("s")
    assert not store.peers()


def test_many_changes_at_once_keep_the_views_sorted(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    peer = put(store, 1)
    numbers = list(range(300))
    store.put_shares(
        peer, [share((number * 7) % 300, name=f"n{(number * 7) % 300:04}") for number in numbers]
    )
    assert [c.name for c in store.contents()] == [f"n{number:04}" for number in numbers]
    store.drop_shares(peer, [cid(number) for number in numbers if number % 3])
    store.put_shares(peer, [share(1000, name="n0001x"), share(1001, name="a")])
    assert [c.name for c in store.contents()][:3] == ["a", "n0000", "n0001x"]
    assert len(store.contents()) == 102
    store.put_shares(peer, [share(2000)])
    store.drop_shares(peer, [cid(2000)])
    assert len(store.contents()) == 102
    for first, count in ((3000, 900), (4000, 100)):
        store.put_shares(
            peer, [share(number, name=f"n{(number * 7) % 500:04}") for number in range(first, first + count)]
        )
        assert list(store.contents()) == sorted(store.contents_of(peer), key=lambda record: record.order)
    assert len(store.contents()) == 1102


def test_peers_with_room_take_turns(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    for number, room in ((1, 10), (2, 0), (3, 10)):
        put(store, number, room=room)
    assert [int(peer.id, 16) for peer in store.accepting()] == [1, 3]
    store.on_placed(PeerId(f"{1:032x}"))
    store.on_placed(PeerId(f"{2:032x}"))
    assert [int(peer.id, 16) for peer in store.accepting()] == [3, 1]
    put(store, 3, room=0)
    assert [int(peer.id, 16) for peer in store.accepting()] == [1]
    put(store, 1, room=7)
    assert [peer.room for peer in store.accepting()] == [7]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ["100% proof", "a_b", "Linux ISO", "Straße"]),
        (("linux",), ["Linux ISO"]),
        (("inu",), ["Linux ISO"]),
        (("iso", "lin"), ["Linux ISO"]),
        (("iso", "mac"), []),
        (("%",), ["100% proof"]),
        (("_",), ["a_b"]),
        (("strasse",), ["Straße"]),
    ],
)
def test_a_word_matches_any_part_of_a_folded_name(
    opened: Opener, words: tuple[str, ...], names: list[str]
) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    store.put_shares(
        put(store, 1),
        [share(n, name=name) for n, name in enumerate(["Linux ISO", "Straße", "100% proof", "a_b"])],
    )
    assert [c.name for c in store.find(words)] == names


def test_find_gives_the_same_as_a_look_at_each_name(opened: Opener) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    store = opened()
    store.put_session("s", "alice", 0.0)
    peer = put(store, 1)
    # More names than are looked through at a time, and words on both sides of the length from which another
    # way is taken.
    letters = "abcé語.*(+ \\"
    drawn = ["".join(rng.choices(letters, k=rng.randrange(1, 40))) for _ in range(3000)]
    store.put_shares(peer, [share(number, name=name) for number, name in enumerate(drawn)])
    for _ in range(100):
        words = []
        for _ in range(rng.randrange(5)):
            name = fold(rng.choice(drawn))
            start = rng.randrange(len(name))
            words.append(
                name[start : start + rng.choice((1, 1, 1, 2, 3, 12, 13, 30))] + rng.choice(("", "", "", "z"))
            )
        assert list(store.find(words)) == [
            content for content in store.contents() if all(word in content.folded for word in words)
        ]
        number = rng.randrange(3100)
        store.put_shares(peer, [share(number, name="".join(rng.choices(letters, k=9)))])
        store.drop_shares(peer, [cid(rng.randrange(3100))])


def test_compatible_forms_and_cases_fold_to_one() -> None:
    assert fold("ＡＢＣ") == fold("abc") == "abc"
    assert fold("E\u0301") == fold("é")
    name = "already-folded"
    assert fold(name) is name


def test_a_limit_refuses_all_of_an_announce_or_nothing(opened: Opener) -> None:
    store = opened(StoreLimits(contents_per_peer=3, peers=2, shares=4, sessions=2, host_part=1.0))
    store.put_session("s", "alice", 0.0)
    one, two = put(store, 1), put(store, 2)
    with pytest.raises(Refused, match="no more peers") as caught:
        put(store, 3)
    assert caught.value.code == "quota"
    put(store, 2, name="known peers may still change")
    store.put_shares(one, [share(1), share(2)])
    with pytest.raises(Refused, match="at most 3") as caught:
        store.put_shares(one, [share(3), share(4)])
    assert caught.value.code == "quota"
    assert one.contents == 2
    store.put_shares(one, [share(1, have=5), share(2), share(2), share(3)])
    store.put_shares(two, [share(1)])
    with pytest.raises(Refused, match="no more contents"):
        store.put_shares(two, [share(2)])
    store.put_shares(two, [share(1, have=3)])
    assert store.totals().shares == 4


def test_at_the_limit_of_sessions_only_a_long_idle_one_makes_room(opened: Opener) -> None:
    store = opened(StoreLimits(sessions=2))
    store.put_session("s", "alice", 0.0)
    store.put_session("t", "bob", 0.0)
    put(store, 1)
    with pytest.raises(Refused) as caught:
        store.put_session("u", "eve", EVICTABLE - 1)
    assert caught.value.code == "quota"
    store.put_session("u", "eve", EVICTABLE)
    assert [store.session(key) is not None for key in ("s", "t", "u")] == [True, False, True]
    put(store, 2, session="u")
    with pytest.raises(Refused):
        store.put_session("v", "eve", 10 * EVICTABLE)
    assert store.session("s") is not None


def test_a_heartbeat_that_changes_nothing_leaves_nothing_to_write(opened: Opener) -> None:
    store = opened()
    store.put_session("s", "alice", 0.0)
    peer = put(store, 1)
    store.put_shares(peer, [share(1)])
    save(opened.store)
    store.touch_peer(peer, 1.0)
    store.touch_session("s", 1.0)
    store.put_shares(peer, [share(1)])
    store.on_placed(peer.id)
    assert not opened.store.unsaved
    assert not opened.store.take_pending()
    opened.store.interrupt()


def test_one_host_gets_a_part_of_each_limit_and_loopback_may_have_all(
    opened: Opener,
) -> None:
    store = opened(StoreLimits(peers=20, shares=20, sessions=20, host_part=0.1))
    for first, (host, room) in enumerate((("10.0.0.66", 2), ("127.0.0.1", 10), ("10.0.0.7", 2))):

        def one(number: int, session: int, host: str = host, first: int = 100 * first) -> PeerRecord:
            return dataclasses.replace(record(first + number, f"{host} {session}"), host=host)

        for number in range(room):
            store.put_session(f"{host} {number}", "eve", 0.0, host)
            store.put_peer(one(number, number))
        if host.startswith("127."):
            continue
        with pytest.raises(Refused) as refused:
            store.put_session(f"{host} more", "eve", EVICTABLE - 1, host)
        assert refused.value.code == "quota"
        with pytest.raises(Refused, match="host"):
            store.put_peer(one(50, 0))
        mine = store.peer(one(0, 0).id)
        assert mine is not None
        store.put_shares(mine, [share(1), share(2)])
        with pytest.raises(Refused, match="host"):
            store.put_shares(mine, [share(3)])
        store.drop_shares(mine, [share(1).id])
        store.put_shares(mine, [share(3)])
        store.drop_peer(mine)
        store.put_peer(one(51, 0))
        # Sessions without peers make room for new ones of their host when they were idle for long; each try
        # looks at one of them.
        store.drop_session(f"{host} 1")
        store.put_session(f"{host} more", "eve", 0.0, host)
        for _ in range(2):
            try:
                store.put_session(f"{host} again", "eve", EVICTABLE, host)
            except Refused:
                continue
            break
        assert store.session(f"{host} again") is not None
        assert store.session(f"{host} more") is None
