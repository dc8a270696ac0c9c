"""The accept loop: nothing that connects is lost, and it may be closed at any moment."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from p2p.net import acceptor as accept
from p2p.net.acceptor import Acceptor
from tests.kit.leaks import contained
from tests.kit.waiting import until


def door() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    return sock


def knock(at: socket.socket) -> socket.socket:
    caller = socket.create_connection(at.getsockname(), timeout=5)
    caller.settimeout(5)
    return caller


@pytest.mark.parametrize("turns", range(4))
def test_it_may_be_closed_in_the_very_turn_in_which_somebody_connects(turns: int) -> None:
    """asyncio's `sock_accept` complains of an invalid state when it is cancelled there, and loses the
    connection."""

    async def work() -> None:
        sock = door()
        taken: list[socket.socket] = []
        refused: list[OSError] = []
        acceptor = Acceptor(sock, lambda one, host: taken.append(one), refused.append)
        await asyncio.sleep(0)
        caller = knock(sock)
        for _ in range(turns):
            await asyncio.sleep(0)
        acceptor.close()
        acceptor.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(taken) == (1 if turns > 1 else 0)
        if not taken:  # it waited at a door that is closed now
            with pytest.raises(ConnectionResetError):
                caller.recv(1)
        assert refused == []
        caller.close()
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
        monkeypatch.setattr(accept, "PAUSE", 0.01)
        sock, taken, refused = door(), asyncio.Queue[tuple[socket.socket, str]](), asyncio.Queue[OSError]()
        acceptor = Acceptor(sock, lambda one, host: taken.put_nowait((one, host)), refused.put_nowait)
        callers = [knock(sock) for _ in range(3)]
        for _ in callers:
            one, host = await taken.get()
            assert host == "127.0.0.1"
            one.close()
        assert [refused.get_nowait().errno for _ in range(refused.qsize())] == [errno.EMFILE]
        monkeypatch.setattr(accept, "PAUSE", 3600)
        faults.append(OSError(errno.ENFILE, "too many"))
        callers.append(knock(sock))
        assert (await refused.get()).errno == errno.ENFILE
        acceptor.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            knock(sock)
        for caller in callers:
            caller.close()

    contained(work)


def test_a_burst_is_bounded_and_the_loop_runs_others_in_between() -> None:
    async def work() -> None:
        sock, seen = door(), list[str]()

        def welcome(one: socket.socket, _host: str) -> None:
            one.close()
            seen.append("taken")

        acceptor = Acceptor(sock, welcome, lambda error: None, burst=3)
        callers = [knock(sock) for _ in range(7)]
        while seen.count("taken") < 7:
            seen.append("turn")
            await asyncio.sleep(0)
        runs = "".join("t" if one == "taken" else " " for one in seen).split()
        assert max(map(len, runs)) <= 3
        acceptor.close()
        for caller in callers:
            caller.close()

    contained(work)


def _without_add_reader(monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
    """As on Windows, whose own loop accepts by itself."""

    def none(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_reader", none)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_case_60_newcomers_wait_while_only_the_descriptors_kept_for_those_inside_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        monkeypatch.setattr(accept, "PAUSE", 0.01)
        sock, taken, refused = door(), list[socket.socket](), list[OSError]()
        lowest = os.dup(sock.fileno())
        os.close(lowest)
        room = [lowest * 4]
        monkeypatch.setattr(accept, "descriptor_limit", lambda: room[0])
        monkeypatch.setattr(accept, "KEPT", room[0] - lowest)
        acceptor = Acceptor(sock, lambda one, _host: taken.append(one), refused.append)
        room[0] = lowest
        caller = knock(sock)
        await until(lambda: refused)
        assert (taken, refused[0].errno) == ([], errno.EMFILE)
        room[0] = 1 << 20
        await until(lambda: taken)
        acceptor.close()
        for one in (caller, *taken):
            one.close()

    contained(work)
