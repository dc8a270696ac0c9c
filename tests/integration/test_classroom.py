"""The classroom with defaults: tracker and first seed on one laptop, and machines that know only the
tracker's address."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench.lib.netns import Lab, lab, why_not
from tests.kit.processes import clean_environment, command

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(bool(why_not()), reason=why_not())]


def _first_event(process: subprocess.Popen[bytes], name: str) -> dict[str, object]:
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, object] = json.loads(line)
        if event["event"] == name:
            return event
    raise AssertionError(f"the process ended without {name!r}")


def _start(net: Lab, host: int, state: Path, *words: str) -> subprocess.Popen[bytes]:
    program, *rest = words
    return net.popen(
        net.hosts[host],
        [*command(program), *rest, "--json"],
        stdout=subprocess.PIPE,
        env=clean_environment(state),
    )


def test_a_peer_fetches_from_a_seed_that_reached_its_tracker_over_loopback(tmp_path: Path) -> None:
    share, out = tmp_path / "share", tmp_path / "out"
    share.mkdir()
    data = os.urandom(3_000_000)
    (share / "image.bin").write_bytes(data)
    with lab(2) as net:
        tracker = _start(net, 0, tmp_path / "a", "tracker")
        assert _first_event(tracker, "listening")["port"] == 6969
        seed = _start(net, 0, tmp_path / "a", "peer", "serve", str(share))
        shared = _first_event(seed, "shared")
        words = ["peer", "download", "image.bin", "-o", str(out), "--tracker", net.hosts[0].address]
        done = _first_event(_start(net, 1, tmp_path / "b", *words), "done")
        assert done["id"] == shared["id"]
        assert (out / "image.bin").read_bytes() == data


def test_two_machines_of_the_class_fetch_from_each_other_too(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    data = os.urandom(6_000_000)
    (share / "image.bin").write_bytes(data)
    with lab(3, rate="50mbit") as net:
        _first_event(_start(net, 0, tmp_path / "a", "tracker"), "listening")
        _first_event(_start(net, 0, tmp_path / "a", "peer", "serve", str(share)), "shared")
        pupils = [
            _start(
                net,
                n,
                tmp_path / str(n),
                "peer",
                "download",
                "image.bin",
                "-o",
                str(tmp_path / f"o{n}"),
                "--seed",
                "--tracker",
                net.hosts[0].address,
                "--name",
                f"pupil-{n}",
            )
            for n in (1, 2)
        ]
        results = [_first_event(pupil, "done") for pupil in pupils]
        for n in (1, 2):
            assert (tmp_path / f"o{n}" / "image.bin").read_bytes() == data
        assert any(any(name.startswith("pupil") for name in done["bytes_from"]) for done in results)  # type: ignore[attr-defined]


def test_a_cable_that_is_pulled_and_put_back_does_not_end_a_download(tmp_path: Path) -> None:
    share, out = tmp_path / "share", tmp_path / "out"
    share.mkdir()
    data = os.urandom(40_000_000)  # eight seconds, of which some are left whenever the cable is pulled
    (share / "image.bin").write_bytes(data)
    with lab(2, rate="40mbit") as net:
        _first_event(_start(net, 0, tmp_path / "a", "tracker"), "listening")
        _first_event(_start(net, 0, tmp_path / "a", "peer", "serve", str(share)), "shared")
        pupil = _start(
            net,
            1,
            tmp_path / "b",
            "peer",
            "download",
            "image.bin",
            "-o",
            str(out),
            "--tracker",
            net.hosts[0].address,
        )
        while int(str(_first_event(pupil, "progress")["bytes"])) < 1_000_000:
            pass
        net.link(net.hosts[1], up=False)
        phases = [str(_first_event(pupil, "progress")["phase"])]
        while phases[-1] != "waiting":
            phases.append(str(_first_event(pupil, "progress")["phase"]))
        net.link(net.hosts[1], up=True)
        assert _first_event(pupil, "done")["size"] == len(data)
        assert (out / "image.bin").read_bytes() == data
