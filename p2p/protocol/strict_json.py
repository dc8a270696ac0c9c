"""Strict JSON: reads bytes from another machine into plain values. Whatever is wrong with them is one error,
`ProtocolError("bad_json")`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Final

from p2p.errors import ProtocolError

MAX_DIGITS: Final = 400
"""Longest number in characters. No field needs more than 20. The time to read digits grows with the square
of their number."""

_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, or what begins like one and never ends. Without the second, each quote in it would be tried again
up to the end."""

_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(data: bytes, *, max_depth: int = 32) -> object:
    """Read one JSON value from UTF-8 `data`; arrays and objects may be nested `max_depth` deep.

    Raises `ProtocolError` with code `bad_json`, fatal, for anything else: bad UTF-8, a byte order mark, bad
    syntax, a key that comes twice, NaN or an infinite number (also as `1e999`), a number of more than
    `MAX_DIGITS` characters, a string without UTF-8 form (`"\\ud800"`).
    """
    try:
        if data.count(b"[") + data.count(b"{") > max_depth:
            _check_depth(data, max_depth)
        value: object = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at character {error.pos}") from None
    except (RecursionError, ValueError):
        raise _bad("it cannot be read") from None
    if _SURROGATE_ESCAPE.search(data):
        _check_strings(value)
    return value


def _bad(reason: str) -> ProtocolError:
    return ProtocolError("bad_json", f"no JSON we accept: {reason}", fatal=True)


def _check_depth(data: bytes, max_depth: int) -> None:
    """Refuse deep nesting before the parser, which would recurse, sees it. Brackets inside strings do not
    count."""
    depth = 0
    for byte in _STRINGS.sub(b"", data).translate(None, _NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            if depth > max_depth:
                raise _bad(f"it is nested more than {max_depth} deep")
        else:
            depth -= 1


def _check_strings(value: object) -> None:
    """Refuse half of a surrogate pair: such a string can be neither written to the wire nor to a terminal.
    The depth is bounded already."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _bad("a string holds half of a surrogate pair") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key)
            _check_strings(item)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _bad("a key comes twice in one object")
    return found


def _no_constant(_name: str) -> object:
    raise _bad("NaN and Infinity are not JSON")


def _bounded(read: Callable[[str], int | float]) -> Callable[[str], int | float]:
    def number(text: str) -> int | float:
        if len(text) > MAX_DIGITS:
            raise _bad(f"a number has more than {MAX_DIGITS} characters")
        value = read(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise _bad("a number is too large")
        return value

    return number


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_constant=_no_constant,
    parse_int=_bounded(int),
    parse_float=_bounded(float),
)
