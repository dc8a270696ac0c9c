"""Reads protos/PROTOCOL.md for tests: its fenced blocks, and what the lines in them say."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE_FILE = ROOT / "protos" / "PROTOCOL.md"
PLACEHOLDER = re.compile(r"<[a-z]+>")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the heading it stands under, the words behind its fence, its lines."""

    heading: str
    info: str
    lines: tuple[str, ...]


def read_page() -> str:
    """The whole page."""
    return PAGE_FILE.read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[Block]:
    """Every fenced block whose fence says `kind`."""
    found: list[Block] = []
    heading, info, lines = "", None, list[str]()
    for line in page.splitlines():
        if line.startswith("```"):
            if info is None:
                info, lines = line[3:], []
                continue
            if info.partition(" ")[0] == kind:
                found.append(Block(heading, info, tuple(lines)))
            info = None
        elif info is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    if info is not None:
        raise AssertionError("a fence is never closed")
    return found


def marked(line: str) -> tuple[str, str]:
    """The mark of a line (`>`, `<` or `<=`) and what is behind it."""
    mark, _, text = line.partition(" ")
    if mark not in (">", "<", "<="):
        raise AssertionError(f"a line without mark: {line}")
    return mark, text


def matches(expected: object, found: object, bound: dict[str, object]) -> bool:
    """Whether `found` is as the page says; a placeholder stands for any value, but for the same one wherever
    it comes again."""
    if isinstance(expected, str) and PLACEHOLDER.fullmatch(expected):
        return bound.setdefault(expected, found) == found
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            matches(expected[key], found[key], bound) for key in expected
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(
            matches(one, other, bound) for one, other in zip(expected, found, strict=True)
        )
    return json.dumps(expected) == json.dumps(found)
