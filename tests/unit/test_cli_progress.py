"""p2p/cli/progress.py: when an event is due, and what stands on the live line."""

from __future__ import annotations

from p2p.cli.progress import LiveLine, ProgressFeed
from p2p.peer.reports import Progress


def at(phase: str, done: int) -> Progress:
    return Progress(phase, done, 100, 1.0, 1)


def test_progress_is_told_at_once_in_a_new_phase_else_at_most_ten_times_a_second() -> None:
    feed = ProgressFeed()
    assert feed.on_progress(at("searching", 0), 0.0) is not None
    assert feed.on_progress(at("downloading", 1), 0.01) is not None
    told = [feed.on_progress(at("downloading", n), 0.01 + n / 100) for n in range(1, 101)]
    assert 5 <= sum(event is not None for event in told) <= 10


def test_progress_is_told_each_second_while_there_is_none() -> None:
    feed = ProgressFeed()
    feed.on_progress(at("downloading", 1), 0.0)
    told = [tick / 5 for tick in range(1, 51) if feed.on_tick(tick / 5) is not None]
    gaps = [later - before for before, later in zip([0.0, *told], told, strict=False)]
    assert told
    assert max(gaps) <= 1.0


def test_no_progress_is_told_before_the_work_begins_or_after_it_is_done() -> None:
    feed = ProgressFeed()
    assert feed.on_tick(10.0) is None
    feed.on_progress(at("downloading", 1), 11.0)
    feed.on_done()
    assert feed.on_tick(20.0) is None


class Screen:
    """What was written to a terminal, and the time there."""

    def __init__(self) -> None:
        self.now = 0.0
        self.written = ""
        self.live = LiveLine(self.write, lambda: self.now)

    def write(self, text: str) -> None:
        self.written += text


def test_the_live_line_is_drawn_ten_times_a_second_at_most_and_once_at_least() -> None:
    screen = Screen()
    for step in range(100):
        screen.now = step / 100
        screen.live.show(lambda _: "working")
    assert 5 <= screen.written.count("\r") <= 10
    before = screen.written.count("\r")
    for tick in range(1, 26):
        screen.now = 1 + tick / 5
        screen.live.tick()
    assert screen.written.count("\r") - before >= 5


def test_a_shorter_live_line_covers_the_longer_one_before_it() -> None:
    screen = Screen()
    screen.live.show(lambda _: "a long line")
    screen.now = 1.0
    screen.live.show(lambda _: "short")
    assert screen.written == "\ra long line\rshort      "


def test_a_live_line_that_was_wiped_is_drawn_again_until_the_work_is_done() -> None:
    screen = Screen()
    screen.live.show(lambda _: "working")
    screen.live.wipe()
    screen.now = 1.0
    screen.live.tick()
    screen.live.clear()
    screen.now = 2.0
    screen.live.tick()
    assert screen.written == "\rworking\r       \r\rworking\r       \r"
