"""Turns the text of a search into terms, and ranks the hits of one page."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from p2p.tracker.store.base import ContentRecord, fold

MAX_TERMS: Final = 64
"""Terms beyond this number are ignored."""

_FOLDED: Final = attrgetter("folded")
_SEEDS: Final = attrgetter("seeds")
_TERM: Final = re.compile(r"[^\W_]+")


class Page(NamedTuple):
    """Hits `offset` to `offset + limit` of `total`."""

    total: int
    hits: Sequence[ContentRecord]


def terms(text: str) -> tuple[str, ...]:
    """What a name must hold to match: the folded words of the text, split at all that is no letter or digit.

    A word that is part of another adds nothing and is left out. There are no wildcards: a text without words,
    such as `%`, is searched for literally. A blank text has no terms, so all names match.
    """
    folded = fold(text).strip()
    found = list(dict.fromkeys(_TERM.findall(folded)))[:MAX_TERMS]
    if not found:
        return (folded,) if folded else ()
    return tuple(word for word in found if not any(word in other for other in found if other != word))


def rank(found: Sequence[ContentRecord], text: str, offset: int, limit: int) -> Page:
    """One page of the contents that match, given in the order of their names.

    The exact name comes first, then names that begin with the text, then contents with more seeds, then the
    order of names.
    """
    wanted = fold(text).strip()
    # Names that begin with the text are neighbours in the order of names, and those that equal the text come
    # first among them.
    begins = bisect_left(found, wanted, key=_FOLDED) if wanted else 0
    exact = bisect_right(found, wanted, key=_FOLDED) if wanted else 0
    prefix = bisect_right(found, wanted, key=lambda content: content.folded[: len(wanted)]) if wanted else 0
    hits: list[ContentRecord] = []
    for group in (found[begins:exact], found[exact:prefix], [*found[:begins], *found[prefix:]]):
        if len(hits) < offset + limit:
            hits += sorted(group, key=_SEEDS, reverse=True)  # stable: equal seeds stay in the order of names
    return Page(len(found), hits[offset : offset + limit])
