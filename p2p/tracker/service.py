"""Answers requests: one request and the time in, one answer or `Refused` out. No bytes, no sockets, no clock.

Every client may ask. To announce and to withdraw takes a session. A session belongs to the clients that show
its secret, of which only a digest is kept. A peer belongs to the session that announced it first, for as long
as it lives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar, cast

from p2p import __version__
from p2p.content.names import check_part
from p2p.errors import ProtocolError, Refused
from p2p.protocol.codec import encoded_size
from p2p.protocol.peer_messages import (
    COUNT,
    VERSION,
    Answer,
    Hello,
    HelloAnswer,
    Message,
    Ping,
    PingAnswer,
    Request,
)
from p2p.protocol.tracker_messages import (
    Announce,
    AnnounceAnswer,
    Contact,
    HitRow,
    HitsAnswer,
    List,
    Login,
    LoginAnswer,
    Logout,
    LogoutAnswer,
    Lookup,
    LookupAnswer,
    PeerRow,
    Peers,
    PeersAnswer,
    Place,
    PlaceAnswer,
    Search,
    Share,
    Stats,
    StatsAnswer,
    Withdraw,
    WithdrawAnswer,
)
from p2p.tracker.handout import Choice, check_advertised, choose, place, reachable_host
from p2p.tracker.search import Page, rank, terms
from p2p.tracker.store.base import ContentRecord, PeerRecord, SessionRecord
from p2p.tracker.store.directory import Directory

PAGE_BYTES: Final = 60_000
"""Most bytes of rows in one answer, so that its line is not too long."""

AMPLIFY: Final = 100
"""Most bytes that a client without a session gets for each byte that it sent. More would make the tracker
worth abusing as an amplifier."""

_ANSWER_HEAD: Final = 100
_CONTENT_HEAD: Final = 700

WRITES: Final[frozenset[type[Request]]] = frozenset({Login, Logout, Announce, Withdraw})
"""Requests whose answer promises a change, so that it may leave only when the change is on disk."""

R = TypeVar("R", HitRow, Contact, PeerRow)


@dataclass(slots=True)
class Client:
    """What the service knows of the other side of one connection. Both hosts are canonical."""

    host: str
    """Its address."""
    reached: str
    """The address by which it reached the tracker."""
    session: str | None = None
    """The key of its session, which the service sets at `login` and at `hello`."""


class TrackerService:
    """All answers of a tracker, from a directory that it alone changes."""

    def __init__(
        self,
        directory: Directory,
        rng: Random,
        token: Callable[[], str],
        *,
        ttl: int = 30,
        trust_advertised: bool = False,
        name: str = f"enjambre {__version__}",
        started: float = 0.0,
    ) -> None:
        """`token` draws a session's secret (32 hex digits), `ttl` is the lease of a peer in seconds,
        and `started` the monotonic time of the start."""
        self.directory = directory
        self.ttl = ttl
        self.connections = 0
        """How many are open, for `stats`. The server counts them."""
        self._rng = rng
        self._token = token
        self._trust_advertised = trust_advertised
        self._name = name
        self._started = started
        self._requests = 0
        self._due = started
        self._handlers: dict[type[Request], Callable[[Any, Client, float], Answer]] = {
            Hello: self._hello,
            Ping: self._ping,
            Login: self._login,
            Logout: self._logout,
            Announce: self._announce,
            Withdraw: self._withdraw,
            Lookup: self._lookup,
            Search: self._search,
            List: self._list,
            Peers: self._peers,
            Place: self._place,
            Stats: self._stats,
        }

    def handle(self, request: Request, client: Client, now: float) -> Answer:
        """Answer one request. Raises `Refused`, or `ProtocolError("bad_field")` naming the field. Nothing is
        changed then, with one exception: an announce refused with `quota` keeps the peer alive."""
        self._requests += 1
        if now >= self._due:
            self.expire(now)
        return self._handlers[type(request)](request, client, now)

    def has_session(self, client: Client) -> bool:
        """Whether the client is in an open session."""
        return client.session is not None and self.directory.session(client.session) is not None

    def expire(self, now: float) -> None:
        """Forget peers whose lease is over. Done before every answer that it could change, and each second
        to free memory."""
        self._due = self.directory.expire(now, self.ttl)

    # -- sessions

    def _hello(self, request: Hello, client: Client, now: float) -> HelloAnswer:
        if request.version != VERSION:
            raise Refused("unsupported", f"version: this tracker speaks version {VERSION}")
        if request.session is not None:
            key = session_key(request.session)
            if self.directory.session(key) is None:
                raise Refused("login_needed", "the session is over or was never opened; log in")
            self.directory.touch_session(key, now)
            client.session = key
        return HelloAnswer(version=VERSION, role="tracker", name=self._name)

    def _ping(self, _request: Ping, _client: Client, _now: float) -> PingAnswer:
        return PingAnswer()

    def _login(self, request: Login, client: Client, now: float) -> LoginAnswer:
        secret = self._token()
        key = session_key(secret)
        self.directory.put_session(key, request.user, now, client.host)
        client.session = key
        return LoginAnswer(session=secret, ttl=self.ttl)

    def _logout(self, _request: Logout, client: Client, _now: float) -> LogoutAnswer:
        session = self._session(client)
        dropped = self.directory.drop_session(session.key)
        client.session = None
        return LogoutAnswer(peers=dropped.peers, contents=dropped.shares)

    def _session(self, client: Client) -> SessionRecord:
        session = self.directory.session(client.session) if client.session is not None else None
        if session is None:
            raise Refused("login_needed", "log in first")
        return session

    def _own_peer(self, request: Announce | Withdraw, session: SessionRecord) -> PeerRecord | None:
        peer = self.directory.peer(request.peer)
        if peer is not None and peer.session != session.key:
            raise Refused("not_allowed", "peer: belongs to another session")
        return peer

    # -- what peers have

    def _announce(self, request: Announce, client: Client, now: float) -> AnnounceAnswer:
        session = self._session(client)
        peer = self._own_peer(request, session)
        advertised = None
        if request.advertise is not None:
            host = check_advertised(request.advertise)
            advertised = host if self._trust_advertised else None
        _check_shares(request.contents)
        if (
            peer is not None
            and peer.host == client.host
            and peer.listen == request.listen
            and peer.name == request.name
            and peer.room == request.room
            and peer.advertised == advertised
        ):
            self.directory.touch_peer(peer, now)
        else:
            fresh = PeerRecord(
                request.peer,
                session.key,
                request.name,
                session.user,
                client.host,
                advertised,
                request.listen,
                request.room,
                now,
            )
            self.directory.put_peer(fresh)
            peer = peer or fresh
        if request.contents:
            self.directory.put_shares(peer, request.contents)
        return AnnounceAnswer(ttl=self.ttl, known=peer.contents)

    def _withdraw(self, request: Withdraw, client: Client, now: float) -> WithdrawAnswer:
        session = self._session(client)
        peer = self._own_peer(request, session)
        if peer is None:
            return WithdrawAnswer(withdrawn=0)
        if request.ids:
            return WithdrawAnswer(withdrawn=self.directory.drop_shares(peer, request.ids))
        withdrawn = self.directory.drop_peer(peer)
        self.directory.touch_session(session.key, now)
        return WithdrawAnswer(withdrawn=withdrawn)

    # -- questions

    def _lookup(self, request: Lookup, client: Client, _now: float) -> LookupAnswer:
        content = self.directory.content(request.id)
        if content is None:
            raise Refused("not_found", "nobody here has this content")
        peers = content.peers
        if request.peer is not None:
            itself = self.directory.peer(request.peer)
            if itself in peers:
                peers = {peer: have for peer, have in peers.items() if peer is not itself}
        chosen = choose(peers, content.size, request.limit, self._rng, self._host_for(client))
        contacts = self._fit(map(_contact, chosen), request, client, _CONTENT_HEAD)
        return LookupAnswer(content=_hit(content), sources=tuple(contacts))

    def _search(self, request: Search, client: Client, _now: float) -> HitsAnswer:
        found = self.directory.find(terms(request.text))
        return self._hits(rank(found, request.text, request.offset, request.limit), request, client)

    def _list(self, request: List, client: Client, _now: float) -> HitsAnswer:
        contents = self.directory.contents()
        return self._hits(
            Page(len(contents), contents[request.offset : request.offset + request.limit]), request, client
        )

    def _hits(self, page: Page, request: Search | List, client: Client) -> HitsAnswer:
        hits = self._fit(map(_hit, page.hits), request, client, _ANSWER_HEAD)
        end = request.offset + len(hits)
        return HitsAnswer(total=page.total, hits=tuple(hits), next=end if end < page.total and hits else None)

    def _peers(self, request: Peers, client: Client, now: float) -> PeersAnswer:
        peers = self.directory.peers()
        host_for = self._host_for(client)
        page = peers[request.offset : request.offset + request.limit]
        # A peer that the client cannot reach takes a place on the page and is not shown.
        shown = [
            (at, peer, host)
            for at, peer in enumerate(page, request.offset + 1)
            if (host := host_for(peer)) is not None
        ]
        rows = self._fit((_row(peer, host, now) for _, peer, host in shown), request, client, _ANSWER_HEAD)
        end = request.offset + len(page) if len(rows) == len(shown) else shown[len(rows)][0] - 1
        return PeersAnswer(
            total=len(peers), peers=tuple(rows), next=end if request.offset < end < len(peers) else None
        )

    def _place(self, request: Place, client: Client, _now: float) -> PlaceAnswer:
        content = self.directory.content(request.id)
        peers = content.peers if content is not None else {}
        exclude = frozenset(request.exclude)
        chosen = place(
            self.directory.accepting(),
            peers.keys(),
            request.size,
            request.copies,
            exclude,
            self._host_for(client),
        )
        targets = self._fit(map(_contact, chosen), request, client, _ANSWER_HEAD)
        for target in targets:
            self.directory.on_placed(target.peer)
        return PlaceAnswer(targets=tuple(targets))

    def _stats(self, _request: Stats, client: Client, now: float) -> StatsAnswer:
        totals = self.directory.totals()
        session = self.directory.session(client.session) if client.session is not None else None
        return StatsAnswer(
            version=__version__,
            uptime=int(now - self._started),
            peers=totals.peers,
            contents=totals.contents,
            shares=totals.shares,
            # A peer may announce 100,000 contents of any size, and have nothing of them.
            bytes=min(totals.bytes, COUNT.high),
            sessions=totals.sessions,
            connections=self.connections,
            requests=self._requests,
            user=session.user if session is not None else None,
        )

    # -- rows

    def _host_for(self, client: Client) -> Callable[[PeerRecord], str | None]:
        def host_for(peer: PeerRecord) -> str | None:
            return reachable_host(
                peer.host, peer.advertised if self._trust_advertised else None, client.host, client.reached
            )

        return host_for

    def _fit(self, rows: Iterable[R], request: Request, client: Client, head: int) -> list[R]:
        """As many of the rows, from the first, as the answer may carry beside its `head` bytes, and at least
        one."""
        left = PAGE_BYTES
        if not self.has_session(client):
            # {"op":"list"} and a newline are 14 bytes. Numbers and defaults that were written out do not
            # count.
            left = min(left, AMPLIFY * (encoded_size(request) + len(request.OP) + 8) - head)
        fitting: list[R] = []
        for row in rows:
            left -= encoded_size(cast(Message, row)) + 1
            if left < 0 and fitting:
                break
            fitting.append(row)
        return fitting


def session_key(secret: str) -> str:
    """The digest under which a session is kept, so that a store that is read gives no session away."""
    return hashlib.blake2b(secret.encode(), digest_size=16).hexdigest()


def _check_shares(shares: Sequence[Share]) -> None:
    for at, share in enumerate(shares):
        if share.have > share.size:
            raise ProtocolError("bad_field", f"contents[{at}].have: must be at most its size")
        try:
            check_part(share.name)
        except ProtocolError as error:
            raise ProtocolError("bad_field", f"contents[{at}].name: {error}") from None


def _hit(content: ContentRecord) -> HitRow:
    return HitRow(
        id=content.id, name=content.name, size=content.size, seeds=content.seeds, peers=len(content.peers)
    )


def _contact(choice: Choice) -> Contact:
    peer = choice.peer
    return Contact(peer=peer.id, name=peer.name, host=choice.host, listen=peer.listen, have=choice.have)


def _row(peer: PeerRecord, host: str, now: float) -> PeerRow:
    return PeerRow(
        peer=peer.id,
        name=peer.name,
        user=peer.user,
        host=host,
        listen=peer.listen,
        contents=peer.contents,
        age=max(0, int(now - peer.seen)),
        room=peer.room,
    )
