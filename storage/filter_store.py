"""What an index holds for its filters, within a bound of memory. Guarded by the index's mutex.

What is in use does not make room: of filters that take turns each would be made anew, and hardly
found again. A filter that nobody can name any more takes what it has with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from storage.payload_index.selection import ByPayload

Held = TypeVar("Held")


class FilterStore(Generic[Held]):
    """Holds a thing for each filter; `size_of` tells a thing's bytes."""

    def __init__(self, size_of: Callable[[Held], int]) -> None:
        self._size_of = size_of
        self._held: WeakKeyDictionary[ByPayload, Held] = WeakKeyDictionary()
        self._used_at: WeakKeyDictionary[ByPayload, int] = WeakKeyDictionary()
        """In how manieth search each was used last."""
        self._searches = 0

    @property
    def bytes(self) -> int:
        """Memory of all that is held."""
        return sum(map(self._size_of, self._held.values()))

    def find(self, rows: ByPayload) -> Held | None:
        """Return what a filter has, for a search."""
        self._searches += 1
        held = self._held.get(rows)
        if held is not None:
            self._used_at[rows] = self._searches
        return held

    def put(self, rows: ByPayload, held: Held) -> None:
        """Hold a thing for a filter, in the place of what it had."""
        self._held[rows] = held
        self._used_at[rows] = self._searches

    def drop(self, rows: ByPayload) -> None:
        """Let go of what a filter has."""
        self._held.pop(rows, None)
        self._used_at.pop(rows, None)

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._used_at.clear()

    def make_room(self, needed: float, bytes_max: float, unused_after: int) -> bool:
        """Let go of what was not used in so many searches, the oldest first, until there is room.

        Returns whether there is.
        """
        for rows, at in sorted(self._used_at.items(), key=lambda pair: pair[1]):
            if self.bytes + needed <= bytes_max or self._searches - at <= unused_after:
                break
            self.drop(rows)
        return self.bytes + needed <= bytes_max
