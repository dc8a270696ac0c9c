"""Tests of p2p/storage/buffers.py."""

from __future__ import annotations

from pickle import PickleBuffer

import pytest

from p2p.storage.buffers import BufferPool


def test_no_more_buffers_are_lent_than_the_pool_has() -> None:
    pool = BufferPool(16, 2)
    one, two = pool.lease(), pool.lease()
    assert one is not None
    assert two is not None
    assert pool.lease() is None
    assert (pool.lent, pool.free) == (2, 0)
    one.release()
    assert (pool.lent, pool.free) == (1, 1)
    assert pool.lease() is not None


def test_a_buffer_that_came_back_is_lent_again() -> None:
    pool = BufferPool(4, 1)
    with pool.lease() or pytest.fail("no lease") as lease:
        lease.view[:] = b"abcd"
    with pool.lease() or pytest.fail("no lease") as lease:
        assert bytes(lease.view) == b"abcd"


def test_a_window_is_the_beginning_of_the_buffer() -> None:
    lease = BufferPool(8, 1).lease()
    assert lease is not None
    lease.window(3)[:] = b"xyz"
    assert bytes(lease.view[:3]) == b"xyz"
    for length in (-1, 9):
        with pytest.raises(ValueError, match="do not fit"):
            lease.window(length)


def test_a_lease_given_back_twice_is_an_error_and_lends_nothing_twice() -> None:
    pool = BufferPool(8, 1)
    lease = pool.lease()
    assert lease is not None
    lease.release()
    with pytest.raises(RuntimeError, match="before"):
        lease.release()
    assert pool.free == 1


def test_the_former_owner_cannot_touch_what_it_gave_back() -> None:
    lease = BufferPool(8, 1).lease()
    assert lease is not None
    window = lease.window(4)
    lease.release()
    for view in (lease.view, window):
        with pytest.raises(ValueError, match="released"):
            view[0] = 1


def test_a_buffer_still_in_use_elsewhere_is_not_lent_again() -> None:
    pool = BufferPool(8, 1)
    lease = pool.lease()
    assert lease is not None
    window = lease.window(8)
    user = PickleBuffer(window)
    with pytest.raises(RuntimeError, match="in use"):
        lease.release()
    after = pool.lease()
    assert after is not None
    user.raw()[0] = 7
    assert bytes(after.view) == bytes(8)
    assert pool.free == 0


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 0)])
def test_a_pool_of_nothing_is_an_error(length: int, count: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        BufferPool(length, count)
