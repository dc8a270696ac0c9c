"""Sends bytes and parts of files over a non-blocking socket, from worker threads.

A file is sent in a thread because reading it may wait for a disk, and that would stop the event loop. The
thread never waits on the socket without a bound: a receiver that takes no byte for `stall_s` seconds is given
up. Every function here works on a duplicate of the socket. So closing the original meanwhile can never send
bytes to another connection that was given the same descriptor number.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from p2p.errors import Refused
from p2p.model import FileSpan
from p2p.net.descriptors import out_of_descriptors
from p2p.net.threads import in_thread

OnSent = Callable[[int], None]
"""Called in the worker thread with the number of bytes that were just sent; may sleep to keep a rate."""


class SpanSender(Protocol):
    """What can send a part of an open file over a socket; `storage.disk_io.DiskIO` is one."""

    def send_span(
        self, sock: socket.socket, span: FileSpan, timeout: float, pace: OnSent | None = None
    ) -> None:
        """Send `span` and return when all of it was taken. Blocks. Raises `TimeoutError` when no byte moves
        for `timeout` seconds, `DiskError` for the file, `OSError` for the socket."""


class FileSender:
    """Worker threads that send lines and file spans. Each thread starts when it is first needed."""

    def __init__(self, spans: SpanSender, threads: int) -> None:
        self._spans = spans
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="send")

    async def send(
        self,
        sock: socket.socket,
        chunks: Sequence[bytes | FileSpan],
        stall_s: float,
        on_sent: OnSent | None,
        on_cancelled: Callable[[], None],
    ) -> None:
        """Send `chunks` in order, and return when the thread has ended, also when cancelled; `on_cancelled`
        shall then make the send fail at once.

        Raises `Refused` before the first byte when there is no thread or no descriptor to be had, and as
        `SpanSender.send_span`.
        """

        def work() -> None:
            for number, chunk in enumerate(chunks):
                try:
                    if isinstance(chunk, FileSpan):
                        self._spans.send_span(sock, chunk, stall_s, on_sent)
                    else:
                        send_bytes(sock, chunk, stall_s)
                except OSError as error:
                    # The first duplicate of the socket could not be made, so nothing has been sent.
                    if number == 0 and out_of_descriptors(error):
                        why = "this side has too many open files now; ask again later"
                        raise Refused("busy", why) from error
                    raise

        await in_thread(self._threads, work, on_cancelled)

    def close(self) -> None:
        """Start no further send; those under way end by themselves."""
        self._threads.shutdown(wait=False)


def send_bytes(sock: socket.socket, data: bytes, timeout: float) -> None:
    """Send all of `data`. Blocks. Raises `TimeoutError` when no byte moves for `timeout` seconds,
    `OSError`."""
    rest = memoryview(data)
    with sock.dup() as out:
        while rest:
            try:
                rest = rest[out.send(rest) :]
            except BlockingIOError:
                wait_writable(out, timeout)


def wait_writable(sock: socket.socket, seconds: float) -> None:
    """Wait until `sock` may take bytes or has failed. Raises `TimeoutError` when `seconds` have passed."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        ready = bool(poll.poll(seconds * 1000))
    else:
        _, writable, failed = select.select([], [sock], [sock], seconds)
        ready = bool(writable or failed)
    if not ready:
        raise TimeoutError("the other side takes no bytes")
