"""Wait, in tests, for what must happen.

A wait here ends as soon as its condition holds. `HANG_S` is no promise of the product and measures nothing:
it only turns a hang into a failure that says what was awaited. No test gives a shorter limit of its own,
because a busy machine would break that test. Policies about time are tested in virtual time.

A test that something ends *at once* gives its peers `NEVER`: then no timeout of the product can end it within
`HANG_S` in place of what is tested.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

from p2p.net.limits import Timeouts

T = TypeVar("T")

HANG_S: Final = 240 * max(1.0, float(os.environ.get("P2P_TEST_EXAMPLES") or "1"))
"""Seconds after which a test is taken to hang, longer where random tests try more examples (`effort.py`). It
is less than pytest's limit for a test, which names nothing."""
POLL_S: Final = 0.005
NEVER_S: Final = 100 * HANG_S
NEVER: Final = Timeouts(
    line_s=NEVER_S, stall_s=NEVER_S, idle_s=NEVER_S, answer_s=NEVER_S, manifest_s=NEVER_S, silent_s=NEVER_S
)
"""Timeouts of a peer that no test reaches."""


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the loop run until `condition()` is true. Fails if it hangs, naming `what`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + HANG_S
    rounds = 0
    while not condition():
        assert loop.time() < end, f"hangs{': not ' + what if what else ''}"
        rounds += 1
        await asyncio.sleep(0 if rounds < 50 else POLL_S)


def eventually(condition: Callable[[], T], what: str = "") -> T:
    """Block this thread until `condition()` is true, and return what it returned."""
    end = time.monotonic() + HANG_S
    while not (found := condition()):
        assert time.monotonic() < end, f"hangs{': not ' + what if what else ''}"
        time.sleep(POLL_S)
    return found


def hang_guard() -> asyncio.Timeout:
    """`async with hang_guard():` around what must end by itself; raises `TimeoutError` when it hangs."""
    return asyncio.timeout(HANG_S)
