"""A swarm whose tracker is reached over IPv6, with all defaults of the peers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.kit.processes import Running as Process
from tests.kit.processes import clean_environment, command, old_file, run


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_case_58_a_swarm_works_over_ipv6_with_the_defaults_of_its_peers(tmp_path: Path, host: str) -> None:
    path = old_file(tmp_path / "image.bin", b"over six" * 50_000)
    line = [*command("tracker"), "--json", "--host", host, "--port", "0", "--store", "memory"]
    with Process(line, clean_environment(tmp_path / "state")) as tracker:
        address = f"[::1]:{tracker.event('listening')['port']}"
        share = [*command("peer"), "share", str(path), "--json", "--tracker", address, "--port", "0"]
        with Process(share, clean_environment(tmp_path / "state-seed")) as seed:
            content = seed.event("shared")["id"]
            fetch = [
                *command("peer"),
                "download",
                content,
                "--json",
                "--tracker",
                address,
                "--port",
                "0",
                "-o",
                str(tmp_path / "out"),
            ]
            done = run(fetch, clean_environment(tmp_path / "state-leech"))
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "image.bin").read_bytes() == path.read_bytes()
