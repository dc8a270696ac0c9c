"""One peer in one swarm: members, `have` lines, uploads. The clock is a number."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import KIB, BlockSpan, PeerKey
from p2p.swarm.events import (
    BlockArrived,
    BlockAsked,
    BlockSent,
    Cancel,
    Drop,
    Effect,
    Event,
    Fetch,
    Finished,
    GiveUp,
    Grant,
    Introduce,
    Listed,
    MemberJoined,
    MemberLeft,
    PeerGained,
    PeerHas,
    PieceCorrupt,
    PieceVerified,
    Published,
    Refuse,
    SendBegan,
    SendHave,
    SendNone,
    Suggest,
    Suggested,
    Tick,
    UploadEnded,
    Withdrawn,
)
from p2p.swarm.participant import Participant
from p2p.swarm.peer_stats import Policy
from p2p.swarm.topology import MAX_HAVE_INTERVAL, MIN_HAVE_INTERVAL, have_interval
from p2p.swarm.upload_queue import UploadLimits, UploadQueue

A, B, C = (PeerKey(name) for name in "abc")
LENGTH = 64 * KIB
START_S = 1000.0


def client(peer: PeerKey) -> str:
    """How the requests of a peer are known."""
    return f"{peer}@10.0.0.7"


def joined(peer: PeerKey) -> MemberJoined:
    return MemberJoined(peer, client(peer))


class Scene:
    """A participant and its clock. It serves the pieces in `have`; with `fetching` it fetches the others."""

    def __init__(
        self,
        pieces: int = 8,
        have: int = 0,
        *,
        fetching: bool = False,
        policy: Policy | None = None,
        queue: UploadQueue | None = None,
    ) -> None:
        self.geometry = Geometry(pieces * LENGTH, LENGTH)
        self.queue = queue or UploadQueue()
        self.now = START_S
        self.every = (1 << pieces) - 1
        bitmap = Bitmap(pieces, have)
        self.participant = Participant(
            self.geometry, bitmap, self.queue, Random(1), self.now, fetching=fetching, policy=policy
        )

    def feed(self, *events: Event) -> list[Effect]:
        return [effect for event in events for effect in self.participant.handle(event, self.now)]

    def block(self, piece: int) -> BlockSpan:
        return self.geometry.blocks(piece)[0]

    def have_lines(self, seconds: float, late: float = 0.0) -> list[tuple[float, tuple[int, ...]]]:
        """Tick for so long, each tick `late` seconds after the wake-up; the `have` lines and their times."""
        lines, end = [], self.now + seconds
        while (wakeup := self.participant.next_wakeup()) is not None and wakeup <= end:
            self.now = max(self.now, wakeup + late)
            lines += [(self.now, effect.pieces) for effect in self.feed(Tick()) if type(effect) is SendHave]
        self.now = max(self.now, end)
        return lines


def seed(pieces: int = 8, queue: UploadQueue | None = None) -> Scene:
    """A scene in which the participant has everything."""
    return Scene(pieces, (1 << pieces) - 1, queue=queue)


# -- members


def test_a_new_member_is_sent_everything_that_we_have() -> None:
    scene = Scene()
    assert scene.feed(joined(A)) == [Introduce(A)]
    assert scene.participant.has_member(A)
    assert scene.participant.members == (A,)
    assert scene.participant.pieces_of(A) == 0


def test_what_a_member_has_is_replaced_by_a_list_and_extended_by_news() -> None:
    scene = Scene()
    scene.feed(joined(A), PeerHas(A, 0b0011), PeerGained(A, 0b0100))
    assert scene.participant.pieces_of(A) == 0b0111
    scene.feed(PeerHas(A, 0b1000))
    assert scene.participant.pieces_of(A) == 0b1000


def test_nothing_is_believed_of_a_peer_that_is_no_member() -> None:
    scene = Scene(fetching=True)
    assert scene.feed(PeerHas(B, 0b1), PeerGained(B, 0b1), Suggested(B, (0,)), MemberLeft(B)) == []
    assert scene.participant.pieces_of(B) == 0
    assert not scene.participant.has_member(B)


def test_a_member_that_left_is_forgotten() -> None:
    scene = Scene()
    scene.feed(joined(A), joined(B), PeerHas(A, 0b1), MemberLeft(A))
    assert scene.participant.members == (B,)
    assert scene.participant.pieces_of(A) == 0


def test_a_download_is_an_exchange_of_events_and_effects() -> None:
    """The example on top of `swarm/events.py`."""
    scene = Scene(pieces=1, fetching=True)
    block = scene.block(0)
    assert scene.feed(joined(A)) == [Introduce(A)]
    assert scene.feed(PeerHas(A, 0b1)) == [Fetch(A, block)]
    assert scene.participant.requests == {(A, block)}
    assert scene.participant.sources == 1
    assert scene.feed(BlockArrived(A, block)) == []
    assert scene.feed(PieceVerified(0)) == [Finished()]
    assert scene.feed(Tick()) == [SendHave((0,))]
    assert scene.participant.have.full


def test_a_member_that_joins_again_by_another_connection_starts_anew() -> None:
    scene = Scene(fetching=True)
    scene.feed(joined(A), PeerHas(A, 0b1))
    assert Introduce(A) in scene.feed(joined(A))
    assert scene.participant.members == (A,)
    assert scene.participant.pieces_of(A) == 0


def test_a_peer_that_sends_corrupt_pieces_is_banned() -> None:
    scene = Scene(fetching=True, policy=Policy(strikes=1))
    fetches = scene.feed(joined(A), PeerHas(A, scene.every))
    block = next(effect.block for effect in fetches if isinstance(effect, Fetch))
    effects = scene.feed(BlockArrived(A, block), PieceCorrupt(block.piece))
    assert [effect.corrupt for effect in effects if isinstance(effect, Drop)] == [True]
    assert scene.participant.banned(A)
    assert not scene.participant.banned(B)


def test_a_seed_fetches_nothing_and_waits_for_nothing() -> None:
    scene = seed()
    effects = scene.feed(joined(A), PeerHas(A, scene.every), Listed(3), Suggested(A, (0,)), Tick())
    assert effects == [Introduce(A)]
    assert (scene.participant.sources, scene.participant.requests) == (0, frozenset())
    assert scene.participant.next_wakeup() is None


def test_a_download_without_peers_gives_up_at_its_wakeup() -> None:
    scene = Scene(fetching=True, policy=Policy(alone_timeout=5.0))
    scene.feed(Listed(0))
    wakeup = scene.participant.next_wakeup()
    assert wakeup == START_S + 5
    scene.now = wakeup
    assert scene.feed(Tick()) == [GiveUp(tuple(range(8)))]


# -- telling what we have


def test_a_single_piece_is_sent_in_the_same_moment() -> None:
    scene = Scene()
    scene.feed(joined(A), PieceVerified(7))
    assert scene.participant.next_wakeup() == scene.now
    assert scene.feed(Tick()) == [SendHave((7,))]
    assert scene.participant.next_wakeup() is None


def test_pieces_that_verify_soon_after_each_other_share_a_line() -> None:
    scene = Scene(pieces=500)
    scene.feed(joined(A))
    verified: dict[int, float] = {}
    lines = []
    for piece in range(500):
        verified[piece] = scene.now
        scene.feed(PieceVerified(piece))
        lines += scene.have_lines(MIN_HAVE_INTERVAL / 20)
    lines += scene.have_lines(1)
    assert [piece for _, pieces in lines for piece in pieces] == list(range(500))
    assert len(lines) <= 500 / 20 + 2
    longest = max(at - verified[piece] for at, pieces in lines for piece in pieces)
    assert longest <= MIN_HAVE_INTERVAL + 1e-6, "no piece waits longer than from one line to the next"


@pytest.mark.parametrize("members", [1, 10, 100])
def test_have_lines_are_less_frequent_with_more_members(members: int) -> None:
    scene = Scene(pieces=500)
    scene.feed(*(joined(PeerKey(f"peer {number}")) for number in range(members)))
    times = []
    for piece in range(500):
        scene.feed(PieceVerified(piece))
        times += [at for at, _ in scene.have_lines(0.01)]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert min(gaps) == pytest.approx(have_interval(members), abs=1e-6)
    assert max(gaps) <= have_interval(members) + 0.01 + 1e-6


def test_a_tick_that_comes_too_early_sends_nothing() -> None:
    scene = Scene()
    scene.feed(joined(A), PieceVerified(0))
    scene.feed(Tick(), PieceVerified(1))
    scene.now += MIN_HAVE_INTERVAL / 2
    assert scene.feed(Tick()) == []
    scene.now += MIN_HAVE_INTERVAL / 2
    assert scene.feed(Tick()) == [SendHave((1,))]


def test_a_busy_processor_sends_fewer_have_lines_until_it_is_idle_again() -> None:
    scene = Scene(pieces=3000)
    scene.feed(joined(A))

    def lines(late: float, first: int) -> int:
        """How many lines are sent in four seconds in which each tick comes late."""
        found = 0
        for piece in range(first, first + 800):
            scene.feed(PieceVerified(piece))
            found += len(scene.have_lines(MIN_HAVE_INTERVAL / 4, late))
        return found

    idle, busy, after = lines(0.0, 0), lines(0.03, 1000), lines(0.0, 2000)
    assert 4.0 / MAX_HAVE_INTERVAL - 2 <= busy <= idle / 3
    assert after > idle / 2


def test_the_next_wakeup_is_the_first_of_the_have_line_and_the_download() -> None:
    scene = Scene(fetching=True, policy=Policy(alone_timeout=5.0))
    scene.feed(Listed(0))
    give_up = scene.participant.next_wakeup()
    assert give_up == START_S + 5
    scene.now += 1
    scene.feed(PieceVerified(0))
    assert scene.participant.next_wakeup() == scene.now
    scene.feed(Tick())
    later = scene.participant.next_wakeup()
    assert later is not None
    assert later > give_up, "a verified piece also gives the download more time"


# -- from a download to a seed, and the end


def test_a_published_content_is_introduced_to_every_member_and_suggested() -> None:
    scene = Scene(pieces=2, have=0b01, fetching=True)
    scene.feed(joined(A), joined(B), PeerHas(A, 0b11), PeerHas(B, 0b01), PieceVerified(1))
    effects = scene.feed(Published())
    assert effects == [Introduce(A), Introduce(B), Suggest(B, (1,))]
    assert scene.participant.next_wakeup() is None, "the line about piece 1 says nothing new any more"
    assert scene.feed(Tick()) == []


def test_between_the_last_piece_and_its_final_name_a_content_is_served() -> None:
    scene = Scene(pieces=1, fetching=True)
    scene.feed(joined(A), PeerHas(A, 0b1), BlockArrived(A, scene.block(0)), PieceVerified(0))
    assert scene.feed(joined(B), PeerHas(B, 0)) == [Introduce(B)], "nothing is suggested yet"
    assert scene.feed(BlockAsked("ticket", client(B), scene.block(0))) == [Grant("ticket", 0)]


def test_a_withdrawn_content_has_no_members_and_is_suggested_to_nobody() -> None:
    scene = seed()
    scene.feed(joined(A), joined(B), PeerHas(A, 0))
    assert scene.feed(Withdrawn()) == [SendNone((A, B))]
    assert scene.participant.members == ()
    assert scene.feed(joined(C), PeerHas(C, 0)) == [Introduce(C)]


def test_a_withdrawn_download_fetches_nothing_and_sends_no_have_line() -> None:
    scene = Scene(fetching=True)
    scene.feed(joined(A), PeerHas(A, 0b1), PieceVerified(3))
    end = GiveUp(tuple(piece for piece in range(8) if piece not in (0, 3)))
    assert scene.feed(Withdrawn()) == [SendNone((A,)), Cancel(A, scene.block(0)), end]
    assert scene.participant.requests == frozenset()
    assert scene.participant.next_wakeup() is None
    assert scene.feed(Tick()) == []


# -- uploads


def test_a_requested_block_is_granted_counted_and_ended() -> None:
    scene = Scene(have=0b1)
    scene.feed(joined(A))
    assert scene.feed(BlockAsked("t", client(A), scene.block(0))) == [Grant("t", 0)]
    assert scene.queue.active() == (), "its files are not open yet"
    scene.feed(SendBegan("t"))
    assert scene.queue.active() == (client(A),)
    scene.feed(BlockSent("t", scene.block(0)), UploadEnded("t"))
    assert scene.queue.serving == 0
    assert scene.participant.sent == scene.participant.sent_to(A) == LENGTH


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (BlockSpan(1, 0, 10), "not_found"),
        (BlockSpan(8, 0, 10), "bad_range"),
        (BlockSpan(-1, 0, 10), "bad_range"),
        (BlockSpan(0, LENGTH - 9, 10), "bad_range"),
        (BlockSpan(0, 0, 0), "bad_range"),
        (BlockSpan(0, -1, 10), "bad_range"),
    ],
)
def test_a_block_that_is_not_here_is_refused_and_takes_no_slot(block: BlockSpan, code: str) -> None:
    scene = Scene(have=0b1)
    (effect,) = scene.feed(BlockAsked("t", "someone", block))
    assert isinstance(effect, Refuse)
    assert (effect.ticket, effect.code) == ("t", code)
    assert (scene.queue.serving, scene.queue.waiting) == (0, 0)
    assert scene.feed(UploadEnded("t")) == []


def test_a_request_that_the_queue_refuses_is_answered_as_busy() -> None:
    scene = Scene(have=0b1, queue=UploadQueue(UploadLimits(slots=1, waiting_per_client=1)))
    for ticket in (1, 2):
        scene.feed(BlockAsked(ticket, "greedy", scene.block(0)))
    (effect,) = scene.feed(BlockAsked(3, "greedy", scene.block(0)))
    assert isinstance(effect, Refuse)
    assert (effect.ticket, effect.code) == (3, "busy")


def test_contents_share_one_queue_and_grant_each_others_requests() -> None:
    queue = UploadQueue(UploadLimits(slots=1))
    one, other = seed(queue=queue), seed(queue=queue)
    assert one.feed(BlockAsked("one", "a", one.block(0))) == [Grant("one", 0)]
    assert other.feed(BlockAsked("other", "b", other.block(0))) == []
    assert one.feed(UploadEnded("one")) == [Grant("other", 0)]


def test_bytes_are_counted_for_each_member_until_it_leaves() -> None:
    scene = Scene(have=0b1)
    scene.feed(joined(A), joined(B))

    def send(to: str) -> None:
        block = BlockSpan(0, 0, 100)
        scene.feed(BlockAsked("t", to, block), SendBegan("t"), BlockSent("t", block), UploadEnded("t"))

    for to in (client(A), client(A), client(B), "unknown"):
        send(to)
    participant = scene.participant
    assert (participant.sent_to(A), participant.sent_to(B), participant.sent) == (200, 100, 400)
    scene.feed(MemberLeft(A))
    assert (participant.sent_to(A), participant.sent_to(B)) == (0, 100)
    send(client(A))
    assert participant.sent_to(A) == 0
    scene.feed(Withdrawn())
    assert participant.sent_to(B) == 0
    assert participant.sent == 500


def test_a_block_of_an_upload_that_has_ended_is_not_counted() -> None:
    scene = Scene(have=0b1)
    block = scene.block(0)
    scene.feed(BlockAsked("t", "a", block), SendBegan("t"), UploadEnded("t"), BlockSent("t", block))
    assert scene.participant.sent == 0


def test_a_seed_suggests_the_next_piece_when_one_was_sent() -> None:
    scene = seed(pieces=100)
    effects = scene.feed(joined(A), PeerHas(A, 0))
    (first,) = [effect.pieces for effect in effects if isinstance(effect, Suggest)]
    more: list[int] = []
    for ticket, piece in enumerate(first):
        block = scene.block(piece)
        effects = scene.feed(
            BlockAsked(ticket, client(A), block),
            SendBegan(ticket),
            BlockSent(ticket, block),
            UploadEnded(ticket),
        )
        more += [piece for effect in effects if isinstance(effect, Suggest) for piece in effect.pieces]
    assert more
    assert not set(first) & set(more)


def test_refused_requests_count_for_no_suggestion() -> None:
    scene = seed(pieces=100, queue=UploadQueue(UploadLimits(waiting_per_client=1, slots=1)))
    effects = scene.feed(joined(A), PeerHas(A, 0), joined(B), PeerHas(B, 0))
    (suggested,) = (effect.pieces for effect in effects if isinstance(effect, Suggest))
    first = scene.block(suggested[0])
    scene.feed(BlockAsked("first", client(A), first), BlockAsked("waits", client(A), scene.block(1)))
    for piece in range(100):
        (refused,) = scene.feed(BlockAsked(f"refused {piece}", client(A), scene.block(piece)))
        assert isinstance(refused, Refuse)
    effects = scene.feed(SendBegan("first"), BlockSent("first", first), UploadEnded("first"))
    assert [effect.peer for effect in effects if isinstance(effect, Suggest)] == [B]


def test_members_that_take_nothing_do_not_keep_an_honest_one_from_a_crowded_seed() -> None:
    """They hold all suggestions. Unknown peers of the same host, which need no control connection, keep the
    queue full with parts of pieces."""
    scene = seed(pieces=3000, queue=UploadQueue(UploadLimits(slots=1)))
    for number in range(40):
        idler = PeerKey(f"idler {number}")
        scene.feed(joined(idler), PeerGained(idler, 0))
    effects = scene.feed(joined(A), PeerGained(A, 0))
    assert not any(isinstance(effect, Suggest) for effect in effects)
    for ticket in ("unknown 0", "unknown 1"):
        scene.feed(BlockAsked(ticket, "unknown", BlockSpan(0, 0, 1)))
    assert scene.queue.crowded
    (refused,) = scene.feed(BlockAsked("early", client(A), scene.block(7)))
    assert isinstance(refused, Refuse)
    assert refused.code == "busy"
    suggested = []
    for number in range(1000):
        ticket = f"unknown {number}"
        suggested += scene.feed(
            BlockAsked(f"unknown {number + 2}", "unknown", BlockSpan(0, 0, 1)),
            SendBegan(ticket),
            BlockSent(ticket, BlockSpan(0, 0, 1)),
            UploadEnded(ticket),
        )
    assert any(isinstance(effect, Suggest) and effect.peer == A for effect in suggested)
    assert scene.queue.crowded
    assert scene.feed(BlockAsked("later", client(A), scene.block(7))) == [], "it waits and is not refused"
    assert scene.queue.waiting == 2
