"""All decisions of one download, one piece of news at a time."""

from __future__ import annotations

from random import Random

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry
from p2p.model import KIB, MIB, BlockSpan, PeerKey
from p2p.swarm.events import (
    BlockArrived,
    BlockFailed,
    Cancel,
    Drop,
    Failure,
    Fetch,
    FetchEffect,
    Finished,
    GiveUp,
    Listed,
    MemberJoined,
    MemberLeft,
    PeerGained,
    PeerHas,
    PieceCorrupt,
    PieceVerified,
    SchedulerEvent,
    Suggested,
    Tick,
)
from p2p.swarm.peer_stats import Policy
from p2p.swarm.scheduler import MIN_CONGESTION_WINDOW, Scheduler
from p2p.swarm.stall_timeout import MAX_USELESS

A, B, C, D = (PeerKey(name) for name in "abcd")


class Talk:
    """A scheduler that is told news at chosen times. Pieces have one block of 64 KiB, or `blocks` blocks of 1
    MiB."""

    def __init__(self, pieces: int, blocks: int = 0, have: int = 0, policy: Policy | None = None) -> None:
        length = blocks * MIB or 64 * KIB
        self.geometry = Geometry(pieces * length, length)
        self.policy = policy or Policy()
        self.scheduler = Scheduler(self.geometry, Bitmap(pieces, have), Random(1), 0.0, self.policy)
        self.now = 0.0
        self.every = (1 << pieces) - 1

    def feed(self, *events: SchedulerEvent, at: float | None = None) -> list[FetchEffect]:
        self.now = self.now if at is None else at
        effects = [effect for event in events for effect in self.scheduler.handle(event, self.now)]
        wakeup = self.scheduler.next_wakeup()
        assert wakeup is None or wakeup > self.now
        return effects

    def wakeup(self) -> float:
        found = self.scheduler.next_wakeup()
        assert found is not None
        return found

    def meet(self, peer: PeerKey, bits: int | None = None) -> list[FetchEffect]:
        return self.feed(joined(peer), PeerHas(peer, self.every if bits is None else bits))

    def block(self, piece: int, number: int = 0) -> BlockSpan:
        return self.geometry.blocks(piece)[number]

    def bring(self, peer: PeerKey, piece: int) -> list[FetchEffect]:
        """Let one peer bring each block of a piece as it is asked for it, and return the wishes."""
        effects: list[FetchEffect] = []
        for block in self.geometry.blocks(piece):
            effects += self.feed(BlockArrived(peer, block))
        return effects


def picture(scheduler: Scheduler) -> object:
    """What a scheduler shows of itself."""
    return scheduler.requests, scheduler.next_wakeup(), scheduler.have.bits, scheduler.sources


def joined(peer: PeerKey) -> MemberJoined:
    return MemberJoined(peer, f"{peer}@host")


def asked(effects: list[FetchEffect], peer: PeerKey) -> list[BlockSpan]:
    return [effect.block for effect in effects if isinstance(effect, Fetch) and effect.peer == peer]


def drops(effects: list[FetchEffect]) -> list[tuple[PeerKey, bool]]:
    return [(effect.peer, effect.corrupt) for effect in effects if isinstance(effect, Drop)]


# -- the beginning and the end


@pytest.mark.parametrize("pieces", [0, 3])
def test_a_whole_content_finishes_at_the_first_event_and_never_wakes_again(pieces: int) -> None:
    geometry = Geometry(pieces * 64 * KIB, 64 * KIB)
    scheduler = Scheduler(geometry, Bitmap.all(pieces), Random(1), 0.0)
    assert scheduler.handle(Tick(), 0.0) == [Finished()]
    assert scheduler.next_wakeup() is None
    assert scheduler.handle(Tick(), 99.0) == []


def test_the_last_verified_piece_finishes() -> None:
    talk = Talk(2, have=0b01)
    assert asked(talk.meet(A), A) == [talk.block(1)]
    assert talk.feed(BlockArrived(A, talk.block(1))) == []
    assert talk.feed(PieceVerified(1)) == [Finished()]


def test_nothing_for_too_long_gives_up_and_names_what_nobody_has() -> None:
    talk = Talk(3)
    talk.meet(A, 0b010)
    talk.feed(BlockArrived(A, talk.block(1)), PieceVerified(1))
    assert talk.scheduler.unobtainable() == (0, 2)
    assert talk.feed(Tick(), at=59.9) == []
    assert talk.scheduler.next_wakeup() == 60.0
    assert talk.feed(Tick(), at=60.0) == [GiveUp((0, 2))]


def test_alone_it_waits_shortly_if_none_is_listed_and_long_if_the_tracker_is_lost() -> None:
    listed, offline = Talk(1), Talk(1)
    listed.feed(Listed(0))
    offline.feed(Listed(None))
    assert listed.feed(Tick(), at=Policy().alone_timeout) == [GiveUp((0,))]
    assert offline.feed(Tick(), at=Policy().stall_timeout) == []
    assert offline.feed(Tick(), at=Policy().offline_timeout) == [GiveUp((0,))]


def test_without_its_last_peer_it_waits_anew_and_longer_once_something_came() -> None:
    talk = Talk(3)
    first = asked(talk.meet(A), A)[0]
    talk.feed(Listed(1), at=1.0)
    talk.feed(BlockArrived(A, first), at=2.0)
    assert not any(isinstance(effect, GiveUp) for effect in talk.feed(Tick(), at=45.0))
    talk.feed(MemberLeft(A), Listed(0), at=50.0)
    assert talk.feed(Tick(), at=50.0 + Policy().stall_timeout - 0.1) == []
    assert GiveUp((0, 1, 2)) in talk.feed(Tick(), at=50.0 + Policy().stall_timeout)


def test_a_peer_that_comes_after_a_long_wait_gets_its_time() -> None:
    talk = Talk(1)
    talk.feed(Listed(None))
    assert talk.feed(Tick(), at=800.0) == []
    assert asked(talk.feed(joined(A), PeerHas(A, 1), at=801.0), A) == [talk.block(0)]
    assert talk.feed(BlockArrived(A, talk.block(0)), PieceVerified(0), at=815.0)[-1] == Finished()


def test_peers_that_come_and_go_and_bring_nothing_do_not_keep_it_waiting() -> None:
    talk = Talk(1)
    talk.feed(Listed(0))
    ended = None
    for second in range(1, 200):
        effects = talk.feed(joined(A) if second % 2 else MemberLeft(A), at=float(second))
        if any(isinstance(effect, GiveUp) for effect in effects):
            ended = second
            break
    assert ended is not None
    assert ended <= Policy().stall_timeout + 3


def test_new_names_without_end_that_bring_nothing_end_it_in_the_end() -> None:
    talk = Talk(1)
    talk.feed(Listed(0))
    for second in range(1, 2000):
        peer = PeerKey(f"sybil {second // 2}")
        effects = talk.feed(joined(peer) if second % 2 == 0 else MemberLeft(peer), at=float(second))
        if any(isinstance(effect, GiveUp) for effect in effects):
            break
    assert second <= Policy().offline_timeout + 1


def test_peers_without_end_that_bring_nothing_are_not_all_remembered() -> None:
    talk = Talk(1)
    talk.feed(Listed(0))
    for number in range(MAX_USELESS + 100):
        talk.feed(
            joined(PeerKey(f"sybil {number}")), MemberLeft(PeerKey(f"sybil {number}")), at=number / 1000
        )
    assert talk.scheduler.next_wakeup() == pytest.approx(
        MAX_USELESS / 1000 - 0.001 + Policy().alone_timeout
    ), "nor do they give time"


@pytest.mark.parametrize("blocks", [0, 3])
def test_corrupt_blocks_from_ever_new_ids_do_not_keep_a_download_alive(blocks: int) -> None:
    """An id costs nothing, so each may come once, send a block of nonsense, and be banned for it."""
    talk = Talk(1, blocks)
    talk.feed(Listed(0))
    ended = None
    for number in range(2000):
        peer, event = PeerKey(f"liar {number}"), talk.geometry.blocks(0)
        effects = talk.feed(joined(peer), PeerHas(peer, 1), at=5.0 * (number + 1))
        effects += [effect for block in event for effect in talk.feed(BlockArrived(peer, block))]
        effects += talk.feed(PieceCorrupt(0), MemberLeft(peer))
        if any(isinstance(effect, GiveUp) for effect in effects):
            ended = talk.now
            break
    assert ended is not None
    assert ended <= Policy().offline_timeout + 5


def test_short_timeouts_still_allow_a_piece_of_16_mib_at_the_slowest_rate() -> None:
    """It takes 17 minutes, and is no sign that nothing comes: each block does."""
    talk = Talk(
        1, 16, policy=Policy(block_timeout=64.0, stall_timeout=96.0, offline_timeout=5.0, min_window=1)
    )
    effects = talk.meet(A)
    for number in range(16):
        (block,) = asked(effects, A)
        effects = talk.feed(BlockArrived(A, block), at=63.0 * (number + 1))
        assert not any(isinstance(effect, (GiveUp, Drop)) for effect in effects)
    assert talk.feed(PieceVerified(0))[-1] == Finished()


def test_case_29_a_peer_of_which_nothing_has_verified_yet_has_few_pieces_begun() -> None:
    """What it sends may all be wrong, and the verdict takes its time."""
    talk = Talk(50)
    effects = talk.meet(A)
    for number in range(30):
        under_way = asked(effects, A)
        if number >= len(under_way):
            break
        effects += talk.feed(BlockArrived(A, under_way[number]), at=0.001 * (number + 1))
    in_progress = {block.piece for block in asked(effects, A)}
    assert len(in_progress) == Policy().trial_pieces
    assert len(asked(talk.feed(PieceVerified(min(in_progress)), at=0.1), A)) >= 2, "it is trusted from now on"


def test_blocks_that_arrive_are_progress_even_where_no_piece_is_whole_for_long() -> None:
    talk = Talk(1, blocks=16)
    talk.meet(A)
    for number in range(16):
        assert GiveUp(()) not in talk.feed(BlockArrived(A, talk.block(0, number)), at=18.0 * (number + 1))
    assert talk.feed(PieceVerified(0)) == [Finished()]


# -- whom to ask for what


def test_a_peer_is_asked_for_nothing_until_it_told_what_it_has() -> None:
    talk = Talk(3)
    assert talk.feed(joined(A)) == []
    assert [block.piece for block in asked(talk.feed(PeerGained(A, 0b10)), A)] == [1]


def test_events_of_strangers_change_nothing() -> None:
    talk = Talk(3)
    for event in (
        PeerHas(A, 7),
        PeerGained(A, 0b10),
        Suggested(A, (1,)),
        MemberLeft(A),
        BlockArrived(A, talk.block(0)),
        PieceCorrupt(0),
    ):
        assert talk.feed(event) == []
    assert talk.scheduler.unobtainable() == (0, 1, 2)


def test_the_rarest_piece_is_asked_for_first() -> None:
    talk = Talk(4, policy=Policy(min_window=1))
    talk.feed(joined(B), joined(C), PeerHas(C, 0), PeerHas(B, 0))
    talk.scheduler._availability.add(0b1101)
    assert asked(talk.meet(A), A) == [talk.block(1)]


def test_a_peer_goes_on_with_the_piece_it_began_and_no_other_touches_it() -> None:
    talk = Talk(2, blocks=3)
    first, second = asked(talk.meet(A), A)
    assert (first.piece, first.offset, second.piece, second.offset) == (first.piece, 0, first.piece, MIB)
    assert all(block.piece != first.piece for block in asked(talk.meet(B), B))
    assert asked(talk.feed(BlockArrived(A, first)), A) == [talk.block(first.piece, 2)]


def test_another_peer_goes_on_with_a_piece_whose_peer_left() -> None:
    talk = Talk(1, blocks=3)
    first, second = asked(talk.meet(A), A)
    talk.meet(B)
    talk.feed(BlockArrived(A, first))
    assert asked(talk.feed(MemberLeft(A)), B) == [second, talk.block(0, 2)]


def test_another_peer_goes_on_with_a_piece_whose_peer_says_it_has_it_no_more() -> None:
    talk = Talk(1, blocks=4)
    talk.meet(A)
    talk.meet(B)
    assert asked(talk.feed(PeerHas(A, 0)), B) == [talk.block(0, 2), talk.block(0, 3)]


def test_requests_are_bounded_by_the_buffers_and_shared_evenly() -> None:
    talk = Talk(20, blocks=1, policy=Policy(buffer_bytes=4 * MIB))
    effects = [effect for peer in (A, B, C) for effect in talk.meet(peer)]
    assert [len(asked(effects, peer)) for peer in (A, B, C)] == [2, 2, 0]
    more = talk.feed(BlockArrived(A, asked(effects, A)[0]))
    assert (len(asked(more, A)), len(asked(more, C))) == (0, 1)


def test_one_block_at_once_is_asked_of_a_slow_peer_where_many_are_known() -> None:
    talk = Talk(20)
    effects = [effect for name in "abcdefgh" for effect in talk.meet(PeerKey(name))]
    assert len(asked(effects, A)) == 2
    assert len(asked(effects, PeerKey("h"))) == 1


def test_sources_counts_the_peers_that_are_asked_now() -> None:
    talk = Talk(1)
    talk.meet(A)
    talk.meet(B)
    assert talk.scheduler.sources == 1


# -- suggestions


def test_what_a_peer_suggests_is_asked_for_before_our_own_choice() -> None:
    talk = Talk(100)
    talk.feed(joined(A), PeerHas(A, 0))
    talk.feed(Suggested(A, (1,)))
    talk.feed(joined(B), PeerHas(B, 0))
    assert asked(talk.feed(PeerHas(A, talk.every), at=0.1), A) == []
    assert asked(talk.feed(Suggested(A, (70, 30, 50))), A) == [talk.block(70), talk.block(30)]
    assert asked(talk.feed(BlockArrived(A, talk.block(70))), A)[0] == talk.block(50)


def test_a_suggestion_that_we_have_or_the_peer_lacks_is_passed_over() -> None:
    talk = Talk(4, have=0b0001)
    talk.feed(joined(A), Suggested(A, (1,)), PeerHas(A, 0b0111))
    assert asked(talk.feed(Suggested(A, (0, 3, 9, 2))), A) == [talk.block(2)]


def test_a_suggested_piece_that_another_peer_brings_is_not_asked_for_again() -> None:
    talk = Talk(3, policy=Policy(min_window=1))
    talk.meet(B, 0b001)
    talk.feed(joined(A), Suggested(A, ()), PeerHas(A, 0b111))
    assert asked(talk.feed(Suggested(A, (0, 2, 1))), A) == [talk.block(2)]
    talk.feed(BlockArrived(B, talk.block(0)), PieceVerified(0))
    assert asked(talk.feed(BlockArrived(A, talk.block(2))), A)[0] == talk.block(1)


def test_a_peer_that_stops_suggesting_is_asked_by_our_own_choice() -> None:
    talk = Talk(10)
    talk.feed(joined(A), Suggested(A, ()))
    assert talk.feed(PeerHas(A, talk.every)) == []
    wakeup = talk.scheduler.next_wakeup()
    assert wakeup == Policy().suggestion_timeout
    assert len(asked(talk.feed(Tick(), at=wakeup), A)) == 2


def test_silence_is_not_counted_while_blocks_are_coming() -> None:
    talk = Talk(10)
    talk.feed(joined(A), Suggested(A, ()), PeerHas(A, talk.every), Suggested(A, (3,)))
    assert talk.feed(BlockArrived(A, talk.block(3)), at=5.0) == []
    assert asked(talk.feed(Suggested(A, (4,)), at=5.1), A) == [talk.block(4)]


# -- failures


def test_a_block_that_does_not_come_in_time_is_cancelled_and_asked_elsewhere() -> None:
    talk = Talk(1)
    talk.meet(A)
    wakeup = 20.0
    talk.feed(joined(B), PeerHas(B, 0))
    assert talk.scheduler.next_wakeup() in (1.0, wakeup)
    effects = talk.feed(Tick(), at=wakeup)
    assert effects[0] == Cancel(A, talk.block(0))
    assert asked(talk.feed(PeerHas(B, 1)), B) == [talk.block(0)]


def test_a_peer_that_stalls_again_and_again_is_dropped_but_not_for_good() -> None:
    talk = Talk(9, policy=Policy(stall_timeout=1000.0))
    talk.meet(A)
    found: list[FetchEffect] = []
    for _ in range(40):
        wakeup = talk.scheduler.next_wakeup()
        assert wakeup is not None
        found += talk.feed(Tick(), at=wakeup)
        if drops(found):
            break
    assert drops(found) == [(A, False)]
    assert talk.now < 65.0
    assert asked(talk.meet(A), A)
    assert not talk.scheduler.banned(A)


def test_case_32_many_peers_that_stall_with_the_last_block_cost_one_timeout() -> None:
    stalling = [PeerKey(f"stall {number}") for number in range(5)]
    talk = Talk(1)
    for peer in (*stalling, A):
        talk.meet(peer)
    while talk.now < 100:
        wakeup = talk.scheduler.next_wakeup()
        assert wakeup is not None
        if asked(talk.feed(Tick(), at=wakeup), A):
            break
    assert talk.now < Policy().block_timeout + 3


def test_the_congestion_window_halves_when_all_blocks_are_late_and_grows_again() -> None:
    """A thin link of ours, shared by a block from each of twelve peers: none would ever be done in time."""
    talk = Talk(100, policy=Policy(strikes=100, stall_timeout=1000.0))
    effects = [effect for number in range(12) for effect in talk.meet(PeerKey(f"peer {number}"))]
    assert sum(isinstance(effect, Fetch) for effect in effects) >= 12
    for most in (12, 6, MIN_CONGESTION_WINDOW):
        effects = []
        timeout = talk.now + Policy().block_timeout
        while talk.now < timeout + 5:
            wakeup = talk.scheduler.next_wakeup()
            assert wakeup is not None
            effects += talk.feed(Tick(), at=wakeup)
        assert len(talk.scheduler.requests) <= most
    peer, block = min(talk.scheduler.requests)
    talk.feed(BlockArrived(peer, block))
    assert len(talk.scheduler.requests) > MIN_CONGESTION_WINDOW - 1


def test_a_connection_that_breaks_with_many_blocks_under_way_is_one_strike() -> None:
    talk = Talk(50, policy=Policy(min_window=8, trial_pieces=8))
    blocks = asked(talk.meet(A), A)
    assert len(blocks) == 8
    effects = [effect for block in blocks for effect in talk.feed(BlockFailed(A, block, Failure.BROKEN))]
    assert effects == []
    assert len(asked(talk.feed(Tick(), at=Policy().busy_pause), A)) == 1


def test_a_peer_whose_answers_break_three_times_in_a_row_is_dropped() -> None:
    talk = Talk(1)
    talk.meet(A)
    dropped = []
    for _ in range(3):
        dropped.append(drops(talk.feed(BlockFailed(A, talk.block(0), Failure.BROKEN))))
        talk.feed(Tick(), at=talk.now + 2.0)
    assert dropped == [[], [], [(A, False)]]


def test_a_block_that_comes_forgives_the_strikes_before_it() -> None:
    talk = Talk(20)
    blocks = asked(talk.meet(A), A)
    for turn in range(12):
        last = blocks.pop()
        event = BlockArrived(A, last) if turn % 3 == 2 else BlockFailed(A, last, Failure.BROKEN)
        effects = talk.feed(event) + talk.feed(Tick(), at=talk.now + 5.0)
        assert drops(effects) == []
        blocks += asked(effects, A)


def test_a_busy_peer_is_left_alone_twice_as_long_each_time_and_never_dropped() -> None:
    talk = Talk(1)
    talk.meet(A)
    for turn in range(9):
        assert talk.feed(BlockFailed(A, talk.block(0), Failure.BUSY)) == []
        wakeup = talk.scheduler.next_wakeup()
        assert wakeup == pytest.approx(talk.now + min(Policy().busy_pause * 2**turn, Policy().max_busy_pause))
        assert asked(talk.feed(Tick(), at=wakeup), A) == [talk.block(0)]


def test_a_peer_that_says_busy_for_hours_breaks_nothing() -> None:
    talk = Talk(2, policy=Policy(stall_timeout=1e9, offline_timeout=1e9))
    talk.meet(A)
    for _ in range(1100):
        for _, block in sorted(talk.scheduler.requests):
            talk.feed(BlockFailed(A, block, Failure.BUSY))
        talk.feed(Tick(), at=talk.scheduler.next_wakeup())
        assert talk.wakeup() <= talk.now + Policy().max_busy_pause


def test_blocks_refused_together_are_one_refusal() -> None:
    talk = Talk(8)
    blocks = asked(talk.meet(A), A)
    assert len(blocks) > 1
    for block in blocks:
        talk.feed(BlockFailed(A, block, Failure.BUSY))
    assert talk.scheduler.next_wakeup() == pytest.approx(talk.now + Policy().busy_pause)


def test_a_busy_peer_that_suggests_a_piece_is_asked_for_it_at_once() -> None:
    talk = Talk(4)
    for block in asked(talk.meet(A), A):
        assert talk.feed(BlockFailed(A, block, Failure.BUSY)) == []
    assert asked(talk.feed(Suggested(A, (3,))), A)


def test_of_equally_busy_peers_the_one_asked_longest_ago_comes_first() -> None:
    talk = Talk(64, policy=Policy(buffer_bytes=1))
    first = asked(talk.meet(A), A)
    talk.meet(B)
    effects = talk.feed(BlockArrived(A, first[0]), at=talk.now + 1.0)
    assert [effect.peer for effect in effects if isinstance(effect, Fetch)] == [B]


def test_a_peer_that_lied_about_a_piece_is_not_asked_for_it_again() -> None:
    talk = Talk(1)
    talk.meet(A)
    assert talk.feed(BlockFailed(A, talk.block(0), Failure.LACKS)) == []
    assert talk.scheduler.unobtainable() == (0,)
    assert talk.feed(Tick(), at=50.0) == []


# -- corrupt pieces


def test_a_peer_that_alone_sent_a_corrupt_piece_is_dropped_at_once_and_for_good() -> None:
    talk = Talk(2, blocks=2)
    talk.meet(A, 0b01)
    talk.bring(A, 0)
    talk.meet(B)
    effects = talk.feed(PieceCorrupt(0))
    assert drops(effects) == [(A, True)]
    assert talk.scheduler.banned(A)
    assert talk.meet(A) == []
    assert talk.bring(B, 1)
    assert {block.piece for block in asked(talk.feed(PieceVerified(1)), B)} <= {0}


def shared_piece(talk: Talk, piece: int) -> list[FetchEffect]:
    """A sends the first block and fails with the second, which B sends; the piece is corrupt."""
    talk.feed(PeerHas(B, 0), PeerHas(A, 1 << piece))
    talk.feed(
        BlockArrived(A, talk.block(piece, 0)),
        PeerHas(A, 0),
        BlockFailed(A, talk.block(piece, 1), Failure.LACKS),
    )
    talk.feed(PeerHas(B, 1 << piece), BlockArrived(B, talk.block(piece, 1)), PeerHas(B, 0))
    return talk.feed(PieceCorrupt(piece))


def test_a_third_corrupt_piece_with_parts_of_a_peer_drops_it_but_not_for_good() -> None:
    talk = Talk(4, blocks=2)
    talk.feed(joined(A), joined(B))
    assert drops(shared_piece(talk, 0)) == []
    assert drops(shared_piece(talk, 1)) == []
    assert drops(shared_piece(talk, 2)) == [(A, False), (B, False)]
    assert not talk.scheduler.banned(A)


def test_a_good_piece_from_one_peer_alone_forgives_its_parts_in_corrupt_ones() -> None:
    talk = Talk(6, blocks=2)
    talk.feed(joined(A), joined(B))
    shared_piece(talk, 0)
    shared_piece(talk, 1)
    talk.feed(PeerHas(B, 0b100000))
    talk.bring(B, 5)
    talk.feed(PieceVerified(5))
    assert drops(shared_piece(talk, 2)) == [(A, False)]


def test_a_piece_that_came_corrupt_from_several_is_fetched_from_one_alone() -> None:
    talk = Talk(1, blocks=4, policy=Policy(max_window=2))
    talk.feed(joined(A), joined(B))
    talk.feed(PeerHas(A, 1), BlockArrived(A, talk.block(0, 0)), PeerHas(A, 0))
    for number in (1, 2):
        talk.feed(BlockFailed(A, talk.block(0, number), Failure.LACKS))
    talk.feed(PeerHas(B, 1))
    for number in (1, 2, 3):
        talk.feed(BlockArrived(B, talk.block(0, number)))
    effects = talk.feed(PieceCorrupt(0), PeerHas(A, 1))
    assert len(asked(effects, B)) == 2
    assert asked(effects + talk.feed(Tick(), at=10.0), A) == []


def test_a_corrupt_piece_that_was_never_begun_or_is_verified_changes_nothing() -> None:
    talk = Talk(2, have=0b01)
    assert talk.feed(PieceCorrupt(0)) == []
    talk.meet(A)
    assert talk.feed(PieceCorrupt(0)) == []
    assert talk.feed(BlockArrived(A, talk.block(1)), PieceVerified(1)) == [Finished()]


def test_a_piece_that_was_found_elsewhere_is_cancelled_where_it_was_asked() -> None:
    talk = Talk(1, blocks=4)
    talk.meet(A)
    assert talk.feed(PieceVerified(0)) == [
        Cancel(A, talk.block(0, 0)),
        Cancel(A, talk.block(0, 1)),
        Finished(),
    ]


def test_a_corrupt_piece_whose_sender_left_is_fetched_again() -> None:
    talk = Talk(1)
    talk.meet(A)
    talk.feed(BlockArrived(A, talk.block(0)), MemberLeft(A))
    assert talk.feed(PieceCorrupt(0)) == []
    assert asked(talk.meet(B), B) == [talk.block(0)]


# -- what comes late


@pytest.mark.parametrize("failure", [None, *Failure])
def test_a_late_or_unrequested_block_changes_nothing(failure: Failure | None) -> None:
    talk = Talk(3, blocks=2)
    talk.meet(A, 0b001)
    talk.meet(B, 0b010)
    talk.feed(Tick(), at=20.0)
    late = [talk.block(piece, number) for piece in range(3) for number in range(2)]
    before = picture(talk.scheduler)
    for block in late:
        for peer in (A, B, C):
            if (peer, block) not in talk.scheduler.requests:
                assert (
                    talk.feed(
                        BlockArrived(peer, block) if failure is None else BlockFailed(peer, block, failure)
                    )
                    == []
                )
    assert picture(talk.scheduler) == before


# -- the end-game


def test_in_the_end_game_a_slow_block_is_requested_from_a_second_peer_only() -> None:
    talk = Talk(1)
    talk.meet(A)
    assert talk.meet(B) == []
    talk.meet(C)
    assert talk.scheduler.next_wakeup() == Policy().hedge_after
    effects = talk.feed(Tick(), at=Policy().hedge_after)
    assert [type(effect) for effect in effects] == [Fetch]
    second = next(peer for peer in (B, C) if asked(effects, peer))
    assert asked(talk.feed(Tick(), at=5.0), C if second == B else B) == []
    assert talk.feed(BlockArrived(second, talk.block(0))) == [Cancel(A, talk.block(0))]


def test_before_the_end_game_nothing_is_requested_twice() -> None:
    talk = Talk(3, policy=Policy(min_window=1))
    talk.meet(A, 0b001)
    talk.meet(B, 0b111)
    talk.meet(C, 0b001)
    assert asked(talk.feed(Tick(), at=5.0), C) == []


def test_a_piece_that_nobody_has_does_not_put_off_the_end_game() -> None:
    talk = Talk(2)
    talk.meet(A, 0b01)
    talk.meet(B, 0b01)
    assert asked(talk.feed(Tick(), at=1.0), B) == [talk.block(0)]


def test_in_the_end_game_the_rest_of_a_slow_piece_goes_to_the_peer_that_helps() -> None:
    talk = Talk(1, blocks=8)
    talk.meet(A)
    talk.meet(B)
    took = asked(talk.feed(Tick(), at=1.0), B)
    for _ in range(8):
        for block in took:
            effects = talk.feed(BlockArrived(B, block), at=talk.now + 0.01)
            took = took[1:] + asked(effects, B)
    assert {block.piece for _, block in talk.scheduler.requests} <= {1}
    assert talk.now < 1.2


def test_a_seed_that_suggested_helps_in_the_end_game_without_a_pause() -> None:
    talk = Talk(2, policy=Policy(min_window=1))
    talk.meet(A, 0b01)
    talk.feed(joined(B), PeerHas(B, 0b11), Tick(), at=0.9)
    talk.feed(Suggested(B, ()))
    assert asked(talk.feed(BlockArrived(B, talk.block(1)), PieceVerified(1), Tick(), at=1.0), B) == [
        talk.block(0)
    ]


def test_what_was_missed_while_a_peer_was_paused_is_asked_when_the_pause_ends() -> None:
    talk = Talk(2, policy=Policy(min_window=1))
    (first,) = asked(talk.meet(A), A)
    talk.feed(BlockFailed(A, first, Failure.BUSY))
    talk.feed(PeerGained(A, 0b11), at=0.2)
    assert len(asked(talk.feed(Tick(), at=0.5), A)) == 1
