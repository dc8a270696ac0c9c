"""The commands that only ask the tracker: `list`, `search`, `peers`, `login`, `logout`, `status`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from p2p.cli.common import Job
from p2p.cli.config import PeerConfig, check_name, check_text
from p2p.cli.console import Console
from p2p.cli.events import content_event, peer_event, stats_event
from p2p.cli.render import count_text, size_text, table, time_text
from p2p.errors import Refused
from p2p.model import Address
from p2p.peer.session_file import StoredSession, forget_session, load_session, save_session
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.peer_messages import PAGE
from p2p.protocol.tracker_messages import (
    HitRow,
    HitsAnswer,
    List,
    Login,
    LoginAnswer,
    Logout,
    LogoutAnswer,
    PeerRow,
    Peers,
    PeersAnswer,
    Search,
    Stats,
    StatsAnswer,
)

Work = Job[PeerConfig]


@asynccontextmanager
async def _tracker(job: Work) -> AsyncIterator[TrackerClient]:
    client = TrackerClient(job.config.tracker, job.trace)
    job.console.phase("connecting")
    try:
        yield client
    finally:
        job.console.end_progress()
        await client.close()


async def list_contents(job: Work) -> int:
    """`list`: all contents, a page at a time. Raises `Unreachable`, `Refused`."""
    return await _contents(job, lambda offset: List(offset=offset, limit=PAGE), "nothing is shared")


async def search(job: Work) -> int:
    """`search`: contents whose names hold all words. Raises `Unreachable`, `Refused`."""
    text = check_text(" ".join(job.words.text), "TEXT")
    return await _contents(
        job, lambda offset: Search(text=text, offset=offset, limit=PAGE), "nothing matches"
    )


async def _contents(job: Work, ask: Callable[[int], List | Search], nothing: str) -> int:
    console = job.console
    async with _tracker(job) as client:
        async for offset, page in client.pages(ask, HitsAnswer):
            for hit in page.hits:
                console.event(content_event(hit))
            _show(
                console,
                table(
                    ("NAME", "SIZE", "SEEDS", "PEERS", "ID"), [_content_row(hit) for hit in page.hits], " rrr"
                ),
                offset,
            )
    if not page.total:
        console.note(f"{nothing} at tracker {job.config.tracker}")
    return 0


async def peers(job: Work) -> int:
    """`peers`: who is there, a page at a time. Raises `Unreachable`, `Refused`."""
    console = job.console
    headers = ("NAME", "ADDRESS", "TRANSPORTS", "CONTENTS", "HEARTBEAT", "ACCEPTS", "USER")
    async with _tracker(job) as client:
        async for offset, page in client.pages(lambda offset: Peers(offset=offset, limit=PAGE), PeersAnswer):
            for row in page.peers:
                console.event(peer_event(row))
            _show(console, table(headers, [_peer_row(row) for row in page.peers], "   rrr"), offset)
    if not page.total:
        console.note(f"no peer is at tracker {job.config.tracker}")
    return 0


async def login(job: Work) -> int:
    """`login USER`: opens a session and keeps it for later commands; one of this user that still lives is
    kept, another's is ended.

    Raises `UsageError` for a bad name, `Unreachable`, `Refused`, and `DiskError` when the session cannot be
    kept.
    """
    config, console = job.config, job.console
    user = check_name(job.words.user, "USER")
    stored = load_session(config.state, config.tracker)
    if stored is not None and stored.user != user:
        await _end(job, stored)
    async with _tracker(job) as client:
        if stored is not None and stored.user == user and await _resumes(client, stored):
            state = "resumed"
        else:
            answer = await client.expect(Login(user=user), LoginAnswer)
            save_session(config.state, StoredSession(config.tracker, user, answer.session))
            state = "opened"
    console.event(_session_event(state, user, config.tracker))
    console.text(f"logged in as {user} at tracker {config.tracker}")
    return 0


async def logout(job: Work) -> int:
    """`logout`: ends this user's session; its peers leave the directory. Raises `Refused("login_needed")`
    without one."""
    config = job.config
    stored = load_session(config.state, config.tracker)
    if stored is None:
        raise Refused(
            "login_needed", f"there is no session with tracker {config.tracker}; nothing to log out of"
        )
    await _end(job, stored)
    return 0


async def _end(job: Work, stored: StoredSession) -> None:
    """End a session that is stored, forget it, and tell it. Raises `Unreachable`, `Refused`, `DiskError`."""
    config, console = job.config, job.console
    gone = LogoutAnswer(peers=0, contents=0)
    async with _tracker(job) as client:
        client.session = stored.token
        try:
            gone = await client.expect(Logout(), LogoutAnswer)
        except Refused as refused:
            # The tracker has forgotten it already: then it is ended, which is what was wanted.
            if refused.code != "login_needed":
                raise
    forget_session(config.state, config.tracker)
    console.event(
        {
            **_session_event("ended", stored.user, config.tracker),
            "peers": gone.peers,
            "contents": gone.contents,
        }
    )
    left = f"{count_text(gone.peers, 'peer')} and {count_text(gone.contents, 'content')} left the directory"
    console.text(f"{stored.user} is logged out of tracker {config.tracker}; {left}")


async def status(job: Work) -> int:
    """`status`: the tracker's figures and this user's session. Raises `Unreachable`, `Refused`."""
    config, console = job.config, job.console
    async with _tracker(job) as client:
        stored = load_session(config.state, config.tracker)
        if stored is not None and not await _resumes(client, stored):
            client.session = None
        stats = await client.expect(Stats(), StatsAnswer)
    console.event(stats_event(stats, str(config.tracker)))
    console.text(
        f"tracker {config.tracker}, version {stats.version}, up {time_text(stats.uptime)}",
        f"  {count_text(stats.peers, 'peer')}, {count_text(stats.contents, 'content')} ({size_text(stats.bytes)}), "
        f"{count_text(stats.shares, 'share')}",
        f"  {count_text(stats.sessions, 'session')}, {count_text(stats.connections, 'connection')}, "
        f"{count_text(stats.requests, 'request')}",
    )
    if stats.user is not None:
        console.text(f"you are logged in as {stats.user}")
    elif stored is not None:
        console.text(f"the session of {stored.user} is over; log in again with: peer login {stored.user}")
    else:
        console.text("you are not logged in")
    return 0


async def _resumes(client: TrackerClient, stored: StoredSession) -> bool:
    """Whether the tracker still knows a session; the client is in it then."""
    client.session = stored.token
    try:
        await client.expect(Stats(), StatsAnswer)
    except Refused as refused:
        if refused.code != "login_needed":
            raise
        client.session = None
        return False
    return True


def _session_event(state: str, user: str, tracker: Address) -> dict[str, Any]:
    return {"event": "session", "state": state, "user": user, "tracker": str(tracker)}


def _show(console: Console, lines: list[str], offset: int) -> None:
    """Print a page; its headers stand above the first one. More may be to come."""
    if offset == 0:
        console.phase("searching")
    if len(lines) > 1:
        console.text(*(lines if offset == 0 else lines[1:]))


def _content_row(hit: HitRow) -> tuple[str, ...]:
    return hit.name, size_text(hit.size), str(hit.seeds), str(hit.peers), hit.id


def _peer_row(row: PeerRow) -> tuple[str, ...]:
    address = str(Address(row.host, row.listen["tcp"])) if "tcp" in row.listen else row.host
    transports = " ".join(f"{name}:{port}" for name, port in sorted(row.listen.items()))
    room = size_text(row.room) if row.room else "-"
    return row.name, address, transports, str(row.contents), f"{time_text(row.age)} ago", room, row.user
