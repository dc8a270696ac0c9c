"""The order of answers while some of them wait for a commit."""

from __future__ import annotations

from p2p.errors import Refused
from p2p.protocol.peer_messages import PingAnswer
from p2p.tracker.answers import AnswerQueue, Waiting
from p2p.tracker.limits import TrackerTimeouts

ANSWER = PingAnswer()


def seqs(ready: list[Waiting]) -> list[int | None]:
    return [one.seq for one in ready]


def test_an_answer_waits_for_its_own_commit_and_for_answers_before_it() -> None:
    queue = AnswerQueue()
    queue.add(ANSWER, 1, ticket=5)
    queue.add(ANSWER, 2)
    queue.add(ANSWER, 3, ticket=6)
    queue.add(ANSWER, 4)
    assert seqs(queue.on_committed(4)) == []
    assert seqs(queue.on_committed(5)) == [1, 2]
    assert len(queue) == 2
    assert seqs(queue.on_committed(6)) == [3, 4]
    assert len(queue) == 0


def test_after_a_failed_commit_promises_are_refused_and_other_answers_stay() -> None:
    queue = AnswerQueue()
    queue.add(ANSWER, 1, ticket=5)
    queue.add(ANSWER, 2)
    promised, other = queue.on_commit_failed()
    assert isinstance(promised.reply, Refused)
    assert promised.reply.code == "unavailable"
    assert other.reply is ANSWER
    assert len(queue) == 0


def test_the_timeouts_of_a_stop_keep_the_promise_of_two_seconds() -> None:
    timeouts = TrackerTimeouts()
    assert timeouts.stop_commit_s + 2 * timeouts.commit_retry_s + timeouts.stop_write_s <= 2.0
