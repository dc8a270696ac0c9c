"""Tests of p2p/cli/signals.py: stop signals reach the loop (case 51), with and without the loop's own way."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from p2p.cli.signals import install_stop_signals
from tests.kit.waiting import HANG_S


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself these signals there")
def test_case_51_stop_signals_reach_the_loop_until_taken_back(portable: bool) -> None:
    def of_the_host(_number: int, _frame: object) -> None:
        """A handler that was there before."""

    before = signal.signal(signal.SIGTERM, of_the_host)
    former = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def body() -> list[signal.Signals]:
        seen: list[signal.Signals] = []
        came = asyncio.Event()

        def stop(number: signal.Signals) -> None:
            seen.append(number)
            came.set()

        uninstall = install_stop_signals(asyncio.get_running_loop(), stop, portable=portable)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            await asyncio.wait_for(came.wait(), HANG_S)
            came.clear()
        uninstall()
        return seen

    try:
        assert asyncio.run(body()) == [signal.SIGTERM, signal.SIGINT]
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == former
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_loop_without_signals_gets_the_portable_way() -> None:
    loop = asyncio.new_event_loop()
    former = signal.getsignal(signal.SIGTERM)

    def unknown(*_arguments: object) -> None:
        raise NotImplementedError

    loop.add_signal_handler = unknown  # type: ignore[method-assign,assignment]
    uninstall = install_stop_signals(loop, lambda _number: None)
    handler = signal.getsignal(signal.SIGTERM)
    assert handler is not former
    loop.close()
    assert callable(handler)
    handler(signal.SIGTERM, None)
    uninstall()
    assert signal.getsignal(signal.SIGTERM) is former
