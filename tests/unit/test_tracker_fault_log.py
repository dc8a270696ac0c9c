"""A tracker logs a few faults each second, and says how many more there were."""

from __future__ import annotations

import logging

import pytest

from p2p.model import Address
from p2p.tracker.fault_log import FaultLog

CLIENT = Address("10.0.0.7", 7000)


def test_of_many_faults_a_few_are_logged_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    faults = FaultLog(2)
    for _ in range(5):
        faults.on_fault(CLIENT, "bad_json")
    assert len(caplog.records) == 2
    faults.on_tick()
    assert caplog.records[-1].getMessage() == "3 more of the kind"
    faults.on_fault(CLIENT, "bad_json")
    assert "10.0.0.7:7000: bad_json" in caplog.records[-1].getMessage()


def test_all_kinds_of_faults_share_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    faults = FaultLog(2)
    faults.on_accept_failed(OSError(24, "Too many open files"))
    assert "Too many open files" in caplog.records[-1].getMessage()
    faults.on_bug(ValueError("a fault of ours"))
    assert caplog.records[-1].exc_info is not None
    for _ in range(3):
        faults.on_accept_failed(OSError(24, "Too many open files"))
        faults.on_bug(ValueError("another"))
    assert len(caplog.records) == 2


def test_a_quiet_second_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    FaultLog(2).on_tick()
    assert not caplog.records
