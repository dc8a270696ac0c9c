"""A fuzz target: a parser, its input as bytes, the properties of the result, and a limit on memory.

`run` returns for every input: the parser has returned a value or raised an error that it documents. Any other
exception is a finding. So is a value without a property that the target checks, such as `parse(render(x)) ==
x`."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2p.errors import WIRE_CODES, ProtocolError
from p2p.protocol.codec import decode_line, decode_refusal, encode_error
from p2p.text import printable

KIB: Final = 1024
CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = Path(__file__).parent / "found"

# fmt: off
TOKENS: Final = (
    *(b'"op":"', b'"ok":true', b'"ok":false', b'"seq":1', b'"body":', b'"id":"', b"null", b"true", b"[]"),
    *(b"{}", b"\n", b"\r\n", b'\\"', b"-1", b"-0", b"1e999", b"NaN", b"9223372036854775808"),
    *(b"4398046511104", b"1048577", b"65536", b"\\ud800", b"\\udc00", b"\\u0000", b"\xff", b"\x00"),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xc2\x9b", b"../", b"..", b"con", b"nul."),
    *(b"e\xcc\x81", b"\xc3\x9f", b"[::1]", b"::ffff:10.0.0.1", b"%25", b"%00", b":0", b"p2p:"),
    *(b"?tracker=", b"&name=", b"ab" * 32, b"ab" * 16),
)
# fmt: on
"""Tokens that mutations insert: parts of the formats, and inputs that have broken parsers before."""


@dataclass(frozen=True)
class Target:
    """One parser under test."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    """Valid inputs to begin with. Inputs that reach more code are in `corpus/NAME`."""
    length: int = 4096
    """Largest size in bytes of a made input. Kept ones may be longer."""
    factor: int = 64
    base: int = 512 * KIB
    """Largest memory of one run: `base` bytes, and `factor` for each byte of the input."""

    def memory(self, size: int) -> int:
        """Largest memory in bytes for an input of `size` bytes."""
        return self.base + self.factor * size

    def kept(self) -> list[Path]:
        """The inputs kept in the tree, in a fixed order."""
        return sorted((CORPUS / self.name).glob("*")) + sorted((FOUND / self.name).glob("*"))

    def inputs(self) -> list[bytes]:
        """All inputs to begin with: the seeds and the kept ones."""
        return [*self.seeds(), *(path.read_bytes() for path in self.kept())]


def check_memory(target: Target, data: bytes) -> None:
    """Fail if the run of `data` has a larger peak of memory than allowed, as Python's allocators count it.

    They count other threads too, so a run fails only if its peak is too large three times.
    """
    target.run(data)  # tables and imports are made once, and are not the memory of an input
    peaks: list[int] = []
    while len(peaks) < 3 and (not peaks or min(peaks) > target.memory(len(data))):
        tracemalloc.start()
        try:
            target.run(data)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) <= target.memory(len(data)), (
        f"{peaks} bytes of memory at the peak, where {target.memory(len(data)):,} are allowed"
    )


def check_refused(error: ProtocolError, *codes: str, fatal: bool | None = None) -> None:
    """Check an error of a parser: it has a documented code, and is sent as one small line that can be
    decoded.

    `fatal` says whether it must end the connection; None allows both.
    """
    assert error.code in codes, f"{error.code}: {error}"
    assert fatal is None or error.fatal == fatal
    sent = encode_error(error, error.seq)
    assert len(sent) < KIB
    assert decode_refusal(decode_line(sent[:-1])).code == error.code
    assert error.code in WIRE_CODES


def check_sentence(error: Exception, begins: str = "", holds: str = "") -> None:
    """Check an error for the user: one short printable line that begins with `begins` and contains
    `holds`."""
    sentence = str(error)
    assert sentence.startswith(begins)
    assert holds in sentence
    assert 0 < len(sentence) < 16 * KIB
    assert printable(sentence) == sentence
