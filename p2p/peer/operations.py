"""What the commands ask of a running peer in several steps: find a content by name, tell all about it, put
copies on other peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final
from unicodedata import normalize

from p2p.content.manifest import parse
from p2p.errors import EnjambreError, NotFound, Refused, Unreachable
from p2p.model import Address, ContentId, Manifest, PeerId, PeerKey
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

PROGRESS_TIME: Final = 0.5
"""Seconds between two reports of how far an upload is."""


class Ambiguous(NotFound):
    """A name fits several contents; `ids` are theirs."""

    code = "ambiguous"

    def __init__(self, name: str, hits: tuple[HitRow, ...]) -> None:
        self.ids = tuple(hit.id for hit in hits)
        super().__init__(
            f"{name!r} is the name of {len(hits)} contents; say which by its id: {', '.join(self.ids)}"
        )


@frozen
class ContentInfo:
    """A manifest, and who has how much of it."""

    id: ContentId
    manifest: Manifest
    hit: HitRow
    sources: tuple[Contact, ...]


async def resolve(tracker: TrackerClient, target: str) -> ContentId:
    """Return the id that a name or an id means. Raises `NotFound`, `Ambiguous`, `Unreachable`, `Refused`."""
    if len(target) == 64 and set(target) <= set("0123456789abcdef"):
        return ContentId(target)
    found: list[HitRow] = []
    wanted = normalize("NFC", target)  # as it is typed; some systems keep names in another form
    async with aclosing(
        tracker.pages(lambda offset: Search(text=target[:200], offset=offset, limit=PAGE), HitsAnswer)
    ) as pages:
        async for _, answer in pages:
            found += [hit for hit in answer.hits if normalize("NFC", hit.name) == wanted]
            if len(found) >= PAGE or (
                found and answer.hits and normalize("NFC", answer.hits[-1].name) != wanted
            ):
                break
    found = [hit for hit in found if hit.name == target] or found
    if not found:
        raise NotFound(f"nobody shares anything called {target!r}")
    if len(found) > 1:
        raise Ambiguous(target, tuple(found))
    return found[0].id


async def info(node: Node, content: ContentId) -> ContentInfo:
    """Bring a content's manifest, and who has how much of it. Raises `NotFound`, `Unreachable`,
    `IntegrityError`."""
    try:
        answer = await node.tracker.expect(Lookup(id=content, peer=node.peer, limit=PAGE), LookupAnswer)
    except Refused as refused:
        if refused.code == "not_found":
            raise NotFound(f"nobody has {content}") from refused
        raise
    manifest = parse(await node.manifest_of(content), content)
    return ContentInfo(content, manifest, answer.content, answer.sources)


async def upload(node: Node, path: Path, copies: int, report: Callable[[Report], None]) -> Uploaded:
    """Share a path and put copies on so many other peers; returns when each has verified its own.

    A peer that refuses or fails is replaced while the tracker knows another. Raises `NotFound` when there are
    not enough.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    shared = await node.share(path)
    tried: set[PeerId] = {node.peer}
    faults: list[str] = []
    done = 0
    while done < copies:
        place = Place(
            id=shared.id,
            size=shared.size,
            copies=min(copies - done, PAGE),
            exclude=tuple(sorted(tried))[:PAGE],
        )
        targets = (await node.tracker.expect(place, PlaceAnswer)).targets
        fresh = [target for target in targets if target.peer not in tried]
        if not fresh:
            why = (
                f": {'; '.join(faults[:4])}"
                if faults
                else ": no other peer that accepts uploads has room for it and lacks it"
            )
            raise NotFound(f"{done} of {copies} copies are made{why}")
        tried.update(target.peer for target in fresh)
        telling = asyncio.create_task(_tell_progress(node, shared, copies, report))
        try:
            results = await asyncio.gather(*(_copy(node, shared, target, report) for target in fresh))
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        for fault in results:
            if fault is None:
                done += 1
            else:
                faults.append(fault)
                report(Warned(fault))
    result = Uploaded(shared.id, done, loop.time() - began, node.sent(shared.id) / max(shared.size, 1))
    report(result)
    return result


async def _until_it_stalls(
    node: Node, content: ContentId, size: int, peer: PeerKey, copying: asyncio.Future[None]
) -> None:
    """Wait for a copy, and raise what it raises; or `Unreachable` when its peer has gained nothing for as
    long as a download may stall.

    To gain is to have more pieces than ever, or to have taken more bytes than ever, up to the `size` of the
    content: who has, has not and has again, or takes the same block for ever, gains nothing. What others take
    does not count.
    """
    loop = asyncio.get_running_loop()
    most, since = (-1, -1), loop.time()
    while not copying.done():
        now = (max(most[0], node.copied(content, peer)), max(most[1], min(node.sent_to(content, peer), size)))
        if now != most:
            most, since = now, loop.time()
        elif loop.time() - since > node.settings.patience:
            raise Unreachable(f"it accepted the copy and gained nothing for {node.settings.patience:g} s")
        await asyncio.wait([copying], timeout=PROGRESS_TIME)
    copying.result()


async def _tell_progress(node: Node, shared: Shared, copies: int, report: Callable[[Report], None]) -> None:
    """Report often how much was sent. The receivers may have some from each other, so less than all may be
    enough."""
    loop = asyncio.get_running_loop()
    began, before = loop.time(), node.sent(shared.id)
    while True:
        sent = node.sent(shared.id)
        rate = (sent - before) / max(loop.time() - began, 1e-3)
        report(Progress("uploading", min(sent, shared.size * copies), shared.size * copies, rate, copies))
        await asyncio.sleep(PROGRESS_TIME)


async def _copy(node: Node, shared: Shared, target: Contact, report: Callable[[Report], None]) -> str | None:
    """Put one copy on one peer; returns None, or why it failed."""
    began = asyncio.get_running_loop().time()
    try:
        if "tcp" not in target.listen:
            return f"{target.name}: has no tcp port"
        link = await node.link_to(target.peer, Address(target.host, target.listen["tcp"]))
        request = Replicate(id=shared.id, name=shared.name, size=shared.size)
        copying = asyncio.ensure_future(link.replicate(request, lambda: report(Placed(target.name))))
        try:
            await _until_it_stalls(node, shared.id, shared.size, link.key, copying)
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
    except EnjambreError as error:
        return f"{target.name}: {error}"
    report(Replicated(target.name, asyncio.get_running_loop().time() - began))
    return None
