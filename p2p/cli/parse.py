"""Reads the text of options and variables: sizes, rates, addresses, names, numbers.

Each function takes the text and the name under which the user wrote it (`--port`, `P2P_PORT`). It returns the
value, or raises `UsageError` whose message begins with that name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from p2p.content.geometry import MAX_PIECE_LENGTH, MIN_PIECE_LENGTH
from p2p.errors import UsageError
from p2p.model import MAX_SIZE, Address

DEFAULT_TRACKER_PORT: Final = 6969
MAX_NAME_BYTES: Final = 64
"""Longest name of a peer or a user, in UTF-8."""
MAX_TEXT_BYTES: Final = 255
"""Longest name of a content, and longest search, in UTF-8."""

_SIZE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,6})?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})

Parse = Callable[[str, str], Any]


def parse_size(text: str, what: str = "size") -> int:
    """Bytes: `123`, `64K`, `64M`, `1.5G`, `2T` (powers of 1024; `MB` and `MiB` are the same)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{what}: {text!r} is not a size; write bytes, or a number with K, M, G or T, such as 64M"
        )
    number, unit = match.groups()
    factor: int = 1024 ** " kmgt".index(unit.lower() or " ")
    whole, _, part = number.partition(".")
    size = int(whole) * factor + (int(part) * factor // 10 ** len(part) if part else 0)
    if size >= 1 << 63:
        raise UsageError(f"{what}: {text!r} is more than any disk can count")
    return size


def parse_rate(text: str, what: str = "rate") -> int:
    """Bytes a second: a size, with or without `/s`."""
    try:
        rate = parse_size(text.strip().removesuffix("/s"), what)
    except UsageError:
        raise UsageError(
            f"{what}: {text!r} is not a rate; write bytes a second, or a number with K, M or G, such as 10M"
        ) from None
    if not rate and any(digit in text for digit in "123456789"):
        raise UsageError(f"{what}: {text!r} is less than a byte a second; 0 is no limit")
    return rate


def parse_room(text: str, what: str) -> int:
    """A size that the wire can carry."""
    size = parse_size(text, what)
    if size > MAX_SIZE:
        raise UsageError(f"{what}: {text!r} is more than {MAX_SIZE >> 40}T")
    return size


def parse_piece_length(text: str, what: str) -> int:
    """A power of two from 64 KiB to 16 MiB."""
    length = parse_size(text, what)
    if not MIN_PIECE_LENGTH <= length <= MAX_PIECE_LENGTH or length & (length - 1):
        raise UsageError(f"{what}: {text!r} is no piece length; it must be a power of two from 64K to 16M")
    return length


def parse_address(text: str, default_port: int, what: str) -> Address:
    """`HOST[:PORT]`, an IPv6 address with a port between brackets."""
    address = Address.parse(text, default_port=default_port, what=what)
    try:
        if ":" in address.host:
            ipaddress.IPv6Address(address.host)
    except ValueError:
        raise UsageError(
            f"{what}: {text!r} is not HOST:PORT; an IPv6 address goes between brackets"
        ) from None
    parse_host(address.host, what)
    return address


def parse_tracker(text: str, what: str) -> Address:
    """`HOST[:PORT]` of a tracker."""
    return parse_address(text, DEFAULT_TRACKER_PORT, what)


def parse_advertise(text: str, what: str = "advertise") -> Address:
    """`HOST[:PORT]` of this peer; port 0, and no port, stand for the port on which it listens."""
    text = text.strip()
    # An IPv6 address without brackets may end in `:0` too.
    if text.endswith(":0") and (text.count(":") == 1 or text.endswith("]:0")):
        text = text[:-2]
    # Two different defaults tell a port that was written from one that was filled in.
    with_one = parse_address(text, 1, what)
    with_two = Address.parse(text, default_port=2, what=what)
    return with_one if with_one == with_two else Address(with_one.host, 0)


def parse_host(text: str, what: str) -> str:
    """A host name or an address, brackets taken off."""
    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or any(c in " []" or not c.isprintable() for c in host):
        raise UsageError(f"{what}: {text!r} is not a host name or an address")
    return host


def parse_peer_port(text: str, what: str) -> int:
    """0 for a free port, or a port that needs no privilege."""
    port: int = whole(0, 65535)(text, what)
    if 0 < port < 1024:
        raise UsageError(f"{what}: a peer's port is 0 (a free one) or from 1024 to 65535, not {port}")
    return port


def parse_seconds(text: str, what: str) -> float:
    """A time above 0, in seconds, with up to three decimals."""
    word = text.strip()
    if not re.fullmatch(r"\d{1,7}(\.\d{1,3})?", word, re.ASCII) or float(word) <= 0:
        raise UsageError(f"{what}: {text!r} is not a number of seconds above 0")
    return float(word)


def parse_switch(text: str, what: str) -> bool:
    """A variable that switches something on or off."""
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise UsageError(f"{what}: {text!r} is neither on nor off; write 1 or 0")
    return word in _TRUE


def parse_name(text: str, what: str) -> str:
    """The name of a peer or a user, as the wire can carry it."""
    return parse_words(text, what, MAX_NAME_BYTES)


def parse_words(text: str, what: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A name or a search, as the wire can carry it: not empty, no control characters."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        length = max_bytes + 1
    if not 0 < length <= max_bytes or any(c < " " or "\x7f" <= c <= "\x9f" for c in text):
        raise UsageError(f"{what}: it must have 1 to {max_bytes} bytes and no control characters")
    return text


def parse_text(text: str, what: str) -> str:
    """Any text that a system call takes: not empty, no NUL."""
    if not text or "\0" in text:
        raise UsageError(f"{what}: must not be empty")
    return text


def parse_path(text: str, what: str) -> Path:
    """The path of a file or a folder."""
    return Path(parse_text(text, what))


def whole(low: int, high: int) -> Parse:
    """Return what parses a whole number from `low` to `high`."""

    def parse(text: str, what: str) -> int:
        word = text.strip()
        if not (word.isascii() and word.isdigit() and len(word) < 20 and low <= int(word) <= high):
            raise UsageError(f"{what}: {text!r} is not a whole number from {low} to {high}")
        return int(word)

    return parse


def one_of(*known: str) -> Parse:
    """Return what parses one of these words."""

    def parse(text: str, what: str) -> str:
        if text not in known:
            raise UsageError(f"{what}: {text!r} is not known; known are {', '.join(known)}")
        return text

    return parse
