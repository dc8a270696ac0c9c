"""Many clients of one tracker at once: at the end, the last request of each counts (hostile cases 78, 79)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from p2p.errors import Refused
from p2p.model import Address, ContentId, PeerId
from p2p.net.limits import Timeouts
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.tracker_messages import (
    Announce,
    HitsAnswer,
    List,
    Login,
    LoginAnswer,
    Logout,
    Lookup,
    LookupAnswer,
    Search,
    Share,
    Stats,
    StatsAnswer,
    Withdraw,
)
from tests.kit.effort import limit, times
from tests.kit.leaks import contained
from tests.kit.processes import start_tracker

CLIENTS = 64
CONTENT = ContentId("ab" * 32)


class Racer:
    """A client that announces, withdraws, logs out and asks about the same content, and remembers whether it
    has it."""

    def __init__(self, tracker: Address, number: int, seed: int) -> None:
        self.peer = PeerId(f"{number:032x}")
        self.announced = False
        self._logged_in = False
        self._client = TrackerClient(tracker, timeouts=Timeouts(tracker_s=20.0))
        self._rng = random.Random(f"{seed} {number}")

    async def race(self, steps: int) -> None:
        client = self._client
        for _ in range(steps):
            if not self._logged_in:
                login = await client.expect(Login(user="racer"), LoginAnswer)
                client.use_session(login.session)
                self._logged_in = True
            match self._rng.choice(
                ["announce", "announce", "withdraw", "leave", "logout", "search", "list", "lookup"]
            ):
                case "announce":
                    have = self._rng.randint(0, 7)
                    share = Share(id=CONTENT, name=self._rng.choice(["lab.img", "image"]), size=7, have=have)
                    await client.ask(
                        Announce(peer=self.peer, name="racer", listen={"tcp": 7000}, contents=(share,))
                    )
                    self.announced = True
                case "withdraw":
                    await client.ask(Withdraw(peer=self.peer, ids=(CONTENT,)))
                    self.announced = False
                case "leave":
                    await client.ask(Withdraw(peer=self.peer))
                    self.announced = False
                case "logout":
                    await client.ask(Logout())
                    client.use_session(None)
                    self._logged_in = False
                    self.announced = False
                case "search":
                    await client.expect(Search(text="image"), HitsAnswer)
                case "list":
                    await client.expect(List(), HitsAnswer)
                case "lookup":
                    try:
                        await client.expect(Lookup(id=CONTENT), LookupAnswer)
                    except Refused as refused:
                        assert refused.code == "not_found", refused  # noqa: PT017 - others fail

    async def close(self) -> None:
        await self._client.close()


@limit(300)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_case_78_after_a_race_of_64_clients_each_is_where_its_last_request_left_it(
    tmp_path: Path, store: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    where = store if store == "memory" else f"sqlite:{tmp_path / 'store.db'}"

    async def work(address: Address) -> None:
        racers = [Racer(address, number + 1, seed) for number in range(CLIENTS)]
        await asyncio.gather(*(racer.race(times(50)) for racer in racers))
        inside = {racer.peer for racer in racers if racer.announced}
        client = TrackerClient(address)
        stats = await client.expect(Stats(), StatsAnswer)
        assert stats.shares == len(inside)
        listed = (await client.expect(List(), HitsAnswer)).hits
        assert [hit.peers for hit in listed] == ([len(inside)] if inside else [])
        if inside:
            found = await client.expect(Lookup(id=CONTENT, limit=100), LookupAnswer)
            assert {source.peer for source in found.sources} == inside
        await client.close()
        for racer in racers:
            await racer.close()

    with start_tracker(tmp_path, store=where) as tracker:
        contained(lambda: work(Address("127.0.0.1", tracker.port)))
