"""A seed's choice."""

from __future__ import annotations

from random import Random

import pytest

from p2p.model import PeerKey
from p2p.swarm.super_seeding import AHEAD_AT_LEAST, AHEAD_IN_ALL, STALE, SuperSeeding

A, B = PeerKey("a"), PeerKey("b")


def test_a_stranger_is_suggested_nothing() -> None:
    assert SuperSeeding(8, Random(1)).suggest(A) == ()


def test_one_receiver_alone_is_suggested_as_much_as_is_open_in_all() -> None:
    chooser = SuperSeeding(1000, Random(1))
    chooser.has(A, 0)
    chosen = chooser.suggest(A)
    assert len(set(chosen)) == len(chosen) == AHEAD_IN_ALL


def test_a_small_content_is_suggested_whole_and_each_piece_once() -> None:
    chooser = SuperSeeding(5, Random(1))
    chooser.has(A, 0b00100)
    assert sorted(chooser.suggest(A)) == [0, 1, 3, 4]


@pytest.mark.parametrize("receivers", [2, 16, 100])
def test_no_two_receivers_are_suggested_the_same_piece_while_others_were_not_given(receivers: int) -> None:
    chooser = SuperSeeding(1000, Random(receivers))
    peers = [PeerKey(str(number)) for number in range(receivers)]
    for peer in peers:
        chooser.has(peer, 0)
    chosen = [piece for peer in peers for piece in chooser.suggest(peer)]
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) >= min(receivers * AHEAD_AT_LEAST, AHEAD_IN_ALL)


def test_in_a_crowd_few_are_open_in_all_and_everybody_has_a_turn() -> None:
    chooser = SuperSeeding(1000, Random(1))
    peers = [PeerKey(str(number)) for number in range(100)]
    for peer in peers:
        chooser.has(peer, 0)
    waiting = chooser.choose()
    suggested = set()
    for _ in range(300):
        assert sum(len(pieces) for _, pieces in waiting) <= AHEAD_IN_ALL
        peer, (piece, *rest) = waiting.pop(0)
        suggested.add(peer)
        chooser.served(peer, piece)
        waiting += [(peer, tuple(rest))] * bool(rest) + chooser.choose()
    assert suggested == set(peers)


def test_what_was_suggested_to_one_that_does_not_follow_is_for_others_again() -> None:
    chooser = SuperSeeding(200, Random(1))
    chooser.has(A, 0)
    lazy = set(chooser.suggest(A))
    chooser.has(B, 0)
    others = [piece for piece in range(200) if piece not in lazy]
    for piece in others[: STALE + 1]:
        chooser.served(B, piece)
    assert lazy & {piece for _, pieces in chooser.choose() for piece in pieces}


def test_what_was_suggested_in_vain_and_came_from_elsewhere_counts_as_given() -> None:
    chooser = SuperSeeding(200, Random(1))
    chooser.has(A, 0)
    lazy = chooser.suggest(A)
    chooser.has(B, sum(1 << piece for piece in lazy))
    for piece in range(200):
        if piece not in lazy:
            chooser.served(B, piece)
    chooser.has(PeerKey("c"), 0)
    assert chooser.choose() == []


def test_in_a_crowd_a_receiver_gets_what_was_suggested_to_it_until_all_is_given() -> None:
    chooser = SuperSeeding(40, Random(1))
    peers = [PeerKey(str(number)) for number in range(AHEAD_IN_ALL)]
    for peer in peers:
        chooser.has(peer, 0)
    (peer, pieces), *_ = chooser.choose()
    stranger = next(one for one in peers if one != peer)
    assert chooser.admits(peer, pieces[0], crowded=True)
    assert not chooser.admits(stranger, pieces[0], crowded=True)
    assert chooser.admits(stranger, pieces[0], crowded=False)
    for piece in range(40):
        chooser.served(peer, piece)
    assert chooser.admits(stranger, pieces[0], crowded=True)


def test_nothing_more_is_suggested_while_most_of_it_was_not_sent() -> None:
    chooser = SuperSeeding(1000, Random(1))
    chooser.has(A, 0)
    chosen = chooser.suggest(A)
    assert chooser.suggest(A) == ()
    for piece in chosen[: AHEAD_IN_ALL // 2]:
        chooser.served(A, piece)
    more = chooser.suggest(A)
    assert more
    assert not set(more) & set(chosen)


def test_what_a_receiver_got_elsewhere_makes_room_for_other_suggestions() -> None:
    chooser = SuperSeeding(1000, Random(1))
    chooser.has(A, 0)
    bits = sum(1 << piece for piece in chooser.suggest(A))
    chooser.has(A, bits)
    more = chooser.suggest(A)
    assert more
    assert not bits & sum(1 << piece for piece in more)


def test_what_was_suggested_to_one_that_left_is_suggested_to_another() -> None:
    chooser = SuperSeeding(4, Random(1))
    chooser.has(A, 0)
    chooser.has(B, 0)
    assert len(chooser.suggest(A)) == 4
    chooser.left(A)
    assert sorted(chooser.suggest(B)) == [0, 1, 2, 3]


def test_a_piece_that_left_the_swarm_with_its_only_holder_is_suggested_again() -> None:
    chooser = SuperSeeding(1, Random(1))
    chooser.has(A, 0)
    chooser.suggest(A)
    chooser.served(A, 0)
    chooser.has(A, 1)
    chooser.left(A)
    chooser.has(B, 0)
    assert chooser.suggest(B) == (0,)


def test_a_piece_sent_to_one_that_left_before_it_told_of_it_is_suggested_again() -> None:
    chooser = SuperSeeding(4, Random(1))
    chooser.has(A, 0)
    for piece in chooser.suggest(A):
        chooser.served(A, piece)
    chooser.has(A, 0b0001)
    chooser.has(B, 0b0010)
    chooser.left(A)
    assert sorted(chooser.suggest(B)) == [0, 2, 3]


def test_a_piece_sent_to_two_of_which_one_left_counts_as_given() -> None:
    chooser = SuperSeeding(2, Random(1))
    for peer in (A, B):
        chooser.has(peer, 0)
        chooser.served(peer, 0)
    chooser.left(A)
    assert chooser.suggest(B) == (1,)


def test_a_stranger_that_leaves_changes_nothing() -> None:
    chooser = SuperSeeding(3, Random(1))
    chooser.has(A, 0)
    chooser.left(B)
    assert sorted(chooser.suggest(A)) == [0, 1, 2]


def test_a_piece_sent_without_being_suggested_counts_as_given() -> None:
    chooser = SuperSeeding(40, Random(1))
    for piece in range(8):
        chooser.served(B, piece)
    chooser.has(A, 0)
    assert sorted(chooser.suggest(A)) == list(range(8, 40))


def test_who_has_all_is_suggested_nothing() -> None:
    chooser = SuperSeeding(3, Random(1))
    chooser.has(A, 0b111)
    assert chooser.suggest(A) == ()


@pytest.mark.parametrize(
    ("receivers", "again"), [(AHEAD_IN_ALL // AHEAD_AT_LEAST, False), (AHEAD_IN_ALL, True)]
)
def test_when_all_is_given_a_seed_of_few_falls_silent_and_a_seed_of_a_crowd_begins_anew(
    receivers: int, again: bool
) -> None:
    chooser = SuperSeeding(4, Random(1))
    peers = [PeerKey(str(number)) for number in range(receivers)]
    for peer in peers:
        chooser.has(peer, 0)
    for piece in range(4):
        chooser.served(peers[0], piece)
    assert bool(chooser.choose()) == again


def test_who_did_not_follow_makes_no_crowd_and_has_its_turn_again_behind_the_others_when_it_asks() -> None:
    chooser = SuperSeeding(200, Random(1))
    idlers = [PeerKey(f"idler {number}") for number in range(AHEAD_IN_ALL // AHEAD_AT_LEAST + 1)]
    for peer in idlers:
        chooser.has(peer, 0)
    chooser.choose()
    chooser.has(A, 0)
    assert not chooser.admits(A, 7, crowded=True)
    suggested = set()
    for _ in range(2 * (STALE + 1)):
        if chooser.served(None, 0, whole=False):
            suggested |= {peer for peer, _ in chooser.choose()}
    assert A in suggested
    assert chooser.admits(A, 7, crowded=True)
    assert chooser.admits(idlers[3], 8, crowded=True)
    assert [peer for peer, _ in chooser.choose()] == [A, idlers[3]]


def test_who_asks_late_for_what_was_suggested_to_it_is_sent_it() -> None:
    chooser = SuperSeeding(200, Random(1))
    peers = [PeerKey(str(number)) for number in range(AHEAD_IN_ALL)]
    for peer in peers:
        chooser.has(peer, 0)
    (late, pieces), *_ = chooser.choose()
    for _ in range(STALE + 1):
        chooser.served(None, 0, whole=False)
    chooser.choose()
    for peer in peers:
        chooser.admits(peer, 199, crowded=True)
    stranger = next(piece for piece in range(200) if piece not in pieces)
    assert chooser.admits(late, pieces[0], crowded=True)
    assert not chooser.admits(late, stranger, crowded=True)


def test_a_receiver_that_is_sent_a_long_piece_block_by_block_keeps_what_was_suggested_to_it() -> None:
    chooser = SuperSeeding(200, Random(1))
    chooser.has(A, 0)
    (piece, *rest) = chooser.suggest(A)
    for number in range(4 * STALE):
        chooser.served(None if number % 20 else A, piece, whole=False)
    assert not set(rest) & {given for _, pieces in chooser.choose() for given in pieces}
    chooser.has(B, 0)
    assert not {piece, *rest} & set(chooser.suggest(B))
