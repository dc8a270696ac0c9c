"""Properties of p2p/content and p2p/protocol/strict_json.py: for any bytes, names, cuts and orders."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.bitmap import Bitmap
from p2p.content.geometry import Geometry, Layout, choose_piece_length
from p2p.content.manifest import parse, to_bytes
from p2p.content.names import check_collisions, check_part, check_path, local_part, local_path
from p2p.errors import IntegrityError, ProtocolError
from p2p.model import KIB, MAX_SIZE, ContentId, FileEntry
from p2p.protocol.strict_json import loads
from p2p.text import printable
from tests.kit.content_samples import fill, folder_manifest, id_of, part_of, tree
from tests.kit.effort import examples

LENGTHS = st.integers(16, 24).map(lambda exponent: 2**exponent)
NASTY = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        ":",
        "NUL",
        "con.",
        "COM1",
        " ",
        "~",
        "-",
        "\x00",
        "\u202e",
        "e\u0301",
        "é",
        "ß",
        "SS",
        "ss",
        "ﬁ",
    ]
)
NAMES = st.one_of(
    st.text(max_size=12), st.lists(st.one_of(NASTY, st.text(max_size=3)), max_size=6).map("".join)
)
ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.binary())
def test_any_bytes_are_json_or_one_error(data: bytes) -> None:
    try:
        loads(data)
        code = "bad_json"
    except ProtocolError as error:
        code = error.code
    assert code == "bad_json"


@given(st.text(st.sampled_from('[]{}",:\\u01eE.-dDnNa tf\n')).map(str.encode))
def test_anything_that_looks_like_json_is_json_or_one_error(data: bytes) -> None:
    try:
        value = loads(data)
    except ProtocolError:
        return
    assert json.loads(data) == value
    assert json.dumps(value, ensure_ascii=False).encode("utf-8")


@given(JSON)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.integers(0, MAX_SIZE), LENGTHS)
def test_pieces_and_blocks_cover_a_content_without_gap_or_overlap(size: int, length: int) -> None:
    geometry = Geometry(size, length)
    assert (geometry.pieces - 1) * length < size <= geometry.pieces * length or size == geometry.pieces == 0
    for piece in {0, geometry.pieces // 2, geometry.pieces - 1} if size else ():
        end = piece * length
        for block in geometry.blocks(piece):
            geometry.check(block)
            assert geometry.offset(block) == end
            end += block.length
        assert end == min((piece + 1) * length, size)


@given(st.integers(0, MAX_SIZE))
def test_the_chosen_piece_length_makes_neither_few_nor_many_pieces(size: int) -> None:
    length = choose_piece_length(size)
    pieces = Geometry(size, length).pieces
    assert pieces <= 2000 or length == 16384 * KIB
    assert pieces >= 700 or length == 64 * KIB


@given(st.lists(st.integers(0, 9), max_size=12), st.data())
def test_the_slices_of_any_range_are_that_range(sizes: list[int], data: st.DataObject) -> None:
    whole = [(index, offset) for index, size in enumerate(sizes) for offset in range(size)]
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    layout = Layout([FileEntry(str(index), size) for index, size in enumerate(sizes)])
    slices = list(layout.slices(start, length))
    assert all(part > 0 for _, _, part in slices)
    assert [(index, offset + step) for index, offset, part in slices for step in range(part)] == whole[
        start : start + length
    ]


@given(st.integers(0, 300), st.data())
def test_a_bitmap_is_a_set(n: int, data: st.DataObject) -> None:
    numbers = st.sets(st.integers(0, n - 1)) if n else st.just(set[int]())
    left, right = data.draw(numbers), data.draw(numbers)
    one, other = Bitmap.of(n, left), Bitmap.of(n, right)
    assert list(one) == sorted(left)
    assert one.count == len(left)
    assert set(one | other) == left | right
    assert set(one & other) == left & right
    assert set(one - other) == left - right
    assert set(one.missing()) == set(range(n)) - left
    assert Bitmap.from_bytes(one.to_bytes(), n) == one


@given(st.binary(max_size=8), st.integers(0, 40))
def test_any_bytes_are_a_bitmap_in_its_one_form_or_an_error(data: bytes, n: int) -> None:
    try:
        found = Bitmap.from_bytes(data, n)
    except ProtocolError:
        return
    assert found.to_bytes() == data


@given(NAMES | ANY_TEXT, st.booleans())
def test_case_41_a_local_name_is_idempotent_and_stays_inside_everywhere(part: str, top: bool) -> None:
    try:
        check_part(part)
        message = ""
    except ProtocolError as error:
        message = str(error)
    assert message == printable(message)
    if message:
        return
    local = local_part(part, top)
    check_part(local)
    assert local_part(local, top) == local
    assert PurePosixPath(local).parts == (local,)
    windows = PureWindowsPath(local)
    assert windows.parts == (local,)
    assert not windows.is_reserved()
    assert not windows.drive
    assert local[-1] not in ". "
    assert len(os.fsencode(local)) <= 255


@given(st.lists(NAMES, min_size=1, max_size=6).map("/".join))
def test_case_41_a_path_never_leads_out(path: str) -> None:
    try:
        check_path(path)
    except ProtocolError:
        return
    assert os.path.normpath(os.path.join("/top", local_path(path))).startswith("/top/")


@given(ANY_TEXT)
def test_case_42_printable_text_has_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "A", "b", "ß", "SS", "x.", "x_"]), min_size=1, max_size=3).map("/".join),
    max_size=5,
)


@given(PATHS)
def test_case_45_collisions_are_found_as_by_comparing_all_with_all(paths: list[str]) -> None:
    try:
        check_collisions(paths)
        collide = False
    except ProtocolError:
        collide = True
    assert collide == any(
        _collide(left, right) for index, left in enumerate(paths) for right in paths[index + 1 :]
    )


def _collide(left: str, right: str) -> bool:
    one, other = left.split("/"), right.split("/")
    for depth in range(min(len(one), len(other))):
        if local_part(one[depth]).casefold() != local_part(other[depth]).casefold():
            return False
        if one[depth] != other[depth]:
            return True
    return True


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_an_error(data: bytes) -> None:
    for expected in (None, ContentId("0" * 64)):
        with pytest.raises((ProtocolError, IntegrityError)):
            parse(data, expected)


@given(st.integers(), st.integers(0, 255))
def test_a_manifest_with_any_byte_changed_is_not_taken_for_the_same(where: int, byte: int) -> None:
    manifest = folder_manifest([("a/b", b"1" * 70_000), ("c", b"2")], folders=("e",))
    data = bytearray(to_bytes(manifest))
    data[where % len(data)] = byte
    try:
        assert parse(bytes(data), id_of(manifest)) == manifest
    except IntegrityError:
        assert bytes(data) != to_bytes(manifest)
    try:
        found = parse(bytes(data), None)
    except ProtocolError:
        return
    assert to_bytes(found) == bytes(data)


TREES = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c.d", "nul", "é"]), min_size=1, max_size=3).map("/".join),
    st.integers(0, 70_000),
    max_size=6,
)


@examples(30)
@given(TREES, st.booleans(), st.randoms(use_true_random=False))
def test_any_tree_written_in_any_order_is_that_tree(
    sizes: dict[str, int], portable: bool, rng: object
) -> None:
    sizes = {
        path: size for path, size in sizes.items() if not any(other.startswith(f"{path}/") for other in sizes)
    }
    files = [(path, bytes([index % 251 + 1]) * sizes[path]) for index, path in enumerate(sorted(sizes))]
    manifest = folder_manifest(files)
    whole = b"".join(data for _, data in files)
    with tempfile.TemporaryDirectory() as name:
        part = part_of(manifest, Path(name), portable=portable)
        part.open()
        pieces = list(range(part.geometry.pieces))
        rng.shuffle(pieces)  # type: ignore[attr-defined]
        for piece in pieces:
            fill(part, whole, range(piece, piece + 1))
        found = {path: data for path, data in tree(part.finish()) if data is not None}
    assert found == {local_path(path): data for path, data in files}
