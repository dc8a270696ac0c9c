"""A bounded pool of block buffers: memory depends neither on the size of a content nor on its peers."""

from __future__ import annotations

from types import TracebackType


class Buffer:
    """A borrowed buffer. After `release` its views raise `ValueError`."""

    __slots__ = ("_buffer", "_pool", "_views", "view")

    def __init__(self, pool: BufferPool, buffer: bytearray) -> None:
        self._pool = pool
        self._buffer: bytearray | None = buffer
        self.view = memoryview(buffer)
        self._views = [self.view]

    def window(self, length: int) -> memoryview:
        """A view of the first `length` bytes, to receive a block into. Raises `ValueError` if there are
        less."""
        if not 0 <= length <= len(self.view):
            raise ValueError(f"{length} bytes do not fit a buffer of {len(self.view)}")
        view = self.view[:length]
        self._views.append(view)
        return view

    def release(self) -> None:
        """Give the buffer back. Raises `RuntimeError` if it was given back before, or is still in use.

        A buffer in use is not lent again, since a thread may still write into it; a new one takes its place.
        """
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            raise RuntimeError("this buffer was released before")
        try:
            for view in self._views:
                view.release()
        except BufferError:
            self._pool.take_back(None)
            raise RuntimeError("this buffer was released while it was in use") from None
        self._pool.take_back(buffer)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class BufferPool:
    """At most `count` buffers of `block_length` bytes. Each is made when first needed, and kept."""

    __slots__ = ("_idle", "_lent", "block_length", "count")

    def __init__(self, block_length: int, count: int) -> None:
        if block_length < 1 or count < 1:
            raise ValueError("a pool has at least one buffer of at least one byte")
        self.block_length = block_length
        self.count = count
        self._idle: list[bytearray] = []
        self._lent = 0

    @property
    def lent(self) -> int:
        """How many buffers are lent."""
        return self._lent

    @property
    def free(self) -> int:
        """How many more can be lent now."""
        return self.count - self._lent

    def borrow(self) -> Buffer | None:
        """Borrow a buffer, with any bytes in it. None if all are lent."""
        if self._lent >= self.count:
            return None
        self._lent += 1
        return Buffer(self, self._idle.pop() if self._idle else bytearray(self.block_length))

    def take_back(self, buffer: bytearray | None) -> None:
        """Called by `Buffer.release` only: end one loan, and keep `buffer` if it can be lent again."""
        self._lent -= 1
        if buffer is not None:
            self._idle.append(buffer)
