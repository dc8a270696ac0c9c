"""A seed's choice."""

from __future__ import annotations

from random import Random

import pytest

from p2p.model import PeerKey
from p2p.swarm.super_seeding import MAX_OPEN, MIN_OPEN_PER_RECEIVER, STALE_AFTER_BLOCKS, SuperSeeding

A, B = PeerKey("a"), PeerKey("b")


def test_an_unknown_peer_is_suggested_nothing() -> None:
    assert SuperSeeding(8, Random(1)).suggest(A) == ()


def test_one_receiver_alone_is_suggested_as_much_as_is_open_in_all() -> None:
    seed = SuperSeeding(1000, Random(1))
    seed.on_have(A, 0)
    chosen = seed.suggest(A)
    assert len(set(chosen)) == len(chosen) == MAX_OPEN


def test_a_small_content_is_suggested_whole_and_each_piece_once() -> None:
    seed = SuperSeeding(5, Random(1))
    seed.on_have(A, 0b00100)
    assert sorted(seed.suggest(A)) == [0, 1, 3, 4]


@pytest.mark.parametrize("receivers", [2, 16, 100])
def test_no_piece_is_suggested_twice_while_another_was_not_given(receivers: int) -> None:
    seed = SuperSeeding(1000, Random(receivers))
    peers = [PeerKey(str(number)) for number in range(receivers)]
    for peer in peers:
        seed.on_have(peer, 0)
    chosen = [piece for peer in peers for piece in seed.suggest(peer)]
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) >= min(receivers * MIN_OPEN_PER_RECEIVER, MAX_OPEN)


def test_in_a_crowd_few_are_open_in_all_and_everybody_has_a_turn() -> None:
    seed = SuperSeeding(1000, Random(1))
    peers = [PeerKey(str(number)) for number in range(100)]
    for peer in peers:
        seed.on_have(peer, 0)
    waiting = seed.choose()
    suggested = set()
    for _ in range(300):
        assert sum(len(pieces) for _, pieces in waiting) <= MAX_OPEN
        peer, (piece, *rest) = waiting.pop(0)
        suggested.add(peer)
        seed.on_sent(peer, piece)
        waiting += [(peer, tuple(rest))] * bool(rest) + seed.choose()
    assert suggested == set(peers)


def test_what_was_suggested_to_one_that_does_not_follow_is_for_others_again() -> None:
    seed = SuperSeeding(200, Random(1))
    seed.on_have(A, 0)
    lazy = set(seed.suggest(A))
    seed.on_have(B, 0)
    others = [piece for piece in range(200) if piece not in lazy]
    for piece in others[: STALE_AFTER_BLOCKS + 1]:
        seed.on_sent(B, piece)
    assert lazy & {piece for _, pieces in seed.choose() for piece in pieces}


def test_what_was_suggested_in_vain_and_came_from_elsewhere_counts_as_given() -> None:
    seed = SuperSeeding(200, Random(1))
    seed.on_have(A, 0)
    lazy = seed.suggest(A)
    seed.on_have(B, sum(1 << piece for piece in lazy))
    for piece in range(200):
        if piece not in lazy:
            seed.on_sent(B, piece)
    seed.on_have(PeerKey("c"), 0)
    assert seed.choose() == []


def test_in_a_crowd_a_receiver_gets_what_was_suggested_to_it_until_all_is_given() -> None:
    seed = SuperSeeding(40, Random(1))
    peers = [PeerKey(str(number)) for number in range(MAX_OPEN)]
    for peer in peers:
        seed.on_have(peer, 0)
    (peer, pieces), *_ = seed.choose()
    unknown = next(one for one in peers if one != peer)
    assert seed.admits(peer, pieces[0], crowded=True)
    assert not seed.admits(unknown, pieces[0], crowded=True)
    assert seed.admits(unknown, pieces[0], crowded=False)
    for piece in range(40):
        seed.on_sent(peer, piece)
    assert seed.admits(unknown, pieces[0], crowded=True)


def test_nothing_more_is_suggested_while_most_of_it_was_not_sent() -> None:
    seed = SuperSeeding(1000, Random(1))
    seed.on_have(A, 0)
    chosen = seed.suggest(A)
    assert seed.suggest(A) == ()
    for piece in chosen[: MAX_OPEN // 2]:
        seed.on_sent(A, piece)
    more = seed.suggest(A)
    assert more
    assert not set(more) & set(chosen)


def test_what_a_receiver_got_elsewhere_makes_room_for_other_suggestions() -> None:
    seed = SuperSeeding(1000, Random(1))
    seed.on_have(A, 0)
    bits = sum(1 << piece for piece in seed.suggest(A))
    seed.on_have(A, bits)
    more = seed.suggest(A)
    assert more
    assert not bits & sum(1 << piece for piece in more)


def test_what_was_suggested_to_one_that_left_is_suggested_to_another() -> None:
    seed = SuperSeeding(4, Random(1))
    seed.on_have(A, 0)
    seed.on_have(B, 0)
    assert len(seed.suggest(A)) == 4
    seed.on_left(A)
    assert sorted(seed.suggest(B)) == [0, 1, 2, 3]


def test_a_piece_that_left_the_swarm_with_its_only_holder_is_suggested_again() -> None:
    seed = SuperSeeding(1, Random(1))
    seed.on_have(A, 0)
    seed.suggest(A)
    seed.on_sent(A, 0)
    seed.on_have(A, 1)
    seed.on_left(A)
    seed.on_have(B, 0)
    assert seed.suggest(B) == (0,)


def test_a_piece_sent_to_one_that_left_before_it_told_of_it_is_suggested_again() -> None:
    seed = SuperSeeding(4, Random(1))
    seed.on_have(A, 0)
    for piece in seed.suggest(A):
        seed.on_sent(A, piece)
    seed.on_have(A, 0b0001)
    seed.on_have(B, 0b0010)
    seed.on_left(A)
    assert sorted(seed.suggest(B)) == [0, 2, 3]


def test_a_piece_sent_to_two_of_which_one_left_counts_as_given() -> None:
    seed = SuperSeeding(2, Random(1))
    for peer in (A, B):
        seed.on_have(peer, 0)
        seed.on_sent(peer, 0)
    seed.on_left(A)
    assert seed.suggest(B) == (1,)


def test_an_unknown_peer_that_leaves_changes_nothing() -> None:
    seed = SuperSeeding(3, Random(1))
    seed.on_have(A, 0)
    seed.on_left(B)
    assert sorted(seed.suggest(A)) == [0, 1, 2]


def test_a_piece_sent_without_being_suggested_counts_as_given() -> None:
    seed = SuperSeeding(40, Random(1))
    for piece in range(8):
        seed.on_sent(B, piece)
    seed.on_have(A, 0)
    assert sorted(seed.suggest(A)) == list(range(8, 40))


def test_a_receiver_that_has_all_is_suggested_nothing() -> None:
    seed = SuperSeeding(3, Random(1))
    seed.on_have(A, 0b111)
    assert seed.suggest(A) == ()


@pytest.mark.parametrize(
    ("receivers", "again"), [(MAX_OPEN // MIN_OPEN_PER_RECEIVER, False), (MAX_OPEN, True)]
)
def test_when_all_is_given_a_seed_of_few_is_silent_and_one_of_a_crowd_begins_anew(
    receivers: int, again: bool
) -> None:
    seed = SuperSeeding(4, Random(1))
    peers = [PeerKey(str(number)) for number in range(receivers)]
    for peer in peers:
        seed.on_have(peer, 0)
    for piece in range(4):
        seed.on_sent(peers[0], piece)
    assert bool(seed.choose()) == again


def test_a_receiver_that_did_not_follow_has_its_turn_again_when_it_asks() -> None:
    seed = SuperSeeding(200, Random(1))
    idlers = [PeerKey(f"idler {number}") for number in range(MAX_OPEN // MIN_OPEN_PER_RECEIVER + 1)]
    for peer in idlers:
        seed.on_have(peer, 0)
    seed.choose()
    seed.on_have(A, 0)
    assert not seed.admits(A, 7, crowded=True)
    suggested = set()
    for _ in range(2 * (STALE_AFTER_BLOCKS + 1)):
        if seed.on_sent(None, 0, whole=False):
            suggested |= {peer for peer, _ in seed.choose()}
    assert A in suggested
    assert seed.admits(A, 7, crowded=True)
    assert seed.admits(idlers[3], 8, crowded=True)
    assert [peer for peer, _ in seed.choose()] == [A, idlers[3]]


def test_a_late_request_for_a_suggested_piece_is_served() -> None:
    seed = SuperSeeding(200, Random(1))
    peers = [PeerKey(str(number)) for number in range(MAX_OPEN)]
    for peer in peers:
        seed.on_have(peer, 0)
    (late, pieces), *_ = seed.choose()
    for _ in range(STALE_AFTER_BLOCKS + 1):
        seed.on_sent(None, 0, whole=False)
    seed.choose()
    for peer in peers:
        seed.admits(peer, 199, crowded=True)
    unknown = next(piece for piece in range(200) if piece not in pieces)
    assert seed.admits(late, pieces[0], crowded=True)
    assert not seed.admits(late, unknown, crowded=True)


def test_a_receiver_of_a_long_piece_keeps_what_was_suggested_to_it() -> None:
    seed = SuperSeeding(200, Random(1))
    seed.on_have(A, 0)
    (piece, *rest) = seed.suggest(A)
    for number in range(4 * STALE_AFTER_BLOCKS):
        seed.on_sent(None if number % 20 else A, piece, whole=False)
    assert not set(rest) & {given for _, pieces in seed.choose() for given in pieces}
    seed.on_have(B, 0)
    assert not {piece, *rest} & set(seed.suggest(B))
