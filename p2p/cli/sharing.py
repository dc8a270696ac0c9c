"""The commands that run a peer: `serve`, `share`, `info`, `download`, `upload`. What a peer reports is
printed; nothing is decided here."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import transports
from p2p.cli.common import Job, finished, named_path
from p2p.cli.config import DEFAULT_PEER_PORT, DEFAULT_TRACKER_PORT, PeerConfig, check_text
from p2p.cli.console import Console
from p2p.cli.events import event_of, manifest_events
from p2p.cli.render import amount_from, count_text, percent, rate_text, size_text, table, time_text
from p2p.content.uri import Uri, content_id, is_link, parse_link
from p2p.errors import UsageError
from p2p.model import Address
from p2p.net.descriptors import raise_descriptor_limit
from p2p.peer import operations as errands
from p2p.peer.node import Node, NodeSettings
from p2p.peer.reports import (
    Downloaded,
    Listening,
    ManifestKnown,
    Placed,
    Progress,
    Received,
    Replicated,
    Report,
    SessionChanged,
    Shared,
    Uploaded,
    Warned,
    Withdrawn,
)
from p2p.storage.disk import disk_error

Work = Job[PeerConfig]

DESCRIPTORS: Final = 4096
"""What a peer may have open: a full door for each transport, links, lanes and files."""
FILES_SHOWN: Final = 1000
"""Most files that `info` lists for people; programs get them all."""


class Reporter:
    """Prints what a peer reports, each report once."""

    def __init__(
        self, console: Console, config: PeerConfig, link_tracker: Address | None, *, talks: bool
    ) -> None:
        """`link_tracker` is what links name; `talks` says that being a peer is the whole command, so that
        people want to read of it."""
        self._console = console
        self._config = config
        self._link_tracker = link_tracker
        self._talks = talks

    def __call__(self, report: Report) -> None:
        console = self._console
        match report:
            case Progress():
                console.progress(report)
            case Warned():
                console.warning(report.message)
            case Downloaded() | Uploaded():
                pass  # the command itself prints how it ended
            case Shared():
                console.end_progress()
                link = str(Uri(report.id, self._link_tracker, report.name)) if self._link_tracker else None
                console.event({**event_of(report), **({"link": link} if link else {})})
                if self._talks:
                    # Shells eat the ? and & of a link; it never holds a quote itself.
                    console.text(
                        f"shared {report.name} ({size_text(report.size)})",
                        f'  get it with: {_program()} download "{link or report.id}"',
                    )
            case _:
                self._other(report)

    def _other(self, report: Report) -> None:
        console = self._console
        console.event(event_of(report))
        if (
            self._talks
            or isinstance(report, Placed | Replicated)
            or (isinstance(report, SessionChanged) and report.state in ("lost", "resumed"))
        ):
            self._tell(report)

    def _tell(self, report: Report) -> None:
        console, config = self._console, self._config
        match report:
            case Listening():
                ports = ", ".join(f"{name} {port}" for name, port in sorted(report.transports.items()))
                console.text(f"{config.name} listens on {report.address} ({ports}), tracker {config.tracker}")
            case Withdrawn():
                console.text(f"no longer shared: {report.name}  {report.id}")
            case Received():
                console.text(
                    f"received {report.name} ({size_text(report.size)}) from {report.peer}  {report.id}"
                )
            case SessionChanged(state="resumed"):
                console.note(f"tracker {config.tracker} is back")
            case Placed():
                console.text(f"{report.peer} takes a copy")
            case Replicated():
                console.text(f"{report.peer} has verified its copy after {time_text(report.seconds)}")
            case ManifestKnown():
                console.text(
                    f"{report.name}: {size_text(report.size)} in {count_text(report.pieces, 'piece')}"
                )


def _program() -> str:
    """What a person types to start a peer: the installed command, or the script of a checkout."""
    name = Path(sys.argv[0]).name
    return name if name == "p2p-peer" else "bin/peer"


@asynccontextmanager
async def _peer(
    job: Work, *, folder: Path | None = None, link_tracker: Address | None = None
) -> AsyncIterator[Node]:
    """A peer that leaves the directory and closes everything at the end."""
    config = job.config
    settings = NodeSettings(
        name=config.name,
        host=config.host,
        port=DEFAULT_PEER_PORT if config.port is None else config.port,
        port_is_fixed=config.port is not None,
        advertise=config.advertise,
        tracker=config.tracker,
        transport=config.transport,
        state=config.state,
        accept_uploads=config.accept_uploads,
        folder=folder,
        limit_down=config.limit,
        limit_up=config.limit_up,
        patience=config.patience,
        portable=config.portable,
        user=config.user,
        hash_name=config.hash_name,
        rehash=config.rehash,
    )
    reporter = Reporter(job.console, config, link_tracker, talks=link_tracker is not None)
    # gRPC's core writes each lost connection to standard error in its own words; what matters of it is told
    # by us.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    raise_descriptor_limit(DESCRIPTORS)
    node = Node(settings, transports.load, reporter, job.trace, job.note)
    try:
        yield node
    finally:
        await finished(node.stop())


async def serve(job: Work) -> int:
    """`serve DIR`. Raises `UsageError` when there is no such folder, and what ended the session when somebody
    else did.

    Where others may put copies there need not be anything yet: then the folder is made. Raises `DiskError`
    when it cannot be.
    """
    job.console.endless()
    folder = _folder(job)
    job.console.phase("connecting")
    async with _peer(job, folder=folder, link_tracker=await _tracker_for_others(job, warn=False)) as node:
        await node.start()
        job.console.end_progress()
        await _until_ended(node, node.watch(folder, _told_once(job.console)))
    return 0


async def share(job: Work) -> int:
    """`share PATH…`. Raises `UsageError` for a path that is not there, and what ended the session when
    somebody else did."""
    job.console.endless()
    paths = [named_path(text) for text in job.words.paths]
    job.console.phase("connecting")
    # To hand out links is what this command is for, so it is said when they are of no use to others.
    async with _peer(job, link_tracker=await _tracker_for_others(job, warn=True)) as node:
        await node.start()
        job.console.end_progress()
        await _until_ended(node, node.watch_paths(paths, _told_once(job.console)))
    return 0


async def download(job: Work) -> int:
    """`download TARGET`. Raises `NotFound`, `IntegrityError`, `Unreachable`, `Refused`, `DiskError`."""
    job, target = _aimed(job)
    config, console = job.config, job.console
    async with _peer(job) as node:
        try:
            console.progress(_phase("connecting"))
            await node.start(require_tracker=True)
            console.progress(_phase("searching"))
            content = await errands.resolve(node.tracker, target)
            done = await node.download(content, config.output, overwrite=config.overwrite, keep=config.seed)
        except asyncio.CancelledError:
            console.note("stopped; the same command goes on from here")
            raise
        fetched = sum(done.bytes_from.values())
        rate = fetched / done.seconds if done.seconds > 0 else 0.0
        console.end_progress()
        console.event(event_of(Progress("downloading", done.size, done.size, rate, len(done.bytes_from))))
        console.event(event_of(done))
        pace = f", {rate_text(rate)}" if fetched else ""
        console.text(f"saved {done.path}: {size_text(done.size)} in {time_text(done.seconds)}{pace}")
        if fetched < done.size:
            console.text(f"  {size_text(fetched)} fetched, {size_text(done.size - fetched)} were here")
        if done.bytes_from:
            console.text(f"  from {count_text(len(done.bytes_from), 'peer')}: {amount_from(done.bytes_from)}")
        if config.seed:
            console.text("serving it to others until you press Ctrl-C")
            console.endless()
            raise await node.ended()
    return 0


async def info(job: Work) -> int:
    """`info TARGET`. Raises `NotFound`, `Unreachable`, `Refused`."""
    job, target = _aimed(job)
    console = job.console
    async with _peer(job) as node:
        console.progress(_phase("connecting"))
        await node.start(announce=False)
        console.progress(_phase("searching"))
        found = await errands.info(node, await errands.resolve(node.tracker, target))
    console.end_progress()
    manifest = found.manifest
    for event in manifest_events(found.id, manifest):
        console.event(event)
    for source in found.sources:
        console.event(
            {
                "event": "peer",
                "name": source.name,
                "host": source.host,
                "transports": source.listen,
                "have": source.have,
            }
        )
    console.text(
        f"{manifest.name} ({manifest.kind}): {size_text(manifest.size)}, {count_text(len(manifest.files), 'file')}",
        f"  id      {found.id}",
        f"  pieces  {len(manifest.pieces)} of {size_text(manifest.piece_length)}, {manifest.hash_name}",
    )
    console.text(
        "",
        *table(
            ("SIZE", "FILE"),
            [(size_text(entry.size), entry.path) for entry in manifest.files[:FILES_SHOWN]],
            "r",
        ),
    )
    if len(manifest.files) > FILES_SHOWN:
        console.text(f"and {len(manifest.files) - FILES_SHOWN} more")
    rows = [
        (
            source.name,
            str(Address(source.host, source.listen.get("tcp", 0))),
            f"{percent(source.have, manifest.size)}%",
        )
        for source in found.sources
    ]
    console.text("", *table(("PEER", "ADDRESS", "HAS"), rows, "  r"))
    return 0


async def upload(job: Work) -> int:
    """`upload PATH`. Raises `UsageError` for a path that is not there, `Refused` when too few peers accept,
    `Unreachable`."""
    path = named_path(job.words.path)
    console = job.console
    async with _peer(job) as node:
        console.progress(_phase("connecting"))
        await node.start(require_tracker=True)
        done = await errands.upload(
            node, path, job.config.copies, Reporter(console, job.config, None, talks=False)
        )
        console.end_progress()
        console.event(event_of(done))
        console.text(
            f"{count_text(done.copies, 'copy', 'copies')} of {path.name} verified in {time_text(done.seconds)}; "
            f"{done.origin_copies:.2f} of its size was sent from here",
            f"  id {done.id}",
        )
    return 0


def _phase(name: str) -> Progress:
    return Progress(name, 0, 0, 0.0, 0)


def _folder(job: Work) -> Path:
    if not job.words.dir:
        raise UsageError("DIR: must not be empty")
    folder = Path(job.words.dir)
    try:
        there = folder.is_dir() or folder.exists()
    except OSError as error:
        raise disk_error(error, "share", folder) from error
    if there and folder.is_dir():
        return folder
    if there:
        raise UsageError(f"{folder} is a file; share it with: peer share {shlex.quote(str(folder))}")
    if not job.config.accept_uploads:
        raise UsageError(f"{folder}: no such folder")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise disk_error(error, "make", folder) from error
    return folder


def _told_once(console: Console) -> Callable[[], None]:
    """Called after each look at what is shared, says after the first that there is no end to wait for."""
    left = ["sharing until you press Ctrl-C"]

    def looked() -> None:
        if left:
            console.text(left.pop())

    return looked


async def _until_ended(node: Node, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, which ends only when cancelled or failing, until the session is ended by somebody else;
    raises why."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(node.ended())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
        if tasks[1].done() and (error := tasks[1].result()) is not None:
            raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _aimed(job: Work) -> tuple[Work, str]:
    """What to fetch, and the job with the tracker to ask: a link brings its own, unless another was named."""
    target: str = job.words.target
    if not is_link(target):
        return job, content_id(target) or check_text(target, "TARGET")
    link = parse_link(target, DEFAULT_TRACKER_PORT)
    named = hasattr(job.words, "tracker") or bool(os.environ.get("P2P_TRACKER"))
    if link.tracker is not None and not named:
        job = replace(job, config=replace(job.config, tracker=link.tracker))
    return job, link.id


async def _tracker_for_others(job: Work, *, warn: bool) -> Address:
    """The tracker's address as others can use it, for links; with `warn`, people are told when it is of no
    use to others.

    Behind a loopback address it is this machine, so others need this machine's own address, if the tracker
    listens there too.
    """
    tracker, console = job.config.tracker, job.console
    if not _is_loopback(tracker.host):
        return tracker
    host = _own_host()
    if host is None:
        if warn:
            console.warning(
                f"the links work on this machine only: it has no network, and its tracker is {tracker}"
            )
        return tracker
    outside = Address(host, tracker.port)
    if await _answers(tracker) and not await _answers(outside):
        if warn:
            console.warning(
                f"the links work on this machine only: the tracker does not listen on {outside}; start it with --host 0.0.0.0"
            )
        return tracker
    return outside


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _own_host() -> str | None:
    """This machine's address towards other networks, found without sending anything: to connect a datagram
    socket only picks a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            host: str = probe.getsockname()[0]
        except OSError:
            return None
    return None if _is_loopback(host) or host == "0.0.0.0" else host


async def _answers(address: Address) -> bool:
    """Whether something listens at an address of this machine."""
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
