"""One libtorrent peer of `bench/run.py swarm`, with libtorrent's own settings. Needs libtorrent.

    libtorrent_swarm.py seed|leech FOLDER TORRENT default|super ADDRESS

A leech prints {"event":"progress","bytes":N} twice a second and {"event":"done","bytes":N,"seconds":S} once,
and goes on serving."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import libtorrent as lt

STEP: Final = 0.5
"""Seconds between two lines of progress."""


def session(address: str) -> Any:
    """A session with default settings, without DHT and local discovery."""
    nowhere = {"enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False}
    return lt.session(
        {
            **nowhere,
            "listen_interfaces": f"{address}:6881",
            "alert_mask": int(lt.alert.category_t.status_notification),
        }
    )


def say(event: str, **more: object) -> None:
    """One line of JSON."""
    print(json.dumps({"event": event, **more}), flush=True)


def main() -> None:
    """Seed, or fetch and then seed, until killed."""
    what, folder, torrent, mode, address = sys.argv[1:]
    ses = session(address)
    while not ses.listen_port():
        ses.wait_for_alert(100)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    params.flags &= ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    if what == "seed":
        params.flags |= lt.torrent_flags.seed_mode
        if mode == "super":
            params.flags |= lt.torrent_flags.super_seeding
    began = time.monotonic()
    handle = ses.add_torrent(params)
    if what == "seed":
        say("listening", port=ses.listen_port())
        sys.stdin.read()
        while True:
            time.sleep(3600)
    told = began
    while not (status := handle.status()).is_seeding:
        if time.monotonic() - told >= STEP:
            told = time.monotonic()
            say("progress", bytes=status.total_wanted_done)
        ses.wait_for_alert(50)
        ses.pop_alerts()
    say("done", bytes=status.total_wanted_done, seconds=time.monotonic() - began)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
