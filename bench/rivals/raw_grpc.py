"""A stream of raw grpcio without a peer around it: one call, chunks of 1 MiB. Needs the gRPC extra.

raw_grpc.py serve FILE KIND PACKED   serves FILE. KIND is threads or asyncio. PACKED is protobuf or ours,
                                     the code that packs a chunk.
raw_grpc.py fetch PORT FILE          hashes each chunk with blake2b and writes it to FILE; - drops it
raw_grpc.py drain PORT               only receives
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import grpc

from protos import transfer_pb2 as pb
from transports.grpc.framing import READ, SERVICE, chunk

CHUNK: Final = 1 << 20


def serve(path: str, kind: str, packed: str) -> None:
    """Serve a file by gRPC's threads or asyncio, each chunk packed by protobuf or by the product's own
    code."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size

    def message(data: bytes) -> bytes:
        return (
            pb.Chunk(data=data).SerializeToString()
            if packed == "protobuf"
            else chunk((memoryview(data),), len(data))
        )

    def read(_request: Any, _context: Any) -> Iterator[bytes]:
        for at in range(0, size, CHUNK):
            yield message(os.pread(fd, CHUNK, at))

    async def read_async(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        for at in range(0, size, CHUNK):
            yield message(await loop.run_in_executor(None, os.pread, fd, CHUNK, at))

    def open_on(server: Any, behaviour: Any) -> None:
        method = grpc.unary_stream_rpc_method_handler(
            behaviour, request_deserializer=pb.ReadRequest.FromString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Read": method}),))
        print(json.dumps({"event": "listening", "port": server.add_insecure_port("127.0.0.1:0")}), flush=True)

    async def run() -> None:
        server = grpc.aio.server()
        open_on(server, read_async)
        await server.start()
        await server.wait_for_termination()

    if kind == "asyncio":
        asyncio.run(run())
        return
    server = grpc.server(ThreadPoolExecutor(4))
    open_on(server, read)
    server.start()
    server.wait_for_termination()


def messages(port: str, parse: Any) -> Iterator[Any]:
    """All messages of the one stream."""
    channel = grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", CHUNK + 64)]
    )
    call = channel.unary_stream(
        READ, request_serializer=pb.ReadRequest.SerializeToString, response_deserializer=parse
    )
    yield from call(pb.ReadRequest())


def fetch(port: str, path: str) -> None:
    """Receive and hash the file, and write it unless `path` is `-`."""
    with open(os.devnull if path == "-" else path, "wb") as out:
        for one in messages(port, pb.Chunk.FromString):
            hashlib.blake2b(one.data, digest_size=32).digest()
            if path != "-":
                out.write(one.data)
        out.flush()
        if path != "-":
            os.fsync(out.fileno())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", path, kind, packed]:
            serve(path, kind, packed)
        case ["fetch", port, path]:
            fetch(port, path)
        case ["drain", port]:
            for _ in messages(port, None):
                pass
        case _:
            sys.exit(__doc__)
