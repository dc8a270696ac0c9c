"""Tests of p2p/storage/buffers.py."""

from __future__ import annotations

from pickle import PickleBuffer

import pytest

from p2p.storage.buffers import BufferPool


def test_no_more_buffers_are_lent_than_the_pool_has() -> None:
    pool = BufferPool(16, 2)
    one, two = pool.borrow(), pool.borrow()
    assert one is not None
    assert two is not None
    assert pool.borrow() is None
    assert (pool.lent, pool.free) == (2, 0)
    one.release()
    assert (pool.lent, pool.free) == (1, 1)
    assert pool.borrow() is not None


def test_a_buffer_that_came_back_is_lent_again() -> None:
    pool = BufferPool(4, 1)
    with pool.borrow() or pytest.fail("no buffer") as buffer:
        buffer.view[:] = b"abcd"
    with pool.borrow() or pytest.fail("no buffer") as buffer:
        assert bytes(buffer.view) == b"abcd"


def test_a_window_is_the_beginning_of_the_buffer() -> None:
    buffer = BufferPool(8, 1).borrow()
    assert buffer is not None
    buffer.window(3)[:] = b"xyz"
    assert bytes(buffer.view[:3]) == b"xyz"
    for length in (-1, 9):
        with pytest.raises(ValueError, match="do not fit"):
            buffer.window(length)


def test_a_buffer_given_back_twice_is_an_error_and_is_lent_once() -> None:
    pool = BufferPool(8, 1)
    buffer = pool.borrow()
    assert buffer is not None
    buffer.release()
    with pytest.raises(RuntimeError, match="before"):
        buffer.release()
    assert pool.free == 1


def test_a_released_buffer_cannot_be_touched() -> None:
    buffer = BufferPool(8, 1).borrow()
    assert buffer is not None
    window = buffer.window(4)
    buffer.release()
    for view in (buffer.view, window):
        with pytest.raises(ValueError, match="released"):
            view[0] = 1


def test_a_buffer_still_in_use_elsewhere_is_not_lent_again() -> None:
    pool = BufferPool(8, 1)
    buffer = pool.borrow()
    assert buffer is not None
    window = buffer.window(8)
    user = PickleBuffer(window)
    with pytest.raises(RuntimeError, match="in use"):
        buffer.release()
    after = pool.borrow()
    assert after is not None
    user.raw()[0] = 7
    assert bytes(after.view) == bytes(8)
    assert pool.free == 0


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 0)])
def test_a_pool_of_nothing_is_an_error(length: int, count: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        BufferPool(length, count)
