"""How many files and sockets this process may open; on Windows there is no such limit."""

from __future__ import annotations

import contextlib


def descriptor_limit() -> int | None:
    """How many descriptors this process may have open; None where that is not told, or there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if 0 <= soft < 1 << 30 else None


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process open up to `wanted` descriptors, where the system allows more than it gave at first;
    else as many as it may."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if 0 <= soft < most:
        with contextlib.suppress(
            OSError, ValueError
        ):  # macOS has a bound of its own below the one that it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
