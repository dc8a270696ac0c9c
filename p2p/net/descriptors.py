"""How many files and sockets this process may open, and which errors say that there is none left."""

from __future__ import annotations

import contextlib
import errno

from p2p.errors import DiskError


def out_of_descriptors(error: BaseException | None) -> bool:
    """Whether an error, or the system's own below it, says that there are too many open files."""
    found = error.__cause__ if isinstance(error, DiskError) else error
    return isinstance(found, OSError) and found.errno in (errno.EMFILE, errno.ENFILE)


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
