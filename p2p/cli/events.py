"""JSON events: the names and keys that other programs read. They are a contract.

The fields of a report are the keys of its event, in their order. Sizes are in bytes, rates in bytes a second,
times in seconds.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

from p2p.model import Address, Manifest
from p2p.peer import reports
from p2p.peer.reports import Report
from p2p.protocol.tracker_messages import Contact, HitRow, PeerRow, StatsAnswer

Event = dict[str, Any]

NAMES: Final[dict[type[Report], str]] = {
    reports.Listening: "listening",
    reports.Shared: "shared",
    reports.Withdrawn: "withdrawn",
    reports.Received: "received",
    reports.Warned: "warning",
    reports.SessionChanged: "session",
    reports.Progress: "progress",
    reports.ManifestKnown: "manifest",
    reports.Downloaded: "done",
    reports.Placed: "placed",
    reports.Replicated: "replicated",
    reports.Uploaded: "done",
}
DIGITS: Final = {"seconds": 6, "origin_copies": 4, "rate": None}
"""Decimals of the keys whose values are no whole numbers."""


def event_of(report: Report) -> Event:
    """Return the event of a report."""
    event: Event = {"event": NAMES[type(report)]}
    for field in dataclasses.fields(report):
        value = getattr(report, field.name)
        if isinstance(value, Address):
            event["host"], event["port"] = value.host, value.port
        elif isinstance(value, Path):
            event[field.name] = str(value)
        elif field.name in DIGITS:
            event[field.name] = round(value, DIGITS[field.name])
        else:
            event[field.name] = value
    return event


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


def source_event(source: Contact) -> Event:
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
