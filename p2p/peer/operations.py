"""What a command does with a running peer in several steps: find a content by name, describe it, put copies
of it on other peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final
from unicodedata import normalize

from p2p.content.manifest import parse
from p2p.content.uri import content_id
from p2p.errors import EnjambreError, NotFound, Refused, Unreachable
from p2p.model import Address, ContentId, Manifest, PeerId
from p2p.peer.control import ControlConnection
from p2p.peer.copy_stall import CopyStall
from p2p.peer.node import Node
from p2p.peer.reports import Placed, Progress, Replicated, Report, Shared, Uploaded, Warned
from p2p.peer.tracker_client import TrackerClient
from p2p.protocol.peer_messages import PAGE, Replicate
from p2p.protocol.tracker_messages import (
    Contact,
    HitRow,
    HitsAnswer,
    Lookup,
    LookupAnswer,
    Place,
    PlaceAnswer,
    Search,
)
from p2p.value import frozen

PROGRESS_INTERVAL_S: Final = 0.5
"""Between two reports of how far an upload is, and between two looks for a stalled copy."""
FAULTS_SHOWN: Final = 4
MAX_SEARCH: Final = 200
"""Characters of a name that the tracker is asked for. They are enough to find it, and always fit."""


class Ambiguous(NotFound):
    """A name fits several contents. `ids` are theirs."""

    code = "ambiguous"

    def __init__(self, name: str, hits: list[HitRow]) -> None:
        self.ids = tuple(hit.id for hit in hits)
        super().__init__(
            f"{name!r} is the name of {len(hits)} contents; say which by its id: {', '.join(self.ids)}"
        )


@frozen
class ContentInfo:
    """A manifest, and the peers that have some of it."""

    id: ContentId
    manifest: Manifest
    hit: HitRow
    sources: tuple[Contact, ...]


async def resolve(tracker: TrackerClient, target: str) -> ContentId:
    """Return the id that a name or an id means. Raises `NotFound`, `Ambiguous`, `Unreachable`, `Refused`."""
    if (content := content_id(target)) is not None:
        return content
    alike = await _hits_named(tracker, target)
    hits = [hit for hit in alike if hit.name == target] or alike
    if not hits:
        raise NotFound(f"nobody shares anything called {target!r}")
    if len(hits) > 1:
        raise Ambiguous(target, hits)
    return hits[0].id


async def _hits_named(tracker: TrackerClient, name: str) -> list[HitRow]:
    """Return the contents of a name in any Unicode form: some file systems keep another than is typed."""
    wanted = normalize("NFC", name)
    hits: list[HitRow] = []
    async with aclosing(
        tracker.pages(lambda offset: Search(text=name[:MAX_SEARCH], offset=offset, limit=PAGE), HitsAnswer)
    ) as pages:
        async for _, answer in pages:
            hits += [hit for hit in answer.hits if normalize("NFC", hit.name) == wanted]
            # The tracker lists the best matches first. Behind them no page brings this name again.
            if len(hits) >= PAGE or (
                hits and answer.hits and normalize("NFC", answer.hits[-1].name) != wanted
            ):
                break
    return hits


async def info(node: Node, content: ContentId) -> ContentInfo:
    """Return a content's manifest and its peers.

    Raises `NotFound`, `Unreachable`, `IntegrityError`, `Refused`.
    """
    try:
        answer = await node.tracker.expect(Lookup(id=content, peer=node.peer, limit=PAGE), LookupAnswer)
    except Refused as refused:
        if refused.code == "not_found":
            raise NotFound(f"nobody has {content}") from refused
        raise
    manifest = parse(await node.manifest_of(content), content)
    return ContentInfo(content, manifest, answer.content, answer.sources)


async def upload(
    node: Node,
    path: Path,
    copies: int,
    report: Callable[[Report], None],
    clock: Callable[[], float] | None = None,
) -> Uploaded:
    """Share a path and put copies of it on other peers. Return when `copies` of them have verified theirs.

    A peer that refuses or fails is replaced while the tracker knows another one. `clock` gives seconds
    (default: the loop's). Raises `NotFound` when there are not enough peers, `DiskError`, `Unreachable` and
    `Refused`.
    """
    clock = clock or asyncio.get_running_loop().time
    began = clock()
    shared = await node.share(path)
    verified = await Placement(node, shared, copies, report, clock).run()
    origin_copies = node.sent(shared.id) / max(shared.size, 1)
    result = Uploaded(shared.id, verified, clock() - began, origin_copies)
    report(result)
    return result


class Placement:
    """Puts copies of one shared content on other peers, as many at once as are still missing."""

    def __init__(
        self,
        node: Node,
        shared: Shared,
        copies: int,
        report: Callable[[Report], None],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._shared = shared
        self._copies = copies
        self._report = report
        self._clock = clock
        self._tried: set[PeerId] = {node.peer}
        self._faults: list[str] = []

    async def run(self) -> int:
        """Return how many peers have verified a copy. Raises `NotFound`, `Unreachable`, `Refused`."""
        verified = 0
        while verified < self._copies:
            targets = await self._next_targets(self._copies - verified)
            if not targets:
                raise NotFound(f"{verified} of {self._copies} copies are made: {self._why_no_more()}")
            for fault in await self._copy_to_all(targets):
                if fault is None:
                    verified += 1
                else:
                    self._faults.append(fault)
                    self._report(Warned(fault))
        return verified

    def _why_no_more(self) -> str:
        if not self._faults:
            return "no other peer that accepts uploads has room for it and lacks it"
        return "; ".join(self._faults[:FAULTS_SHOWN])

    async def _next_targets(self, count: int) -> list[Contact]:
        """Ask the tracker for peers that will take a copy; leave out those that were tried."""
        place = Place(
            id=self._shared.id,
            size=self._shared.size,
            copies=min(count, PAGE),
            exclude=tuple(sorted(self._tried))[:PAGE],
        )
        answer = await self._node.tracker.expect(place, PlaceAnswer)
        targets = [target for target in answer.targets if target.peer not in self._tried]
        self._tried.update(target.peer for target in targets)
        return targets

    async def _copy_to_all(self, targets: list[Contact]) -> list[str | None]:
        """Put a copy on each target. Return for each None, or why it failed."""
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report_progress())
            copying = [group.create_task(self.copy_to(target)) for target in targets]
            await asyncio.wait(copying)
            reporting.cancel()
        return [task.result() for task in copying]

    async def _report_progress(self) -> None:
        """Report how much was sent, until cancelled.

        The receivers may fetch some pieces from each other, so less than all may be enough.
        """
        node, content, size = self._node, self._shared.id, self._shared.size * self._copies
        began, sent_before = self._clock(), node.sent(content)
        while True:
            sent = node.sent(content)
            rate = (sent - sent_before) / max(self._clock() - began, 1e-3)
            self._report(Progress("uploading", min(sent, size), size, rate, self._copies))
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    async def copy_to(self, target: Contact) -> str | None:
        """Put one copy on one peer. Return None, or why it failed."""
        began = self._clock()
        try:
            if "tcp" not in target.listen:
                return f"{target.name}: has no tcp port"
            address = Address(target.host, target.listen["tcp"])
            connection = await self._node.link_to(target.peer, address)
            await self._replicate(connection, target.name)
        except EnjambreError as error:
            return f"{target.name}: {error}"
        self._report(Replicated(target.name, self._clock() - began))
        return None

    async def _replicate(self, connection: ControlConnection, name: str) -> None:
        """Ask a peer for a copy, and wait until it has verified it.

        Raises what the peer answers, and `Unreachable` when its copy has stalled.
        """
        node, shared, key = self._node, self._shared, connection.key
        timeout_s = node.settings.patience
        request = Replicate(id=shared.id, name=shared.name, size=shared.size)
        copying = asyncio.ensure_future(connection.replicate(request, lambda: self._report(Placed(name))))
        stall = CopyStall(shared.size, timeout_s, self._clock())
        try:
            while not copying.done():
                pieces, sent = node.copied(shared.id, key), node.sent_to(shared.id, key)
                if stall.stalled(pieces, sent, self._clock()):
                    raise Unreachable(f"it accepted the copy and gained nothing for {timeout_s:g} s")
                await asyncio.wait([copying], timeout=PROGRESS_INTERVAL_S)
            copying.result()
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
