"""Tests of p2p/text.py: text made safe to print (case 42), and folded."""

from __future__ import annotations

import pytest

from p2p.text import fold, printable


def test_case_42_printed_text_cannot_control_a_terminal() -> None:
    hostile = "".join(map(chr, range(0x100))) + "\x1b]8;;http://x\x07\u202e\u2066\ud800\udfff\u200b"
    shown = printable(hostile)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in shown)
    assert shown.encode("utf-8")
    assert printable("a\x1bb\r\x9b\u202e\ud800") == r"a\x1bb\x0d\x9b\u202e\ud800"
    assert printable("plain ñ 日本") == "plain ñ 日本"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README", "readme"),
        ("straße", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("\u212a", "k"),
        ("\u0345x", "\u03b9X"),
    ],
    ids=["case", "sharp s", "accent", "kelvin", "iota below"],
)
def test_two_spellings_of_one_name_fold_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)
    assert fold(fold(one)) == fold(one)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("é", "e"), ("ss", "s")])
def test_different_names_fold_differently(one: str, other: str) -> None:
    assert fold(one) != fold(other)
