"""Tests of protos/PROTOCOL.md: its tables are as the code says, and every example is what the code reads and
writes."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
from base64 import b64decode
from collections import defaultdict
from types import ModuleType

import pytest

from p2p.content.bitmap import Bitmap
from p2p.content.manifest import content_id, parse
from p2p.content.uri import Uri, parse_link
from p2p.errors import Refused
from p2p.model import Address, ContentId
from p2p.protocol.codec import (
    by_op,
    decode_answer,
    decode_line,
    decode_refusal,
    decode_request,
    encode_answer,
    encode_request,
)
from p2p.protocol.framing import MAX_LINE
from p2p.protocol.peer_messages import PEER_OPS, Answer, Message, Request
from p2p.protocol.schema import plan_of
from p2p.protocol.session import Asked, Session
from p2p.protocol.tracker_messages import TRACKER_OPS
from tests.kit.protocol_page import PLACEHOLDER, ROOT, Block, blocks, marked, matches, read_page
from tests.kit.protocol_samples import REQUESTS
from tests.kit.waiting import HANG_S

PAGE = read_page()
OPS = by_op(REQUESTS)
EXAMPLES = blocks(PAGE, "wire") + blocks(PAGE, "nc")
STAND_IN = {"<session>": "9c" * 16, "<message>": "words"}


def tables() -> ModuleType:
    """The script that makes the tables."""
    spec = importlib.util.spec_from_file_location("protocol_tables", ROOT / "protos" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fields_in(message: Message, plain: dict[str, object]) -> set[tuple[str, str]]:
    """Class and name of each field that an example spells out, nested ones too."""
    found = set()
    for row in plan_of(type(message)).rows:
        if row.name not in plain:
            continue
        found.add((type(message).__name__, row.name))
        value, raw = getattr(message, row.name), plain[row.name]
        pairs = (
            zip(value, raw, strict=True)
            if isinstance(value, tuple) and isinstance(raw, list)
            else [(value, raw)]
        )
        for item, data in pairs:
            if isinstance(data, dict) and not isinstance(item, dict):
                found |= fields_in(item, data)
    return found


class Reader:
    """Decodes the lines of one block as the two sides of a connection would, and notes what was seen."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.messages: list[tuple[str, Message | Refused]] = []
        self.waiting: dict[str, list[tuple[int | None, Request]]] = defaultdict(list)
        self.body: tuple[int, Request] | None = None

    def read(self, line: str) -> None:
        mark, text = marked(line)
        if mark == "<=":
            self._read_body(text.replace("\\n", "\n").encode())
            return
        assert self.body is None, f"a body is missing before: {line}"
        text = PLACEHOLDER.sub(lambda found: STAND_IN[found[0]], text)
        assert len(text.encode()) < MAX_LINE
        heard = decode_line(text.encode())
        if heard.is_request:
            request = self._unknown(heard.data["op"]) or decode_request(heard, OPS)
            if isinstance(request, Request):
                self._note(mark, request, heard.data)
                assert decode_line(encode_request(request, heard.seq)[:-1]).seq == heard.seq
                if request.ANSWER is not None:
                    self.waiting[mark].append((heard.seq, request))
            return
        self._read_answer(mark, text)

    def _unknown(self, op: object) -> Message | None:
        return Message() if op == "sing" else None

    def _read_answer(self, mark: str, text: str) -> None:
        heard = decode_line(text.encode())
        if heard.data["ok"] is False:
            refused = decode_refusal(heard)
            assert refused.code == heard.data["error"], "a code that is not in the table"
            self.messages.append((mark, refused))
            return
        other = "<" if mark == ">" else ">"
        seq, request = next((pair for pair in self.waiting[other] if pair[0] == heard.seq), (None, None))
        assert request is not None, f"answers nothing: {text}"
        answer = decode_answer(heard, type(request))
        assert isinstance(answer, Answer)
        self._note(mark, answer, heard.data)
        assert heard.data == decode_line(encode_answer(answer, seq, heard.body)[:-1]).data, (
            "not as this program writes it"
        )
        if heard.data.get("state") != "accepted":
            self.waiting[other].remove((seq, request))
        if heard.body:
            self.body = heard.body, request

    def _note(self, mark: str, message: Message, plain: dict[str, object]) -> None:
        self.messages.append((mark, message))
        self.seen |= fields_in(message, plain)

    def _read_body(self, body: bytes) -> None:
        assert self.body is not None, "a body that no line announced"
        size, request = self.body
        assert len(body) == size
        if request.OP == "manifest":
            parse(body, getattr(request, "id"))  # noqa: B009
        self.body = None


def read(block: Block) -> Reader:
    """Decode all lines of a block."""
    reader = Reader()
    for line in block.lines:
        reader.read(line)
    assert reader.body is None
    return reader


# -- tables


def test_the_tables_of_the_page_are_as_the_code_says() -> None:
    assert tables().current(PAGE) == PAGE, "run: python3 protos/tables.py"


def test_the_page_has_every_table_once() -> None:
    assert sorted(re.findall(r"<!-- table:(\S+) -->", PAGE)) == sorted(tables().names())
    assert PAGE.count("<!-- /table -->") == len(tables().names())


def test_a_table_that_was_changed_by_hand_is_noticed() -> None:
    changed = PAGE.replace("1024 to 65535", "1 to 65535", 1)
    assert changed != PAGE
    assert tables().current(changed) == PAGE


def test_the_script_checks_the_page_without_anything_installed() -> None:
    script = str(ROOT / "protos" / "tables.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, "--check"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, "--chekc"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_every_reference_inside_the_page_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", "-")
        for text in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert len(headings) == len(re.findall(r"^#+ ", PAGE, re.MULTILINE))
    for target in re.findall(r"\]\(#([^)]*)\)", PAGE):
        assert target in headings


# -- examples


@pytest.mark.parametrize(
    "block", EXAMPLES, ids=[f"{block.heading} {at}" for at, block in enumerate(EXAMPLES)]
)
def test_every_example_is_decoded_and_every_answer_fits_its_question(block: Block) -> None:
    reader = read(block)
    assert len(reader.messages) >= 1
    if block.heading != "Errors" and "nc" not in block.heading:
        assert not [pair for pairs in reader.waiting.values() for pair in pairs], "a question without answer"


@pytest.mark.parametrize("cls", REQUESTS, ids=lambda cls: cls.OP)
def test_every_op_has_an_example_under_its_own_heading(cls: type[Request]) -> None:
    own = [
        message for block in EXAMPLES if block.heading == cls.OP for _mark, message in read(block).messages
    ]
    assert [message for message in own if isinstance(message, cls)]
    if cls.ANSWER is not None:
        assert [message for message in own if isinstance(message, cls.ANSWER)]


MESSAGES = [part for cls in REQUESTS for part in (cls, cls.ANSWER) if part is not None]


@pytest.mark.parametrize("cls", [*MESSAGES, *tables().records().values()], ids=lambda cls: cls.__name__)
def test_every_field_occurs_in_an_example(cls: type) -> None:
    seen = set().union(*(read(block).seen for block in EXAMPLES))
    assert {name for owner, name in seen if owner == cls.__name__} == {row.name for row in plan_of(cls).rows}


def test_every_request_to_a_tracker_or_a_peer_in_the_page_is_known_to_that_side() -> None:
    for ops, title in ((TRACKER_OPS, "Messages to a tracker"), (PEER_OPS, "Messages between peers")):
        section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        found = [
            line
            for block in blocks(section, "wire")
            for line in block.lines
            if line.startswith("> ") and '"op"' in line
        ]
        assert len(found) >= 4
        for line in found:
            session = Session(by_op(ops))
            session.receive_data(line[2:].encode() + b"\n")
            assert isinstance(session.next_event(), Asked)


def test_the_download_in_the_page_goes_through_all_its_steps() -> None:
    ops = [
        message.OP if isinstance(message, Request) else ""
        for block in EXAMPLES
        if block.heading == "A whole download"
        for _mark, message in read(block).messages
    ]
    steps = (
        "login announce login lookup hello manifest have have have hello read have announce announce logout"
    )
    assert " ".join(op for op in ops if op) == steps


def test_the_session_for_nc_goes_through_all_its_steps() -> None:
    (block,) = blocks(PAGE, "nc")
    ops = [
        message.OP for mark, message in read(block).messages if mark == ">" and isinstance(message, Request)
    ]
    assert " ".join(ops) == "ping login announce search lookup logout search announce"
    assert [mark for mark, _message in read(block).messages] == [">", "<"] * len(ops)


# -- content


def test_the_manifests_in_the_page_are_canonical_and_have_the_ids_it_names() -> None:
    found = blocks(PAGE, "manifest")
    assert len(found) == 2
    for block, content in zip(found, (b"hello, swarm\n", "ab\nñandu\n".encode()), strict=True):
        (text,) = block.lines
        expected = ContentId(block.info.partition(" ")[2])
        assert content_id(text.encode()) == expected
        manifest = parse(text.encode(), expected)
        assert manifest.size == len(content)
        digest = (
            hashlib.sha256(content).digest()
            if manifest.hash_name == "sha256"
            else hashlib.blake2b(content, digest_size=32).digest()
        )
        assert manifest.pieces == (digest,)


def test_the_bitmap_in_the_page_is_what_the_code_writes() -> None:
    assert Bitmap.of(10, [0, 1, 9]).to_bytes() == b64decode("wEA=")
    assert '`"wEA="`' in PAGE


def test_the_link_in_the_page_names_its_content_and_its_tracker() -> None:
    ((link,),) = [block.lines for block in blocks(PAGE, "link")]
    expected = ContentId(blocks(PAGE, "manifest")[0].info.partition(" ")[2])
    assert parse_link(link) == Uri(expected, Address("10.0.0.1", 6969), "hello.txt")
    assert str(parse_link(link)) == link


# -- the helper that replays


def test_a_placeholder_stands_for_any_value_and_always_for_the_same() -> None:
    bound: dict[str, object] = {}
    assert matches({"a": ["<x>", 1]}, {"a": ["secret", 1]}, bound)
    assert bound == {"<x>": "secret"}
    assert matches("<x>", "secret", bound)
    assert not matches("<x>", "other", bound)


UNLIKE: list[tuple[object, object]] = [
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1}, {"a": True}),
    ([1], [1, 2]),
    ("a", "b"),
    ({}, []),
]


@pytest.mark.parametrize(("expected", "found"), UNLIKE)
def test_what_differs_from_the_page_does_not_match(expected: object, found: object) -> None:
    assert not matches(expected, found, {})
