"""The search for a manifest among those that send it, send it slowly, break off, say nothing, and come
without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.errors import EnjambreError, Unreachable
from p2p.model import MIB
from p2p.peer.manifest_search import MANIFEST_TIME, OVERTIME, PATIENCE, ManifestSearch
from tests.kit import bad_peers as kit
from tests.kit.virtual_time import in_virtual_time

PATIENT = 60.0
SAMPLE = kit.Sample.random("image.bin", 200_000)
STEP = 0.05


class OwnLink:
    """Our own way in, shared by all that send to us, in bytes a second."""

    def __init__(self, rate: float = 1e9) -> None:
        self.rate = rate
        self.sending = 0

    def part(self) -> float:
        """What one of them brings in a step."""
        return self.rate * STEP / max(self.sending, 1)


class FakeLink:
    """A link on which the manifest comes: `size` bytes as they count here, at its own rate; or nothing."""

    def __init__(
        self,
        name: str,
        own: OwnLink,
        *,
        rate: float = 0.0,
        size: int = len(SAMPLE.manifest),
        dialled: bool = False,
    ) -> None:
        self.key = self.name = name
        self.dialled = dialled
        self.wire = SimpleNamespace(session=SimpleNamespace(body_missing=0))
        self.asked = 0
        self.resets_after: float | None = None
        """Seconds of sending after which it breaks off, once."""
        self.gone = asyncio.Event()
        self._own = own
        self._rate = rate
        self._size = size

    async def manifest(self, content: object) -> bytes:
        self.asked += 1
        try:
            async with asyncio.timeout(MANIFEST_TIME):
                await (self._bring() if self._rate else self.gone.wait())
        except TimeoutError as error:
            raise Unreachable(f"{self.name} does not answer") from error
        if self.gone.is_set():
            raise Unreachable(f"connection to {self.name} broke")
        return SAMPLE.manifest

    async def _bring(self) -> None:
        loop = asyncio.get_running_loop()
        missing, began = float(self._size), loop.time()
        self._own.sending += 1
        try:
            while missing > 0 and not self.gone.is_set():
                self.wire.session.body_missing = int(missing) + 1
                await asyncio.sleep(STEP)
                missing -= min(self._own.part(), self._rate * STEP)
                if self.resets_after is not None and loop.time() - began > self.resets_after:
                    self.resets_after = None
                    self.close()
        finally:
            self._own.sending -= 1
            self.wire.session.body_missing = 0

    def close(self) -> None:
        self.gone.set()


class Scene:
    """A search and what it sees: links that are open, and a tracker that names those to be dialled."""

    def __init__(self) -> None:
        self.open: list[FakeLink] = []
        self.named: list[Callable[[], FakeLink]] = []
        self.listed = 1
        self.more = False
        scene: Any = self
        pool: Any = SimpleNamespace(run=self._run)
        self.search = ManifestSearch(SAMPLE.id, scene, pool, scene, lambda phase: None, PATIENT, Random(1))

    @staticmethod
    async def _run(work: Callable[[], object]) -> object:
        return work()

    def all(self) -> list[FakeLink]:
        self.open = [link for link in self.open if not link.gone.is_set()]
        return self.open

    async def look(self) -> None:
        here = {link.key for link in self.all()}
        self.open += [
            link
            for link in (make() for make in self.named)
            if link.key not in here and link.key not in self.search.bad
        ]

    async def settled(self) -> None:
        pass

    def reasons(self) -> list[str]:
        return []

    async def took(self) -> float:
        """Seconds until it is here, or has failed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await self.search.run()
        assert found.data == SAMPLE.manifest
        return loop.time() - began


def test_links_that_come_without_end_and_say_nothing_do_not_keep_a_search_going() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def come() -> None:
            for number in range(10_000):
                scene.open.append(FakeLink(f"silent {number}", own))
                await asyncio.sleep(2.0)

        coming = asyncio.create_task(come())
        with pytest.raises(EnjambreError, match="does not answer"):
            await scene.took()
        coming.cancel()
        assert loop.time() - began < PATIENT + OVERTIME + 5

    in_virtual_time(work)


@pytest.mark.parametrize("dialled", [True, False])
def test_five_hundred_links_that_say_nothing_cost_seconds(dialled: bool) -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [FakeLink(f"silent {number}", own) for number in range(500)]
        scene.open.append(FakeLink("honest", own, rate=1e6, dialled=dialled))
        assert await scene.took() < (2 if dialled else 30)

    in_virtual_time(work)


def test_a_long_manifest_comes_although_many_have_it_and_our_own_link_is_thin() -> None:
    """32 MiB at 10 Mbit/s take 27 seconds, and from four at once two minutes."""

    async def work() -> None:
        scene, own = Scene(), OwnLink(10e6 / 8)
        scene.open = [
            FakeLink(f"honest {number}", own, rate=1e9, size=32 * MIB, dialled=True) for number in range(6)
        ]
        first = scene.open[0]
        assert await scene.took() < MANIFEST_TIME
        assert not first.gone.is_set()
        assert first.asked == 1

    in_virtual_time(work)


def test_a_transfer_that_broke_off_late_may_go_better_another_time() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        links: list[FakeLink] = []

        def dial() -> FakeLink:
            links.append(FakeLink("seed", own, rate=1e6, size=20_000_000, dialled=True))
            links[-1].resets_after = PATIENCE + 5 if len(links) == 1 else None
            return links[-1]

        scene.named = [dial]
        assert await scene.took() < PATIENT
        assert [link.asked for link in links] == [1, 1]
        assert not scene.search.bad

    in_virtual_time(work)


def test_those_that_begin_and_then_send_next_to_nothing_make_room_for_others() -> None:
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.open = [
            FakeLink(f"dripping {number}", own, rate=20.0, size=32 * MIB, dialled=True) for number in range(8)
        ]
        scene.open.append(FakeLink("honest", own, rate=1e6, dialled=True))
        assert await scene.took() < 30
        assert sum(link.gone.is_set() for link in scene.open) <= 8

    in_virtual_time(work)


def test_where_the_tracker_knows_of_more_those_that_say_nothing_are_hung_up_on_and_not_dialled_again() -> (
    None
):
    async def work() -> None:
        scene, own = Scene(), OwnLink()
        scene.more = True
        silent = [FakeLink(f"silent {number}", own, dialled=True) for number in range(40)]
        scene.open = list(silent)
        looks: list[float] = []

        def dial() -> FakeLink:
            looks.append(asyncio.get_running_loop().time())
            return FakeLink("honest" if len(looks) > 1 else "silent 0", own, rate=1e6, dialled=True)

        scene.named = [dial]
        assert await scene.took() < 40
        assert all(link.gone.is_set() for link in silent)
        assert len(scene.search.bad) == 40

    in_virtual_time(work)
