"""Tests of p2p/protocol/framing.py: whole lines out of any cut of the stream, bounded."""

from __future__ import annotations

import tracemalloc

import pytest

from p2p.errors import ProtocolError
from p2p.protocol.framing import MAX_LINE, LineBuffer


def lines_of(buffer: LineBuffer) -> list[bytes]:
    """Every line that has come."""
    return list(iter(buffer.next_line, None))


def test_nothing_fed_gives_no_line() -> None:
    buffer = LineBuffer()
    assert buffer.next_line() is None
    assert len(buffer) == 0


def test_lines_come_in_order_without_their_newline_and_the_rest_waits() -> None:
    buffer = LineBuffer()
    buffer.feed(b"one\ntwo\n\nthr")
    assert lines_of(buffer) == [b"one", b"two", b""]
    assert len(buffer) == 3
    buffer.feed(b"ee\n")
    assert lines_of(buffer) == [b"three"]


def test_a_line_that_comes_byte_by_byte_is_one_line() -> None:
    buffer = LineBuffer()
    for byte in b'{"op":"ping"}':
        buffer.feed(bytes([byte]))
        assert buffer.next_line() is None
    buffer.feed(b"\n")
    assert buffer.next_line() == b'{"op":"ping"}'


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(
    "step", [None, 1000, MAX_LINE - 1], ids=["whole", "in parts", "all but the newline first"]
)
@pytest.mark.parametrize(("size", "fits"), [(MAX_LINE - 1, True), (MAX_LINE, True), (MAX_LINE + 1, False)])
def test_case_2_a_line_at_the_limit_is_taken_and_one_byte_more_is_refused(
    size: int, fits: bool, step: int | None, newline: bytes
) -> None:
    data = b"x" * (size - len(newline)) + newline
    assert len(data) == size
    buffer = LineBuffer()

    def read() -> list[bytes]:
        found = []
        for start in range(0, size, step or size):
            buffer.feed(data[start : start + (step or size)])
            found += lines_of(buffer)
        return found

    if fits:
        assert read() == [data[:-1]]
    else:
        with pytest.raises(ProtocolError) as caught:
            read()
        assert (caught.value.code, caught.value.fatal) == ("line_too_long", True)


def test_case_1_a_line_without_end_is_refused_as_soon_as_the_limit_is_reached() -> None:
    buffer = LineBuffer()
    buffer.feed(b"x" * (MAX_LINE - 1))
    assert buffer.next_line() is None
    buffer.feed(b"x")
    with pytest.raises(ProtocolError, match="longer than 65536 bytes"):
        buffer.next_line()


def test_a_long_line_does_not_hide_the_good_ones_before_it() -> None:
    buffer = LineBuffer(limit=10)
    buffer.feed(b"good\n" + b"x" * 20 + b"\n")
    assert buffer.next_line() == b"good"
    with pytest.raises(ProtocolError, match="longer than 10 bytes"):
        buffer.next_line()


def test_a_body_is_handed_over_newlines_and_all_and_lines_go_on_behind_it() -> None:
    buffer = LineBuffer()
    buffer.feed(b"head\n\n{bo\ndy}\nnext\nre")
    assert buffer.next_line() == b"head"
    assert buffer.take(7) == b"\n{bo\ndy"
    assert buffer.take(1) == b"}"
    assert lines_of(buffer) == [b"", b"next"]
    assert buffer.take(100) == b"re"
    assert buffer.take(100) == b""
    assert len(buffer) == 0


def test_a_newline_inside_a_body_that_was_scanned_already_ends_no_line() -> None:
    buffer = LineBuffer()
    buffer.feed(b"abc")
    assert buffer.next_line() is None
    assert buffer.take(2) == b"ab"
    buffer.feed(b"d\n")
    assert buffer.next_line() == b"cd"


@pytest.mark.parametrize("rest", [b"", b"begun"], ids=["all taken", "a line begun"])
def test_case_12_an_idle_buffer_lets_go_of_what_was_taken(rest: bytes) -> None:
    """Ten thousand connections that sent much and then fell silent must cost next to nothing."""
    buffer = LineBuffer()
    tracemalloc.start()
    try:
        buffer.feed(b"x\n" * 100_000 + rest)
        assert len(lines_of(buffer)) == 100_000
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000
    buffer.feed(b" and ended\n")
    assert buffer.next_line() == rest + b" and ended"


def test_a_buffer_whose_body_was_taken_lets_go_of_it() -> None:
    buffer = LineBuffer()
    tracemalloc.start()
    try:
        buffer.feed(bytes(1_000_000))
        assert len(buffer.take(1_000_000)) == 1_000_000
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000
