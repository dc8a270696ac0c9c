"""Decides which of the peers that the tracker names are dialled, and when again.

Pure. Each lookup names up to 50 peers of a swarm, by chance. Of these as many are dialled as the topology
asks for. A peer that cannot be reached is dialled again after a pause that doubles each time. The pause is at
most ten seconds, so that a download goes on soon after its network is back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from p2p.model import PeerKey
from p2p.swarm.topology import CALM_INTERVAL_S, EAGER_INTERVAL_S, dials
from p2p.value import frozen


@frozen
class FinderTimeouts:
    """Times of the search for peers, in seconds."""

    eager: float = EAGER_INTERVAL_S
    """From one lookup to the next while more peers are wanted."""
    calm: float = CALM_INTERVAL_S
    """The same while enough peers feed the download."""
    redial_first: float = 2.0
    """Until a peer that could not be reached is dialled again; doubled for each further time."""
    redial_longest: float = 10.0
    """Longest such pause."""


@dataclass(slots=True)
class _Failure:
    """A peer that was not reached: how often, when it is dialled again, and why it failed."""

    times: int
    again_at: float
    why: str


class Candidates:
    """The peers of one swarm that the tracker names, and how they were reached."""

    def __init__(self, wanted: Callable[[PeerKey], bool], timeouts: FinderTimeouts) -> None:
        """`wanted` says whether a peer is worth dialling."""
        self._wanted = wanted
        self._timeouts = timeouts
        self._named: dict[PeerKey, str] = {}
        self._swarm_size = 0
        self._tried_at: Counter[str] = Counter()
        self._tried: set[PeerKey] = set()
        self._dialling: set[PeerKey] = set()
        self._failures: dict[PeerKey, _Failure] = {}
        self._new_ones = False
        """Whether the last lookup named peers that were never dialled or connected before it."""

    @property
    def more(self) -> bool:
        """Whether the tracker knows more peers than were ever connected or dialled."""
        return self._new_ones and self._swarm_size > len(self._tried)

    def on_listed(self, named: Mapping[PeerKey, str], connected: Iterable[PeerKey], swarm_size: int) -> int:
        """The tracker has named these peers, with their hosts, of a swarm of this size; some are connected.

        Returns how many of them are wanted.
        """
        self._named = dict(named)
        self._swarm_size = swarm_size
        self._new_ones = not self._tried.issuperset(self._named)
        self._tried.update(connected)
        self._failures = {key: self._failures[key] for key in self._named if key in self._failures}
        return sum(1 for key in self._named if self._wanted(key))

    def to_dial(
        self, connected: Collection[PeerKey], members: int, now: float, *, eager: bool
    ) -> list[PeerKey]:
        """Return the named peers to dial now; from now on they count as being dialled.

        `members` is the number of connected peers of the swarm. With `eager` a few are dialled although there
        are enough.
        """
        missing = dials(members + len(self._dialling), eager=eager)
        free = [key for key in self._named if self._is_free(key, now) and key not in connected]
        chosen: list[PeerKey] = []
        while free and len(chosen) < missing:
            key = min(free, key=lambda key: self._tried_at[self._named[key]])  # the first named of equals
            free.remove(key)
            chosen.append(key)
            self._tried_at[self._named[key]] += 1
        self._tried.update(chosen)
        self._dialling.update(chosen)
        return chosen

    def on_connected(self, peer: PeerKey) -> None:
        """A dial has reached its peer."""
        self._failures.pop(peer, None)

    def on_failed(self, peer: PeerKey, why: str, now: float) -> None:
        """A dial has not reached its peer, for this reason."""
        before = self._failures.get(peer)
        times = before.times + 1 if before is not None else 0
        pause = min(self._timeouts.redial_first * 2**times, self._timeouts.redial_longest)
        self._failures[peer] = _Failure(times, now + pause, why)

    def on_dialled(self, peer: PeerKey) -> None:
        """A dial has ended, or was called off."""
        self._dialling.discard(peer)

    def reasons(self) -> list[str]:
        """Return why peers could not be reached, a sentence each."""
        return [failure.why for failure in self._failures.values()]

    def _is_free(self, key: PeerKey, now: float) -> bool:
        failure = self._failures.get(key)
        return (
            key not in self._dialling and self._wanted(key) and (failure is None or failure.again_at <= now)
        )
