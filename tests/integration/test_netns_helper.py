"""Tests of the lab of network namespaces: hosts are closed in, links are shaped and cut, all is removed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.lib.netns import NETNS_FOLDER, PREFIX, Lab, lab, why_not
from tests.kit.waiting import eventually

__test__ = sys.platform.startswith("linux")
pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(bool(why_not()), reason=why_not() or "never")]

ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
"""

SEND = """
import socket, sys, time
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = socket.create_connection((host, port), timeout=10)
start = time.monotonic()
connection.sendall(bytes(size))
connection.shutdown(socket.SHUT_WR)
got = 0
while data := connection.recv(65536):
    got += len(data)
print(got, time.monotonic() - start)
"""

DIE = """
import os
from bench.lib.netns import lab
with lab(1) as net:
    print(net.switch, flush=True)
    os.kill(os.getpid(), 9)
"""


def namespaces_of_this_test() -> set[str]:
    return (
        {path.name for path in NETNS_FOLDER.glob(f"{PREFIX}-{os.getpid()}-*")}
        if NETNS_FOLDER.is_dir()
        else set()
    )


def start_echo(net: Lab) -> tuple[subprocess.Popen[bytes], int]:
    process = net.popen(net.hosts[0], [sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_every_host_has_its_own_address_and_reaches_the_others() -> None:
    with lab(3) as net:
        _, port = start_echo(net)
        for host in net.hosts[1:]:
            done = net.run(host, [sys.executable, "-c", SEND, net.hosts[0].address, str(port), "1000"])
            assert done.stdout.startswith("1000 "), done.stderr
        assert len({host.address for host in net.hosts}) == 3


def test_a_host_reaches_nothing_outside_its_lab() -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside, lab(1) as net:
        probe = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=2)"
        done = net.run(net.hosts[0], [sys.executable, "-c", probe, str(outside.getsockname()[1])])
        assert "ConnectionRefusedError" in done.stderr
        assert net.run(net.hosts[0], ["ip", "route", "show", "default"]).stdout == ""


def test_a_shaped_link_is_as_slow_as_asked() -> None:
    with lab(2, rate="8mbit") as net:
        _, port = start_echo(net)
        done = net.run(net.hosts[1], [sys.executable, "-c", SEND, net.hosts[0].address, str(port), "1000000"])
        got, seconds = done.stdout.split()
        assert int(got) == 1_000_000
        assert float(seconds) > 0.8  # a link without a limit takes milliseconds


def test_a_cut_link_is_silent_and_a_joined_one_works_again() -> None:
    with lab(2) as net:
        _, port = start_echo(net)
        send = [sys.executable, "-c", SEND, net.hosts[0].address, str(port), "10"]
        net.link(net.hosts[0], up=False)
        cut = net.run(net.hosts[1], send)
        assert "timed out" in cut.stderr or "No route to host" in cut.stderr
        net.link(net.hosts[0], up=True)
        eventually(lambda: net.run(net.hosts[1], send).stdout.startswith("10 "), "connected again")


def test_the_process_returned_is_the_command_itself() -> None:
    with lab(1) as net:
        process, _ = start_echo(net)
        assert os.fsencode(sys.executable) in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_nothing_is_left_behind_when_a_test_fails_inside_a_lab() -> None:
    before = namespaces_of_this_test()
    processes: list[subprocess.Popen[bytes]] = []

    def fail_inside_a_lab() -> None:
        with lab(2) as net:
            processes.append(start_echo(net)[0])
            assert len(namespaces_of_this_test() - before) == 3
            raise KeyError("as a failing test would")

    with pytest.raises(KeyError):
        fail_inside_a_lab()
    assert namespaces_of_this_test() == before
    assert processes[0].returncode == -signal.SIGKILL


def test_what_a_killed_run_left_behind_is_removed_by_the_next() -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", DIE], cwd=root, capture_output=True, text=True, check=False
    )
    left = NETNS_FOLDER / killed.stdout.strip()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert left.name.startswith(PREFIX)
    with lab(1):
        assert not left.exists()


def test_a_lab_of_no_hosts_or_too_many_is_refused() -> None:
    for count in (0, 251):
        with pytest.raises(ValueError, match="1 to 250"), lab(count):
            pass
