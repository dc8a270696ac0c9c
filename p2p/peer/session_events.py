"""What can happen to a tracker session (events), and what it wants done (effects), as values.

`tracker_session.py` takes the events and returns the effects; `announcer.py` carries them out.
"""

from __future__ import annotations

from p2p.errors import EnjambreError, Unreachable
from p2p.model import ContentId, PeerId
from p2p.peer.reports import Report
from p2p.protocol.peer_messages import Answer, Request
from p2p.protocol.tracker_messages import Share
from p2p.value import frozen

# -- events


@frozen
class Start:
    """Open a session of this user: a new one, or the one whose `token` the user keeps in a file."""

    user: str
    token: str | None = None
    required: bool = False
    """Whether the session is over if it cannot be opened at the first try."""


@frozen
class SetShare:
    """The tracker is to know this content, or more of it; urgent, or with the next heartbeat."""

    share: Share
    urgent: bool = True


@frozen
class DropShare:
    """The tracker is to forget this content."""

    content: ContentId


@frozen
class Answered:
    """The tracker answered the request under way."""

    answer: Answer


@frozen
class Failed:
    """The job under way failed: a request, or the session file."""

    error: EnjambreError


@frozen
class SessionRead:
    """What the session file holds: user and token, both None where there is no session."""

    user: str | None = None
    token: str | None = None


@frozen
class SessionSaved:
    """The new token is in the session file."""


@frozen
class IdRenewed:
    """This peer has another id from now on."""

    peer: PeerId


@frozen
class HungUp:
    """The connection to the tracker ended by itself."""

    error: Unreachable


@frozen
class Tick:
    """Time has passed."""


@frozen
class Stop:
    """Leave the tracker. The caller has called off the job under way."""


Event = (
    Start
    | SetShare
    | DropShare
    | Answered
    | Failed
    | SessionRead
    | SessionSaved
    | IdRenewed
    | HungUp
    | Tick
    | Stop
)


# -- effects


@frozen
class Send:
    """Send this request to the tracker."""

    request: Request


@frozen
class UseToken:
    """Show this token on connections to the tracker; with `reconnect`, close the present one first."""

    token: str | None
    reconnect: bool = False


@frozen
class ReadSession:
    """Read the session file."""


@frozen
class SaveSession:
    """Write this token of this user to the session file."""

    user: str
    token: str


@frozen
class RenewId:
    """Take another peer id, and answer with `IdRenewed`."""


@frozen
class Tell:
    """Report this to the user."""

    report: Report


@frozen
class End:
    """The session is over, for this reason."""

    error: EnjambreError


Effect = Send | UseToken | ReadSession | SaveSession | RenewId | Tell | End
