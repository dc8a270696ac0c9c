"""Tests of tests/kit/leaks.py, with which every test is checked."""

from __future__ import annotations

import asyncio
import os
import sys
from types import ModuleType

import pytest

from tests.kit.leaks import GRPC_MODULE, Snapshot, check_back_to

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="event descriptors")


def test_an_event_descriptor_is_a_leak_unless_grpc_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, GRPC_MODULE, raising=False)
    before = Snapshot.take()
    fd = os.eventfd(0)
    try:
        with pytest.raises(AssertionError, match="eventfd"):
            check_back_to(before, settle=0)
        monkeypatch.setitem(sys.modules, GRPC_MODULE, ModuleType("grpc"))
        check_back_to(before, settle=0)
    finally:
        os.close(fd)


def test_an_unclosed_loop_is_a_leak_even_where_grpc_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, GRPC_MODULE, ModuleType("grpc"))
    before = Snapshot.take()
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(AssertionError, match="eventpoll"):
            check_back_to(before, settle=0)
    finally:
        loop.close()
