"""What the gRPC transport says besides the generated messages: chunks as bytes, codes as statuses, the size
of a chunk, and who calls."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import WIRE_CODES, ProtocolError
from protos.transfer_pb2 import Block, Chunk, ReadRequest
from transports.grpc.framing import (
    CODE_OF_STATUS,
    MAX_BLOCKS,
    MAX_CHUNK,
    MAX_MESSAGE,
    MAX_REQUEST,
    STATUS_OF_CODE,
    ChunkSize,
    chunk,
    code_of,
    data_of,
)
from transports.grpc.interceptor import host_of

# -- chunks


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_a_chunk_is_written_as_protobuf_writes_it(parts: list[bytes]) -> None:
    data = b"".join(parts)
    if data:  # of an empty field protobuf writes nothing; an empty chunk is never sent
        assert chunk([memoryview(part) for part in parts], len(data)) == Chunk(data=data).SerializeToString()


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, MAX_CHUNK - 1, MAX_CHUNK])
def test_a_chunk_of_any_size_is_read_back_and_fits_a_message(size: int) -> None:
    data = bytes(size)
    message = chunk([memoryview(data)], size)
    assert message == Chunk(data=data).SerializeToString()
    assert data_of(message) == data
    assert len(message) <= MAX_MESSAGE


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda rest: b"\x0a" + rest)))
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused_as_it_refuses(message: bytes) -> None:
    try:
        expected = Chunk.FromString(message).data
    except DecodeError:
        with pytest.raises(ProtocolError) as error:
            data_of(message)
        assert error.value.code == "bad_body"
    else:
        assert data_of(message) == expected


def test_a_chunk_with_fields_of_a_later_version_is_understood() -> None:
    known = Chunk(data=b"bytes").SerializeToString()
    later = ReadRequest(peer="who").SerializeToString()  # a field 3, which a chunk has not
    assert bytes(data_of(known + later)) == b"bytes"
    assert bytes(data_of(later + known)) == b"bytes"


def test_the_longest_request_that_we_make_fits_the_bound() -> None:
    blocks = [Block(piece=2**32 - 1, offset=2**24 - 1, length=MAX_CHUNK)] * MAX_BLOCKS
    assert len(ReadRequest(id="ab" * 32, blocks=blocks, peer="ab" * 16).SerializeToString()) <= MAX_REQUEST


# -- codes


def test_each_code_that_a_call_can_have_has_a_status_of_its_own_and_back() -> None:
    of_lines = {"line_too_long", "bad_json", "bad_body"}
    assert set(STATUS_OF_CODE) == set(WIRE_CODES) - of_lines
    assert len(set(STATUS_OF_CODE.values())) == len(STATUS_OF_CODE)
    assert {code: CODE_OF_STATUS[status] for code, status in STATUS_OF_CODE.items()} == {
        code: code for code in STATUS_OF_CODE
    }
    assert grpc.StatusCode.OK not in CODE_OF_STATUS


@pytest.mark.parametrize("code", sorted(STATUS_OF_CODE))
def test_what_a_peer_says_is_known_by_its_trailer(code: str) -> None:
    assert code_of(STATUS_OF_CODE[code], code) == code


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_a_status_without_trailer_is_a_refusal_only_where_grpc_never_gives_it(
    status: grpc.StatusCode,
) -> None:
    ours = {"INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "OUT_OF_RANGE"}
    ours |= {"FAILED_PRECONDITION", "ABORTED", "DATA_LOSS"}
    assert code_of(status, None) == (CODE_OF_STATUS[status] if status.name in ours else None)


def test_a_code_of_a_later_version_is_internal_to_us() -> None:
    assert code_of(grpc.StatusCode.ABORTED, "too_purple") == "internal"


# -- the size of a chunk, and who calls


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_chunk_is_never_smaller_or_larger_than_allowed(times: list[float]) -> None:
    size = ChunkSize()
    for seconds in times:
        size.took(seconds)
        assert ChunkSize.SMALLEST <= size.bytes <= MAX_CHUNK


def test_chunks_grow_where_they_are_taken_quickly_and_shrink_where_they_are_not() -> None:
    size = ChunkSize()
    for _ in range(3):
        size.took(0.001)
    assert size.bytes == MAX_CHUNK
    size.took(0.2)
    assert size.bytes == MAX_CHUNK
    for _ in range(3):
        size.took(5)
    assert size.bytes == ChunkSize.SMALLEST


@pytest.mark.parametrize(
    ("connection", "host"),
    [
        ("ipv4:10.0.0.7:41000", "10.0.0.7"),
        ("ipv6:[::1]:41000", "::1"),
        ("ipv6:%5B::1%5D:41000", "::1"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:41000", "10.0.0.7"),
        ("unix:", ""),
        ("nonsense", ""),
    ],
)
def test_the_host_of_a_caller_is_read_from_what_grpc_calls_it(connection: str, host: str) -> None:
    assert host_of(connection) == host
