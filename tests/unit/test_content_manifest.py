"""Tests of p2p/content/manifest.py: one canonical form, the id before anything, and every field wrong (case
38)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from p2p.content.manifest import HASHES, MAX_FILES, MAX_MANIFEST, build, content_id, parse, to_bytes
from p2p.errors import IntegrityError, ProtocolError
from p2p.model import KIB, MAX_SIZE, MIB, ContentId, FileEntry
from tests.kit.content_samples import folder_manifest, id_of, manifest_of, some_bytes

FOLDER = folder_manifest([("a/b", b"x" * 70_000), ("c", b""), ("ñ", b"y")], folders=("empty", "e2/e3"))


def test_the_canonical_form_has_sorted_keys_no_spaces_and_plain_utf8() -> None:
    data = to_bytes(manifest_of(b"abc", name="ñ.txt"))
    digest = hashlib.sha256(b"abc").hexdigest()
    assert (
        data
        == (
            '{"files":[{"path":"ñ.txt","size":3}],"folders":[],"hash":"sha256","kind":"file","name":"ñ.txt",'
            f'"piece_length":65536,"pieces":["{digest}"],"version":1}}'
        ).encode()
    )


def test_what_was_written_is_read_back() -> None:
    for manifest in (FOLDER, manifest_of(b""), manifest_of(b"1"), folder_manifest([])):
        data = to_bytes(manifest)
        assert parse(data, content_id(data)) == manifest
        assert parse(data, None) == manifest


def test_the_id_is_blake2b_of_the_form_whatever_hashes_the_pieces() -> None:
    data = to_bytes(FOLDER)
    assert FOLDER.hash_name == "sha256"
    assert id_of(FOLDER) == hashlib.blake2b(data, digest_size=32).hexdigest()
    assert len(id_of(FOLDER)) == 64


def test_every_hash_makes_32_bytes() -> None:
    assert set(HASHES) == {"blake2b-256", "sha256"}
    assert all(len(new().digest()) == 32 for new in HASHES.values())


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 5000, b"\xff", to_bytes(FOLDER) + b" "])
def test_the_id_is_looked_at_before_anything_is_believed(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse(data, ContentId("0" * 64))


def test_case_39_a_manifest_with_one_bit_changed_does_not_match() -> None:
    data = bytearray(to_bytes(FOLDER))
    expected = content_id(bytes(data))
    data[-5] ^= 1
    with pytest.raises(IntegrityError):
        parse(bytes(data), expected)


def test_a_manifest_that_is_too_long_is_refused_before_it_is_hashed() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(bytes(MAX_MANIFEST + 1), ContentId("0" * 64))
    assert caught.value.code == "bad_body"


def plain() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(to_bytes(FOLDER))
    return value


def encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def each(*values: object) -> tuple[object, ...]:
    return values


def changed(**fields: object) -> bytes:
    return encode({**plain(), **fields})


HEX = "0" * 64
WRONG: list[tuple[str, bytes]] = [
    ("whole", b"null"),
    ("whole", b"[]"),
    ("whole", b"1"),
    ("version", b"{}"),
    *[("version", changed(version=value)) for value in each("1", 1.0, True, None, [1])],
    ("whole", changed(extra=1)),
    ("whole", encode({key: value for key, value in plain().items() if key != "folders"})),
    *[("name", changed(name=value)) for value in each(1, None, True, ["x"])],
    *[("name", changed(name=value)) for value in each("", "..", "a/b", "a\nb", "x" * 256, "a\u202eb")],
    *[("kind", changed(kind=value)) for value in each("", "File", "link", 1, None)],
    *[("hash", changed(hash=value)) for value in each("md5", "", "SHA256", 1, None)],
    *[
        ("piece_length", changed(piece_length=value))
        for value in each(0, -1, 1, True, 65536.0, "65536", None, 32 * KIB, 32 * MIB, 65537, 2**63)
    ],
    *[
        ("files", changed(files=value))
        for value in each(
            None, {}, "x", 1, [1], [[]], [{}], [{"path": "a"}], [{"path": "a", "size": 1, "x": 1}]
        )
    ],
    *[("path", changed(files=[{"path": value, "size": 1}])) for value in each(1, None, True)],
    *[
        ("name", changed(files=[{"path": value, "size": 1}]))
        for value in each("", "../x", "/x", "a//b", "a\x00b", "/".join("d" * 65), "a/..")
    ],
    *[
        ("size", changed(files=[{"path": "a", "size": value}]))
        for value in each(-1, "1", None, True, 1.0, 2**63, MAX_SIZE + 1, [])
    ],
    ("size", changed(files=[{"path": "a", "size": MAX_SIZE}, {"path": "b", "size": 1}])),
    ("sorted", changed(files=[{"path": "b", "size": 1}, {"path": "a", "size": 0}], pieces=[HEX])),
    ("sorted", changed(files=[{"path": "a", "size": 1}, {"path": "a", "size": 0}], pieces=[HEX])),
    *[
        ("folders", changed(folders=value))
        for value in each(None, {}, "x", [1], [None], ["b", "a"], ["e", "e"])
    ],
    *[("name", changed(folders=value)) for value in each(["../e"], ["/"], [""])],
    ("collide", changed(folders=["a"])),
    ("collide", changed(folders=["A/x"])),
    ("collide", changed(folders=["C"])),
    *[
        ("pieces", changed(pieces=value))
        for value in each(None, {}, "x", [], [HEX], [HEX] * 3, [HEX, 1], [HEX, None])
    ],
    *[
        ("pieces", changed(pieces=[HEX, value]))
        for value in each("", "0" * 62, "0" * 63, "0" * 66, "g" * 64, "é" * 64)
    ],
    ("canonical", changed(pieces=[HEX, "A" * 64])),
    ("canonical", changed(pieces=[HEX, " " + "0" * 64])),
    ("canonical", json.dumps(plain(), ensure_ascii=False, sort_keys=True).encode()),
    ("canonical", json.dumps(plain(), sort_keys=True, separators=(",", ":")).encode()),
    (
        "canonical",
        json.dumps(dict(reversed(plain().items())), ensure_ascii=False, separators=(",", ":")).encode(),
    ),
    ("canonical", to_bytes(FOLDER) + b"\n"),
]


@pytest.mark.parametrize(("field", "data"), WRONG)
def test_case_38_every_field_that_is_wrong_is_named(field: str, data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(data, content_id(data))
    assert caught.value.code == "bad_field"
    assert field in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("version", [0, 2, -1, 2**63])
def test_another_version_is_not_known(version: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(changed(version=version), None)
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b'{"a":1,"a":2}', changed(name=float("nan")), changed(name="\ud800"), b"[[[[[]]]]]"],
)
def test_what_is_no_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(data, None)
    assert caught.value.code == "bad_json"


@pytest.mark.parametrize(
    ("name", "files", "folders"),
    [
        ("x", [], []),
        ("x", [{"path": "y", "size": 1}], []),
        ("x", [{"path": "x", "size": 1}, {"path": "y", "size": 0}], []),
        ("x", [{"path": "x", "size": 1}], ["e"]),
        ("x", [{"path": "x/x", "size": 1}], []),
    ],
)
def test_a_single_file_is_called_as_its_content(name: str, files: list[object], folders: list[str]) -> None:
    with pytest.raises(ProtocolError, match="files"):
        parse(changed(kind="file", name=name, files=files, folders=folders, pieces=[HEX]), None)


def test_more_pieces_than_a_bitmap_holds_are_refused_by_their_number_alone() -> None:
    with pytest.raises(ProtocolError, match="pieces"):
        parse(changed(files=[{"path": "a", "size": MAX_SIZE}]), None)


def test_too_many_files_are_refused() -> None:
    many = [FileEntry("x", 0)] * (MAX_FILES + 1)
    with pytest.raises(ProtocolError, match="files and folders must be at most 1000000 together"):
        build(name="x", kind="folder", hash_name="sha256", piece_length=65536, files=many, pieces=())


@pytest.mark.parametrize(
    "call",
    [
        lambda: build(name="..", kind="folder", hash_name="sha256", piece_length=65536, files=(), pieces=()),
        lambda: build(
            name="x",
            kind="folder",
            hash_name="sha256",
            piece_length=65536,
            files=[FileEntry("a", 1)],
            pieces=(),
        ),
        lambda: build(name="x", kind="folder", hash_name="md5", piece_length=65536, files=(), pieces=()),
    ],
)
def test_nobody_publishes_what_others_would_refuse(call: Callable[[], object]) -> None:
    with pytest.raises(ProtocolError):
        call()


def test_6400_pieces_are_parsed_in_well_under_a_tenth_of_a_second() -> None:
    pieces = [some_bytes(32, seed) for seed in range(6400)]
    data = to_bytes(
        build(
            name="x",
            kind="file",
            hash_name="sha256",
            piece_length=64 * KIB,
            files=[FileEntry("x", 6400 * 64 * KIB)],
            pieces=pieces,
        )
    )
    expected = content_id(data)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        parse(data, expected)
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 0.1
