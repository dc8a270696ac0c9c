"""One libtorrent peer, tuned for a fast link: TCP only, no encryption, no discovery. Needs libtorrent.

libtorrent_peer.py seed FILE TORRENT           prints {"event":"listening","port":N} and serves
libtorrent_peer.py leech FOLDER TORRENT PORT   fetches from the seed at that port, and ends
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import libtorrent as lt


def session(*, seed: bool) -> Any:
    """A session with libtorrent's settings for speed, on loopback only."""
    settings = lt.high_performance_seed() if seed else lt.default_settings()
    settings.update(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "out_enc_policy": int(lt.enc_policy.disabled),
            "in_enc_policy": int(lt.enc_policy.disabled),
            "allow_multiple_connections_per_ip": True,
            "max_out_request_queue": 1500,
            "max_allowed_in_request_queue": 4000,
            "request_queue_time": 1,
            "aio_threads": 4,
            "hashing_threads": 2,
            "send_buffer_watermark": 8 << 20,
            "unchoke_slots_limit": -1,
            "alert_mask": int(lt.alert.category_t.status_notification)
            | int(lt.alert.category_t.error_notification),
        }
    )
    return lt.session(settings)


def add(ses: Any, torrent: str, folder: Path, *, seed: bool) -> Any:
    """Add the torrent. A seed does not check its file."""
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = str(folder)
    flags = params.flags & ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    params.flags = flags | lt.torrent_flags.seed_mode if seed else flags
    return ses.add_torrent(params)


def main() -> None:
    """Seed or fetch."""
    what, place, torrent = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    ses = session(seed=what == "seed")
    handle = add(ses, torrent, place.parent if what == "seed" else place, seed=what == "seed")
    if what == "seed":
        while not ses.listen_port():
            ses.wait_for_alert(100)
        print(f'{{"event":"listening","port":{ses.listen_port()}}}', flush=True)
        sys.stdin.read()
        return
    handle.connect_peer(("127.0.0.1", int(sys.argv[4])))
    while not handle.status().is_seeding:
        ses.wait_for_alert(20)
        for alert in ses.pop_alerts():
            if "error" in type(alert).__name__:
                sys.exit(alert.message())


if __name__ == "__main__":
    main()
