"""Any gRPC client can use our server: freshly generated ones of two implementations, and one that knows
nothing but the address."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from p2p.content.geometry import choose_piece_length
from p2p.model import MIB
from protos import transfer_pb2
from tests.kit.leaks import KEPT_BY_GRPC
from tests.kit.processes import ROOT, Running, clean_environment, old_file, start_tracker
from tests.kit.waiting import HANG_S

KEPT = KEPT_BY_GRPC
"""What gRPC's core keeps for later: some of these clients run in this process."""
SIZE = 20 * MIB + 4321
SERVICE = "enjambre.transfer.v1.Transfer"


@dataclass(frozen=True)
class Seed:
    """A real peer that shares a file over gRPC."""

    port: int
    content: str
    data: bytes


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seed]:
    folder = tmp_path_factory.mktemp("seed")
    data = os.urandom(SIZE)
    path = old_file(folder / "image.bin", data)
    with start_tracker(folder) as tracker:
        words = [
            sys.executable,
            str(ROOT / "bin" / "peer"),
            "share",
            str(path),
            "--json",
            "--tracker",
            tracker.address,
        ]
        words += ["--host", "127.0.0.1", "--port", "0", "--transport", "grpc"]
        with Running(words, clean_environment(folder / "state")) as peer:
            port = peer.event("listening")["transports"]["grpc"]
            yield Seed(port, peer.event("shared")["id"], data)


def protoc(*outputs: str) -> None:
    """Run the compiler of the installed grpc_tools on our file."""
    bin_folder = sysconfig.get_path("scripts")
    environ = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    line = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, "protos/transfer.proto"]
    subprocess.run(line, cwd=ROOT, env=environ, check=True, timeout=HANG_S)


@pytest.mark.parametrize(("kind", "plugin"), [("grpcio", "grpc_python"), ("grpclib", "grpclib_python")])
def test_a_freshly_generated_client_reads_a_file_block_by_block(
    seed: Seed, tmp_path: Path, kind: str, plugin: str
) -> None:
    protoc(f"--python_out={tmp_path}", f"--{plugin}_out={tmp_path}")
    words = [
        sys.executable,
        str(ROOT / "tests" / "interop" / "grpc_client.py"),
        kind,
        str(tmp_path),
        str(seed.port),
        seed.content,
    ]
    done = subprocess.run(
        [*words, str(choose_piece_length(SIZE)), str(SIZE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest, status, code = json.loads(done.stdout)
    assert digest == hashlib.blake2b(seed.data, digest_size=32).hexdigest()
    assert (status, code) == ("NOT_FOUND", "not_found")


@pytest.mark.parametrize("service", ["", SERVICE])
def test_the_standard_health_check_says_serving(seed: Seed, service: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{seed.port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=HANG_S
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_client_that_knows_only_the_address_finds_the_service_and_reads_a_block(seed: Seed) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{seed.port}") as channel:
        database: Any = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName(SERVICE).FindMethodByName("Read")
        asked: Any = message_factory.GetMessageClass(method.input_type)(id=seed.content)
        asked.blocks.add(piece=1, offset=100, length=1000)
        answer = message_factory.GetMessageClass(method.output_type)
        read: Any = channel.unary_stream(
            f"/{SERVICE}/Read",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        came = b"".join(chunk.data for chunk in read(asked, timeout=HANG_S))
    start = choose_piece_length(SIZE) + 100
    assert came == seed.data[start : start + 1000]


def grpcurl(seed: Seed, *words: str) -> subprocess.CompletedProcess[str]:
    """Run grpcurl, which is written in Go, on our port."""
    tool = shutil.which("grpcurl")
    if tool is None:
        pytest.skip("grpcurl is not installed (.ci/run shows how)")
    *flags, method = words
    line = [tool, "-plaintext", "-max-time", "20", *flags, f"127.0.0.1:{seed.port}", method]
    return subprocess.run(line, capture_output=True, text=True, timeout=HANG_S, check=False)


def test_grpcurl_finds_the_service_by_reflection_and_describes_it(seed: Seed) -> None:
    listed = grpcurl(seed, "list")
    assert {SERVICE, "grpc.health.v1.Health"} <= set(listed.stdout.split()), listed.stderr
    described = grpcurl(seed, "describe").stdout
    assert (
        "rpc Read ( .enjambre.transfer.v1.ReadRequest ) returns ( stream .enjambre.transfer.v1.Chunk );"
        in described
    )


def test_grpcurl_reads_blocks_and_is_told_of_a_refusal(seed: Seed) -> None:
    start = choose_piece_length(SIZE)
    blocks = [{"piece": 1, "offset": 100, "length": 1000}, {"piece": 0, "offset": 0, "length": 7}]
    done = grpcurl(seed, "-d", json.dumps({"id": seed.content, "blocks": blocks}), f"{SERVICE}/Read")
    assert done.returncode == 0, done.stderr
    chunks = [base64.b64decode(text) for text in re.findall(r'"data": "([^"]*)"', done.stdout)]
    assert b"".join(chunks) == seed.data[start + 100 : start + 1100] + seed.data[:7]
    refused = grpcurl(
        seed,
        "-v",
        "-d",
        json.dumps({"id": seed.content, "blocks": [{"piece": 9999, "length": 7}]}),
        f"{SERVICE}/Read",
    )
    assert refused.returncode == 64 + grpc.StatusCode.OUT_OF_RANGE.value[0]
    assert "enjambre-code: bad_range" in refused.stdout


def test_grpcurl_is_told_that_the_peer_serves(seed: Seed) -> None:
    done = grpcurl(seed, "-d", json.dumps({"service": SERVICE}), "grpc.health.v1.Health/Check")
    assert json.loads(done.stdout) == {"status": "SERVING"}


def test_the_committed_code_describes_what_the_proto_file_says(tmp_path: Path) -> None:
    protoc(f"--descriptor_set_out={tmp_path / 'set'}")
    fresh = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file[0]
    ours = descriptor_pb2.FileDescriptorProto()
    transfer_pb2.DESCRIPTOR.CopyToProto(ours)
    for message in (*fresh.message_type, *ours.message_type):
        for field in message.field:
            field.ClearField("json_name")
    assert ours == fresh
