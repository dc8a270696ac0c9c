"""p2p/cli/parse.py: sizes, rates and addresses as people write them."""

from __future__ import annotations

import pytest

from p2p.cli.parse import parse_advertise, parse_rate, parse_size
from p2p.errors import UsageError
from p2p.model import Address


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ("64M", 64 << 20), ("64m", 64 << 20), ("2G", 2 << 30), ("1K", 1024),
     ("1T", 1 << 40), ("1.5G", 3 << 29),
     ("64MB", 64 << 20), ("64 MiB", 64 << 20), ("10B", 10), (" 7 ", 7), ("0.5K", 512),
     ("4503599627370497", 4503599627370497)],
)  # fmt: skip
def test_a_size_is_bytes_or_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "1e3", "64X", "1.M", "NaN", "0x10", "64MM", "١٢", "9" * 30, "1 000", "9" * 20 + "T"],
)
def test_a_wrong_size_is_refused_with_the_option_that_it_was_given_to(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--size: "):
        parse_size(text, "--size")


def test_a_rate_is_a_size_with_or_without_per_second() -> None:
    assert parse_rate("10M") == parse_rate("10M/s") == parse_rate("10MiB/s") == 10 << 20
    with pytest.raises(UsageError, match=r"^--limit: .*not a rate"):
        parse_rate("fast", "--limit")


@pytest.mark.parametrize("text", ["0.5", "0.0001K", "0.9/s"])
def test_a_rate_below_one_byte_is_refused_and_not_taken_for_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="less than a byte"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0K", "0/s"])
def test_a_rate_of_zero_is_no_limit(text: str) -> None:
    assert parse_rate(text) == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [("lab", Address("lab", 0)), ("lab:7000", Address("lab", 7000)), ("lab:0", Address("lab", 0)),
     ("[::1]:7", Address("::1", 7)),
     ("::1", Address("::1", 0)), ("fe80::0", Address("fe80::0", 0)),
     ("10.0.0.1:1", Address("10.0.0.1", 1)), ("lab:2", Address("lab", 2)),
     ("2001:db8::1:0", Address("2001:db8::1:0", 0)), ("[2001:db8::1:0]:0", Address("2001:db8::1:0", 0)),
     (" lab:0 ", Address("lab", 0))],
)  # fmt: skip
def test_an_advertised_address_may_leave_out_the_port(text: str, address: Address) -> None:
    assert parse_advertise(text) == address
