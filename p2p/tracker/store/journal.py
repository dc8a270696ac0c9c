"""Keeps the changes of a directory until a disk has them, as rows of a database; nothing is written here.

Changes wait in a dict keyed by row, so that a row that changes often is written once. A peer has a row number
that is never used again, so that dropping a peer is one change, whatever it announced. Leases are not
written, since monotonic time does not survive a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from p2p.errors import Refused
from p2p.model import ContentId, PeerId
from p2p.protocol.tracker_messages import Share
from p2p.tracker.store.base import PeerRecord, SessionRecord, StoreLimits
from p2p.tracker.store.directory import Saved

Row = tuple[str | int | bytes | None, ...]
Key = tuple[str, str | int, str]
"""The kind of change, the session or peer, and the content if it concerns one."""
Tables = tuple[Iterable[Row], Iterable[Row], Iterable[Row]]
"""All rows of sessions, peers and shares, as `restore` reads them, each in the order in which they were first
written."""

DROPPED: Final = "no "
"""Begins the kind of a change that drops what the rest of the kind puts."""


class Journal:
    """The `Changes` of a directory that is kept. `numbers` are the row numbers of the peers on disk."""

    def __init__(self, limits: StoreLimits, numbers: Mapping[PeerId, int]) -> None:
        self._most = limits.pending_rows
        self._numbers = dict(numbers)
        self._next_number = max(self._numbers.values(), default=0) + 1
        self._pending: dict[Key, Row] = {}
        self._in_flight = 0

    # -- called by the directory

    def check_room(self) -> None:
        """Raise `Refused("unavailable")` when too many rows wait for the disk."""
        if len(self._pending) >= self._most:
            raise Refused("unavailable", "too much waits for the tracker's disk; ask again later")

    def on_session(self, record: SessionRecord) -> None:
        """Keep a session."""
        self._note(("session", record.key, ""), (record.key, record.user))

    def on_session_dropped(self, record: SessionRecord) -> None:
        """Drop a session."""
        self._note(("no session", record.key, ""), (record.key,))

    def on_peer(self, record: PeerRecord) -> None:
        """Keep a peer as it is now."""
        number = self._numbers.get(record.id)
        if number is None:
            number = self._numbers[record.id] = self._next_number
            self._next_number += 1
        self._note(
            ("peer", number, ""),
            (
                number,
                record.id,
                record.session,
                record.name,
                record.host,
                record.advertised,
                _write_listen(record.listen),
                record.room,
            ),
        )

    def on_peer_dropped(self, record: PeerRecord) -> None:
        """Drop a peer with its shares."""
        number = self._numbers.pop(record.id)
        self._note(("no peer", number, ""), (number,))

    def on_share(self, peer: PeerRecord, share: Share) -> None:
        """Keep what a peer says of a content."""
        number = self._numbers[peer.id]
        row = (number, bytes.fromhex(share.id), share.name, share.size, share.have)
        self._note(("share", number, share.id), row)

    def on_share_dropped(self, peer: PeerRecord, content_id: ContentId) -> None:
        """Drop a share."""
        number = self._numbers[peer.id]
        self._note(("no share", number, content_id), (number, bytes.fromhex(content_id)))

    def _note(self, key: Key, row: Row) -> None:
        kind, owner, content = key
        if kind.startswith(DROPPED):
            self._pending.pop((kind.removeprefix(DROPPED), owner, content), None)
        self._pending[key] = row

    # -- on the way to the disk

    @property
    def unsaved(self) -> bool:
        """Whether a change waits, or is being written."""
        return bool(self._pending) or self._in_flight > 0

    def take_pending(self) -> Mapping[Key, Row]:
        """Take all changes that wait."""
        taken, self._pending = self._pending, {}
        self._in_flight += len(taken)
        return taken

    def settle(self, changes: Mapping[Key, Row], *, written: bool) -> None:
        """Note how writing ended. Changes that were not written wait again, and newer ones of the same rows
        win."""
        self._in_flight -= len(changes)
        if not written:
            newer, self._pending = self._pending, dict(changes)
            for key, row in newer.items():
                self._note(key, row)


def restore(tables: Tables, now: float, limits: StoreLimits) -> tuple[Saved, dict[PeerId, int]]:
    """What a directory begins with at `now`, and the row number of each peer. Raises `ValueError`,
    `TypeError` or `LookupError` when the rows make no sense.

    Each peer gets a fresh lease. How long a session was idle is not kept. One without peers counts as idle
    for long, and may be evicted at once. Otherwise a restart would make all sessions of a full table young,
    and no client could log in for `session_evictable_s`.
    """
    session_rows, peer_rows, share_rows = tables
    sessions = {str(key): SessionRecord(str(key), str(user), now, now) for key, user in session_rows}
    numbers: dict[int, PeerId] = {}
    peers: list[PeerRecord] = []
    used: set[str] = set()
    for number, peer_id, session, name, host, advertised, listen, room in peer_rows:
        peer = PeerRecord(
            PeerId(str(peer_id)),
            str(session),
            str(name),
            sessions[str(session)].user,
            str(host),
            None if advertised is None else str(advertised),
            _read_listen(str(listen)),
            _whole(room),
            now,
        )
        numbers[_whole(number)] = peer.id
        peers.append(peer)
        used.add(peer.session)
    if len(set(numbers.values())) < len(peers):
        raise ValueError("two peers have one id")
    for record in sessions.values():
        if record.key not in used:
            record.used = now - limits.session_evictable_s
    by_age = sorted(sessions.values(), key=lambda record: record.used)
    return Saved(by_age, peers, _shares(share_rows, numbers)), {
        peer_id: number for number, peer_id in numbers.items()
    }


def _shares(rows: Iterable[Row], numbers: Mapping[int, PeerId]) -> Iterator[tuple[PeerId, Sequence[Share]]]:
    """The shares in the order of their age, since the first announcer's title is shown. Runs of one peer come
    together."""
    names: dict[str, str] = {}
    ids: dict[bytes, ContentId] = {}
    run: list[Share] = []
    of: int | None = None
    for number, content, name, size, have in rows:
        if number != of:
            if run and of is not None:
                yield numbers[of], run
            of, run = _whole(number), []
        if not isinstance(content, bytes):
            raise TypeError("a content id is bytes")
        # Equal ids and names share one string: a content that thousands of peers have costs it once.
        content_id = ids.setdefault(content, ContentId(content.hex()))
        name = names.setdefault(str(name), str(name))
        run.append(Share(id=content_id, name=name, size=_whole(size), have=_whole(have)))
    if run and of is not None:
        yield numbers[of], run


def _whole(value: str | int | bytes | None) -> int:
    if value is None:
        raise TypeError("a number is missing")
    return int(value)


def _write_listen(listen: Mapping[str, int]) -> str:
    return ",".join(f"{name}={port}" for name, port in listen.items())


def _read_listen(text: str) -> dict[str, int]:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: int(port) for name, _, port in pairs}
