#!/usr/bin/env python3
"""Keeps the tables of PROTOCOL.md as the code says: rewrites what stands between its marks, or with `--check`
only says if that is current.

A mark is `<!-- table:NAME -->`, and what it opens ends at `<!-- /table -->`. NAME is `codes`, `limits`,
`tracker-ops`, `peer-ops`, `op:OP` or `record:CLASS`; `names()` lists them all.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from p2p.content import geometry, manifest  # noqa: E402
from p2p.content import names as content_names  # noqa: E402
from p2p.errors import WIRE_CODES  # noqa: E402
from p2p.model import MAX_BLOCK, MAX_PIECES, MAX_SIZE  # noqa: E402
from p2p.protocol.codec import MESSAGE_TEXT, SEQ  # noqa: E402
from p2p.protocol.framing import MAX_LINE  # noqa: E402
from p2p.protocol.peer_messages import MAX_MANIFEST, PAGE, PEER_OPS, Request  # noqa: E402
from p2p.protocol.schema import Kind, ListOf, MapOf, Record, Row, plan_of  # noqa: E402
from p2p.protocol.strict_json import MAX_DIGITS, loads  # noqa: E402
from p2p.protocol.tracker_messages import TRACKER_OPS  # noqa: E402

PAGE_FILE: Final = HERE / "PROTOCOL.md"
REQUESTS: Final[dict[str, type[Request]]] = {cls.OP: cls for cls in (*PEER_OPS, *TRACKER_OPS)}

_REGION: Final = re.compile(r"(<!-- table:(\S+) -->\n).*?(\n<!-- /table -->)", re.DOTALL)


def names() -> list[str]:
    """Every table that the page must have."""
    return [
        "codes",
        "limits",
        "tracker-ops",
        "peer-ops",
        *(f"op:{op}" for op in REQUESTS),
        *(f"record:{name}" for name in records()),
    ]


def records() -> dict[str, type]:
    """The nested objects of all messages, by name."""
    found: dict[str, type] = {}

    def visit(kind: Kind) -> None:
        if isinstance(kind, (ListOf, MapOf)):
            visit(kind.kind)
        elif isinstance(kind, Record):
            found[kind.cls.__name__] = kind.cls
            for row in plan_of(kind.cls).rows:
                visit(row.kind)

    for cls in REQUESTS.values():
        for part in (cls, cls.ANSWER):
            for row in plan_of(part).rows if part is not None else ():
                visit(row.kind)
    return found


def current(page: str) -> str:
    """`page` with every table as the code says. Raises `KeyError` for a mark that nobody knows."""
    return _REGION.sub(lambda found: found[1] + render(found[2]) + found[3], page)


def render(name: str) -> str:
    """One table, without its marks."""
    kind, _, rest = name.partition(":")
    if kind == "op":
        return "\n".join(_op(REQUESTS[rest]))
    if kind == "record":
        return "\n".join([_about(records()[rest]), "", *_fields(records()[rest], "field")])
    if kind in ("tracker-ops", "peer-ops"):
        return "\n".join(_ops(TRACKER_OPS if kind == "tracker-ops" else PEER_OPS))
    return "\n".join({"codes": _codes, "limits": _limits}[name]())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(head)
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def _codes() -> Iterator[str]:
    return _table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in WIRE_CODES.items()))


def _limits() -> Iterator[str]:
    depth = inspect.signature(loads).parameters["max_depth"].default
    rows = [
        ("a line, its newline included", f"{MAX_LINE:,} bytes"),
        ("nesting of objects and lists in a line", f"{depth}, the line's own object counted"),
        ("a number as it is written", f"{MAX_DIGITS} characters"),
        ("`seq`", f"{SEQ.low} to {SEQ.high} (2^53 - 1)"),
        (
            "the `message` of an error",
            f"{MESSAGE_TEXT.high:,} bytes are read; who writes one keeps the whole line below 1,024",
        ),
        ("rows in one answer", f"{PAGE}"),
        ("a block, and so the body that answers `read`", f"{MAX_BLOCK:,} bytes"),
        ("a manifest, and so the body that answers `manifest`", f"{MAX_MANIFEST:,} bytes"),
        (
            "a content",
            (
                f"{MAX_SIZE:,} bytes, {MAX_PIECES:,} pieces, "
                f"{manifest.MAX_FILES:,} files and empty folders together"
            ),
        ),
        (
            "a piece",
            (
                f"a power of two from {geometry.MIN_PIECE_LENGTH:,} to {geometry.MAX_PIECE_LENGTH:,} bytes; "
                "the last may be shorter"
            ),
        ),
        (
            "a path in a manifest",
            (
                f"{content_names.MAX_PATH:,} bytes in {content_names.MAX_DEPTH} parts "
                f"of {content_names.MAX_PART} bytes each, as UTF-8"
            ),
        ),
    ]
    return _table(("what", "limit"), rows)


def _ops(ops: Iterable[type[Request]]) -> Iterator[str]:
    def row(cls: type[Request]) -> tuple[str, str, str, str]:
        fields = ", ".join(
            f"`{row.name}`" if row.required else f"[`{row.name}`]" for row in plan_of(cls).rows
        )
        answer = (
            ", ".join(f"`{row.name}`" for row in plan_of(cls.ANSWER).rows)
            if cls.ANSWER is not None
            else "no answer"
        )
        return f"[`{cls.OP}`](#{cls.OP})", fields, answer, f"{cls.BODY:,}" if cls.BODY else "none"

    return _table(
        ("op", "request ([may be absent])", "answer", "largest body of the answer, bytes"), map(row, ops)
    )


def _op(cls: type[Request]) -> Iterator[str]:
    yield _about(cls)
    yield ""
    yield from _fields(cls, "request field")
    yield ""
    if cls.ANSWER is None:
        yield "It is told, not asked: there is no answer, unless it is refused."
        return
    yield f"Answer: {_about(cls.ANSWER)}"
    yield ""
    yield from _fields(cls.ANSWER, "answer field")
    if cls.BODY:
        yield ""
        yield f"The answer has a body of at most {cls.BODY:,} bytes."


def _about(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def _fields(cls: type, head: str) -> Iterator[str]:
    rows = plan_of(cls).rows
    if not rows:
        yield "No fields." if head == "request field" else "No fields besides `ok`."
        return
    cells = ((f"`{row.name}`", row.kind.doc, _default(row), row.about) for row in rows)
    yield from _table((head, "type, unit, limit", "when absent", "meaning"), cells)


def _default(row: Row) -> str:
    if row.required:
        return "**required**"
    return "not said" if row.default is None else f"`{json.dumps(row.default)}`"


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python3 protos/tables.py [--check]", file=sys.stderr)
        return 2
    page = PAGE_FILE.read_text(encoding="utf-8")
    wanted = current(page)
    if page == wanted:
        return 0
    if arguments:
        print(f"{PAGE_FILE.name} is not as the code says; run: python3 protos/tables.py", file=sys.stderr)
        return 1
    PAGE_FILE.write_text(wanted, encoding="utf-8", newline="\n")
    print(f"{PAGE_FILE.name} is rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
