"""The floor for one to one: blocking threads, `sendfile`, `recv_into`, blake2b, `pwrite`, and nothing else.

    sketch.py seed FILE        hashes FILE, prints {"event":"listening","port":N} and serves
    sketch.py leech FILE PORT  fetches it by two threads with a connection each, and checks every block

It leaves out several senders, resuming, lost connections and limits. A peer that has these cannot be faster,
and the distance to the floor is their cost."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
from hashlib import blake2b

BLOCK = 1 << 20
THREADS = 2
AHEAD = 4


def seed(path: str) -> None:
    """Serve the hashes, and then any block on request."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    hashes = b"".join(
        blake2b(os.pread(fd, BLOCK, at), digest_size=32).digest() for at in range(0, size, BLOCK)
    )

    def serve(sock: socket.socket) -> None:
        sock.sendall(struct.pack("!Q", size) + hashes)
        while asked := sock.recv(8, socket.MSG_WAITALL):
            at = struct.unpack("!Q", asked)[0]
            left = min(BLOCK, size - at)
            while left:
                sent = os.sendfile(sock.fileno(), fd, at, left)
                at, left = at + sent, left - sent

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(json.dumps({"event": "listening", "port": listener.getsockname()[1]}), flush=True)
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(sock,), daemon=True).start()


def leech(path: str, port: int) -> None:
    """Fetch by two threads, every second block each, with a few requests in advance."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    wrong: list[int] = []

    def fetch(first: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            size = struct.unpack("!Q", sock.recv(8, socket.MSG_WAITALL))[0]
            hashes = bytearray(32 * -(-size // BLOCK))
            sock.recv_into(hashes, 0, socket.MSG_WAITALL)
            mine = range(first * BLOCK, size, THREADS * BLOCK)
            view = memoryview(bytearray(BLOCK))
            for at in mine[:AHEAD]:
                sock.sendall(struct.pack("!Q", at))
            for number, at in enumerate(mine):
                block = view[: min(BLOCK, size - at)]
                if sock.recv_into(block, 0, socket.MSG_WAITALL) != len(block):
                    raise ConnectionResetError("the seed closed the connection")
                if number + AHEAD < len(mine):
                    sock.sendall(struct.pack("!Q", mine[number + AHEAD]))
                start = at // BLOCK * 32
                if blake2b(block, digest_size=32).digest() != hashes[start : start + 32]:
                    wrong.append(at)
                os.pwrite(fd, block, at)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.fsync(fd)
    if wrong:
        sys.exit(f"blocks at {wrong} are corrupt")


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        seed(sys.argv[2])
    else:
        leech(sys.argv[2], int(sys.argv[3]))
