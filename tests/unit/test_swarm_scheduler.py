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
    Effect,
    Event,
    Failure,
    Fetch,
    Finished,
    GiveUp,
    Listed,
    PeerGained,
    PeerHas,
    PeerJoined,
    PeerLeft,
    PieceCorrupt,
    PieceVerified,
    SendHave,
    Suggested,
    Tick,
)
from p2p.swarm.peer_stats import Policy
from p2p.swarm.scheduler import LEAST_UNDER_WAY, Scheduler
from p2p.swarm.stall_timeout import IDLERS
from tests.kit.swarm_node import picture

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

    def tell(self, *news: Event, at: float | None = None) -> list[Effect]:
        self.now = self.now if at is None else at
        wishes = [wish for one in news for wish in self.scheduler.handle(one, self.now)]
        wakeup = self.scheduler.next_wakeup()
        assert wakeup is None or wakeup > self.now
        return wishes

    def meet(self, peer: PeerKey, bits: int | None = None) -> list[Effect]:
        return self.tell(PeerJoined(peer), PeerHas(peer, self.every if bits is None else bits))

    def block(self, piece: int, number: int = 0) -> BlockSpan:
        return self.geometry.blocks(piece)[number]

    def bring(self, peer: PeerKey, piece: int) -> list[Effect]:
        """Let one peer bring each block of a piece as it is asked for it, and return the wishes."""
        wishes: list[Effect] = []
        for block in self.geometry.blocks(piece):
            wishes += self.tell(BlockArrived(peer, block))
        return wishes


def asked(wishes: list[Effect], peer: PeerKey) -> list[BlockSpan]:
    return [wish.block for wish in wishes if isinstance(wish, Fetch) and wish.peer == peer]


def drops(wishes: list[Effect]) -> list[tuple[PeerKey, bool]]:
    return [(wish.peer, wish.corrupt) for wish in wishes if isinstance(wish, Drop)]


# -- the beginning and the end
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [0, 3])
def test_what_is_whole_already_finishes_at_the_first_news_and_never_wakes_again(pieces: int) -> None:
    geometry = Geometry(pieces * 64 * KIB, 64 * KIB)
    scheduler = Scheduler(geometry, Bitmap.all(pieces), Random(1), 0.0)
    assert scheduler.handle(Tick(), 0.0) == [Finished()]
    assert scheduler.next_wakeup() is None
    assert scheduler.handle(Tick(), 99.0) == []


def test_each_verified_piece_is_told_and_the_last_one_finishes() -> None:
    talk = Talk(2, have=0b01)
    assert asked(talk.meet(A), A) == [talk.block(1)]
    assert talk.tell(BlockArrived(A, talk.block(1))) == []
    assert talk.tell(PieceVerified(1)) == [SendHave(1), Finished()]


def test_nothing_for_too_long_gives_up_and_names_what_nobody_has() -> None:
    talk = Talk(3)
    talk.meet(A, 0b010)
    talk.tell(BlockArrived(A, talk.block(1)), PieceVerified(1))
    assert talk.scheduler.unobtainable() == (0, 2)
    assert talk.tell(Tick(), at=59.9) == []
    assert talk.scheduler.next_wakeup() == 60.0
    assert talk.tell(Tick(), at=60.0) == [GiveUp((0, 2))]


def test_who_knows_no_peer_waits_shortly_where_none_is_listed_and_long_where_the_tracker_is_silent() -> None:
    listed, offline = Talk(1), Talk(1)
    listed.tell(Listed(0))
    offline.tell(Listed(None))
    assert listed.tell(Tick(), at=Policy().patience_alone) == [GiveUp((0,))]
    assert offline.tell(Tick(), at=Policy().patience) == []
    assert offline.tell(Tick(), at=Policy().patience_offline) == [GiveUp((0,))]


def test_who_lost_all_its_peers_waits_from_then_on_and_longer_once_something_came() -> None:
    talk = Talk(3)
    first = asked(talk.meet(A), A)[0]
    talk.tell(Listed(1), at=1.0)
    talk.tell(BlockArrived(A, first), at=2.0)
    assert not any(isinstance(wish, GiveUp) for wish in talk.tell(Tick(), at=45.0))
    talk.tell(PeerLeft(A), Listed(0), at=50.0)
    assert talk.tell(Tick(), at=50.0 + Policy().patience - 0.1) == []
    assert GiveUp((0, 1, 2)) in talk.tell(Tick(), at=50.0 + Policy().patience)


def test_a_peer_that_comes_after_a_long_wait_gets_its_time() -> None:
    talk = Talk(1)
    talk.tell(Listed(None))
    assert talk.tell(Tick(), at=800.0) == []
    assert asked(talk.tell(PeerJoined(A), PeerHas(A, 1), at=801.0), A) == [talk.block(0)]
    assert talk.tell(BlockArrived(A, talk.block(0)), PieceVerified(0), at=815.0)[-1] == Finished()


def test_peers_that_come_and_go_and_bring_nothing_do_not_keep_it_waiting() -> None:
    talk = Talk(1)
    talk.tell(Listed(0))
    ended = None
    for second in range(1, 200):
        wishes = talk.tell(PeerJoined(A) if second % 2 else PeerLeft(A), at=float(second))
        if any(isinstance(wish, GiveUp) for wish in wishes):
            ended = second
            break
    assert ended is not None
    assert ended <= Policy().patience + 3


def test_new_names_without_end_that_bring_nothing_end_it_in_the_end() -> None:
    talk = Talk(1)
    talk.tell(Listed(0))
    for second in range(1, 2000):
        peer = PeerKey(f"sybil {second // 2}")
        wishes = talk.tell(PeerJoined(peer) if second % 2 == 0 else PeerLeft(peer), at=float(second))
        if any(isinstance(wish, GiveUp) for wish in wishes):
            break
    assert second <= Policy().patience_offline + 1


def test_peers_without_end_that_bring_nothing_are_not_all_remembered() -> None:
    talk = Talk(1)
    talk.tell(Listed(0))
    for number in range(IDLERS + 100):
        talk.tell(
            PeerJoined(PeerKey(f"sybil {number}")), PeerLeft(PeerKey(f"sybil {number}")), at=number / 1000
        )
    assert len(talk.scheduler._patience._idlers) == IDLERS
    assert talk.scheduler.next_wakeup() == pytest.approx(IDLERS / 1000 - 0.001 + Policy().patience_alone), (
        "nor do they give time"
    )


@pytest.mark.parametrize("blocks", [0, 3])
def test_new_ids_that_send_corrupt_blocks_without_end_do_not_keep_a_download_alive(blocks: int) -> None:
    """An id costs nothing, so each may come once, send a block of nonsense, and be banned for it."""
    talk = Talk(1, blocks)
    talk.tell(Listed(0))
    ended = None
    for number in range(2000):
        peer, news = PeerKey(f"liar {number}"), talk.geometry.blocks(0)
        wishes = talk.tell(PeerJoined(peer), PeerHas(peer, 1), at=5.0 * (number + 1))
        wishes += [wish for block in news for wish in talk.tell(BlockArrived(peer, block))]
        wishes += talk.tell(PieceCorrupt(0), PeerLeft(peer))
        if any(isinstance(wish, GiveUp) for wish in wishes):
            ended = talk.now
            break
    assert ended is not None
    assert ended <= Policy().patience_offline + 5


def test_a_piece_of_16_mib_at_the_slowest_rate_is_waited_for_even_by_the_impatient() -> None:
    """It takes 17 minutes, and is no sign that nothing comes: each block does."""
    talk = Talk(1, 16, policy=Policy(block_timeout=64.0, patience=96.0, patience_offline=5.0, window_least=1))
    wishes = talk.meet(A)
    for number in range(16):
        (block,) = asked(wishes, A)
        wishes = talk.tell(BlockArrived(A, block), at=63.0 * (number + 1))
        assert not any(isinstance(wish, (GiveUp, Drop)) for wish in wishes)
    assert talk.tell(PieceVerified(0))[-1] == Finished()


def test_case_29_a_peer_of_which_nothing_has_verified_yet_has_few_pieces_begun() -> None:
    """What it sends may all be wrong, and the verdict takes its time."""
    talk = Talk(50)
    wishes = talk.meet(A)
    for number in range(30):
        under_way = asked(wishes, A)
        if number >= len(under_way):
            break
        wishes += talk.tell(BlockArrived(A, under_way[number]), at=0.001 * (number + 1))
    begun = {block.piece for block in asked(wishes, A)}
    assert len(begun) == Policy().trial
    assert len(asked(talk.tell(PieceVerified(min(begun)), at=0.1), A)) >= 2, "it is trusted from now on"


def test_blocks_that_arrive_are_progress_even_where_no_piece_is_whole_for_long() -> None:
    talk = Talk(1, blocks=16)
    talk.meet(A)
    for number in range(16):
        assert GiveUp(()) not in talk.tell(BlockArrived(A, talk.block(0, number)), at=18.0 * (number + 1))
    assert talk.tell(PieceVerified(0)) == [SendHave(0), Finished()]


# -- whom to ask for what
# --------------------------------------------------------------------------------------------------------------


def test_a_peer_is_asked_for_nothing_until_it_told_what_it_has() -> None:
    talk = Talk(3)
    assert talk.tell(PeerJoined(A)) == []
    assert [block.piece for block in asked(talk.tell(PeerGained(A, (1,))), A)] == [1]


def test_news_about_strangers_changes_nothing() -> None:
    talk = Talk(3)
    for news in (
        PeerHas(A, 7),
        PeerGained(A, (1,)),
        Suggested(A, (1,)),
        PeerLeft(A),
        BlockArrived(A, talk.block(0)),
        PieceCorrupt(0),
    ):
        assert talk.tell(news) == []
    assert talk.scheduler.unobtainable() == (0, 1, 2)


def test_the_rarest_piece_is_asked_for_first() -> None:
    talk = Talk(4, policy=Policy(window_least=1))
    talk.tell(PeerJoined(B), PeerJoined(C), PeerHas(C, 0), PeerHas(B, 0))
    talk.scheduler._availability.add(0b1101)
    assert asked(talk.meet(A), A) == [talk.block(1)]


def test_a_peer_goes_on_with_the_piece_it_began_and_no_other_touches_it() -> None:
    talk = Talk(2, blocks=3)
    first, second = asked(talk.meet(A), A)
    assert (first.piece, first.offset, second.piece, second.offset) == (first.piece, 0, first.piece, MIB)
    assert all(block.piece != first.piece for block in asked(talk.meet(B), B))
    assert asked(talk.tell(BlockArrived(A, first)), A) == [talk.block(first.piece, 2)]


def test_another_peer_goes_on_with_a_piece_whose_peer_left() -> None:
    talk = Talk(1, blocks=3)
    first, second = asked(talk.meet(A), A)
    talk.meet(B)
    talk.tell(BlockArrived(A, first))
    assert asked(talk.tell(PeerLeft(A)), B) == [second, talk.block(0, 2)]


def test_another_peer_goes_on_with_a_piece_whose_peer_says_it_has_it_no_more() -> None:
    talk = Talk(1, blocks=4)
    talk.meet(A)
    talk.meet(B)
    assert asked(talk.tell(PeerHas(A, 0)), B) == [talk.block(0, 2), talk.block(0, 3)]


def test_no_more_is_under_way_than_memory_allows_and_it_is_shared_evenly() -> None:
    talk = Talk(20, blocks=1, policy=Policy(memory=4 * MIB))
    wishes = [wish for peer in (A, B, C) for wish in talk.meet(peer)]
    assert [len(asked(wishes, peer)) for peer in (A, B, C)] == [2, 2, 0]
    more = talk.tell(BlockArrived(A, asked(wishes, A)[0]))
    assert (len(asked(more, A)), len(asked(more, C))) == (0, 1)


def test_one_block_at_once_is_asked_of_a_slow_peer_where_many_are_known() -> None:
    talk = Talk(20)
    wishes = [wish for name in "abcdefgh" for wish in talk.meet(PeerKey(name))]
    assert len(asked(wishes, A)) == 2
    assert len(asked(wishes, PeerKey("h"))) == 1


def test_sources_counts_the_peers_that_are_asked_now() -> None:
    talk = Talk(1)
    talk.meet(A)
    talk.meet(B)
    assert talk.scheduler.sources == 1


# -- suggestions
# -----------------------------------------------------------------------------------------------------------------------


def test_what_a_peer_suggests_is_asked_for_before_our_own_choice() -> None:
    talk = Talk(100)
    talk.tell(PeerJoined(A), PeerHas(A, 0))
    talk.tell(Suggested(A, (1,)))
    talk.tell(PeerJoined(B), PeerHas(B, 0))
    assert asked(talk.tell(PeerHas(A, talk.every), at=0.1), A) == []
    assert asked(talk.tell(Suggested(A, (70, 30, 50))), A) == [talk.block(70), talk.block(30)]
    assert asked(talk.tell(BlockArrived(A, talk.block(70))), A)[0] == talk.block(50)


def test_a_suggestion_that_we_have_or_the_peer_lacks_is_passed_over() -> None:
    talk = Talk(4, have=0b0001)
    talk.tell(PeerJoined(A), Suggested(A, (1,)), PeerHas(A, 0b0111))
    assert asked(talk.tell(Suggested(A, (0, 3, 9, 2))), A) == [talk.block(2)]


def test_a_suggested_piece_that_another_peer_brings_is_not_asked_for_again() -> None:
    talk = Talk(3, policy=Policy(window_least=1))
    talk.meet(B, 0b001)
    talk.tell(PeerJoined(A), Suggested(A, ()), PeerHas(A, 0b111))
    assert asked(talk.tell(Suggested(A, (0, 2, 1))), A) == [talk.block(2)]
    talk.tell(BlockArrived(B, talk.block(0)), PieceVerified(0))
    assert asked(talk.tell(BlockArrived(A, talk.block(2))), A)[0] == talk.block(1)


def test_a_peer_that_suggests_and_falls_silent_is_asked_by_our_own_choice_with_its_whole_window() -> None:
    talk = Talk(10)
    talk.tell(PeerJoined(A), Suggested(A, ()))
    assert talk.tell(PeerHas(A, talk.every)) == []
    wakeup = talk.scheduler.next_wakeup()
    assert wakeup == Policy().suggestion_patience
    assert len(asked(talk.tell(Tick(), at=wakeup), A)) == 2


def test_silence_is_not_counted_while_blocks_are_coming() -> None:
    talk = Talk(10)
    talk.tell(PeerJoined(A), Suggested(A, ()), PeerHas(A, talk.every), Suggested(A, (3,)))
    assert talk.tell(BlockArrived(A, talk.block(3)), at=5.0) == []
    assert asked(talk.tell(Suggested(A, (4,)), at=5.1), A) == [talk.block(4)]


# -- failures
# --------------------------------------------------------------------------------------------------------------------------


def test_a_block_that_does_not_come_in_time_is_cancelled_and_asked_elsewhere() -> None:
    talk = Talk(1)
    talk.meet(A)
    wakeup = 20.0
    talk.tell(PeerJoined(B), PeerHas(B, 0))
    assert talk.scheduler.next_wakeup() in (1.0, wakeup)
    wishes = talk.tell(Tick(), at=wakeup)
    assert wishes[0] == Cancel(A, talk.block(0))
    assert asked(talk.tell(PeerHas(B, 1)), B) == [talk.block(0)]


def test_a_peer_that_stalls_again_and_again_is_dropped_but_not_for_good() -> None:
    talk = Talk(9, policy=Policy(patience=1000.0))
    talk.meet(A)
    found: list[Effect] = []
    for _ in range(40):
        wakeup = talk.scheduler.next_wakeup()
        assert wakeup is not None
        found += talk.tell(Tick(), at=wakeup)
        if drops(found):
            break
    assert drops(found) == [(A, False)]
    assert talk.now < 65.0
    assert asked(talk.meet(A), A)
    assert not talk.scheduler.banned(A)


def test_case_32_of_many_peers_that_stall_with_the_last_block_one_that_would_bring_it_is_asked_after_one_timeout() -> (
    None
):
    stalling = [PeerKey(f"stall {number}") for number in range(5)]
    talk = Talk(1)
    for peer in (*stalling, A):
        talk.meet(peer)
    while talk.now < 100:
        wakeup = talk.scheduler.next_wakeup()
        assert wakeup is not None
        if asked(talk.tell(Tick(), at=wakeup), A):
            break
    assert talk.now < Policy().block_timeout + 3


def test_where_all_that_is_under_way_comes_too_late_less_is_asked_for_at_once_until_it_comes_again() -> None:
    """A thin link of ours, shared by a block from each of twelve peers: none would ever be done in time."""
    talk = Talk(100, policy=Policy(strikes=100, patience=1000.0))
    wishes = [wish for number in range(12) for wish in talk.meet(PeerKey(f"peer {number}"))]
    assert sum(isinstance(wish, Fetch) for wish in wishes) >= 12
    for most in (12, 6, LEAST_UNDER_WAY):
        wishes = []
        timeout = talk.now + Policy().block_timeout
        while talk.now < timeout + 5:
            wakeup = talk.scheduler.next_wakeup()
            assert wakeup is not None
            wishes += talk.tell(Tick(), at=wakeup)
        assert len(talk.scheduler._ledger) <= most
    (entry, *_) = talk.scheduler._ledger.entries()
    talk.tell(BlockArrived(entry.peer, entry.block))
    assert talk.scheduler._most > LEAST_UNDER_WAY


def test_a_connection_that_breaks_with_many_blocks_under_way_is_one_strike() -> None:
    talk = Talk(50, policy=Policy(window_least=8, trial=8))
    blocks = asked(talk.meet(A), A)
    assert len(blocks) == 8
    wishes = [wish for block in blocks for wish in talk.tell(BlockFailed(A, block, Failure.BROKEN))]
    assert wishes == []
    assert len(asked(talk.tell(Tick(), at=Policy().busy_pause), A)) == 1


def test_a_peer_whose_answers_break_three_times_in_a_row_is_dropped() -> None:
    talk = Talk(1)
    talk.meet(A)
    dropped = []
    for _ in range(3):
        dropped.append(drops(talk.tell(BlockFailed(A, talk.block(0), Failure.BROKEN))))
        talk.tell(Tick(), at=talk.now + 2.0)
    assert dropped == [[], [], [(A, False)]]


def test_a_block_that_comes_forgives_the_strikes_before_it() -> None:
    talk = Talk(20)
    blocks = asked(talk.meet(A), A)
    for turn in range(12):
        last = blocks.pop()
        news = BlockArrived(A, last) if turn % 3 == 2 else BlockFailed(A, last, Failure.BROKEN)
        wishes = talk.tell(news) + talk.tell(Tick(), at=talk.now + 5.0)
        assert drops(wishes) == []
        blocks += asked(wishes, A)


def test_a_busy_peer_is_left_alone_for_twice_as_long_each_time_and_never_dropped_for_it() -> None:
    talk = Talk(1)
    talk.meet(A)
    for turn in range(9):
        assert talk.tell(BlockFailed(A, talk.block(0), Failure.BUSY)) == []
        wakeup = talk.scheduler.next_wakeup()
        assert wakeup == pytest.approx(talk.now + min(Policy().busy_pause * 2**turn, Policy().busy_most))
        assert asked(talk.tell(Tick(), at=wakeup), A) == [talk.block(0)]


def test_a_peer_that_says_busy_for_hours_breaks_nothing() -> None:
    talk = Talk(2, policy=Policy(patience=1e9, patience_offline=1e9))
    talk.meet(A)
    for _ in range(1100):
        for entry in talk.scheduler._ledger.entries():
            talk.tell(BlockFailed(A, entry.block, Failure.BUSY))
        talk.tell(Tick(), at=talk.scheduler.next_wakeup())
    assert talk.scheduler._sources[A].paused_until <= talk.now + Policy().busy_most


def test_blocks_refused_together_are_one_refusal() -> None:
    talk = Talk(8)
    blocks = asked(talk.meet(A), A)
    assert len(blocks) > 1
    for block in blocks:
        talk.tell(BlockFailed(A, block, Failure.BUSY))
    assert talk.scheduler._sources[A].paused_until == pytest.approx(talk.now + Policy().busy_pause)


def test_a_busy_peer_that_suggests_a_piece_is_asked_for_it_at_once() -> None:
    talk = Talk(4)
    for block in asked(talk.meet(A), A):
        assert talk.tell(BlockFailed(A, block, Failure.BUSY)) == []
    assert asked(talk.tell(Suggested(A, (3,))), A)


def test_of_peers_with_equally_much_under_way_the_one_asked_longest_ago_is_asked_first() -> None:
    talk = Talk(64, policy=Policy(memory=1))
    first = asked(talk.meet(A), A)
    talk.meet(B)
    wishes = talk.tell(BlockArrived(A, first[0]), at=talk.now + 1.0)
    assert [wish.peer for wish in wishes if isinstance(wish, Fetch)] == [B]


def test_a_peer_that_lied_about_a_piece_is_not_asked_for_it_again() -> None:
    talk = Talk(1)
    talk.meet(A)
    assert talk.tell(BlockFailed(A, talk.block(0), Failure.LACKS)) == []
    assert talk.scheduler.unobtainable() == (0,)
    assert talk.tell(Tick(), at=50.0) == []


# -- corrupt pieces
# --------------------------------------------------------------------------------------------------------------------


def test_a_peer_that_alone_sent_a_corrupt_piece_is_dropped_at_once_and_for_good() -> None:
    talk = Talk(2, blocks=2)
    talk.meet(A, 0b01)
    talk.bring(A, 0)
    talk.meet(B)
    wishes = talk.tell(PieceCorrupt(0))
    assert drops(wishes) == [(A, True)]
    assert talk.scheduler.banned(A)
    assert talk.meet(A) == []
    assert talk.bring(B, 1)
    assert {block.piece for block in asked(talk.tell(PieceVerified(1)), B)} <= {0}


def shared_piece(talk: Talk, piece: int) -> list[Effect]:
    """A sends the first block and fails with the second, which B sends; the piece is corrupt."""
    talk.tell(PeerHas(B, 0), PeerHas(A, 1 << piece))
    talk.tell(
        BlockArrived(A, talk.block(piece, 0)),
        PeerHas(A, 0),
        BlockFailed(A, talk.block(piece, 1), Failure.LACKS),
    )
    talk.tell(PeerHas(B, 1 << piece), BlockArrived(B, talk.block(piece, 1)), PeerHas(B, 0))
    return talk.tell(PieceCorrupt(piece))


def test_peers_that_took_part_in_corrupt_pieces_are_dropped_after_the_third_but_not_for_good() -> None:
    talk = Talk(4, blocks=2)
    talk.tell(PeerJoined(A), PeerJoined(B))
    assert drops(shared_piece(talk, 0)) == []
    assert drops(shared_piece(talk, 1)) == []
    assert drops(shared_piece(talk, 2)) == [(A, False), (B, False)]
    assert not talk.scheduler.banned(A)


def test_a_good_piece_from_one_peer_alone_forgives_the_corrupt_ones_it_took_part_in() -> None:
    talk = Talk(6, blocks=2)
    talk.tell(PeerJoined(A), PeerJoined(B))
    shared_piece(talk, 0)
    shared_piece(talk, 1)
    talk.tell(PeerHas(B, 0b100000))
    talk.bring(B, 5)
    talk.tell(PieceVerified(5))
    assert drops(shared_piece(talk, 2)) == [(A, False)]


def test_a_piece_that_came_corrupt_from_several_is_fetched_from_one_alone_even_at_the_tail() -> None:
    talk = Talk(1, blocks=4, policy=Policy(window_most=2))
    talk.tell(PeerJoined(A), PeerJoined(B))
    talk.tell(PeerHas(A, 1), BlockArrived(A, talk.block(0, 0)), PeerHas(A, 0))
    for number in (1, 2):
        talk.tell(BlockFailed(A, talk.block(0, number), Failure.LACKS))
    talk.tell(PeerHas(B, 1))
    for number in (1, 2, 3):
        talk.tell(BlockArrived(B, talk.block(0, number)))
    wishes = talk.tell(PieceCorrupt(0), PeerHas(A, 1))
    assert len(asked(wishes, B)) == 2
    assert asked(wishes + talk.tell(Tick(), at=10.0), A) == []


def test_a_corrupt_piece_that_was_never_begun_or_is_verified_changes_nothing() -> None:
    talk = Talk(2, have=0b01)
    assert talk.tell(PieceCorrupt(0)) == []
    talk.meet(A)
    assert talk.tell(PieceCorrupt(0)) == []
    assert talk.tell(BlockArrived(A, talk.block(1)), PieceVerified(1)) == [SendHave(1), Finished()]


def test_a_piece_that_was_found_elsewhere_is_cancelled_where_it_was_asked() -> None:
    talk = Talk(1, blocks=4)
    talk.meet(A)
    assert talk.tell(PieceVerified(0)) == [
        Cancel(A, talk.block(0, 0)),
        Cancel(A, talk.block(0, 1)),
        SendHave(0),
        Finished(),
    ]


def test_a_corrupt_piece_whose_sender_left_is_fetched_again() -> None:
    talk = Talk(1)
    talk.meet(A)
    talk.tell(BlockArrived(A, talk.block(0)), PeerLeft(A))
    assert talk.tell(PieceCorrupt(0)) == []
    assert asked(talk.meet(B), B) == [talk.block(0)]


# -- what comes late
# -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [None, *Failure])
def test_what_comes_late_or_was_never_asked_for_changes_nothing(failure: Failure | None) -> None:
    talk = Talk(3, blocks=2)
    talk.meet(A, 0b001)
    talk.meet(B, 0b010)
    talk.tell(Tick(), at=20.0)
    late = [talk.block(piece, number) for piece in range(3) for number in range(2)]
    before = picture(talk.scheduler)
    for block in late:
        for peer in (A, B, C):
            if peer not in talk.scheduler._ledger.asked(block):
                assert (
                    talk.tell(
                        BlockArrived(peer, block) if failure is None else BlockFailed(peer, block, failure)
                    )
                    == []
                )
    assert picture(talk.scheduler) == before


# -- the tail
# --------------------------------------------------------------------------------------------------------------------------


def test_at_the_tail_a_block_that_is_slow_to_come_is_asked_of_a_second_peer_and_of_no_third() -> None:
    talk = Talk(1)
    talk.meet(A)
    assert talk.meet(B) == []
    talk.meet(C)
    assert talk.scheduler.next_wakeup() == Policy().tail_patience
    wishes = talk.tell(Tick(), at=Policy().tail_patience)
    assert [type(wish) for wish in wishes] == [Fetch]
    second = next(peer for peer in (B, C) if asked(wishes, peer))
    assert asked(talk.tell(Tick(), at=5.0), C if second == B else B) == []
    assert talk.tell(BlockArrived(second, talk.block(0))) == [Cancel(A, talk.block(0))]


def test_before_the_tail_nothing_is_asked_for_twice() -> None:
    talk = Talk(3, policy=Policy(window_least=1))
    talk.meet(A, 0b001)
    talk.meet(B, 0b111)
    talk.meet(C, 0b001)
    assert asked(talk.tell(Tick(), at=5.0), C) == []


def test_a_piece_that_nobody_has_does_not_put_off_the_tail() -> None:
    talk = Talk(2)
    talk.meet(A, 0b01)
    talk.meet(B, 0b01)
    assert asked(talk.tell(Tick(), at=1.0), B) == [talk.block(0)]


def test_at_the_tail_the_rest_of_a_slow_peers_piece_goes_to_the_peer_that_helps() -> None:
    talk = Talk(1, blocks=8)
    talk.meet(A)
    talk.meet(B)
    took = asked(talk.tell(Tick(), at=1.0), B)
    for _ in range(8):
        for block in took:
            wishes = talk.tell(BlockArrived(B, block), at=talk.now + 0.01)
            took = took[1:] + asked(wishes, B)
    assert talk.scheduler._begun._pieces[0].missing == set()
    assert talk.now < 1.2


def test_a_seed_that_suggested_helps_at_the_tail_without_a_pause() -> None:
    talk = Talk(2, policy=Policy(window_least=1))
    talk.meet(A, 0b01)
    talk.tell(PeerJoined(B), PeerHas(B, 0b11), Tick(), at=0.9)
    talk.tell(Suggested(B, ()))
    assert asked(talk.tell(BlockArrived(B, talk.block(1)), PieceVerified(1), Tick(), at=1.0), B) == [
        talk.block(0)
    ]


def test_what_was_missed_while_a_peer_was_paused_is_asked_when_the_pause_ends() -> None:
    talk = Talk(2, policy=Policy(window_least=1))
    (first,) = asked(talk.meet(A), A)
    talk.tell(BlockFailed(A, first, Failure.BUSY))
    talk.tell(PeerGained(A, (0, 1)), at=0.2)
    assert len(asked(talk.tell(Tick(), at=0.5), A)) == 1
