"""Links: one line that a person can paste, `p2p:<id>?tracker=HOST:PORT&name=…`; it needs no search and no
trust."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from p2p.errors import UsageError
from p2p.model import Address, ContentId
from p2p.value import frozen

SCHEME: Final = "p2p:"
MAX_LINK: Final = 4096
"""Longest link in characters."""

_ID: Final = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


@frozen
class Uri:
    """What a link says. The name is for people; the id decides."""

    id: ContentId
    tracker: Address | None = None
    name: str | None = None

    def __str__(self) -> str:
        parts = []
        if self.tracker is not None:
            parts.append("tracker=" + quote(str(self.tracker), safe=":[]"))
        if self.name is not None:
            parts.append("name=" + quote(self.name, safe=""))
        return f"{SCHEME}{self.id}" + ("?" + "&".join(parts) if parts else "")


def is_link(text: str) -> bool:
    """Whether this is meant as a link, right or wrong."""
    return text.strip()[: len(SCHEME)].lower() == SCHEME


def content_id(text: str) -> ContentId | None:
    """The content id that `text` is, in its one form; None if it is none."""
    text = text.strip()
    return ContentId(text.lower()) if _ID.fullmatch(text) else None


def parse_link(text: str, default_port: int = 6969) -> Uri:
    """Read a link; keys that are not known are ignored. Raises `UsageError` that says what is wrong with
    it."""
    text = text.strip()
    if not is_link(text) or len(text) > MAX_LINK:
        raise UsageError(
            f"{text[:80]!r} is not a link; a link begins with {SCHEME} and has at most {MAX_LINK} characters"
        )
    if not _is_utf8(text):
        raise UsageError(f"link {text[:80]!r}: it is not UTF-8")
    head, _, query = text[len(SCHEME) :].partition("?")
    found = content_id(head)
    if found is None:
        raise UsageError(f"link {text[:80]!r}: after {SCHEME} come the 64 hex digits of an id")
    values: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in ("tracker", "name"):
            continue
        if key in values:
            raise UsageError(f"link: {key} is there twice")
        try:
            values[key] = unquote(value, errors="strict")
        except UnicodeDecodeError as error:
            raise UsageError(f"link: {key} is not UTF-8") from error
    tracker = (
        Address.parse(values["tracker"], default_port=default_port, what="link: tracker")
        if "tracker" in values
        else None
    )
    return Uri(found, tracker, values.get("name"))


def _is_utf8(text: str) -> bool:
    """Whether a text has a UTF-8 form: what comes from a command line or a variable may hold single bytes of
    another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
