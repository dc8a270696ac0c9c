"""Keeps the open sessions, and decides which idle one makes room when there are too many."""

from __future__ import annotations

from collections import OrderedDict

from p2p.errors import Refused
from p2p.net.admission import counted_host
from p2p.tracker.store.base import SessionRecord, StoreLimits


class Sessions:
    """Sessions by key and by host, the longest unused first."""

    def __init__(self, limits: StoreLimits) -> None:
        self._limits = limits
        self._by_key: OrderedDict[str, SessionRecord] = OrderedDict()
        self._by_host: dict[str, OrderedDict[str, SessionRecord]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> SessionRecord | None:
        """The session with this key."""
        return self._by_key.get(key)

    def add(self, record: SessionRecord) -> None:
        """Keep a new session, whatever the limits say: `evictable` is to be asked before."""
        self._by_key[record.key] = record
        if record.host:
            self._by_host.setdefault(counted_host(record.host), OrderedDict())[record.key] = record

    def touch(self, key: str, now: float) -> None:
        """Note that a session is used now."""
        record = self._by_key.get(key)
        if record is not None:
            record.used = now
            self._by_key.move_to_end(key)

    def remove(self, key: str) -> SessionRecord | None:
        """Take a session out and return it, if it was there."""
        record = self._by_key.pop(key, None)
        if record is not None and record.host:
            host = counted_host(record.host)
            of_host = self._by_host[host]
            del of_host[key]
            if not of_host:
                del self._by_host[host]
        return record

    def evictable(self, host: str, now: float) -> SessionRecord | None:
        """The session to drop for a new one from `host`; None while there is room. Raises
        `Refused("quota")`."""
        idle_since = now - self._limits.session_evictable_s
        of_host = self._by_host.get(counted_host(host))
        if of_host is not None and len(of_host) >= self._limits.of_host(host, self._limits.sessions):
            # Only one is looked at, since a host that is at its limit may ask for this all day.
            record = next(iter(of_host.values()))
            if record.peers or record.used > idle_since:
                of_host.move_to_end(record.key)
                raise Refused(
                    "quota", "your host has more sessions than the tracker keeps for one; ask again later"
                )
            return record
        if len(self._by_key) < self._limits.sessions:
            return None
        oldest = self._oldest_without_peers(now)
        if oldest is None or oldest.used > idle_since:
            raise Refused("quota", "the tracker keeps no more sessions; ask again later")
        return oldest

    def idle(self, now: float) -> SessionRecord | None:
        """A session that has ended because it was idle for too long, if there is one."""
        if self.next_end(now) > now:
            return None
        oldest = self._oldest_without_peers(now)
        return oldest if oldest is not None and oldest.used + self._limits.session_idle_s <= now else None

    def next_end(self, now: float) -> float:
        """A time before which no session ends by being idle."""
        oldest = next(iter(self._by_key.values()), None)
        return (oldest.used if oldest is not None else now) + self._limits.session_idle_s

    def _oldest_without_peers(self, now: float) -> SessionRecord | None:
        """The session without peers that is unused for longest. Sessions with peers are in use, and move to
        the end as they are met."""
        for _ in range(len(self._by_key)):
            record = next(iter(self._by_key.values()))
            if not record.peers:
                return record
            self.touch(record.key, now)
        return None
