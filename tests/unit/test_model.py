"""Addresses as people write them."""

from __future__ import annotations

import pytest

from p2p.errors import UsageError
from p2p.model import Address, canonical_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("lab:7000", "lab", 7000),
        ("lab", "lab", 6969),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:7000", "::1", 7000),
        ("[fe80::1]", "fe80::1", 6969),
        ("fe80::1", "fe80::1", 6969),
        (" lab:65535 ", "lab", 65535),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, host: str, port: int) -> None:
    assert Address.parse(text, default_port=6969) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":1",
        "lab:",
        "lab:0",
        "lab:65536",
        "lab:-1",
        "lab:x",
        "a:b:c",
        "a:b:0",
        "[::1",
        "[::1]7000",
        "[]:1",
        "lab:٣",
        "lab:999999999",
        "lab:036854775808",
        "lab:" + "0" * 5000 + "1",
        "[ lab]:1",
        "[lab ]:1",
        "la b:1",
        "la\0b:1",
        "la\nb:1",
        "la\udcffb:1",
        "la]b:1",
        "::1%]",
        "::1%eth0]:0",
    ],
)
def test_what_is_no_address_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(UsageError, match="tracker"):
        Address.parse(text, default_port=6969, what="tracker")


def test_an_address_without_a_port_is_refused_where_there_is_no_default() -> None:
    with pytest.raises(UsageError):
        Address.parse("lab")


@pytest.mark.parametrize("address", [Address("lab", 1), Address("::1", 7000), Address("10.0.0.1", 65535)])
def test_an_address_that_is_written_can_be_read(address: Address) -> None:
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FE80::1%eth0", "fe80::1"),
        ("0:0::1", "::1"),
        ("lab", "lab"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_literal_has_one_form(host: str, canonical: str) -> None:
    assert canonical_host(host) == canonical
