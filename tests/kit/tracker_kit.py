"""A tracker on real sockets in a thread of this process, and clients that speak lines to it."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from p2p.model import Address
from p2p.tracker.limits import TrackerLimits, TrackerTimeouts
from p2p.tracker.server import TrackerServer
from p2p.tracker.service import TrackerService
from p2p.tracker.store.interface import TrackerStore
from tests.kit.waiting import HANG_S

LOOPBACK: Final = "127.0.0.1"
PEER: Final = "5f" * 16


class Client:
    """A blocking connection that speaks lines."""

    def __init__(
        self, address: Address, *, receive_buffer: int | None = None, source: str | None = None
    ) -> None:
        """`source`: the address to connect from."""
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(HANG_S)
        if source is not None:
            self.sock.bind((source, 0))
        self.sock.connect((address.host, address.port))
        self.stream = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        line = self.stream.readline()
        assert line.endswith(b"\n"), f"the tracker closed the connection after {line!r}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(json.dumps({"op": op, **fields}).encode() + b"\n")
        return self.answer()

    def announce(self, peer: str = PEER, *numbers: int, **fields: object) -> dict[str, Any]:
        """Announce a peer that has all of the contents with these numbers."""
        contents = [
            {"id": f"{number:064x}", "name": f"file-{number}", "size": 7, "have": 7} for number in numbers
        ]
        return self.ask("announce", peer=peer, name="one", listen={"tcp": 7000}, contents=contents, **fields)

    def closed(self) -> bool:
        """Whether the other side has closed it, with nothing more sent."""
        try:
            return self.stream.read(1) == b""
        except OSError:
            return True

    def close(self) -> None:
        """Close it."""
        self.stream.close()
        self.sock.close()


class RunningTracker:
    """A server on a loop of its own, in a thread. `later` moves its clock, in seconds."""

    def __init__(
        self,
        store: TrackerStore,
        limits: TrackerLimits | None = None,
        timeouts: TrackerTimeouts | None = None,
        trace: Any = None,
        **service: Any,
    ) -> None:
        self.later = 0.0
        self.store = store
        self.clients: list[Client] = []
        self._limits = limits
        self._timeouts = timeouts or TrackerTimeouts(tick_s=0.05)
        self._trace = trace
        self._service_options = service
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(HANG_S)

    def now(self) -> float:
        """The clock of the server."""
        return time.monotonic() + self.later

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.service = TrackerService(
            self.store.directory,
            random.Random(1),
            lambda: secrets.token_hex(16),
            started=self.now(),
            **self._service_options,
        )
        self.server = TrackerServer(
            self.service, self.store, self._limits, self._timeouts, trace=self._trace, clock=self.now
        )
        (self.address,) = await self.server.start(LOOPBACK, 0)
        self._ready.set()
        await self._stopping.wait()
        await self.server.stop()
        self.store.close()

    def connect(self, **options: Any) -> Client:
        """A new client, closed at the end."""
        client = Client(self.address, **options)
        self.clients.append(client)
        return client

    def logged_in(self) -> Client:
        """A new client in a session."""
        client = self.connect()
        client.ask("login", user="alice")
        return client

    def check_alive(self) -> None:
        """Fail if a new client is not answered."""
        client = Client(self.address)
        try:
            assert client.ask("ping") == {"ok": True}
        finally:
            client.close()

    def connections(self) -> int:
        """How many connections are admitted."""
        return self.service.connections

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(HANG_S)
            assert not self._thread.is_alive(), "the tracker does not stop"


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for what must happen soon."""
    end = time.monotonic() + HANG_S
    while not true():
        assert time.monotonic() < end, f"this did not happen: {what}"
        threading.Event().wait(0.005)
