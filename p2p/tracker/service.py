"""Answers: one request and the time in, one answer out, or `Refused`; no bytes, no sockets, no clock of its
own.

Who may do what: everybody may ask; to announce and to withdraw takes a session. A session belongs to whoever
has its secret, a peer to the session that announced it first, for as long as it lives. Only a digest of the
secret is kept.
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
    Stats,
    StatsAnswer,
    Withdraw,
    WithdrawAnswer,
)
from p2p.tracker.handout import Choice, check_advertised, choose, place, reachable_host
from p2p.tracker.search import Page, rank, terms
from p2p.tracker.store.base import Claim, ContentRecord, PeerRecord, SessionRecord, TrackerStore

PAGE_BYTES: Final = 60_000
"""Most bytes of rows in one answer, so that its line stays under the longest line."""

AMPLIFY: Final = 100
"""Most bytes that a connection without a session gets for each byte it asked with: nobody is worth abusing
this tracker as an amplifier."""

_ANSWER_HEAD: Final = 100
_CONTENT_HEAD: Final = 700

WRITES: Final[frozenset[type[Request]]] = frozenset({Login, Logout, Announce, Withdraw})
"""Requests whose answer promises something, so it may leave only when the store has nothing unsaved."""

R = TypeVar("R", HitRow, Contact, PeerRow)


@dataclass(slots=True)
class Client:
    """What the service knows of one connection: its other side's host, the host by which that side reached
    us, and its session's key.

    Both hosts are canonical. The service sets `session` at `login` and at `hello`.
    """

    host: str
    reached: str
    session: str | None = None


class TrackerService:
    """All answers of a tracker.

    `ttl` is the lease of a peer in seconds, `token` draws a session's secret (32 hex digits), `started` is
    the monotonic time of the start. `connections` is told by whoever holds them.
    """

    def __init__(
        self,
        store: TrackerStore,
        rng: Random,
        token: Callable[[], str],
        *,
        ttl: int = 30,
        trust_advertised: bool = False,
        name: str = f"enjambre {__version__}",
        started: float = 0.0,
    ) -> None:
        self.store = store
        self.ttl = ttl
        self.connections = 0
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

    def handle(self, request: Request, asker: Client, now: float) -> Answer:
        """Answer one request. Raises `Refused`, or `ProtocolError("bad_field")` naming the field; nothing is
        changed then, but for an announce refused with `quota`: the peer itself lives on."""
        self._requests += 1
        if now >= self._due:
            self.expire(now)
        return self._handlers[type(request)](request, asker, now)

    def has_session(self, asker: Client) -> bool:
        """Whether the asker is in a session that is open."""
        return asker.session is not None and self.store.session(asker.session) is not None

    def expire(self, now: float) -> None:
        """Forget peers whose lease is over. Done before every answer that it could change, and each second to
        free memory."""
        self._due = self.store.expire(now, self.ttl)

    # -- sessions
    # ------------------------------------------------------------------------------------------------------------------

    def _hello(self, request: Hello, asker: Client, now: float) -> HelloAnswer:
        if request.version != VERSION:
            raise Refused("unsupported", f"version: this tracker speaks version {VERSION}")
        if request.session is not None:
            key = _digest(request.session)
            if self.store.session(key) is None:
                raise Refused("login_needed", "the session is over or was never opened; log in")
            self.store.touch_session(key, now)
            asker.session = key
        return HelloAnswer(version=VERSION, role="tracker", name=self._name)

    def _ping(self, _request: Ping, _asker: Client, _now: float) -> PingAnswer:
        return PingAnswer()

    def _login(self, request: Login, asker: Client, now: float) -> LoginAnswer:
        secret = self._token()
        key = _digest(secret)
        self.store.put_session(key, request.user, now, asker.host)
        asker.session = key
        return LoginAnswer(session=secret, ttl=self.ttl)

    def _logout(self, _request: Logout, asker: Client, _now: float) -> LogoutAnswer:
        session = self._session(asker)
        gone = self.store.drop_session(session.key)
        asker.session = None
        return LogoutAnswer(peers=gone.peers, contents=gone.pairs)

    def _session(self, asker: Client) -> SessionRecord:
        session = self.store.session(asker.session) if asker.session is not None else None
        if session is None:
            raise Refused("login_needed", "log in first")
        return session

    def _own_peer(self, request: Announce | Withdraw, session: SessionRecord) -> PeerRecord | None:
        peer = self.store.peer(request.peer)
        if peer is not None and peer.session != session.key:
            raise Refused("not_allowed", "peer: belongs to another session")
        return peer

    # -- what peers have
    # -----------------------------------------------------------------------------------------------------------

    def _announce(self, request: Announce, asker: Client, now: float) -> AnnounceAnswer:
        session = self._session(asker)
        peer = self._own_peer(request, session)
        advertised = None
        if request.advertise is not None:
            host = check_advertised(request.advertise)
            advertised = host if self._trust_advertised else None
        claims = _claims(request) if request.contents else ()
        if (
            peer is not None
            and peer.host == asker.host
            and peer.listen == request.listen
            and peer.name == request.name
            and peer.room == request.room
            and peer.advertised == advertised
        ):
            self.store.touch_peer(peer, now)
        else:
            fresh = PeerRecord(
                request.peer,
                session.key,
                request.name,
                session.user,
                asker.host,
                advertised,
                request.listen,
                request.room,
                now,
            )
            self.store.put_peer(fresh)
            peer = peer or fresh
        if claims:
            self.store.put_claims(peer, claims)
        return AnnounceAnswer(ttl=self.ttl, known=peer.contents)

    def _withdraw(self, request: Withdraw, asker: Client, now: float) -> WithdrawAnswer:
        session = self._session(asker)
        peer = self._own_peer(request, session)
        if peer is None:
            return WithdrawAnswer(withdrawn=0)
        if request.ids:
            return WithdrawAnswer(withdrawn=self.store.drop_claims(peer, request.ids))
        withdrawn = self.store.drop_peer(peer)
        self.store.touch_session(session.key, now)
        return WithdrawAnswer(withdrawn=withdrawn)

    # -- questions
    # -----------------------------------------------------------------------------------------------------------------

    def _lookup(self, request: Lookup, asker: Client, _now: float) -> LookupAnswer:
        content = self.store.content(request.id)
        if content is None:
            raise Refused("not_found", "nobody here has this content")
        holders = content.holders
        if request.peer is not None:
            myself = self.store.peer(request.peer)
            if myself in holders:
                holders = {peer: have for peer, have in holders.items() if peer is not myself}
        chosen = choose(holders, content.size, request.limit, self._rng, self._host_for(asker))
        sources = self._fit(map(_source, chosen), request, asker, _CONTENT_HEAD)
        return LookupAnswer(content=_hit(content), sources=tuple(sources))

    def _search(self, request: Search, asker: Client, _now: float) -> HitsAnswer:
        found = self.store.find(terms(request.text))
        return self._hits(rank(found, request.text, request.offset, request.limit), request, asker)

    def _list(self, request: List, asker: Client, _now: float) -> HitsAnswer:
        contents = self.store.contents()
        return self._hits(
            Page(len(contents), contents[request.offset : request.offset + request.limit]), request, asker
        )

    def _hits(self, page: Page, request: Search | List, asker: Client) -> HitsAnswer:
        hits = self._fit(map(_hit, page.hits), request, asker, _ANSWER_HEAD)
        end = request.offset + len(hits)
        return HitsAnswer(total=page.total, hits=tuple(hits), next=end if end < page.total and hits else None)

    def _peers(self, request: Peers, asker: Client, now: float) -> PeersAnswer:
        peers = self.store.peers()
        host_for = self._host_for(asker)
        page = peers[request.offset : request.offset + request.limit]
        # A peer that the asker cannot reach takes a place on the page but is not shown.
        shown = [
            (at, peer, host)
            for at, peer in enumerate(page, request.offset + 1)
            if (host := host_for(peer)) is not None
        ]
        rows = self._fit((_row(peer, host, now) for _, peer, host in shown), request, asker, _ANSWER_HEAD)
        end = request.offset + len(page) if len(rows) == len(shown) else shown[len(rows)][0] - 1
        return PeersAnswer(
            total=len(peers), peers=tuple(rows), next=end if request.offset < end < len(peers) else None
        )

    def _place(self, request: Place, asker: Client, _now: float) -> PlaceAnswer:
        content = self.store.content(request.id)
        holders = content.holders if content is not None else {}
        exclude = frozenset(request.exclude)
        chosen = place(
            self.store.accepting(),
            holders.keys(),
            request.size,
            request.copies,
            exclude,
            self._host_for(asker),
        )
        targets = self._fit(map(_source, chosen), request, asker, _ANSWER_HEAD)
        for target in targets:
            self.store.placed(target.peer)
        return PlaceAnswer(targets=tuple(targets))

    def _stats(self, _request: Stats, asker: Client, now: float) -> StatsAnswer:
        totals = self.store.totals()
        session = self.store.session(asker.session) if asker.session is not None else None
        return StatsAnswer(
            version=__version__,
            uptime=int(now - self._started),
            peers=totals.peers,
            contents=totals.contents,
            shares=totals.pairs,
            bytes=min(
                totals.bytes, COUNT.high
            ),  # a peer may announce 100,000 contents of any size, and have nothing of them
            sessions=totals.sessions,
            connections=self.connections,
            requests=self._requests,
            user=session.user if session is not None else None,
        )

    # -- rows
    # ----------------------------------------------------------------------------------------------------------------------

    def _host_for(self, asker: Client) -> Callable[[PeerRecord], str | None]:
        def host_for(peer: PeerRecord) -> str | None:
            return reachable_host(
                peer.host, peer.advertised if self._trust_advertised else None, asker.host, asker.reached
            )

        return host_for

    def _fit(self, rows: Iterable[R], request: Request, asker: Client, head: int) -> list[R]:
        """As many of the rows, from the first, as the answer may carry beside its `head` bytes; one at
        least."""
        left = PAGE_BYTES
        if not self.has_session(asker):
            # {"op":"list"} and a newline are 14 bytes; of numbers and defaults written out the asker gets
            # nothing.
            left = min(left, AMPLIFY * (encoded_size(request) + len(request.OP) + 8) - head)
        fitting: list[R] = []
        for row in rows:
            left -= encoded_size(cast(Message, row)) + 1
            if left < 0 and fitting:
                break
            fitting.append(row)
        return fitting


def _digest(secret: str) -> str:
    return hashlib.blake2b(secret.encode(), digest_size=16).hexdigest()


def _claims(request: Announce) -> Sequence[Claim]:
    claims = []
    for at, share in enumerate(request.contents):
        if share.have > share.size:
            raise ProtocolError("bad_field", f"contents[{at}].have: must be at most its size")
        try:
            check_part(share.name)
        except ProtocolError as error:
            raise ProtocolError("bad_field", f"contents[{at}].name: {error}") from None
        claims.append(Claim(share.id, share.name, share.size, share.have))
    return claims


def _hit(content: ContentRecord) -> HitRow:
    return HitRow(
        id=content.id, name=content.name, size=content.size, seeds=content.seeds, peers=len(content.holders)
    )


def _source(choice: Choice) -> Contact:
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
