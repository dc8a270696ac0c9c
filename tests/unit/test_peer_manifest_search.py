"""Tests of p2p/peer/manifest_search.py and p2p/peer/hedging.py: a manifest is found among peers that send it,
send it slowly, break off, say nothing, and come without end. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.errors import EnjambreError, IntegrityError, NotFound, Refused, Unreachable
from p2p.model import MIB, PeerKey
from p2p.peer.hedging import Hedging, Offer, SearchLimits
from p2p.peer.manifest_search import ManifestSearch
from tests.kit import bad_peers as kit
from tests.kit.virtual_time import in_virtual_time

PATIENCE = 60.0
LIMITS = SearchLimits()
SAMPLE = kit.Sample.random("image.bin", 200_000)
STEP = 0.05


class OwnLink:
    """This side's link, shared by all that send to it, in bytes a second."""

    def __init__(self, rate: float = 1e9) -> None:
        self.rate = rate
        self.sending = 0

    def part(self) -> float:
        """Bytes that one sender brings in a step."""
        return self.rate * STEP / max(self.sending, 1)


class FakeConnection:
    """A connection on which the manifest comes, at its own rate and as if it had `size` bytes; at rate 0,
    nothing."""

    def __init__(
        self,
        name: str,
        own: OwnLink,
        *,
        host: str | None = None,
        rate: float = 0.0,
        size: int = len(SAMPLE.manifest),
        dialled: bool = False,
        data: bytes | Exception = SAMPLE.manifest,
    ) -> None:
        self.key = PeerKey(name)
        self.name = name
        self.host = host or name
        self.dialled = dialled
        self.wire = SimpleNamespace(session=SimpleNamespace(body_missing=0))
        self.asked: list[float] = []
        self.breaks_after: float | None = None
        """Seconds of sending after which it breaks off, once."""
        self.closed = asyncio.Event()
        self._own = own
        self._rate = rate
        self._size = size
        self._data = data

    async def manifest(self, content: object) -> bytes:
        self.asked.append(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(LIMITS.whole):
                await (self._bring() if self._rate else self.closed.wait())
        except TimeoutError as error:
            raise Unreachable(f"{self.name} does not answer") from error
        if self.closed.is_set():
            raise Unreachable(f"connection to {self.name} broke")
        if isinstance(self._data, Exception):
            raise self._data
        return self._data

    async def _bring(self) -> None:
        loop = asyncio.get_running_loop()
        missing, began = float(self._size), loop.time()
        self._own.sending += 1
        try:
            while missing > 0 and not self.closed.is_set():
                self.wire.session.body_missing = int(missing) + 1
                await asyncio.sleep(STEP)
                missing -= min(self._own.part(), self._rate * STEP)
                if self.breaks_after is not None and loop.time() - began > self.breaks_after:
                    self.breaks_after = None
                    self.close()
        finally:
            self._own.sending -= 1
            self.wire.session.body_missing = 0

    def close(self) -> None:
        self.closed.set()


class Scene:
    """A search and what it sees: open connections, and a finder that opens more at each lookup."""

    def __init__(self) -> None:
        self.open: list[FakeConnection] = []
        self.dialled: list[Callable[[], FakeConnection]] = []
        """What each lookup opens, unless a connection of that name is open."""
        self.lookups = 0
        self.faults: dict[int, Exception] = {}
        """What each lookup raises, by its number."""
        self.listed: int | None = 1
        self.more = False
        self.dials: list[asyncio.Task[None]] = []
        self.phases: list[str] = []
        scene: Any = self
        pool: Any = SimpleNamespace(run=self._run)
        self.search = ManifestSearch(
            SAMPLE.id, scene, pool, scene, self.phases.append, PATIENCE, Random(1), LIMITS
        )

    @staticmethod
    async def _run(work: Callable[[], object]) -> object:
        return work()

    def all(self) -> list[FakeConnection]:
        self.open = [connection for connection in self.open if not connection.closed.is_set()]
        return self.open

    async def look(self) -> None:
        self.lookups += 1
        if self.lookups in self.faults:
            raise self.faults[self.lookups]
        here = {connection.key for connection in self.all()} | self.search.bad.keys()
        self.open += [made for made in (dial() for dial in self.dialled) if made.key not in here]

    def reasons(self) -> list[str]:
        return []

    async def took(self, first: FakeConnection | None = None) -> float:
        """Return the seconds until the manifest is here. Raises what the search does."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        given: Any = first
        found = await self.search.run(given)
        assert found.data == SAMPLE.manifest
        return loop.time() - began


# -- peers that are asked in turn


def test_a_connected_peer_is_asked_at_once_and_alone() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [FakeConnection(f"seed {number}", own, rate=1e9, dialled=True) for number in range(3)]
        assert await scene.took() < 2 * STEP
        assert sum(len(connection.asked) for connection in scene.open) == 1
        assert scene.phases == ["searching", "connecting"]

    in_virtual_time(work)


def test_a_peer_that_is_connected_later_is_asked_when_its_dial_ends() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()

        async def dial() -> None:
            await asyncio.sleep(0.123)
            scene.open.append(FakeConnection("seed", own, rate=1e9, dialled=True))
            scene.dials.clear()

        scene.dials.append(asyncio.create_task(dial()))
        assert await scene.took() < 0.123 + 2 * STEP

    in_virtual_time(work)


def test_a_peer_that_sends_nothing_is_hedged_and_the_next_ones_too() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [FakeConnection(f"silent {number}", own, dialled=True) for number in range(3)]
        scene.open.append(FakeConnection("seed", own, rate=1e9))
        assert await scene.took() < 3 * LIMITS.hedge + 0.2
        times = sorted(time for connection in scene.open for time in connection.asked)
        assert [round((time - times[0]) / LIMITS.hedge) for time in times] == [0, 1, 2, 3]

    in_virtual_time(work)


def test_a_peer_that_refuses_is_followed_at_once_and_asked_again_after_a_lookup() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        busy = FakeConnection("busy", own, rate=1e9, dialled=True, data=Refused("busy", "later"))
        scene.open = [busy]
        with pytest.raises(Unreachable, match="busy: later"):
            await scene.took()
        assert len(busy.asked) == LIMITS.tries
        assert scene.lookups == LIMITS.tries

    in_virtual_time(work)


def test_the_first_peer_is_asked_before_any_lookup_and_others_if_it_fails() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        assert await scene.took(FakeConnection("uploader", own, rate=1e9)) < 2 * STEP
        assert scene.lookups == 0
        scene.open = [FakeConnection("seed", own, rate=1e9)]
        await scene.took(FakeConnection("uploader", own, rate=1e9, data=Refused("not_found", "gone")))
        assert scene.lookups == 1

    in_virtual_time(work)


def test_a_forged_manifest_counts_against_its_sender_only() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        forged = IntegrityError("not what the id says")
        forger = FakeConnection("forger", own, rate=1e9, dialled=True, data=forged)
        scene.open = [forger]
        with pytest.raises(IntegrityError, match="no peer has a manifest that matches the id: forger"):
            await scene.took()
        assert len(forger.asked) == 1
        assert set(scene.search.bad) == {forger.key}
        scene.open = [forger, FakeConnection("seed", own, rate=1e9)]
        await scene.took()

    in_virtual_time(work)


# -- lookups


def test_an_error_of_the_first_lookup_ends_the_search_and_a_later_one_waits() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.faults = {1: NotFound("no peer has it")}
        with pytest.raises(NotFound):
            await scene.took()
        scene = Scene()
        scene.faults = {2: Unreachable("the tracker is away")}
        scene.open = [FakeConnection("seed", own, rate=1e6, size=5 * MIB)]
        assert await scene.took() > 5, "what comes is waited for"
        scene = Scene()
        scene.faults = {2: Unreachable("the tracker is away")}
        with pytest.raises(Unreachable, match="tracker"):
            await scene.took()

    in_virtual_time(work)


def test_a_search_without_listed_peers_fails_at_once() -> None:
    async def work() -> None:
        scene = Scene()
        scene.listed = 0
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable, match="none is listed"):
            await scene.took()
        assert asyncio.get_running_loop().time() == began

    in_virtual_time(work)


def test_lookups_go_on_while_the_tracker_knows_more_peers() -> None:
    """The honest seed is named late, and those that were named before say nothing."""

    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.more = True
        scene.open = [FakeConnection(f"silent {number}", own, dialled=True) for number in range(40)]

        def dial() -> FakeConnection:
            name, rate = ("honest", 1e6) if scene.lookups > 6 else ("silent 0", 0.0)
            return FakeConnection(name, own, rate=rate, dialled=True)

        scene.dialled = [dial]
        assert await scene.took() < 6 * LIMITS.pause + LIMITS.hedge + 41 * LIMITS.hedge

    in_virtual_time(work)


def test_a_transfer_that_broke_off_late_is_tried_again() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        made: list[FakeConnection] = []

        def dial() -> FakeConnection:
            seed = FakeConnection("seed", own, rate=1e6, size=20_000_000, dialled=True)
            seed.breaks_after = LIMITS.turn + 5 if not made else None
            if not any(connection.key == seed.key for connection in scene.all()):
                made.append(seed)
            return seed

        scene.dialled = [dial]
        assert await scene.took() < PATIENCE
        assert [len(connection.asked) for connection in made] == [1, 1]
        assert not scene.search.bad

    in_virtual_time(work)


# -- peers that keep others waiting


def test_silent_connections_without_end_do_not_keep_a_search_going() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def come() -> None:
            for number in range(10_000):
                scene.open.append(FakeConnection(f"silent {number}", own))
                await asyncio.sleep(2.0)

        coming = asyncio.create_task(come())
        with pytest.raises(EnjambreError, match="does not answer"):
            await scene.took()
        coming.cancel()
        assert loop.time() - began < PATIENCE + 1

    in_virtual_time(work)


@pytest.mark.parametrize("dialled", [True, False])
def test_five_hundred_silent_connections_of_few_hosts_cost_seconds(dialled: bool) -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [FakeConnection(f"silent {n}", own, host=f"hostile {n % 3}") for n in range(500)]
        scene.open.append(FakeConnection("honest", own, rate=1e6, dialled=dialled))
        assert await scene.took() < 2

    in_virtual_time(work)


def test_a_long_manifest_comes_over_a_thin_link_although_many_peers_have_it() -> None:
    """32 MiB at 10 Mbit/s take 27 seconds, and from four at once two minutes."""

    async def work() -> None:
        scene, own = Scene(), OwnLink(10e6 / 8)
        scene.open = [
            FakeConnection(f"honest {number}", own, rate=1e9, size=32 * MIB, dialled=True)
            for number in range(6)
        ]
        assert await scene.took() < LIMITS.whole

    in_virtual_time(work)


@pytest.mark.parametrize(("rate", "size"), [(20.0, 32 * MIB), (20_000.0, 1_000_000)])
def test_slow_senders_of_a_few_hosts_make_room_for_others(rate: float, size: int) -> None:
    """Those that send next to nothing, and those that send just fast enough to be in time."""

    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [
            FakeConnection(f"slow {n}", own, host=f"hostile {n % 4}", rate=rate, size=size, dialled=True)
            for n in range(40)
        ]
        scene.open.append(FakeConnection("honest", own, rate=1e6))
        assert await scene.took() < 4 * LIMITS.turn

    in_virtual_time(work)


def test_a_slow_seed_that_is_the_only_one_is_waited_for() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [FakeConnection("slow", own, rate=5_000.0, size=280_000)]
        assert 50 < await scene.took() < LIMITS.whole

    in_virtual_time(work)


# -- decisions alone


def test_senders_beyond_the_limit_are_given_up_at_once() -> None:
    """Peers that sent nothing for long may begin all at once."""
    hedging = Hedging(LIMITS, Random(1))
    peers = [PeerKey(f"{number}") for number in range(LIMITS.senders + 2)]
    for number, peer in enumerate(peers):
        assert hedging.next([Offer(peer, f"host {peer}", dialled=True)], float(number))
    for at, missing in ((50.0, 1000), (50.5, 999)):
        for peer in peers:
            hedging.on_missing(peer, missing, at)
    assert len(hedging.to_give_up(51.0, others_wait=False)) == 2


def test_one_request_more_waits_for_a_hedge_or_for_the_end_of_another() -> None:
    hedging = Hedging(LIMITS, Random(1))
    offers = [Offer(PeerKey(f"{number}"), "host", dialled=True) for number in range(3)]
    first = hedging.next(offers, 0.0)
    assert first is not None
    assert hedging.next(offers, 0.4) is None
    assert hedging.pause(0.4) == pytest.approx(0.1)
    assert hedging.next(offers, 0.5) is not None
    hedging.on_ended(first.peer)
    assert hedging.next(offers, 0.6) is not None


def test_the_next_peer_is_of_the_host_asked_least_and_then_one_that_we_dialled() -> None:
    hedging = Hedging(LIMITS, Random(1))
    came = [Offer(PeerKey(f"came {number}"), "busy host", dialled=False) for number in range(9)]
    dialled = Offer(PeerKey("dialled"), "busy host", dialled=True)
    other = Offer(PeerKey("other"), "other host", dialled=False)
    assert hedging.next([*came, dialled], 0.0) == dialled
    assert hedging.next([*came, other], 1.0) == other
