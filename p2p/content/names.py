"""Safe names: what a manifest may call a file, how that name is written on any disk, and how it is shown on a
terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from unicodedata import normalize

from p2p.errors import ProtocolError
from p2p.model import Manifest

MAX_PART: Final = 255
"""Longest part of a path, in bytes of UTF-8."""

MAX_PATH: Final = 4096
"""Longest path, in bytes of UTF-8."""

MAX_DEPTH: Final = 64
"""Most parts in a path."""

_UNSEEN: Final = (
    "\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, overrides and isolates: the name shown is not the name
    "\u00ad\u180e\u200b-\u200d\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # no width: two names look the same
    "\u115f\u1160\u3164\uffa0"  # fillers: seen as blanks, and no blanks
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # half of a surrogate pair: has no UTF-8 form
)
_FORBIDDEN: Final = re.compile(f"[/\\\\{_UNSEEN}]")
_UNPRINTABLE: Final = re.compile(f"[{_UNSEEN}]")
_ODD: Final = re.compile(r'[<>:"|?*]')
_RESERVED: Final = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|clock\$)(?: *\..*)?",
    re.IGNORECASE | re.DOTALL,
)

_OURS: Final = re.compile(r"\.(?=part(?:\.manifest)?\Z)", re.IGNORECASE)
"""The dot of an ending that a download's own files have (`partial`): a publisher who chose such a name could
pass for one of them."""


def printable(text: str) -> str:
    r"""`text` from another machine, safe to print: control, direction and unseen characters become `\x..`,
    `\u....` or `\U........`."""
    return _UNPRINTABLE.sub(_escape, text)


def check_part(part: str) -> None:
    """Raise `ProtocolError("bad_field")`, naming the part, unless it is a plain name: no separator, no way
    up, nothing unseen, not long."""
    if part in ("", ".", ".."):
        raise _refused(part, "is not the name of a file")
    if _FORBIDDEN.search(part):
        raise _refused(part, "has a character that no name may have")
    if len(part) * 4 > MAX_PART and len(part.encode("utf-8")) > MAX_PART:
        raise _refused(part, f"is longer than {MAX_PART} bytes")


def check_path(path: str) -> None:
    """Raise `ProtocolError("bad_field")` unless `path` is relative, `/` between parts that pass `check_part`,
    and within both limits."""
    if len(path) > MAX_PATH:
        raise _refused(path, f"is longer than {MAX_PATH} bytes")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise _refused(path, f"is more than {MAX_DEPTH} folders deep")
    for part in parts:
        check_part(part)
    if len(path) * 4 > MAX_PATH and len(path.encode("utf-8")) > MAX_PATH:
        raise _refused(path, f"is longer than {MAX_PATH} bytes")


def local_part(part: str, top: bool = False) -> str:
    """The name under which `part`, which passed `check_part`, is written: the same on every system and safe
    on each.

    `top` is for a content's own name, which lands among the user's files: there it may not be hidden or look
    like an option or a home, nor like what lies beside a download until it is done. Applied again it changes
    nothing.
    """
    name = _ODD.sub("_", part)
    stripped = name.rstrip(". ")
    name = stripped + "_" * (len(name) - len(stripped))
    if _RESERVED.fullmatch(name) or (top and name[0] in ".-~"):
        name = f"_{name}"
    if len(name) * 4 > MAX_PART:
        name = _shortened(name)
    return _OURS.sub("_", name) if top else name


def local_path(path: str) -> str:
    """`local_part` of each part of `path`."""
    return "/".join(map(local_part, path.split("/")))


def local_paths(manifest: Manifest) -> tuple[str, ...]:
    """Where each file of `manifest` is written, in order: below the content's folder, or for a single file
    the content's own local name."""
    if manifest.kind == "file":
        return (local_part(manifest.name, top=True),)
    return tuple(local_path(entry.path) for entry in manifest.files)


def check_collisions(paths: Iterable[str]) -> None:
    """Raise `ProtocolError("bad_field")`, naming both, if two of `paths` (files and empty folders) cannot lie
    side by side on every disk.

    That is so if two names in one folder differ only in case or in Unicode form or become the same local
    name, or if a file or an empty folder is needed as a folder too. Sorted by folded form, paths with a
    common beginning are neighbours, so only those are compared.
    """
    folded = sorted((fold(path), path) for path in paths)
    for index in range(1, len(folded)):
        (left_key, left), (right_key, right) = folded[index - 1], folded[index]
        _compare(left_key, left.split("/"), right_key, right.split("/"))


def fold(path: str) -> tuple[str, ...]:
    """The parts of `path` as the least discerning disk sees them: local name, composed, without case."""
    return tuple(
        part.lower() if part.isascii() else _fold_part(part) for part in map(local_part, path.split("/"))
    )


def _fold_part(part: str) -> str:
    # Unicode's canonical caseless match: decomposed on both sides of folding, since each can bring forth what
    # the other changes.
    return normalize("NFD", normalize("NFD", part).casefold())


def _compare(
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
    octets = name.encode("utf-8")
    if len(octets) <= MAX_PART:
        return name
    name = octets[:MAX_PART].decode("utf-8", "ignore")
    return name[:-1] + "_" if name[-1] in ". " else name


def _refused(name: str, reason: str) -> ProtocolError:
    shown = name if len(name) <= 80 else f"{name[:80]}…"
    return ProtocolError("bad_field", f"the name '{printable(shown)}' {reason}")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
