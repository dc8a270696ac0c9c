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
