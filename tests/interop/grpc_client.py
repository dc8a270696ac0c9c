"""A client of our gRPC service made by people who know only `transfer.proto`: run by tests as a program of
its own.

    python grpc_client.py KIND GENERATED PORT ID PIECE_LENGTH SIZE

KIND is `grpcio`, or `grpclib` for another implementation of gRPC. GENERATED is a folder with freshly
generated code. It reads the content in blocks, 16 in a call, and prints one JSON object: the blake2b of all
bytes, and how a block that is not there was refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import sys
from typing import Any

BLOCK = 1024 * 1024


def blocks(piece_length: int, size: int) -> list[dict[str, int]]:
    """All blocks of a content, as fields."""
    found: list[dict[str, int]] = []
    for start in range(0, size, piece_length):
        end = min(start + piece_length, size)
        parts = range(start, end, BLOCK)
        found += [
            {"piece": start // piece_length, "offset": at - start, "length": min(BLOCK, end - at)}
            for at in parts
        ]
    return found


def grpcio(messages: Any, port: str, content: str, wanted: list[dict[str, int]]) -> tuple[str, str, str]:
    """Read by grpcio, with the stub that its own plugin generates."""
    import grpc

    stub = importlib.import_module("protos.transfer_pb2_grpc").TransferStub(
        grpc.insecure_channel(f"127.0.0.1:{port}")
    )
    digest = hashlib.blake2b(digest_size=32)
    for first in range(0, len(wanted), 16):
        asked = [messages.Block(**one) for one in wanted[first : first + 16]]
        for chunk in stub.Read(messages.ReadRequest(id=content, blocks=asked), timeout=30):
            digest.update(chunk.data)
    try:
        list(stub.Read(messages.ReadRequest(id="00" * 32, blocks=[messages.Block(length=1)]), timeout=30))
    except grpc.RpcError as error:
        status: Any = error
        return digest.hexdigest(), status.code().name, dict(status.trailing_metadata())["enjambre-code"]
    return digest.hexdigest(), "OK", ""


async def grpclib(
    messages: Any, port: str, content: str, wanted: list[dict[str, int]]
) -> tuple[str, str, str]:
    """Read by grpclib, a pure Python implementation on another HTTP/2 library."""
    from grpclib.client import Channel
    from grpclib.exceptions import GRPCError

    stub = importlib.import_module("protos.transfer_grpc").TransferStub(
        channel := Channel("127.0.0.1", int(port))
    )
    digest = hashlib.blake2b(digest_size=32)
    try:
        for first in range(0, len(wanted), 16):
            asked = [messages.Block(**one) for one in wanted[first : first + 16]]
            async with stub.Read.open() as stream:
                await stream.send_message(messages.ReadRequest(id=content, blocks=asked), end=True)
                async for chunk in stream:
                    digest.update(chunk.data)
        trailers: dict[str, Any] = {}
        try:
            async with stub.Read.open() as stream:
                await stream.send_message(
                    messages.ReadRequest(id="00" * 32, blocks=[messages.Block(length=1)]), end=True
                )
                await stream.recv_initial_metadata()
                async for _ in stream:
                    pass
                await stream.recv_trailing_metadata()
        except GRPCError as error:
            trailers = dict(stream.trailing_metadata or stream.initial_metadata or {})
            return digest.hexdigest(), error.status.name, str(trailers.get("enjambre-code"))
        return digest.hexdigest(), "OK", ""
    finally:
        channel.close()


def main(kind: str, generated: str, port: str, content: str, piece_length: str, size: str) -> None:
    """Read, and print what was found."""
    sys.path.insert(0, generated)
    messages = importlib.import_module("protos.transfer_pb2")
    assert str(messages.__file__).startswith(generated), messages.__file__
    wanted = blocks(int(piece_length), int(size))
    print(
        json.dumps(
            grpcio(messages, port, content, wanted)
            if kind == "grpcio"
            else asyncio.run(grpclib(messages, port, content, wanted))
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
