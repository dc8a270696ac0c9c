"""What a peer reports, as JSON events: the names and keys that other programs read. `docs` and tests hold
this file to the contract."""

from __future__ import annotations

from typing import Any

from p2p.model import Manifest
from p2p.peer.reports import (
    Downloaded,
    Listening,
    ManifestKnown,
    Placed,
    Progress,
    Received,
    Replicated,
    Report,
    SessionChanged,
    Shared,
    Uploaded,
    Warned,
    Withdrawn,
)
from p2p.protocol.tracker_messages import HitRow, PeerRow, StatsAnswer

Event = dict[str, Any]


def event_of(report: Report) -> Event:  # one row a kind of report; to split it would hide that
    """The event of a report. Sizes in bytes, rates in bytes a second, times in seconds."""
    match report:
        case Listening():
            return {
                "event": "listening",
                "host": report.address.host,
                "port": report.address.port,
                "transports": report.transports,
            }
        case Shared():
            return {
                "event": "shared",
                "name": report.name,
                "id": report.id,
                "size": report.size,
                "path": str(report.path),
            }
        case Withdrawn():
            return {"event": "withdrawn", "name": report.name, "id": report.id}
        case Received():
            return {
                "event": "received",
                "name": report.name,
                "id": report.id,
                "size": report.size,
                "peer": report.peer,
                "bytes_by": report.bytes_by,
            }
        case Warned():
            return {"event": "warning", "message": report.message}
        case SessionChanged():
            return {"event": "session", "state": report.state, "user": report.user}
        case Progress():
            return {
                "event": "progress",
                "phase": report.phase,
                "bytes": report.bytes,
                "size": report.size,
                "rate": round(report.rate),
                "peers": report.peers,
            }
        case ManifestKnown():
            return {
                "event": "manifest",
                "name": report.name,
                "id": report.id,
                "size": report.size,
                "pieces": report.pieces,
            }
        case Downloaded():
            return {
                "event": "done",
                "path": str(report.path),
                "id": report.id,
                "size": report.size,
                "seconds": round(report.seconds, 6),
                "bytes_from": report.bytes_from,
                "bytes_by": report.bytes_by,
            }
        case Placed():
            return {"event": "placed", "peer": report.peer}
        case Replicated():
            return {"event": "replicated", "peer": report.peer, "seconds": round(report.seconds, 6)}
        case Uploaded():
            return {
                "event": "done",
                "id": report.id,
                "copies": report.copies,
                "seconds": round(report.seconds, 6),
                "origin_copies": round(report.origin_copies, 4),
            }


def content_event(hit: HitRow) -> Event:
    """A row of `list` and `search`."""
    return {
        "event": "content",
        "name": hit.name,
        "size": hit.size,
        "id": hit.id,
        "seeds": hit.seeds,
        "peers": hit.peers,
    }


def peer_event(row: PeerRow) -> Event:
    """A row of `peers`; `last_heartbeat` is in seconds before now, `room` in bytes that it accepts by
    upload."""
    return {
        "event": "peer",
        "name": row.name,
        "peer": row.peer,
        "user": row.user,
        "host": row.host,
        "transports": row.listen,
        "contents": row.contents,
        "last_heartbeat": row.age,
        "room": row.room,
    }


def manifest_events(content: str, manifest: Manifest) -> list[Event]:
    """The manifest as `info` tells it: one `content`, and a `file` for each file."""
    about: Event = {
        "event": "content",
        "name": manifest.name,
        "size": manifest.size,
        "id": content,
        "kind": manifest.kind,
        "hash": manifest.hash_name,
        "piece_length": manifest.piece_length,
        "pieces": len(manifest.pieces),
        "files": len(manifest.files),
    }
    return [about, *({"event": "file", "path": entry.path, "size": entry.size} for entry in manifest.files)]


def stats_event(stats: StatsAnswer, tracker: str) -> Event:
    """The tracker's figures; `user` is None when this user has no session there."""
    return {
        "event": "stats",
        "tracker": tracker,
        "version": stats.version,
        "uptime": stats.uptime,
        "peers": stats.peers,
        "contents": stats.contents,
        "shares": stats.shares,
        "bytes": stats.bytes,
        "sessions": stats.sessions,
        "connections": stats.connections,
        "requests": stats.requests,
        "user": stats.user,
    }


class ProgressFeed:
    """Decides when a `progress` event is due: at most ten a second while there is news, and at least one a
    second while work goes on."""

    LEAST, MOST = 0.1, 0.7
    """Seconds between two events; `MOST` plus the time between two ticks must stay below one."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._shown = float("-inf")

    def news(self, progress: Progress, now: float) -> Event | None:
        """Work has come this far at `now` (seconds); the event to print, if one is due."""
        new_phase = self._latest is None or self._latest.phase != progress.phase
        self._latest = progress
        return self._show(now) if new_phase or now - self._shown >= self.LEAST else None

    def tick(self, now: float) -> Event | None:
        """Time has passed; the event to print, if one is due."""
        return self._show(now) if self._latest is not None and now - self._shown >= self.MOST else None

    def rest(self) -> None:
        """The work is done; nothing is due until the next news."""
        self._latest = None

    def _show(self, now: float) -> Event | None:
        self._shown = now
        return None if self._latest is None else event_of(self._latest)
