"""What a fuzz target is: a parser, how its input is made of bytes, what must hold of the result, and how much
memory it may take.

A target's `run` returns for every input: the parser has read it, or has raised the errors it documents and no
others. Whatever else leaves `run` is a finding. So is a result that breaks what the target states, such as
`parse(render(x)) == x`.
"""

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
    *(b'"op":"', b'"ok":true', b'"ok":false', b'"seq":1', b'"body":', b'"id":"', b"null", b"true", b"[]", b"{}", b"\n", b"\r\n", b'\\"'),
    *(b"-1", b"-0", b"1e999", b"NaN", b"9223372036854775808", b"4398046511104", b"1048577", b"65536", b"\\ud800", b"\\udc00", b"\\u0000"),
    *(b"\xff", b"\x00", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xc2\x9b", b"../", b"..", b"con", b"nul.", b"e\xcc\x81"),
    b"\xc3\x9f",
    *(b"[::1]", b"::ffff:10.0.0.1", b"%25", b"%00", b":0", b"p2p:", b"?tracker=", b"&name=", b"ab" * 32, b"ab" * 16),
)
# fmt: on
"""Words that a mutation may put in: what the formats are made of, and what has hurt parsers before."""


@dataclass(frozen=True)
class Target:
    """One parser under test."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    """Good inputs to begin with; what was found to reach more lies in `corpus/NAME`."""
    length: int = 4096
    """Longest input in bytes that is made; what is kept may be longer."""
    factor: int = 64
    base: int = 512 * KIB
    """Memory that one run may take at most: `base` bytes, and `factor` for each byte of its input."""

    def most(self, size: int) -> int:
        """Bytes of memory that an input of `size` bytes may take."""
        return self.base + self.factor * size

    def kept(self) -> list[Path]:
        """The inputs that are kept in the tree, in a fixed order."""
        return sorted((CORPUS / self.name).glob("*")) + sorted((FOUND / self.name).glob("*"))

    def inputs(self) -> list[bytes]:
        """All inputs to begin with: the seeds and what is kept."""
        return [*self.seeds(), *(path.read_bytes() for path in self.kept())]


def check_memory(target: Target, data: bytes) -> None:
    """Fail if `data` takes more memory at its peak than it may, as Python's allocators count it.

    They count what other threads of the process do meanwhile, too: only what is too much three times is the
    input's own.
    """
    target.run(data)  # what is made once, such as a table or an import, is not memory of an input
    peaks: list[int] = []
    while len(peaks) < 3 and (not peaks or min(peaks) > target.most(len(data))):
        tracemalloc.start()
        try:
            target.run(data)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) <= target.most(len(data)), (
        f"{peaks} bytes of memory at the peak, where {target.most(len(data)):,} are allowed"
    )


def check_refused(error: ProtocolError, *codes: str, fatal: bool | None = None) -> None:
    """What holds of every error of a parser: it has one of the documented codes, and makes one small line
    that the other side can read.

    `fatal`, where it is given, says whether it must end the connection.
    """
    assert error.code in codes, f"{error.code}: {error}"
    assert fatal is None or error.fatal == fatal
    sent = encode_error(error, error.seq)
    assert len(sent) < KIB
    heard = decode_line(sent[:-1])
    assert decode_refusal(heard).code == error.code
    assert error.code in WIRE_CODES


def check_sentence(error: Exception, begins: str = "", holds: str = "") -> None:
    """What holds of an error for the user: one short line that can be shown as it is, and that names what it
    is about."""
    sentence = str(error)
    assert sentence.startswith(begins)
    assert holds in sentence
    assert 0 < len(sentence) < 16 * KIB
    assert printable(sentence) == sentence
