"""Wait for something to become true, in tests: as short as it takes, and never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(true: Callable[[], object], seconds: float = 10.0, what: str = "") -> None:
    """Wait until something is true; fail when it is not within `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    rounds = 0
    while not true():
        assert loop.time() < end, f"not within {seconds:g} s{': ' + what if what else ''}"
        rounds += 1
        await asyncio.sleep(0 if rounds < 50 else 0.002)
