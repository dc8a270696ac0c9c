"""Tests of p2p/content/geometry.py."""

from __future__ import annotations

import pytest

from p2p.content.geometry import Geometry, Layout, choose_piece_length
from p2p.errors import Refused
from p2p.model import KIB, MAX_BLOCK, MAX_PIECES, MAX_SIZE, MIB, BlockSpan, FileEntry


@pytest.mark.parametrize(
    ("size", "pieces", "last"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (64 * KIB - 1, 1, 64 * KIB - 1),
        (64 * KIB, 1, 64 * KIB),
        (64 * KIB + 1, 2, 1),
        (10 * 64 * KIB, 10, 64 * KIB),
    ],
)
def test_the_last_piece_holds_what_is_left(size: int, pieces: int, last: int) -> None:
    geometry = Geometry(size, 64 * KIB)
    assert geometry.pieces == pieces
    if pieces:
        assert geometry.piece_size(pieces - 1) == last
    assert sum(geometry.piece_size(piece) for piece in range(pieces)) == size


@pytest.mark.parametrize("piece", [-1, 2, 2**63])
def test_a_piece_that_does_not_exist_has_no_size(piece: int) -> None:
    with pytest.raises(IndexError):
        Geometry(100 * KIB, 64 * KIB).piece_size(piece)
    with pytest.raises(IndexError):
        Geometry(100 * KIB, 64 * KIB).blocks(piece)


def test_the_blocks_of_a_piece_are_in_order_and_cover_it() -> None:
    geometry = Geometry(6 * MIB + 5, 4 * MIB)
    assert [block.length for block in geometry.blocks(0)] == [MIB] * 4
    assert geometry.blocks(1) == (BlockSpan(1, 0, MIB), BlockSpan(1, MIB, MIB), BlockSpan(1, 2 * MIB, 5))
    assert geometry.offset(BlockSpan(1, MIB, MIB)) == 5 * MIB


def test_a_small_piece_is_one_block() -> None:
    geometry = Geometry(200 * KIB, 64 * KIB)
    assert geometry.block_length == 64 * KIB
    assert geometry.blocks(3) == (BlockSpan(3, 0, 8 * KIB),)


@pytest.mark.parametrize(
    "span",
    [
        BlockSpan(-1, 0, 1),
        BlockSpan(2, 0, 1),
        BlockSpan(2**63, 0, 1),
        BlockSpan(10**4000, 0, 1),
        BlockSpan(0, -1, 1),
        BlockSpan(0, 0, 0),
        BlockSpan(0, 0, -65536),
        BlockSpan(0, 0, MAX_BLOCK + 1),
        BlockSpan(0, 2 * MIB - 1, 2),
        BlockSpan(0, 2 * MIB, 1),
        BlockSpan(0, 2**63, 1),
        BlockSpan(1, MIB - 1, 2),
    ],
)
def test_case_24_a_range_outside_of_a_piece_is_refused_in_a_short_sentence(span: BlockSpan) -> None:
    with pytest.raises(Refused) as caught:
        Geometry(3 * MIB, 2 * MIB).check(span)
    assert caught.value.code == "bad_range"
    assert len(str(caught.value)) < 200


def test_every_range_inside_a_piece_is_accepted() -> None:
    geometry = Geometry(3 * MIB, 2 * MIB)
    for span in (
        BlockSpan(0, 0, MAX_BLOCK),
        BlockSpan(0, 2 * MIB - 1, 1),
        BlockSpan(1, 0, MIB),
        BlockSpan(1, 7, 9),
    ):
        geometry.check(span)


def test_an_empty_content_has_no_range_at_all() -> None:
    with pytest.raises(Refused):
        Geometry(0, 64 * KIB).check(BlockSpan(0, 0, 1))


def test_the_piece_length_aims_at_a_thousand_pieces() -> None:
    assert choose_piece_length(0) == choose_piece_length(1) == choose_piece_length(64 * MIB) == 64 * KIB
    assert choose_piece_length(1024 * MIB) == MIB
    assert choose_piece_length(10 * 1024 * MIB) == 8 * MIB
    for exponent in range(17, 35):
        for size in (2**exponent - 1, 2**exponent, 2**exponent + 1, 3 * 2 ** (exponent - 1)):
            length = choose_piece_length(size)
            pieces = Geometry(size, length).pieces
            assert length & (length - 1) == 0
            assert pieces <= 2000
            assert length == 64 * KIB or pieces >= 700


def test_the_largest_content_has_no_more_pieces_than_a_bitmap_may_hold() -> None:
    assert choose_piece_length(MAX_SIZE) == 16 * MIB
    assert Geometry(MAX_SIZE, choose_piece_length(MAX_SIZE)).pieces == MAX_PIECES


def test_a_range_across_files_is_cut_at_their_borders_and_skips_empty_ones() -> None:
    layout = Layout(
        [FileEntry("a", 0), FileEntry("b", 10), FileEntry("c", 0), FileEntry("d", 5), FileEntry("e", 0)]
    )
    assert layout.size == 15
    assert list(layout.slices(8, 4)) == [(1, 8, 2), (3, 0, 2)]
    assert list(layout.slices(0, 15)) == [(1, 0, 10), (3, 0, 5)]
    assert list(layout.slices(10, 5)) == [(3, 0, 5)]
    assert list(layout.slices(15, 0)) == []


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, 16), (15, 1), (0, -1)])
def test_a_range_outside_of_all_files_is_an_error(offset: int, length: int) -> None:
    with pytest.raises(IndexError):
        list(Layout([FileEntry("b", 15)]).slices(offset, length))


def test_a_file_begins_where_the_one_before_it_ends() -> None:
    layout = Layout([FileEntry("a", 3), FileEntry("b", 0), FileEntry("c", 4)])
    assert (layout.start(0), layout.start(2)) == (0, 3)
    for empty in (1, 3, -1):
        with pytest.raises(IndexError):
            layout.start(empty)


def test_the_number_of_files_of_a_range_is_told_without_a_look_at_each() -> None:
    layout = Layout(
        [FileEntry(f"{size}-{number}", size) for number, size in enumerate((0, 10, 0, 5, 1, 0, 7))]
    )
    for offset in range(layout.size):
        for length in range(1, layout.size - offset + 1):
            assert layout.touched(offset, length) == len(list(layout.slices(offset, length)))
