"""Arithmetic between the bytes, blocks, pieces and files of one content.

The files of a content, in the order of its manifest, are one run of bytes. It is cut into *pieces* of
`piece_length` bytes, which are what is verified; the last piece may be shorter. A piece is cut into *blocks*
of at most `MAX_BLOCK` bytes, which are what is requested.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from p2p.errors import Refused
from p2p.model import KIB, MAX_BLOCK, MIB, BlockSpan, FileEntry
from p2p.value import frozen

MIN_PIECE_LENGTH: Final = 64 * KIB
MAX_PIECE_LENGTH: Final = 16 * MIB
"""Bounds of the piece length in bytes, which is a power of two."""

_MOST_PIECES: Final = 1448
"""The piece length is doubled above this many pieces. A content then has between 724 and 1,448 pieces; 1,000
is their geometric mean."""


def choose_piece_length(size: int) -> int:
    """The piece length within the bounds that cuts a content of `size` bytes into about 1,000 pieces."""
    length = MIN_PIECE_LENGTH
    while length < MAX_PIECE_LENGTH and size > _MOST_PIECES * length:
        length *= 2
    return length


@frozen
class Geometry:
    """How `size` bytes are cut into pieces of `piece_length` bytes, and these into blocks."""

    size: int
    piece_length: int

    @property
    def pieces(self) -> int:
        """Number of pieces; 0 for an empty content."""
        return -(-self.size // self.piece_length)

    @property
    def block_length(self) -> int:
        """Bytes of a full block."""
        return min(self.piece_length, MAX_BLOCK)

    def piece_size(self, piece: int) -> int:
        """Bytes of piece number `piece`. Raises `IndexError` if there is no such piece."""
        if not 0 <= piece < self.pieces:
            raise IndexError(f"piece {piece} of {self.pieces}")
        return min(self.piece_length, self.size - piece * self.piece_length)

    def blocks(self, piece: int) -> tuple[BlockSpan, ...]:
        """The blocks of one piece, in order. Raises `IndexError` if there is no such piece."""
        size, step = self.piece_size(piece), self.block_length
        return tuple(BlockSpan(piece, offset, min(step, size - offset)) for offset in range(0, size, step))

    def check(self, span: BlockSpan) -> None:
        """Raise `Refused("bad_range")` unless `span` has 1 to `MAX_BLOCK` bytes and lies inside one piece.

        The message has this side's numbers only: those of a hostile client may have thousands of digits.
        """
        if not 0 <= span.piece < self.pieces:
            raise Refused(
                "bad_range", f"there is no such piece; this content has {self.pieces} pieces, counted from 0"
            )
        if not 0 < span.length <= MAX_BLOCK:
            raise Refused("bad_range", f"a block has 1 to {MAX_BLOCK} bytes")
        size = self.piece_size(span.piece)
        if not 0 <= span.offset <= size - span.length:
            raise Refused("bad_range", f"the block is not inside its piece, which has {size} bytes")

    def offset(self, span: BlockSpan) -> int:
        """The offset of `span` in the content, in bytes."""
        return span.piece * self.piece_length + span.offset


class Layout:
    """Which bytes of a content lie in which of its files."""

    __slots__ = ("_numbers", "_starts", "size", "sizes")

    def __init__(self, files: Sequence[FileEntry]) -> None:
        """`files` are in the order of the manifest. Empty files are in no slice."""
        self.sizes = tuple(entry.size for entry in files)
        self._numbers: list[int] = []
        self._starts: list[int] = []
        position = 0
        for number, entry in enumerate(files):
            if entry.size:
                self._numbers.append(number)
                self._starts.append(position)
                position += entry.size
        self.size = position

    def slices(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield `(file index, offset in that file, length)` for each file with some of `length` bytes from
        `offset`.

        Raises `IndexError` if the range is not inside the content.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise IndexError(f"{length} bytes at {offset} of {self.size}")
        at = bisect_right(self._starts, offset) - 1
        while length:
            start = self._starts[at]
            end = self._starts[at + 1] if at + 1 < len(self._starts) else self.size
            part = min(length, end - offset)
            yield self._numbers[at], offset - start, part
            offset += part
            length -= part
            at += 1

    def touched(self, offset: int, length: int) -> int:
        """How many files hold some of `length` bytes from `offset`, a range inside the content."""
        return bisect_left(self._starts, offset + length) - bisect_right(self._starts, offset) + 1

    def start(self, number: int) -> int:
        """The offset of file `number` in the content. Raises `IndexError` for a file without bytes."""
        at = bisect_right(self._numbers, number) - 1
        if at < 0 or self._numbers[at] != number:
            raise IndexError(f"file {number} holds no bytes")
        return self._starts[at]
