"""Start the comparators' servers in a lab: nginx, an rsync daemon, opentracker, a libtorrent or aria2
seed."""

from __future__ import annotations

import subprocess
from hashlib import sha1
from pathlib import Path

from bench.lib.lab import MIB, ROOT, Lab, event, free_port, pinned
from bench.rivals.tools import program, python_with

_LIBTORRENT = str(ROOT / "bench/rivals/libtorrent_peer.py")


def nginx(lab: Lab, folder: Path) -> str:
    """An nginx with one worker that serves a folder by `sendfile`; returns its URL. Raises `Missing`."""
    port, work = free_port(), lab.folder("nginx")
    conf = work / "nginx.conf"
    conf.write_text(
        f"daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log;\n"
        "events {}\nhttp { access_log off; sendfile on; tcp_nopush on;\n"
        + "".join(
            f"{kind}_temp_path {work}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    conf.write_text(("user root;\n" if folder.owner() == "root" else "") + conf.read_text())
    lab.start([program("nginx"), "-c", str(conf), "-p", str(work), "-e", f"{work}/error.log"])
    lab.wait_for_port(port)
    return f"http://127.0.0.1:{port}"


def rsync(lab: Lab, folder: Path) -> str:
    """An rsync daemon that serves a folder; returns its URL. Raises `Missing`."""
    port, work = free_port(), lab.folder("rsync")
    conf = work / "rsyncd.conf"
    conf.write_text(
        f"use chroot = no\npid file = {work}/pid\nlog file = {work}/log\n"
        f"[files]\npath = {folder}\nread only = yes\n"
    )
    argv = [
        program("rsync"),
        "--daemon",
        "--no-detach",
        f"--config={conf}",
        f"--port={port}",
        "--address=127.0.0.1",
    ]
    lab.start(argv, stdin=subprocess.DEVNULL)
    lab.wait_for_port(port)
    return f"rsync://127.0.0.1:{port}/files/"


def opentracker(lab: Lab, whitelist: list[bytes], cpu: int | None = None, port: int = 0) -> int:
    """An opentracker for these torrents (Debian's accepts no others); returns its port. Raises `Missing`."""
    port, work = port or free_port(), lab.folder("opentracker")
    listed, conf = work / "white", work / "conf"
    listed.write_text("".join(f"{one.hex()}\n" for one in whitelist))
    conf.write_text(f"listen.tcp_udp 127.0.0.1:{port}\naccess.whitelist {listed}\n")
    lab.work.chmod(0o755)  # opentracker drops root for nobody
    argv = pinned([program("opentracker"), "-f", str(conf)], cpu)
    lab.start(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lab.wait_for_port(port)
    return port


def torrent(lab: Lab, path: Path, tracker: str = "", piece_length: int = MIB) -> tuple[Path, bytes]:
    """The torrent of a file, and its info hash."""
    with path.open("rb") as file:
        pieces = b"".join(sha1(piece).digest() for piece in iter(lambda: file.read(piece_length), b""))
    info = {"length": path.stat().st_size, "name": path.name, "piece length": piece_length, "pieces": pieces}
    made = lab.work / f"{path.name}{'-tracked' if tracker else ''}.torrent"
    made.write_bytes(_bencode({**({"announce": tracker} if tracker else {}), "info": info}))
    return made, sha1(_bencode(info)).digest()


def _bencode(value: object) -> bytes:
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case dict():
            return (
                b"d"
                + b"".join(_bencode(str(key)) + _bencode(one) for key, one in sorted(value.items()))
                + b"e"
            )
        case _:
            return _bencode(str(value).encode())


def libtorrent(lab: Lab, path: Path, out: Path) -> list[str]:
    """A libtorrent seed of a file; returns the command that fetches it into a folder. Raises `Missing`."""
    python, made = python_with("libtorrent"), str(torrent(lab, path)[0])
    process = lab.start([python, _LIBTORRENT, "seed", str(path), made], stdin=subprocess.PIPE)
    return [python, _LIBTORRENT, "leech", str(out), made, str(event(process, "listening")["port"])]


def aria2(lab: Lab, path: Path, out: Path) -> list[str]:
    """An aria2 seed of a file, and an opentracker; returns the command that fetches the file into a folder.
    Raises `Missing`."""
    aria, port = program("aria2c"), free_port()
    made, info_hash = torrent(lab, path, f"http://127.0.0.1:{port}/announce")
    opentracker(lab, [info_hash], port=port)
    common = [
        aria,
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--no-conf=true",
    ]
    common += [
        "--interface=127.0.0.1",
        "--file-allocation=none",
        "--summary-interval=0",
        "--console-log-level=error",
        "--async-dns=false",
    ]
    seed = [
        *common,
        "--bt-seed-unverified=true",
        "--seed-ratio=0",
        f"--listen-port={free_port()}",
        f"--dir={path.parent}",
        str(made),
    ]
    lab.start(seed, stdout=subprocess.DEVNULL)
    return [*common, "--seed-time=0", f"--listen-port={free_port()}", f"--dir={out}", str(made)]
