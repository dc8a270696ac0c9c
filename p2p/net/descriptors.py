"""Tells and raises how many files and sockets this process may open; Windows has no such limit."""

from __future__ import annotations

import contextlib


def descriptor_limit() -> int | None:
    """How many descriptors this process may have open; None where there is no limit, or it is unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if 0 <= soft < 1 << 30 else None


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process open up to `wanted` descriptors, or as many as the system allows."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if 0 <= soft < most:
        # macOS has a bound of its own below the one that it tells.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
