"""Keeps the contents that live peers have: by id, in the order of their names, and searched by words.

There is no index from words to contents. A word matches when it is part of the folded name, so an index would
have to be scanned for terms that hold the word, and real directories have about as many terms as names
(numbers, dates). A plain scan of 100,000 usual names takes about 10 ms and 3 ms a word. Announces stay cheap,
and memory small: about 100 bytes a share.

A content id is the hash of its name and size among other things, so peers that say different titles for one
id cannot all be honest. The title shown is that of the first live announcer, and is replaced when that peer
leaves. So the titles of all peers are kept, but only for contents about which they disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress, repeat
from operator import attrgetter, contains
from typing import Final

from p2p.model import ContentId
from p2p.protocol.tracker_messages import Share
from p2p.tracker.store.base import ContentRecord, PeerRecord, fold
from p2p.tracker.store.view import SortedView

_FOLDED: Final = attrgetter("folded")
_LONG_WORD: Final = 12
"""Longer words are looked for by `re`, whose time is linear. The time of `in` grows with the word's length
too where much nearly matches."""
_BLOCK: Final = 1024
"""A search looks for all words in so many names before it goes on to the next, so that they stay in the
processor's cache."""


class Contents:
    """The contents, and how many bytes they have together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._by_id: dict[ContentId, ContentRecord] = {}
        self._sorted: SortedView[ContentRecord] = SortedView()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, content_id: ContentId) -> ContentRecord | None:
        """The content with this id."""
        return self._by_id.get(content_id)

    def all(self) -> Sequence[ContentRecord]:
        """All contents in the order of `ContentRecord.order`. Not to be kept across a change."""
        return self._sorted.view()

    def find(self, words: Sequence[str]) -> Sequence[ContentRecord]:
        """Contents whose folded name holds every word, in the order of `all`."""
        contents = self._sorted.view()
        if not words:
            return contents
        # The longest word is likely to be the rarest, and leaves the others few names to look at.
        ordered = sorted(words, key=len, reverse=True)
        found: list[ContentRecord] = []
        for start in range(0, len(contents), _BLOCK):
            found += _matching(ordered, contents[start : start + _BLOCK])
        return found

    def put(self, peer: PeerRecord, share: Share) -> tuple[ContentRecord, bool]:
        """Note that a peer has a content; return the content, and whether that changes anything."""
        title = (share.name, share.size)
        content = self._by_id.get(share.id)
        if content is None:
            content = self._by_id[share.id] = ContentRecord(share.id, *title, fold(share.name))
            self.bytes += share.size
            self._sorted.add(content)
        old = content.peers.get(peer)
        if old is not None:
            old_title = content.titles[peer] if content.titles is not None else content.title
            if old == share.have and title == old_title:
                return content, False
            content.seeds -= old >= old_title[1]
        if content.titles is None and title != content.title:
            content.titles = dict.fromkeys(content.peers, content.title)
        # The same int object for all seeds of a content: 32 bytes a share less.
        content.peers[peer] = content.size if share.have == content.size else share.have
        content.seeds += share.have >= share.size
        if content.titles is not None:
            content.titles[peer] = title
            self._retitle(content)
        return content, True

    def remove(self, content: ContentRecord, peer: PeerRecord) -> None:
        """Take a peer out of a content that it has; the content goes with its last peer."""
        have = content.peers.pop(peer)
        size = content.titles.pop(peer)[1] if content.titles is not None else content.size
        content.seeds -= have >= size
        if not content.peers:
            del self._by_id[content.id]
            self.bytes -= content.size
            self._sorted.remove(content)
        elif content.titles is not None:
            self._retitle(content)

    def _retitle(self, content: ContentRecord) -> None:
        """Give a content about which peers disagree the title that its first live announcer says."""
        if content.titles is None:
            return
        name, size = content.titles[next(iter(content.peers))]
        self.bytes += size - content.size
        content.size = size
        if name != content.name:
            with self._sorted.moving(content):
                content.name, content.folded = name, fold(name)


def _matching(words: list[str], contents: list[ContentRecord]) -> list[ContentRecord]:
    """Those of the contents whose names hold every word. A word that leaves none moves to the front: it may
    be rare elsewhere too."""
    names = list(map(_FOLDED, contents))
    for at, word in enumerate(words):
        # `map` goes through the names in C; a comprehension is slower with many words, and twice as slow
        # where lines are traced.
        test = (
            map(re.compile(re.escape(word)).search, names)
            if len(word) > _LONG_WORD
            else map(contains, names, repeat(word))
        )
        held = list(test)
        if not any(held):
            words.insert(0, words.pop(at))
            return []
        if not all(held):
            contents, names = list(compress(contents, held)), list(compress(names, held))
    return contents
