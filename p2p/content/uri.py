"""The link to a content: one line that a person can paste.

    p2p:9f86d081…0a08?tracker=192.0.2.7:6969&name=notes.txt

The id decides what is fetched, so a link needs neither a search nor trust in its sender. `tracker` says where
to ask for peers, and `name` is for people only.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from p2p.errors import UsageError
from p2p.model import Address, ContentId
from p2p.value import frozen

SCHEME: Final = "p2p:"
MAX_LINK: Final = 4096
"""Longest link, in characters."""

_ID: Final = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


@frozen
class Uri:
    """The parts of a link."""

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
    """Whether `text` is meant as a link, valid or not."""
    return text.strip()[: len(SCHEME)].lower() == SCHEME


def content_id(text: str) -> ContentId | None:
    """`text` as a content id in lower case; None if it is none."""
    text = text.strip()
    return ContentId(text.lower()) if _ID.fullmatch(text) else None


def parse_link(text: str, default_port: int = 6969) -> Uri:
    """Read a link. Unknown keys are ignored. Raises `UsageError` that says what is wrong with it."""
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
    """Whether `text` has a UTF-8 form. An argument or a variable may have bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
