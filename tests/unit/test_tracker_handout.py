"""The choice of the peers that are handed out, and of the address of each."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from p2p.errors import ProtocolError
from p2p.model import PeerId, canonical_host
from p2p.tracker.handout import DRAWS, check_advertised, choose, kind_of, place, reachable_host
from p2p.tracker.store.base import PeerRecord

LAN, WAN, LAPTOP = "192.168.1.20", "198.51.100.7", "192.168.1.2"


def peer(number: int, room: int = 0) -> PeerRecord:
    return PeerRecord(
        PeerId(f"{number:032x}"), "s", f"peer {number}", "alice", "10.0.0.7", None, {}, room, 0.0
    )


def host_of(record: PeerRecord) -> str | None:
    return record.host


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("172.32.0.1", "public"),
        ("100.64.0.1", "private"),
        ("169.254.1.1", "private"),
        ("fd12::1", "private"),
        ("fe80::1", "private"),
        ("198.51.100.7", "public"),
        ("2001:db8::1", "public"),
        ("0.0.0.0", "useless"),
        ("0.1.2.3", "useless"),
        ("::", "useless"),
        ("224.0.0.1", "useless"),
        ("ff02::1", "useless"),
        ("255.255.255.255", "useless"),
        ("169.254.169.254", "useless"),
        ("lab-07.example", "name"),
    ],
)
def test_hosts_are_of_a_kind(host: str, kind: str) -> None:
    assert kind_of(host) == kind


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("lab-07.example", "lab-07.example"),
        ("lab_07", "lab_07"),
        ("example.org.", "example.org."),
        ("203.0.113.9", "203.0.113.9"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_case_18_an_advertised_host_is_kept_in_its_canonical_form(host: str, plain: str) -> None:
    assert check_advertised(host) == plain


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.251",
        "ff02::1",
        "255.255.255.255",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1%eth0",
        "fe80::1%25eth0",
        "[::1]",
        "10.0.0.1:80",
        "10.0.0.256",
        "1.2.3",
        "2130706433",
        "0x7f.1",
        "http://x",
        "a b",
        "-a.example",
        "a..b",
        ".a",
        "a/b",
        "x" * 64,
        ".".join(["abcdefgh"] * 29),
        "münchen.example",
        "$(id)",
    ],
)
def test_case_18_an_advertised_host_that_no_peer_can_have_is_refused(host: str) -> None:
    with pytest.raises(ProtocolError, match=r"^advertise: ") as caught:
        check_advertised(host)
    assert caught.value.code == "bad_field"
    assert not caught.value.fatal


@pytest.mark.parametrize(
    ("seen", "advertised", "client", "reached", "expected"),
    [
        # The classroom: the first seed runs beside the tracker on the laptop.
        ("127.0.0.1", None, LAN, LAPTOP, LAPTOP),
        ("::1", None, LAN, LAPTOP, LAPTOP),
        ("127.0.0.1", None, "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", None, WAN, "203.0.113.1", "203.0.113.1"),
        # A tracker behind a router: its inner address is of no use outside.
        ("127.0.0.1", None, WAN, LAPTOP, None),
        # Private addresses go only to clients that may be in the same network.
        (LAN, None, "192.168.1.30", LAPTOP, LAN),
        (LAN, None, "127.0.0.1", "127.0.0.1", LAN),
        (LAN, None, WAN, "203.0.113.1", None),
        ("fd12::1", None, "2001:db8::5", "2001:db8::1", None),
        (WAN, None, LAN, LAPTOP, WAN),
        (WAN, None, "203.0.113.50", "203.0.113.1", WAN),
        # What is advertised wins where it is of use, and else falls back to what was seen.
        (LAN, "lab.example", WAN, "203.0.113.1", "lab.example"),
        (LAN, "203.0.113.9", LAN, LAPTOP, "203.0.113.9"),
        (WAN, LAN, "203.0.113.50", "203.0.113.1", WAN),
        (WAN, LAN, "10.0.0.1", LAPTOP, LAN),
        (LAN, "127.0.0.2", LAN, LAPTOP, LAN),
        ("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "127.0.0.2", LAN, LAPTOP, LAPTOP),
        ("0.0.0.0", None, LAN, LAPTOP, None),
    ],
)
def test_case_17_a_host_is_handed_out_only_where_the_client_can_reach_it(
    seen: str, advertised: str | None, client: str, reached: str, expected: str | None
) -> None:
    assert reachable_host(canonical_host(seen), advertised, client, reached) == expected


def test_seeds_are_handed_out_first_then_those_with_more() -> None:
    rng = random.Random(1)
    peers = {peer(number): have for number, have in enumerate((0, 3, 8, 100, 55, 99, 100))}
    chosen = choose(peers, 100, 50, rng, host_of)
    assert sorted(choice.have for choice in chosen[:2]) == [100, 100]
    assert [choice.have for choice in chosen[2:4]] == [99, 55]
    assert {choice.have for choice in chosen[4:]} == {0, 3, 8}
    assert {choice.peer for choice in chosen} == set(peers)
    assert all(choice.host == "10.0.0.7" for choice in chosen)


def test_every_peer_has_all_of_an_empty_content() -> None:
    assert len(choose({peer(1): 0, peer(2): 0}, 0, 50, random.Random(1), host_of)) == 2


def test_among_equals_chance_spreads_the_load() -> None:
    rng = random.Random(2)
    peers = {peer(number): 100 for number in range(20)}
    counts = Counter(choice.peer for _ in range(1000) for choice in choose(peers, 100, 5, rng, host_of))
    assert len(counts) == 20
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_a_peer_that_the_client_cannot_reach_takes_no_place() -> None:
    peers = {peer(number): 100 for number in range(20)}
    chosen = choose(peers, 100, 50, random.Random(3), lambda record: None if int(record.id, 16) % 2 else "h")
    assert sorted(int(choice.peer.id, 16) for choice in chosen) == list(range(0, 20, 2))


@pytest.mark.parametrize("addresses", [["10.6.6.6"], [f"2001:db8::{number:x}" for number in range(900)]])
def test_one_machine_that_invents_many_seeds_hides_no_other(addresses: list[str]) -> None:
    invented = [replace(peer(number), host=addresses[number % len(addresses)]) for number in range(900)]
    honest = [peer(number) for number in (1001, 1002)]
    chosen = choose(
        dict.fromkeys([*invented, *honest], 100), 100, 50, random.Random(4), lambda record: record.host
    )
    assert len(chosen) == 50
    assert {choice.peer for choice in chosen} >= set(honest)


def test_of_very_many_peers_on_one_host_few_are_looked_at() -> None:
    asked: list[PeerRecord] = []

    def host(record: PeerRecord) -> str:
        asked.append(record)
        return record.host

    assert len(choose(dict.fromkeys(map(peer, range(20_000)), 100), 100, 50, random.Random(5), host)) == 50
    assert len(asked) <= DRAWS


def test_copies_go_in_order_to_peers_with_room_that_lack_the_content() -> None:
    peers = [
        peer(1, room=10),
        peer(2, room=99),
        peer(3, room=100),
        peer(4, room=500),
        peer(5, room=100),
        peer(6, room=100),
        peer(7, room=100),
    ]
    unreachable = peers[6]
    chosen = place(
        peers, {peers[3]}, 100, 2, {peers[4].id}, lambda record: None if record is unreachable else "h"
    )
    assert [choice.peer for choice in chosen] == [peers[2], peers[5]]
    assert [choice.peer for choice in place(peers, set(), 100, 1, (), host_of)] == [peers[2]]
    assert place(peers, set(), 501, 1, (), host_of) == []
