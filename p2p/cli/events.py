"""JSON events: the names and keys that other programs read. They are a contract."""

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
from p2p.protocol.tracker_messages import HitRow, PeerRow, Source, StatsAnswer

Event = dict[str, Any]


def event_of(report: Report) -> Event:
    """Return the event of a report. Sizes in bytes, rates in bytes a second, times in seconds."""
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
    """Return a row of `list` and `search`."""
    return {
        "event": "content",
        "name": hit.name,
        "size": hit.size,
        "id": hit.id,
        "seeds": hit.seeds,
        "peers": hit.peers,
    }


def peer_event(row: PeerRow) -> Event:
    """Return a row of `peers`: `last_heartbeat` in seconds before now, `room` for uploads in bytes."""
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
    """Return the manifest as `info` prints it: one `content`, and a `file` for each file."""
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


def source_event(source: Source) -> Event:
    """Return a peer of `info`; `have` in bytes of the content."""
    return {
        "event": "peer",
        "name": source.name,
        "host": source.host,
        "transports": source.listen,
        "have": source.have,
    }


def stats_event(stats: StatsAnswer, tracker: str) -> Event:
    """Return the tracker's figures. `user` is None when this user has no session there."""
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
