"""Tests of p2p/content/bitmap.py."""

from __future__ import annotations

from base64 import b64encode

import pytest

from p2p.content.bitmap import Bitmap
from p2p.errors import ProtocolError
from p2p.model import MAX_PIECES


def test_pieces_come_and_go() -> None:
    have = Bitmap(10)
    assert (have.count, len(have), have.full, list(have)) == (0, 0, False, [])
    have.add(9)
    have.add(0)
    have.add(0)
    assert list(have) == [0, 9]
    assert 9 in have
    assert 8 not in have
    have.remove(9)
    have.remove(9)
    assert list(have) == [0]
    assert have.count == 1


@pytest.mark.parametrize("piece", [-1, 10, 2**40])
def test_a_piece_that_does_not_exist_is_an_error_and_never_in(piece: int) -> None:
    have = Bitmap.all(10)
    with pytest.raises(IndexError):
        have.add(piece)
    with pytest.raises(IndexError):
        have.remove(piece)
    assert piece not in have
    assert "0" not in have


def test_full_and_missing_are_opposite_ends() -> None:
    every = Bitmap.all(70)
    assert every.full
    assert every.count == 70
    assert every.missing() == Bitmap(70)
    assert Bitmap(70).missing() == every
    assert Bitmap(0).full
    assert Bitmap.all(0).missing() == Bitmap(0)


def test_sets_are_joined_cut_and_subtracted() -> None:
    left, right = Bitmap.of(8, [0, 1, 2]), Bitmap.of(8, [2, 3])
    assert list(left | right) == [0, 1, 2, 3]
    assert list(left & right) == [2]
    assert list(left - right) == [0, 1]
    assert left.bits == 0b111
    with pytest.raises(ValueError, match="does not fit"):
        left | Bitmap(9)


def test_a_copy_changes_on_its_own() -> None:
    have = Bitmap.of(8, [1])
    other = have.copy()
    other.add(2)
    assert list(have) == [1]
    assert have != other
    assert have != 2
    assert repr(other) == "Bitmap(2 of 8)"


def test_a_set_that_changes_is_no_key() -> None:
    with pytest.raises(TypeError):
        hash(Bitmap(1))


@pytest.mark.parametrize(("n", "bits"), [(-1, 0), (3, -1), (3, 8)])
def test_bits_outside_are_an_error(n: int, bits: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        Bitmap(n, bits)


def test_on_the_wire_piece_0_is_the_highest_bit_of_the_first_byte() -> None:
    assert Bitmap.of(10, [0, 9]).to_bytes() == bytes([0b10000000, 0b01000000])
    assert Bitmap.from_bytes(b"\x80\x40", 10) == Bitmap.of(10, [0, 9])
    assert Bitmap(0).to_bytes() == b""
    assert Bitmap.from_bytes(b"", 0) == Bitmap(0)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x40\x00", b"\x80\x20", b"\x80\x41"])
def test_another_length_or_spare_bits_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="pieces") as caught:
        Bitmap.from_bytes(data, 10)
    assert caught.value.code == "bad_field"


def test_the_largest_bitmap_fits_a_control_line() -> None:
    every = Bitmap.all(MAX_PIECES)
    data = every.to_bytes()
    assert len(b64encode(data)) < 48 * 1024
    assert Bitmap.from_bytes(data, MAX_PIECES) == every
    assert sum(1 for _ in every) == MAX_PIECES
