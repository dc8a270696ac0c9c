"""p2p/cli/commands: how serving ends, and what a download prints at its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2p.cli.commands.download import print_done
from p2p.cli.commands.sharing import until_ended
from p2p.errors import Refused
from p2p.peer.reports import Downloaded
from tests.kit.cli_output import ID, Output


class EndedNode:
    async def ended(self) -> Refused:
        return Refused("login_needed", "the session was ended by a logout")


def test_serving_ends_with_the_reason_when_the_session_was_ended() -> None:
    stopped = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    with pytest.raises(Refused, match=r"logout"):
        asyncio.run(until_ended(EndedNode(), for_ever()))  # type: ignore[arg-type]
    assert stopped == [True]


@pytest.mark.parametrize(
    ("bytes_from", "printed"),
    [
        ({"a": 300 << 20}, ["saved /d/n: 300.0 MiB in 10 s, 30.0 MiB/s", "  from 1 peer: a 300.0 MiB"]),
        (
            {"a": 150 << 20, "b": 50 << 20},
            [
                "saved /d/n: 300.0 MiB in 10 s, 20.0 MiB/s",
                "  200.0 MiB fetched, 100.0 MiB were here",
                "  from 2 peers: a 150.0 MiB, b 50.0 MiB",
            ],
        ),
        ({}, ["saved /d/n: 300.0 MiB in 10 s", "  0 B fetched, 300.0 MiB were here"]),
    ],
)
def test_bytes_that_were_on_the_disk_before_do_not_count_as_fetched(
    bytes_from: dict[str, int], printed: list[str]
) -> None:
    output = Output()
    print_done(output.console, Downloaded(Path("/d/n"), ID, 300 << 20, 10.0, bytes_from))
    assert output.out.replace(str(Path("/d/n")), "/d/n").splitlines() == printed
