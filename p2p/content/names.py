"""Safe names: which names a manifest may use, and under which local names its files are written on any disk.

A name goes through three gates.

1. `check_path` refuses what can be no name anywhere: `..`, separators, invisible characters, too long.
2. `check_collisions` refuses two names that some disk would take for one.
3. `local_path` gives every remaining name a spelling that each system can store: `NUL` becomes `_NUL`,
   `a:b` becomes `a_b`. The mapping is the same on every system.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from p2p.errors import ProtocolError
from p2p.model import Manifest
from p2p.text import INVISIBLE, fold, printable

MAX_PART: Final = 255
"""Longest part of a path, in bytes of UTF-8."""

MAX_PATH: Final = 4096
"""Longest path, in bytes of UTF-8."""

MAX_DEPTH: Final = 64
"""Most parts of a path."""

_UTF8: Final = 4
"""Most bytes of a character. A name that cannot be too long is not encoded: a manifest may have a million."""

_FORBIDDEN: Final = re.compile(f"[/\\\\{INVISIBLE}]")
_NOT_ON_WINDOWS: Final = re.compile(r'[<>:"|?*]')
_WINDOWS_DEVICE: Final = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|clock\$)(?: *\..*)?",
    re.IGNORECASE | re.DOTALL,
)

_PART_ENDING_DOT: Final = re.compile(r"\.(?=part(?:\.manifest)?\Z)", re.IGNORECASE)
"""The dot of the endings that a download's own files have (`p2p/storage/part_file.py`). A content with such a
name could pass for the part or the sidecar of another download."""


def check_part(part: str) -> None:
    """Raise `ProtocolError("bad_field")` that names the part unless it is a plain name.

    A plain name has no separator, no invisible character and at most `MAX_PART` bytes, and is not `..`.
    """
    if part in ("", ".", ".."):
        raise _refused(part, "is not the name of a file")
    if _FORBIDDEN.search(part):
        raise _refused(part, "has a character that no name may have")
    if len(part) * _UTF8 > MAX_PART and len(part.encode()) > MAX_PART:
        raise _refused(part, f"is longer than {MAX_PART} bytes")


def check_path(path: str) -> None:
    """Raise `ProtocolError("bad_field")` unless `path` is relative and within the limits.

    Its parts, with `/` between them, must each pass `check_part`.
    """
    if len(path) > MAX_PATH:  # before it is split: a hostile path may have millions of parts
        raise _refused(path, f"is longer than {MAX_PATH} bytes")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise _refused(path, f"is more than {MAX_DEPTH} folders deep")
    for part in parts:
        check_part(part)
    if len(path) * _UTF8 > MAX_PATH and len(path.encode()) > MAX_PATH:
        raise _refused(path, f"is longer than {MAX_PATH} bytes")


def local_part(part: str, top: bool = False) -> str:
    """The local name of `part`, which passed `check_part`: the same on every system and safe on each.

    `top` is for a content's own name, which lands among the user's files. There it may not be hidden, look
    like an option or a home folder, or look like the part or the sidecar of a download. The mapping is
    idempotent.
    """
    name = _NOT_ON_WINDOWS.sub("_", part)
    stripped = name.rstrip(". ")
    name = stripped + "_" * (len(name) - len(stripped))
    if _WINDOWS_DEVICE.fullmatch(name) or (top and name[0] in ".-~"):
        name = f"_{name}"
    if len(name) * _UTF8 > MAX_PART and len(name.encode()) > MAX_PART:
        name = _shortened(name)
    return _PART_ENDING_DOT.sub("_", name) if top else name


def local_path(path: str) -> str:
    """`local_part` of each part of `path`."""
    return "/".join(map(local_part, path.split("/")))


def local_paths(manifest: Manifest) -> tuple[str, ...]:
    """The local path of each file of `manifest`, in order, below the content's folder.

    For a single file this is the local name of the content itself.
    """
    if manifest.kind == "file":
        return (local_part(manifest.name, top=True),)
    return tuple(local_path(entry.path) for entry in manifest.files)


def collision_key(path: str) -> tuple[str, ...]:
    """The parts of `path` as the least discerning disk sees them: the local names, folded.

    Two paths with one key are one file on some disk.
    """
    return tuple(map(fold, map(local_part, path.split("/"))))


def check_collisions(paths: Iterable[str]) -> None:
    """Raise `ProtocolError("bad_field")` if two of `paths` cannot lie side by side on every disk.

    `paths` are files and empty folders. Two collide if their names in one folder have one `collision_key`,
    or if one of them is needed as a folder by the other. The error names both.

    Paths with a common beginning are neighbours when sorted by key, so it is enough to compare neighbours.
    """
    keyed = sorted((collision_key(path), path) for path in paths)
    for (left_key, left), (right_key, right) in pairwise(keyed):
        _check_neighbours(left_key, left.split("/"), right_key, right.split("/"))


def _check_neighbours(
    left_key: tuple[str, ...], left: list[str], right_key: tuple[str, ...], right: list[str]
) -> None:
    for depth, (one, other) in enumerate(zip(left_key, right_key, strict=False), start=1):
        if one != other:
            return
        ends = depth in (len(left), len(right))
        if left[depth - 1] != right[depth - 1] or ends:
            first, second = "/".join(left[:depth]), "/".join(right[:depth])
            if first == second:
                first, second = "/".join(left), "/".join(right)
            raise ProtocolError(
                "bad_field", f"the names '{printable(first)}' and '{printable(second)}' collide on some disks"
            )


def _shortened(name: str) -> str:
    name = name.encode("utf-8")[:MAX_PART].decode("utf-8", "ignore")
    return name[:-1] + "_" if name[-1] in ". " else name


def _refused(name: str, reason: str) -> ProtocolError:
    shown = name if len(name) <= 80 else f"{name[:80]}…"
    return ProtocolError("bad_field", f"the name '{printable(shown)}' {reason}")
