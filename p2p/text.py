"""Text from other machines: made safe to print, and folded so that spellings of one name compare equal."""

from __future__ import annotations

import re
from typing import Final
from unicodedata import normalize

INVISIBLE: Final = (
    "\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction: the name shown is not the name
    "\u00ad\u180e\u200b-\u200d\u2060-\u2064\ufeff\ufff9-\ufffb"  # no width: two names look the same
    "\U000e0000-\U000e007f"  # tags: no width either
    "\u115f\u1160\u3164\uffa0"  # fillers: look like blanks, but are letters
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # half of a surrogate pair: has no UTF-8 form
)
"""The characters that a terminal does not show as themselves, to go inside the `[]` of a regular
expression."""

_INVISIBLE: Final = re.compile(f"[{INVISIBLE}]")


def printable(text: str) -> str:
    r"""`text`, safe to print: each of the `INVISIBLE` characters becomes `\x..`, `\u....` or `\U........`."""
    return _INVISIBLE.sub(_escape, text)


def fold(text: str) -> str:
    r"""`text` without differences of case and of Unicode form: "STRASSE" and "straße" fold to one string.

    This is Unicode's canonical caseless match (chapter 3.13, D145). Case folding can bring forth characters
    that decompose, and decomposition characters that fold, so the text is decomposed before and after.
    """
    if text.isascii():
        return text.lower()
    return normalize("NFD", normalize("NFD", text).casefold())


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
