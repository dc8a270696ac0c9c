"""Keeps what the tracker is to know of a peer's contents, and cuts what is new into requests.

A round of requests tells all that is new: announces in batches, then withdrawals. It has at least one
announce, so a round without changes is the heartbeat. An announce is answered with the number of our contents
that the tracker knows. Where that is too small, the tracker has lost some, and the round announces everything
again. So it does when the tracker had no room for some: among them may be news of a content that it knows.
"""

from __future__ import annotations

from p2p.model import ContentId, PeerId
from p2p.protocol.tracker_messages import IDS_PER_WITHDRAW, SHARES_PER_ANNOUNCE, Announce, Share, Withdraw
from p2p.value import frozen


@frozen
class Identity:
    """What the tracker knows this peer by."""

    peer: PeerId
    name: str
    listen: dict[str, int]
    advertise: str | None = None


class Announcements:
    """What the tracker is to know of this peer's contents, and what of that it has not confirmed."""

    def __init__(self) -> None:
        self._shares: dict[ContentId, Share] = {}
        self._unsent: dict[ContentId, Share] = {}
        self._gone: set[ContentId] = set()
        self._known = 0
        """How many of our contents the tracker knows, by its last answer."""
        self._announced = False
        """Whether the present round has announced."""
        self._repeated = False
        """Whether the present round has begun to announce everything again."""
        self._refused = False
        """Whether the tracker had no room for some, and was not offered everything since."""
        self._full_until = float("-inf")

    def set(self, share: Share) -> None:
        """Announce this content, in place of what was announced of it before."""
        self._shares[share.id] = self._unsent[share.id] = share
        self._gone.discard(share.id)

    def drop(self, content: ContentId) -> bool:
        """Withdraw a content. Returns whether it was announced."""
        if self._shares.pop(content, None) is None:
            return False
        self._unsent.pop(content, None)
        self._gone.add(content)
        return True

    def begin(self, *, everything: bool) -> None:
        """Begin a round; with `everything`, for a tracker that may know nothing of us.

        What is gone is still withdrawn then: a resumed session may have it, and to withdraw what is not there
        does no harm.
        """
        self._announced = self._repeated = False
        if everything:
            self._take_all()

    def next_request(self, me: Identity, room: int, now: float) -> Announce | Withdraw | None:
        """Return the next request of the round, or None at its end."""
        if self._announced and not self._unsent and not self._gone and self._tracker_lacks_some(now):
            self._repeated = True
            self._take_all()
        if self._unsent or not self._announced:
            return Announce(
                peer=me.peer,
                name=me.name,
                listen=me.listen,
                advertise=me.advertise,
                room=room,
                contents=tuple(self._unsent.values())[:SHARES_PER_ANNOUNCE],
            )
        if self._gone:
            return Withdraw(peer=me.peer, ids=tuple(self._gone)[:IDS_PER_WITHDRAW])
        return None

    def on_announced(self, request: Announce, known: int) -> None:
        """The tracker has taken an announce, and knows so many of our contents."""
        self._announced = True
        self._known = known
        for share in request.contents:
            if self._unsent.get(share.id) is share:  # a newer one may have come meanwhile
                del self._unsent[share.id]

    def on_withdrawn(self, request: Withdraw, count: int) -> None:
        """The tracker has forgotten these contents, of which it knew so many."""
        self._known -= count
        self._gone.difference_update(request.ids)

    def full(self, now: float) -> bool:
        """Whether the tracker had no room for all, a short time ago."""
        return now < self._full_until

    def on_full(self, until: float) -> None:
        """The tracker has no room for what is unsent: leave it at what it keeps, for a while."""
        self._announced = self._refused = True
        self._full_until = until
        self._unsent.clear()

    def _tracker_lacks_some(self, now: float) -> bool:
        lacks = self._refused or self._known < len(self._shares)
        return lacks and not self._repeated and not self.full(now)

    def _take_all(self) -> None:
        self._unsent = dict(self._shares)
        self._refused = False
