"""Tests of p2p/content/names.py: case 41 (hostile names) and case 45 (collisions)."""

from __future__ import annotations

import pytest

from p2p.content.names import (
    MAX_PART,
    check_collisions,
    check_part,
    check_path,
    local_part,
    local_path,
    local_paths,
)
from p2p.errors import ProtocolError
from p2p.model import FileEntry, Manifest
from p2p.text import printable

REFUSED = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/./b",
    "/x",
    "//srv/s",
    "a//b",
    "a/",
    "..\\x",
    "\\\\srv\\s",
    "C:\\x",
    "a\\b",
    "a\x00b",
    "\x00",
    "a\nb",
    "a\rb",
    "\x1b[31mred",
    "\x1b]52;c;AAAA\x07",
    "\x9b31m",
    "a\x7f",
    "a\x85b",
    "bell\x07",
    "tab\tx",
    "exe\u202egpj.txt",
    "a\u202ab",
    "a\u2066b\u2069",
    "a\u200fb",
    "a\u061cb",
    "a\u200bb",
    "a\u200db",
    "a\u200cb",
    "a\u2060b",
    "\ufeffa",
    "a\u00adb",
    "a\u2028b",
    "a\ud800b",
    "\udcff",
    "x" * 256,
    "ñ" * 128,
    "😀" * 64,
    "x/" + "y" * 256,
    "/".join(["d"] * 65),
    "/".join(["x" * 250] * 17),
    "ñ" * 100 + ("/" + "ñ" * 100) * 20,
]
RENAMED = {
    "x:stream": "x_stream",
    "C:": "C_",
    "a<b>c": "a_b_c",
    'q"q': "q_q",
    "a|b": "a_b",
    "what?": "what_",
    "*": "_",
    "NUL": "_NUL",
    "nul": "_nul",
    "con.txt": "_con.txt",
    "CON .txt": "_CON .txt",
    "COM1.log": "_COM1.log",
    "com¹": "_com¹",
    "LPT9": "_LPT9",
    "aux.": "aux_",
    "prn.tar.gz": "_prn.tar.gz",
    "CONIN$": "_CONIN$",
    "conout$.x": "_conout$.x",
    "x.": "x_",
    "x ": "x_",
    "x. .": "x___",
    "...": "___",
    " ": "_",
}
RENAMED_AT_THE_TOP = {
    "-rf": "_-rf",
    "--help": "_--help",
    "~": "_~",
    "~root": "_~root",
    ".bashrc": "_.bashrc",
    ".ssh": "_.ssh",
    "...": "___",
    "plain": "plain",
    "con": "_con",
}
UNCHANGED = [
    "a",
    "a b",
    "ñ",
    "e\u0301",
    "日本語.txt",
    "x" * 255,
    "ñ" * 127,
    ".hidden",
    "-rf",
    "~x",
    "con leche.txt",
    "console",
    "nulls",
    "com10",
    "a.b.c",
    "...",
]


@pytest.mark.parametrize("path", REFUSED)
def test_case_41_a_name_that_leaves_the_folder_or_deceives_is_refused(path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_path(path)
    assert caught.value.code == "bad_field"
    message = str(caught.value)
    assert message == printable(message)
    assert len(message) < 400
    assert message.encode("utf-8")


@pytest.mark.parametrize("part", [*UNCHANGED, *RENAMED])
def test_a_legal_name_is_accepted(part: str) -> None:
    check_part(part)
    check_path(part)


@pytest.mark.parametrize(("part", "local"), RENAMED.items())
def test_case_41_a_name_that_some_disk_cannot_hold_is_replaced(part: str, local: str) -> None:
    assert local_part(part) == local
    assert local_part(local) == local


@pytest.mark.parametrize(("part", "local"), RENAMED_AT_THE_TOP.items())
def test_case_41_a_content_may_not_be_hidden_or_look_like_an_option(part: str, local: str) -> None:
    assert local_part(part, top=True) == local
    assert local_part(local, top=True) == local


@pytest.mark.parametrize("part", [part for part in UNCHANGED if part != "..."])
def test_an_ordinary_name_is_kept(part: str) -> None:
    assert local_part(part) == part


@pytest.mark.parametrize(
    "part", ["con." + "x" * 251, "." + "y" * 254, "-" + "ñ" * 127, "~" + "z" * 252 + " z"]
)
def test_a_prefix_never_makes_a_name_too_long(part: str) -> None:
    local = local_part(part, top=True)
    assert local[0] == "_"
    assert len(local.encode("utf-8")) <= MAX_PART
    assert local[-1] not in ". "
    assert local_part(local, top=True) == local


def test_every_part_of_a_path_is_made_safe() -> None:
    assert local_path("a:/nul/b.") == "a_/_nul/b_"
    single = Manifest(".rc", "file", "sha256", 65536, (FileEntry(".rc", 0),), (), ())
    folder = Manifest(".d", "folder", "sha256", 65536, (FileEntry(".x/a?", 0), FileEntry("b", 0)), (), ())
    assert local_paths(single) == ("_.rc",)
    assert local_paths(folder) == (".x/a_", "b")


@pytest.mark.parametrize(
    "paths",
    [
        ["README", "readme"],
        ["A/x", "a/y"],
        ["d/A/x", "d/a/y"],
        ["\u00e9", "e\u0301"],
        ["stra\u00dfe", "STRASSE"],
        ["\u00df", "SS"],
        ["\u212a", "k"],
        ["\ufb01", "FI"],
        ["a", "a/b"],
        ["A", "a/b"],
        ["a/b/c", "a/b"],
        ["a", "a"],
        ["a:b", "a_b"],
        ["a:b/x", "a_b/y"],
        ["x.", "x_"],
        ["NUL", "_nul"],
        ["m", "A-b", "a/x", "A/y", "z"],
        ["\u0345x", "\u03b9X"],
    ],
)
def test_case_45_names_that_some_disk_cannot_tell_apart_are_refused(paths: list[str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(ProtocolError, match="collide") as caught:
            check_collisions(order)
        assert caught.value.code == "bad_field"
        assert str(caught.value).count("'") == 4


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["a"],
        ["a", "b"],
        ["a/x", "a/y", "b/x"],
        ["a-b/x", "a/x"],
        ["a", "a-b", "ab/a"],
        ["é", "e"],
        ["ss", "s"],
    ],
)
def test_names_that_differ_lie_side_by_side(paths: list[str]) -> None:
    check_collisions(paths)


def test_the_error_gives_both_colliding_names() -> None:
    with pytest.raises(ProtocolError, match=r"'d/README' and 'd/readme'"):
        check_collisions(["d/readme", "d/README"])
    with pytest.raises(ProtocolError, match=r"'a' and 'a/b'"):
        check_collisions(["a", "a/b"])
