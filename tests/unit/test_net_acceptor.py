"""The accept loop: no connection is lost, and it may be closed at any moment."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from p2p.net.acceptor import AcceptLimits, Acceptor
from tests.kit.leaks import contained
from tests.kit.waiting import HANG_S, until


def listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    return sock


def connect(at: socket.socket) -> socket.socket:
    client = socket.create_connection(at.getsockname(), timeout=HANG_S)
    client.settimeout(HANG_S)
    return client


@pytest.mark.parametrize("turns", range(4))
def test_an_acceptor_may_be_closed_in_the_turn_in_which_a_client_connects(turns: int) -> None:
    """asyncio's `sock_accept` complains of an invalid state when it is cancelled there, and loses the
    connection."""

    async def work() -> None:
        sock = listener()
        taken: list[socket.socket] = []
        refused: list[OSError] = []
        acceptor = Acceptor(sock, lambda one, host: taken.append(one), refused.append)
        await asyncio.sleep(0)
        client = connect(sock)
        for _ in range(turns):
            await asyncio.sleep(0)
        acceptor.close()
        acceptor.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(taken) == (1 if turns > 1 else 0)
        if not taken:  # it waited at a socket that is closed now
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert refused == []
        client.close()
        for one in taken:
            one.close()

    contained(work)


@pytest.mark.parametrize(
    "watches", [True, False], ids=["a loop that watches sockets", "a loop that does not"]
)
def test_case_60_one_refusal_is_one_pause_and_closing_ends_a_pause(
    monkeypatch: pytest.MonkeyPatch, watches: bool
) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        if not watches:
            _without_add_reader(monkeypatch, loop)
        faults = [ConnectionAbortedError(), OSError(errno.EMFILE, "too many")]
        take = socket.socket.accept

        def failing(sock: socket.socket) -> tuple[socket.socket, object]:
            if faults:
                raise faults.pop(0)
            return take(sock)

        monkeypatch.setattr(socket.socket, "accept", failing)
        sock, taken, refused = (
            listener(),
            asyncio.Queue[tuple[socket.socket, str]](),
            asyncio.Queue[OSError](),
        )
        acceptor = Acceptor(
            sock,
            lambda one, host: taken.put_nowait((one, host)),
            refused.put_nowait,
            AcceptLimits(pause_s=0.01),
        )
        clients = [connect(sock) for _ in range(3)]
        for _ in clients:
            one, host = await taken.get()
            assert host == "127.0.0.1"
            one.close()
        assert [refused.get_nowait().errno for _ in range(refused.qsize())] == [errno.EMFILE]
        faults.append(OSError(errno.ENFILE, "too many"))
        clients.append(connect(sock))
        assert (await refused.get()).errno == errno.ENFILE
        acceptor.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            connect(sock)
        for client in clients:
            client.close()

    contained(work)


def test_a_burst_is_bounded_and_the_loop_runs_others_in_between() -> None:
    async def work() -> None:
        sock, seen = listener(), list[str]()

        def on_accepted(one: socket.socket, _host: str) -> None:
            one.close()
            seen.append("taken")

        acceptor = Acceptor(sock, on_accepted, lambda error: None, AcceptLimits(burst=3))
        clients = [connect(sock) for _ in range(7)]
        while seen.count("taken") < 7:
            seen.append("turn")
            await asyncio.sleep(0)
        runs = "".join("t" if one == "taken" else " " for one in seen).split()
        assert max(map(len, runs)) <= 3
        acceptor.close()
        for client in clients:
            client.close()

    contained(work)


def _without_add_reader(monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
    """As on Windows, whose own loop accepts by itself."""

    def none(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_reader", none)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_case_60_clients_wait_while_only_spare_descriptors_are_left() -> None:
    async def work() -> None:
        sock, taken, refused = listener(), list[socket.socket](), list[OSError]()
        lowest = os.dup(sock.fileno())
        os.close(lowest)
        room = [lowest]
        acceptor = Acceptor(
            sock,
            lambda one, _host: taken.append(one),
            refused.append,
            AcceptLimits(pause_s=0.01),
            limit=lambda: room[0],
        )
        client = connect(sock)
        await until(lambda: refused)
        assert (taken, refused[0].errno) == ([], errno.EMFILE)
        room[0] = 1 << 20
        await until(lambda: taken)
        acceptor.close()
        for one in (client, *taken):
            one.close()

    contained(work)
