"""Tests of tests/kit/leaks.py, with which every test is checked."""

from __future__ import annotations

import asyncio
import os
import sys
from types import ModuleType

import pytest

from tests.kit import leaks
from tests.kit.leaks import Snapshot, check_back_to

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="event descriptors")


def test_an_event_descriptor_may_appear_where_grpcs_library_is_loaded_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leaks, "SETTLE", 0.0)
    monkeypatch.delitem(sys.modules, leaks._GRPC, raising=False)
    before = Snapshot.take()
    fd = os.eventfd(0)
    try:
        with pytest.raises(AssertionError, match="eventfd"):
            check_back_to(before)
        monkeypatch.setitem(sys.modules, leaks._GRPC, ModuleType("grpc"))
        check_back_to(before)
    finally:
        os.close(fd)


def test_a_loop_that_nobody_closed_is_seen_also_where_grpcs_library_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leaks, "SETTLE", 0.0)
    monkeypatch.setitem(sys.modules, leaks._GRPC, ModuleType("grpc"))
    before = Snapshot.take()
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(AssertionError, match="eventpoll"):
            check_back_to(before)
    finally:
        loop.close()
