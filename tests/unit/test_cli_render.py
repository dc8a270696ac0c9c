"""p2p/cli/{render,events}.py: the text that people read and the events that programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.cli import render
from p2p.cli.events import content_event, event_of, manifest_events, peer_event, stats_event
from p2p.model import Address, ContentId, FileEntry, Manifest, PeerId
from p2p.peer.reports import (
    Downloaded,
    Listening,
    ManifestKnown,
    Placed,
    Progress,
    Received,
    Replicated,
    Report,
    SessionChanged,
    Shared,
    Uploaded,
    Warned,
    Withdrawn,
)
from p2p.protocol.tracker_messages import HitRow, PeerRow, StatsAnswer

ID = ContentId("ab" * 32)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"),
     (1024 * 1024 - 1, "1.0 MiB"),
     (5 << 40, "5.0 TiB"), (5000 << 40, "5000.0 TiB")],
)  # fmt: skip
def test_a_size_is_shown_in_the_unit_that_fits(count: int, text: str) -> None:
    assert render.size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (3723, "1:02:03"),
        (float("inf"), "over 100 h"),
    ],
)
def test_a_time_is_shown_as_people_say_it(seconds: float, text: str) -> None:
    assert render.time_text(seconds) == text


def test_one_is_not_many() -> None:
    assert render.count_text(1, "peer") == "1 peer"
    assert render.count_text(2, "copy", "copies") == "2 copies"


def test_all_is_a_hundred_percent_and_almost_all_is_not() -> None:
    assert render.percent(999_999, 1_000_000) == 99
    assert render.percent(1, 1) == render.percent(0, 0) == 100
    assert render.bar(1, 2, 4) == "[##..]"


def test_the_columns_of_a_table_stand_below_each_other_in_any_script() -> None:
    lines = render.table(("NAME", "SIZE"), [("漢字.img", "7 B"), ("e\u0301", "12 B")], " r")
    assert lines == ["NAME      SIZE", "漢字.img   7 B", "e\u0301         12 B"]


def test_a_table_shows_no_control_character_of_a_hostile_name() -> None:
    lines = render.table(("NAME", "ID"), [("a\x1b[31m\r\n\x9b\u202eb", "x")])
    assert lines[1].startswith("a\\x1b[31m\\x0d\\x0a\\x9b\\u202eb")


@given(st.text(max_size=60), st.integers(5, 60))
def test_a_cut_text_fits_its_columns(text: str, columns: int) -> None:
    assert render.width(render.cut(text, columns)) <= columns


phases = st.sampled_from(
    ["hashing", "searching", "connecting", "verifying", "downloading", "waiting", "finishing", "uploading"]
)
amounts = st.integers(0, 1 << 42)


@given(
    phases,
    amounts,
    amounts,
    st.floats(0, 1e12),
    st.integers(0, 10_000),
    st.floats(0, 1e6),
    st.integers(20, 200),
)
def test_a_progress_line_names_its_phase_and_fits(
    phase: str, done: int, size: int, rate: float, peers: int, elapsed: float, columns: int
) -> None:
    line = render.progress_text(Progress(phase, done, size, rate, peers), elapsed, columns)
    assert line.startswith(phase)
    assert render.width(line) <= columns


def test_a_progress_line_tells_percent_amount_rate_time_left_and_peers() -> None:
    line = render.progress_text(Progress("downloading", 32 << 20, 64 << 20, 8 << 20, 3), 4.0, 100)
    assert (
        line == "downloading   50%  [##########..........]  32.0 MiB of 64.0 MiB  8.0 MiB/s  "
        "4.0 s left  from 3 peers"
    )


@given(phases, amounts, amounts, st.floats(1, 1e12), st.integers(0, 10_000))
def test_a_narrow_terminal_still_sees_percent_rate_and_time_left(
    phase: str, done: int, size: int, rate: float, peers: int
) -> None:
    progress = Progress(phase, done, size, rate, peers)
    words = render.progress_text(progress, 1.0, 39)
    assert "..." not in words
    assert render.rate_text(rate) in words
    if size:
        assert f"{render.percent(done, size)}%" in words
    if done < size:
        assert render.time_text((size - done) / rate) in words


def test_on_a_narrow_terminal_the_amount_goes_first_and_then_the_peers() -> None:
    progress = Progress("downloading", 32 << 20, 64 << 20, 8 << 20, 3)
    assert render.progress_text(progress, 4.0, 60) == "downloading   50%  8.0 MiB/s  4.0 s left  from 3 peers"
    assert render.progress_text(progress, 4.0, 45) == "downloading   50%  8.0 MiB/s  4.0 s left"
    assert render.progress_text(progress, 4.0, 39) == "downloading 50% 8.0 MiB/s 4.0 s left"


def test_the_last_steps_and_an_upload_are_shown_like_the_others() -> None:
    line = render.progress_text(Progress("uploading", 32 << 20, 64 << 20, 8 << 20, 2), 4.0, 99)
    assert line == "uploading     50%  32.0 MiB of 64.0 MiB  8.0 MiB/s  4.0 s left  to 2 peers"
    assert (
        render.progress_text(Progress("finishing", 7, 7, 0.0, 0), 4.0, 99) == "finishing    100%  7 B of 7 B"
    )


def test_a_progress_line_without_news_still_shows_that_time_passes() -> None:
    quiet = Progress("searching", 0, 0, 0.0, 0)
    assert render.progress_text(quiet, 1.0, 80) != render.progress_text(quiet, 2.0, 80)


def test_who_gave_most_stands_first() -> None:
    assert render.amount_from({"b": 1024, "a\x1b": 2048}) == "a\\x1b 2.0 KiB, b 1.0 KiB"


EVENTS: list[tuple[Report, dict[str, object]]] = [
    (
        Listening(Address("0.0.0.0", 6970), {"tcp": 6970}),
        {"event": "listening", "host": "0.0.0.0", "port": 6970, "transports": {"tcp": 6970}},
    ),
    (Shared("n", ID, 7, Path("n")), {"event": "shared", "name": "n", "id": ID, "size": 7, "path": "n"}),
    (Withdrawn("n", ID), {"event": "withdrawn", "name": "n", "id": ID}),
    (
        Received("n", ID, 7, "lab-1", {"tcp": 7}),
        {"event": "received", "name": "n", "id": ID, "size": 7, "peer": "lab-1", "bytes_by": {"tcp": 7}},
    ),
    (Warned("w"), {"event": "warning", "message": "w"}),
    (SessionChanged("lost", "alice"), {"event": "session", "state": "lost", "user": "alice"}),
    (
        Progress("downloading", 1, 7, 2.6, 2),
        {"event": "progress", "phase": "downloading", "bytes": 1, "size": 7, "rate": 3, "peers": 2},
    ),
    (ManifestKnown("n", ID, 7, 1), {"event": "manifest", "name": "n", "id": ID, "size": 7, "pieces": 1}),
    (
        Downloaded(Path("n"), ID, 7, 0.1234567, {"a": 7}, {"tcp": 7}),
        {
            "event": "done",
            "path": "n",
            "id": ID,
            "size": 7,
            "seconds": 0.123457,
            "bytes_from": {"a": 7},
            "bytes_by": {"tcp": 7},
        },
    ),
    (Placed("lab-1"), {"event": "placed", "peer": "lab-1"}),
    (Replicated("lab-1", 0.5), {"event": "replicated", "peer": "lab-1", "seconds": 0.5}),
    (
        Uploaded(ID, 2, 0.5, 1.23456),
        {"event": "done", "id": ID, "copies": 2, "seconds": 0.5, "origin_copies": 1.2346},
    ),
]


@pytest.mark.parametrize(("report", "event"), EVENTS, ids=lambda value: type(value).__name__)
def test_every_report_is_the_event_of_the_contract(report: Report, event: dict[str, object]) -> None:
    found = event_of(report)
    assert list(found.items()) == list(event.items())
    assert type(found.get("rate", 0)) is int
    json.dumps(found, allow_nan=False)


def test_every_kind_of_report_is_tested_here() -> None:
    assert {type(report) for report, _ in EVENTS} == set(Report.__args__)


def test_rows_of_the_directory_have_the_keys_of_the_contract() -> None:
    hit = HitRow(id=ID, name="n", size=7, seeds=1, peers=2)
    assert content_event(hit) == {
        "event": "content",
        "name": "n",
        "size": 7,
        "id": ID,
        "seeds": 1,
        "peers": 2,
    }
    row = PeerRow(
        peer=PeerId("5f" * 16),
        name="lab",
        user="alice",
        host="10.0.0.7",
        listen={"tcp": 6970},
        contents=4,
        age=3,
    )
    assert {"event", "name", "host", "transports", "contents", "last_heartbeat"} <= set(peer_event(row))
    stats = StatsAnswer(version="0", uptime=1, peers=1, contents=1, shares=1, bytes=7, sessions=1, requests=3)
    assert stats_event(stats, "h:1")["user"] is None


def test_info_is_a_content_and_a_row_for_each_file() -> None:
    manifest = Manifest(
        "n", "folder", "sha256", 65536, (FileEntry("a", 1), FileEntry("b/c", 2)), (), (b"x" * 32,)
    )
    events = manifest_events(ID, manifest)
    assert [event["event"] for event in events] == ["content", "file", "file"]
    assert events[0]["size"] == 3
    assert events[2] == {"event": "file", "path": "b/c", "size": 2}
