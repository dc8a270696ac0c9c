"""Properties of every decoder that has a fuzz target, as Hypothesis sees them: edits of good inputs, shrunk
to the smallest that fails."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.cli.parse import parse_rate, parse_size
from p2p.model import Address
from p2p.peer.session_file import StoredSession, load_session, save_session
from p2p.peer.trace import SECRET, json_line, message
from tests.fuzz.target import TOKENS, Target
from tests.fuzz.targets import TARGETS
from tests.kit.effort import examples
from transports.grpc.framing import chunk, data_of

EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=4) | st.sampled_from(TOKENS)), max_size=4
)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=16)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_case_10_any_edit_of_a_good_input_is_read_or_refused_as_documented(target: Target) -> None:
    good = list(target.seeds())

    @examples(60)
    @given(st.sampled_from(good), EDITS)
    def check(data: bytes, edits: list[tuple[float, int, bytes]]) -> None:
        changed = bytearray(data)
        for where, count, new in edits:
            at = round(where * len(changed))
            changed[at : at + count] = new
        target.run(bytes(changed[: max(target.length, len(data))]))

    check()


@examples()
@given(st.integers(0, (1 << 63) - 1), st.sampled_from(["", "K", "kb", "M", "MiB", "G", "T"]))
def test_a_size_with_its_unit_is_so_many_bytes_and_is_read_again(number: int, unit: str) -> None:
    factor = 1024 ** " KMGT".index(unit[:1].upper() or " ")
    number %= (1 << 63) // factor
    assert parse_size(f"{number}{unit}") == parse_rate(f" {number} {unit}/s") == number * factor
    assert parse_size(str(number * factor)) == number * factor


@examples()
@given(st.binary(max_size=5000), st.integers(0, 5000))
def test_a_chunk_is_read_as_it_was_written_whatever_its_parts(data: bytes, cut: int) -> None:
    view = memoryview(data)
    assert bytes(data_of(chunk([view[:cut], view[cut:]], len(data)))) == data


@examples(40)
@given(NAMES, st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_session_is_loaded_as_it_was_kept(user: str, token: str) -> None:
    session = StoredSession(Address("tracker", 1), user, token)
    with tempfile.TemporaryDirectory() as name:
        save_session(Path(name), session)
        assert load_session(Path(name), session.tracker) == session


@examples()
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9) | st.just("S3CR3T"),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "b", "rows"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_no_secret_is_traced_wherever_it_stands(around: object) -> None:
    line = json.dumps({"a": around, "session": "T0K3N", "rows": [{"token": "T0K3N", "x": around}]}).encode()
    text = json_line(message("sent", "h:1", line, 0.0))
    assert "T0K3N" not in text
    assert text.count(SECRET) == 2
