"""p2p/cli/link_tracker.py: which tracker a link leads to, and which tracker a printed link names."""

from __future__ import annotations

import asyncio

import pytest

from p2p.cli.config import PeerConfig
from p2p.cli.link_tracker import is_loopback, own_host, target_of, tracker_for_others
from p2p.content.uri import Uri
from p2p.errors import UsageError
from p2p.model import Address
from tests.kit.cli_output import HERE, ID, LAB, config


def aimed(target: str, named: bool = False) -> tuple[str, Address]:
    """What is fetched, and the tracker that is asked."""
    found, settings = target_of(target, config(tracker_is_named=named))
    return found, settings.tracker


def test_a_link_brings_its_own_tracker() -> None:
    assert aimed(str(Uri(ID, LAB, "n"))) == (ID, LAB)


def test_a_tracker_that_was_named_wins_over_the_one_of_the_link() -> None:
    assert aimed(str(Uri(ID, LAB)), named=True) == (ID, HERE)


def test_a_link_without_tracker_an_id_and_a_name_leave_the_tracker_as_it_is() -> None:
    assert aimed(f"p2p:{ID}") == (ID, HERE)
    assert aimed(ID.upper()) == (ID, HERE)
    assert aimed("lab.img") == ("lab.img", HERE)


@pytest.mark.parametrize("target", ["", "a\x1bb", "x" * 256, "p2p:abc", f"p2p:{ID}?tracker=x:0"])
def test_a_wrong_target_is_wrong_usage(target: str) -> None:
    with pytest.raises(UsageError):
        target_of(target, PeerConfig())


def link_tracker(
    own: str | None, listening: set[Address], tracker: Address = HERE
) -> tuple[Address, list[str]]:
    """The tracker that links name on a machine with this address, where something listens there; and what is
    warned of."""
    warnings: list[str] = []

    async def listens(address: Address) -> bool:
        return address in listening

    found = asyncio.run(tracker_for_others(tracker, warnings.append, host=lambda: own, listens=listens))
    return found, warnings


def test_a_link_names_the_tracker_by_the_address_that_others_can_use() -> None:
    outside = Address("10.0.0.9", 6969)
    assert link_tracker("10.0.0.9", {HERE, outside}) == (outside, [])


def test_a_tracker_on_loopback_only_is_named_as_it_is_with_a_warning() -> None:
    tracker, (warning,) = link_tracker("10.0.0.9", {HERE})
    assert tracker == HERE
    assert "this machine only" in warning


def test_a_machine_without_network_names_loopback_with_a_warning() -> None:
    tracker, (warning,) = link_tracker(None, {HERE})
    assert tracker == HERE
    assert "this machine only" in warning


def test_a_tracker_that_is_away_is_taken_to_listen_everywhere() -> None:
    assert link_tracker("10.0.0.9", set()) == (Address("10.0.0.9", 6969), [])


def test_a_tracker_elsewhere_is_named_as_it_was_given() -> None:
    assert link_tracker("10.0.0.9", set(), LAB) == (LAB, [])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("LocalHost", True),
        ("10.0.0.1", False),
        ("lab", False),
    ],
)
def test_loopback_is_known_in_all_its_forms(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_this_machine_finds_its_address_or_none_but_never_loopback() -> None:
    own = own_host()
    assert own is None or not is_loopback(own)
