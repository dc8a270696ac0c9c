"""The commands about this user's session with the tracker: `login`, `logout`, `status`."""

from __future__ import annotations

from typing import Any

from p2p.cli.commands.directory import open_tracker
from p2p.cli.config import PeerConfig
from p2p.cli.events import stats_event
from p2p.cli.parse import parse_name
from p2p.cli.render import count_text, size_text, time_text
from p2p.cli.run import Job
from p2p.errors import Refused
from p2p.model import Address
from p2p.peer.session_file import StoredSession, forget_session, load_session, save_session
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import Login, LoginAnswer, Logout, LogoutAnswer, Stats, StatsAnswer


async def login(job: Job[PeerConfig]) -> int:
    """Run `login USER`: open a session and keep it for later commands.

    A session of this user that still lives is kept; one of another user is ended. Raises `UsageError` for a
    bad name, `Unreachable`, `Refused`, and `DiskError` when the session cannot be kept.
    """
    node, console = job.config.node, job.console
    user = parse_name(job.words.user, "USER")
    stored = load_session(node.state, node.tracker)
    if stored is not None and stored.user != user:
        await _end(job, stored)
    async with open_tracker(job) as client:
        if stored is not None and stored.user == user and await _resumes(client, stored):
            state = "resumed"
        else:
            answer = await client.expect(Login(user=user), LoginAnswer)
            save_session(node.state, StoredSession(node.tracker, user, answer.session))
            state = "opened"
    console.event(_session_event(state, user, node.tracker))
    console.text(f"logged in as {user} at tracker {node.tracker}")
    return 0


async def logout(job: Job[PeerConfig]) -> int:
    """Run `logout`: end this user's session; its peers leave the directory.

    Raises `Refused("login_needed")` without a session, `Unreachable`, `DiskError`.
    """
    node = job.config.node
    stored = load_session(node.state, node.tracker)
    if stored is None:
        raise Refused(
            "login_needed", f"there is no session with tracker {node.tracker}; nothing to log out of"
        )
    await _end(job, stored)
    return 0


async def _end(job: Job[PeerConfig], stored: StoredSession) -> None:
    """End a stored session, forget it, and print so. Raises `Unreachable`, `Refused`, `DiskError`."""
    node, console = job.config.node, job.console
    ended = LogoutAnswer(peers=0, contents=0)
    async with open_tracker(job) as client:
        client.use_session(stored.token)
        try:
            ended = await client.expect(Logout(), LogoutAnswer)
        except Refused as refused:
            # A session that the tracker has forgotten is ended, which is what was wanted.
            if refused.code != "login_needed":
                raise
    forget_session(node.state, node.tracker)
    session = _session_event("ended", stored.user, node.tracker)
    console.event({**session, "peers": ended.peers, "contents": ended.contents})
    left = f"{count_text(ended.peers, 'peer')} and {count_text(ended.contents, 'content')} left the directory"
    console.text(f"{stored.user} is logged out of tracker {node.tracker}; {left}")


async def status(job: Job[PeerConfig]) -> int:
    """Run `status`: the tracker's figures and this user's session. Raises `Unreachable`, `Refused`."""
    node, console = job.config.node, job.console
    async with open_tracker(job) as client:
        stored = load_session(node.state, node.tracker)
        if stored is not None and not await _resumes(client, stored):
            client.use_session(None)
        stats = await client.expect(Stats(), StatsAnswer)
    console.event(stats_event(stats, str(node.tracker)))
    console.text(
        f"tracker {node.tracker}, version {stats.version}, up {time_text(stats.uptime)}",
        f"  {count_text(stats.peers, 'peer')}, {count_text(stats.contents, 'content')} "
        f"({size_text(stats.bytes)}), {count_text(stats.shares, 'share')}",
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
    """Return whether the tracker still knows a session. The client is in it then."""
    client.use_session(stored.token)
    try:
        await client.expect(Stats(), StatsAnswer)
    except Refused as refused:
        if refused.code != "login_needed":
            raise
        client.use_session(None)
        return False
    return True


def _session_event(state: str, user: str, tracker: Address) -> dict[str, Any]:
    return {"event": "session", "state": state, "user": user, "tracker": str(tracker)}
