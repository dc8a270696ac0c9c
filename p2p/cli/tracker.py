"""`bin/tracker`: opens the store, starts the service and the server on it, and stops them in reverse."""

from __future__ import annotations

import errno
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from p2p.cli.config import TrackerConfig
from p2p.cli.options import Parser, add_version
from p2p.cli.run import Job, Program, finished, run
from p2p.errors import UsageError
from p2p.model import Address

if TYPE_CHECKING:
    from p2p.tracker.server import TrackerServer
    from p2p.tracker.store.interface import TrackerStore

DESCRIPTORS: Final = 24_576
"""As many connections as a server admits, and what else is open."""
EXAMPLES: Final = """\
examples:
  bin/tracker                          serve everybody on port 6969; the directory is kept in the state folder
  bin/tracker --store memory --port 0  forget everything at the end; print the port that was free
  bin/tracker --json --trace -         for programs; every message on standard error

Talk to it by hand: printf '{"op":"stats"}\\n' | nc 127.0.0.1 6969
Exit codes: 0 done, 1 failed, 2 wrong command line, 7 disk; 130, 143 and 129 stopped by Ctrl-C, \
SIGTERM and a hang-up.
"""


def build_parser() -> ArgumentParser:
    """Return the command line of the tracker."""
    parser = Parser(
        prog="tracker",
        description="Knows which peers exist and who has what. No shared byte passes through it.",
        epilog=EXAMPLES,
    )
    add_version(parser)
    TrackerConfig.add_options(parser)
    return parser


async def serve(job: Job[TrackerConfig]) -> int:
    """Run a tracker until it is stopped.

    Raises `UsageError` for a bad address or store, `DiskError` when the store cannot be used.
    """
    import asyncio
    import secrets
    from random import Random

    from p2p.net.descriptors import raise_descriptor_limit
    from p2p.tracker.server import TrackerServer
    from p2p.tracker.service import TrackerService
    from p2p.tracker.store import open_store

    config, console = job.config, job.console
    console.endless()
    raise_descriptor_limit(DESCRIPTORS)
    now = asyncio.get_running_loop().time()
    try:
        store = await open_in_thread(lambda: open_store(config.store, now))
    except UsageError as error:
        # Of its wrong uses only this one has a cause below it: the lock that another tracker holds.
        if error.__cause__ is None:
            raise
        raise UsageError(
            f"a tracker already runs on this machine (store {config.store} is in use); "
            "use it, or give this one another --store and --port"
        ) from error
    try:
        service = TrackerService(
            store.directory,
            Random(secrets.randbits(128)),
            lambda: secrets.token_hex(16),
            ttl=config.ttl,
            trust_advertised=config.trust_advertised,
            started=now,
        )
        server = TrackerServer(service, store, trace=job.trace)
        try:
            addresses = await _listen(server, config)
            console.event(
                {
                    "event": "listening",
                    "host": addresses[0].host,
                    "port": addresses[0].port,
                    "addresses": [str(address) for address in addresses],
                    "store": config.store,
                }
            )
            console.text(f"tracker listens on {', '.join(map(str, addresses))}, store {config.store}")
            await asyncio.Event().wait()
        finally:
            await finished(server.stop())
    finally:
        store.close()
    return 0


async def open_in_thread(open_store: Callable[[], TrackerStore]) -> TrackerStore:
    """Open a store in a thread, so that a stop signal is handled while a large one is loaded.

    When this is cancelled it does not wait for the thread: the process ends, and a store survives that at any
    time while it is opened. Raises what `open_store` raises.
    """
    import asyncio
    from contextlib import suppress
    from threading import Thread

    loop = asyncio.get_running_loop()
    opened: asyncio.Future[TrackerStore] = loop.create_future()

    def work() -> None:
        result: TrackerStore | Exception
        try:
            result = open_store()
        except Exception as error:  # noqa: BLE001  it is raised in the loop
            result = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(on_result, result)

    def on_result(result: TrackerStore | Exception) -> None:
        if isinstance(result, Exception):
            if not opened.done():
                opened.set_exception(result)
        elif opened.done():
            result.close()
        else:
            opened.set_result(result)

    try:
        Thread(target=work, name="open store", daemon=True).start()
    except RuntimeError:  # no thread can be started: then a stop waits for the store
        return open_store()
    return await opened


async def _listen(server: TrackerServer, config: TrackerConfig) -> tuple[Address, ...]:
    try:
        return await server.start(config.host, config.port)
    except UsageError as error:
        if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
            raise
        raise UsageError(
            f"something listens on {Address(config.host, config.port)} already, perhaps a tracker; "
            "use it, or give this one another --port"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tracker with `argv`; return the exit code."""
    return run(Program("tracker", build_parser, TrackerConfig, serve), argv)
