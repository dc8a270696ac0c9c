"""p2p/content/uri.py: links that people paste, right and wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.uri import Uri, content_id, is_link, parse_link
from p2p.errors import UsageError
from p2p.model import Address, ContentId

ID = ContentId("0123456789abcdef" * 4)


def test_a_link_is_written_as_the_contract_says() -> None:
    link = Uri(ID, Address("10.0.0.5", 6969), "lab image.img")
    assert str(link) == f"p2p:{ID}?tracker=10.0.0.5:6969&name=lab%20image.img"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.sampled_from(["10.0.0.5", "::1", "lab.example.org"]),
    st.integers(1, 65535),
)
def test_what_is_written_is_read_back_and_is_one_plain_word(name: str, host: str, port: int) -> None:
    link = Uri(ID, Address(host, port), name)
    text = str(link)
    assert parse_link(text) == link
    assert text.isascii()
    assert not any(char.isspace() or char in "\"'&<>$`\\" for char in text.replace("&name=", ""))


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_as_wrong_usage(text: str) -> None:
    for candidate in (text, f"p2p:{text}", f"p2p:{ID}?{text}"):
        with contextlib.suppress(UsageError):
            assert parse_link(candidate).id == ID or candidate.strip()[4:].startswith(
                parse_link(candidate).id
            )


def test_a_link_may_leave_out_everything_but_the_id() -> None:
    assert parse_link(f"p2p:{ID}") == Uri(ID)
    assert parse_link(f"  P2P:{ID.upper()}?tracker=lab\n") == Uri(ID, Address("lab", 6969))
    assert str(Uri(ID)) == f"p2p:{ID}"


def test_unknown_keys_of_a_link_are_ignored() -> None:
    assert parse_link(f"p2p:{ID}?v=2&&name=a&name2=b") == Uri(ID, None, "a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p2p:",
        "p2p:abc",
        f"p2p:{ID}0",
        f"p2q:{ID}",
        f"p2p:{ID[:-1]}g",
        f"p2p:{ID}?tracker=a:0",
        f"p2p:{ID}?tracker=",
        f"p2p:{ID}?tracker=a:99999",
        f"p2p:{ID}?name=a&name=b",
        f"p2p:{ID}?name=%ff",
        f"p2p:{ID}?name={'a' * 5000}",
        f"p2p:../{ID}",
        f"p2p:{ID}?name=\udcff",
        f"p2p:{ID}?tracker=127.0.0.1%00.lab",
        f"p2p:{ID}?tracker=[%20lab]:1",
        f"p2p:{ID}?tracker=::1%25]",
    ],
)
def test_an_invalid_link_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_link(text)


def test_a_link_an_id_and_a_name_are_distinguished() -> None:
    assert is_link(f"p2p:{ID}")
    assert not is_link("p2p.img")
    assert content_id(ID.upper()) == ID
    assert content_id("lab.img") is None
    assert content_id("０" * 64) is None
