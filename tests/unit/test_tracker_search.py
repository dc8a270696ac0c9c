"""Search: what the words of a query mean, and in which order hits come."""

from __future__ import annotations

import random
import time

import pytest

from p2p.model import ContentId, PeerId
from p2p.tracker.search import MAX_TERMS, rank, terms
from p2p.tracker.store.base import Claim, ContentRecord, PeerRecord, fold
from p2p.tracker.store.memory import MemoryStore


def records(*rows: tuple[str, int]) -> list[ContentRecord]:
    made = [ContentRecord(ContentId(f"{at:064x}"), name, 1, seeds, fold(name), {}) for at, (name, seeds) in enumerate(rows)]
    return sorted(made, key=lambda record: record.order)


def names(found: list[ContentRecord], text: str, offset: int = 0, limit: int = 50) -> list[str]:
    return [record.name for record in rank(found, text, offset, limit).hits]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  \t ", ()),
        ("Linux ISO", ("linux", "iso")),
        ("linux-iso.2024_final", ("linux", "iso", "2024", "final")),
        ("iso linux iso", ("iso", "linux")),
        ("a ab abc", ("abc",)),
        ("Ünïcode ＡＢＣ", ("ünïcode", "abc")),
        ("STRASSE straße", ("strasse",)),
        ("*", ("*",)),
        (" %_ ", ("%_",)),
        ("(a+)+$", ("a",)),
    ],
)
def test_a_text_is_split_into_folded_words(text: str, expected: tuple[str, ...]) -> None:
    assert terms(text) == expected


def test_terms_beyond_the_limit_are_passed_over() -> None:
    assert len(terms(" ".join(chr(0x4E00 + number) for number in range(MAX_TERMS + 9)))) == MAX_TERMS


def test_the_exact_name_comes_first_then_beginnings_then_seeds_then_names() -> None:
    found = records(("z iso", 9), ("my iso", 3), ("a iso", 3), ("isolde", 1), ("ISO 9660", 2), ("Iso", 0), ("iso", 1))
    assert names(found, "ISO") == ["iso", "Iso", "ISO 9660", "isolde", "z iso", "a iso", "my iso"]


def test_a_blank_text_ranks_by_seeds_then_names() -> None:
    assert names(records(("b", 1), ("a", 1), ("c", 2)), " ") == ["c", "a", "b"]


def test_pages_put_together_are_the_whole_and_beyond_the_end_is_nothing() -> None:
    rng = random.Random(7)
    found = records(*((f"{rng.choice('abx')} iso {number}", rng.randrange(4)) for number in range(97)), ("iso", 1), ("iso x", 0))
    whole = names(found, "iso", 0, 100)
    assert len(whole) == 99
    for limit in (1, 7, 50):
        assert [name for offset in range(0, 99, limit) for name in names(found, "iso", offset, limit)] == whole
    assert rank(found, "iso", 1_000_000_000, 50) == (99, [])


def test_case_16_a_search_in_100_000_names_is_bounded_whatever_the_text() -> None:
    store = MemoryStore()
    store.put_session("s", "alice", 0.0)
    peer = PeerRecord(PeerId("5f" * 16), "s", "one", "alice", "10.0.0.7", None, {}, 0, 0.0)
    store.put_peer(peer)
    store.put_claims(peer, [Claim(ContentId(f"{n:064x}"), f"Holiday 20{n % 25:02} photo-{n:06}.jpeg", 7, n % 9) for n in range(100_000)])
    store.contents()
    for text in ("", "*", "%", "_", "photo", "photo holiday", "2012", "99999", "(.*)*x", "x" * 256, "e o a i j"):
        best = 1.0
        for _ in range(5):
            began = time.process_time()
            rank(store.find(terms(text)), text, 0, 50)
            best = min(best, time.process_time() - began)
        assert best < 0.5, f"{text!r} took {best * 1000:.0f} ms"
