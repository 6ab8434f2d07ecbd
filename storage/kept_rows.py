"""The vectors of the rows that pass a filter, side by side, for a filter that comes again.

Who stores the memories of many agents searches those of one at a time: the filter is the same all
day, only the query differs. To list the rows that pass and to gather them from all over the graph
takes several times as long as to compare them. So what a filter gathered is kept once it has been
asked for so often that gathering pays, and compared with one product of matrices. What is in use
does not make room: of filters that take turns all would be gathered, and few found again.

What is kept holds for one instant: a table to which nothing was added and from which nothing was
taken since. The first look at another instant lets all of it go, so that nothing has to be told of
writes, and beside steady writes nothing is kept for long.

Guarded by the index's mutex.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from weakref import WeakKeyDictionary, ref

from storage.filter_store import FilterStore
from storage.metric import Matrix
from storage.payload_index.selection import ByPayload
from storage.seq_slots import Numbers
from storage.slots import Records, SlotTable

_KEPT_PART: Final = 8
_KEPT_BYTES_MAX: Final = 256 << 20
"""All that is kept takes at most this, and that part of what the vectors of the graph take."""
_GATHERING_COST: Final = 256
"""To gather so many rows costs about as much as a search does."""
_UNUSED_AFTER: Final = 1000
"""Searches with filters after which what is kept of one is out of use."""


class Kept(NamedTuple):
    """The n rows that pass a filter: float32[n, dimension], the slot of each, and what it is."""

    vectors: Matrix
    slots: Numbers
    records: Records


class Instant(NamedTuple):
    """What a table was at one instant.

    A table only ever grows, and while it does not grow it only loses rows: no size comes twice.
    """

    table: ref[SlotTable]
    used: int
    live: int


class KeptRows:
    """What an index keeps of its filters. See the module."""

    def __init__(self) -> None:
        self._instant: Instant | None = None
        """The one of all that is kept, and that is counted."""
        self._kept: FilterStore[Kept] = FilterStore(lambda kept: kept.vectors.nbytes)
        self._asked: WeakKeyDictionary[ByPayload, int] = WeakKeyDictionary()
        """How often those were asked for of which nothing is kept."""

    def look(self, table: SlotTable) -> Instant:
        """Let go of what is not of this instant, and return it."""
        instant = Instant(ref(table), table.used, table.live)
        if instant != self._instant:
            self._instant = instant
            self._kept.clear()
            self._asked.clear()
        return instant

    def find(self, rows: ByPayload, table: SlotTable) -> Kept | None:
        """Return what is kept of a filter, for a search."""
        self.look(table)
        return self._kept.find(rows)

    def is_due(self, rows: ByPayload, table: SlotTable) -> bool:
        """Count a search; return whether gathering would have paid by now, and count anew.

        Raises NotIndexed.
        """
        self.look(table)
        asked = self._asked.get(rows, 0) + 1
        due = asked > 1 + rows.expected(table) / _GATHERING_COST
        self._asked[rows] = 0 if due else asked
        return due

    def make_room(self, needed: int, bytes_max: int) -> bool:
        """Let go of what is out of use, until so many bytes more fit; False: they do not."""
        return self._kept.make_room(needed, bytes_max, _UNUSED_AFTER)

    def keep(self, rows: ByPayload, kept: Kept, instant: Instant, bytes_max: int) -> None:
        """Keep what was gathered, if it is of now and there is room still."""
        if instant == self._instant and self.make_room(kept.vectors.nbytes, bytes_max):
            self._kept.put(rows, kept)

    @property
    def bytes(self) -> int:
        """Memory of the vectors that are kept."""
        return self._kept.bytes


def room_for(rows: int, row_bytes: int) -> int:
    """Return how many bytes an index of so many rows may keep."""
    return min(_KEPT_BYTES_MAX, rows * row_bytes // _KEPT_PART)
