"""Keeps entries in order, for pages. Changes are noted as they come, and merged when the view is read."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Final, Generic, Protocol, TypeVar


class Sortable(Protocol):
    """What a view holds: it has a place that no other entry has."""

    @property
    def order(self) -> tuple[str, str]: ...


T = TypeVar("T", bound=Sortable)
_BY_ORDER: Final = attrgetter("order")
_FEW: Final = 64
"""Up to so many changes are put in one by one. More are merged in, and very many are cheaper to sort anew."""


class SortedView(Generic[T]):
    """Entries in order. An entry's order may change only inside `moving`."""

    def __init__(self) -> None:
        self._list: list[T] = []
        self._added: dict[T, None] = {}
        self._removed: dict[T, None] = {}

    def add(self, entry: T) -> None:
        """Put an entry in."""
        self._added[entry] = None

    def remove(self, entry: T) -> None:
        """Take an entry out, which must be in."""
        if entry in self._added:
            del self._added[entry]
        else:
            self._removed[entry] = None

    @contextmanager
    def moving(self, entry: T) -> Iterator[None]:
        """Take an entry out under its old order, and put it in again under the order that the block gives
        it."""
        self.view()
        self.remove(entry)
        self.view()
        yield
        self.add(entry)

    def view(self) -> list[T]:
        """All entries in order. Not to be changed, nor kept across a change."""
        added, removed = self._added, self._removed
        if len(removed) > _FEW:
            self._list = [entry for entry in self._list if entry not in removed]
        else:
            for entry in removed:
                del self._list[bisect_left(self._list, entry.order, key=_BY_ORDER)]
        if len(added) <= _FEW:
            for entry in added:
                insort(self._list, entry, key=_BY_ORDER)
        elif len(added) * 8 < len(self._list):
            self._list = self._merged(added)
        else:
            self._list.extend(added)
            self._list.sort(key=_BY_ORDER)
        if added:
            self._added = {}
        if removed:
            self._removed = {}
        return self._list

    def _merged(self, added: Iterable[T]) -> list[T]:
        merged: list[T] = []
        start = 0
        for entry in sorted(added, key=_BY_ORDER):
            at = bisect_left(self._list, entry.order, start, key=_BY_ORDER)
            merged += self._list[start:at]
            merged.append(entry)
            start = at
        return merged + self._list[start:]
