"""Graphs of their own for filters that come very often, and admit too many rows to compare.

Where a tenth of the rows pass, the large graph has to be asked for ten times as many as are wanted.
A graph of those that pass is asked for no more than a search without a filter asks for. To make
it takes about a tenth of a millisecond a row, so it is made when the filter has been asked for so
often that it would have paid; so a filter that is asked for less costs at most twice what it did.

A graph never changes after it is made. It has every row below the slot `end` that passed then; rows
from there on are compared. Whether a row that it finds still lives and passes is decided as for the
large graph's, so a graph that is behind costs time and is never wrong; one that is too far behind,
or mostly dead, is let go. It labels rows by their places in `slots`, which has the stand-ins.

The graphs together take at most a part of the memory that the rows of the large graph take. One
that is in use does not make room for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary, ref

import numpy as np

from storage.filter_store import FilterStore
from storage.hnsw import Hnsw
from storage.payload_index.selection import ByPayload
from storage.seq_slots import Numbers
from storage.slots import SlotTable

ROWS_MIN: Final = 2048
"""Fewer are compared in less time than a graph takes."""
_PART: Final = 8
_BYTES_MAX: Final = 256 << 20
"""Of all these graphs together, and what part of the large graph that is."""
_ROWS_PER_SEARCH: Final = 4
"""So many rows are built in the time that a search without a graph takes longer."""
_UNUSED_AFTER: Final = 10_000
"""Searches of other filters after which a graph is no longer in use."""
_ROWS_PER_CALL: Final = 64


@dataclass(frozen=True, eq=False, slots=True)
class OwnGraph:
    """See the module."""

    table: ref[SlotTable]
    """Slots have other numbers in another one."""
    graph: Hnsw
    slots: Numbers
    end: int


class OwnGraphs:
    """The graphs of one index's filters. Guarded by the index's mutex."""

    def __init__(self) -> None:
        self._graphs: FilterStore[OwnGraph] = FilterStore(lambda own: own.graph.bytes)
        self._asked: WeakKeyDictionary[ByPayload, int] = WeakKeyDictionary()
        """How often those were asked for that have none."""
        self.due: ByPayload | None = None
        """For which one is to be made or in the making; there is one at a time."""

    @property
    def bytes(self) -> int:
        """Memory of the graphs."""
        return self._graphs.bytes

    def find(self, rows: ByPayload, table: SlotTable) -> OwnGraph | None:
        """Return a filter's graph, which is used now."""
        own = self._graphs.find(rows)
        if own is not None and own.table() is not table:
            self.drop(rows)
            return None
        return own

    def note(self, rows: ByPayload, count: float, large: Hnsw) -> bool:
        """Count a search of a filter that admits about `count` rows; return whether it is due."""
        if self.due is not None or count < ROWS_MIN:
            return False
        asked = self._asked[rows] = self._asked.get(rows, 0) + 1
        if asked * _ROWS_PER_SEARCH < count:
            return False
        self._asked[rows] = 0
        if not self.make_room(count, large):
            return False
        self.due = rows
        return True

    def end(self, own: OwnGraph | None) -> None:
        """Take the graph that was due into use; None: it cannot be made."""
        rows, self.due = self.due, None
        if rows is not None and own is not None:
            self._graphs.put(rows, own)

    def drop(self, rows: ByPayload) -> None:
        """Let a filter's graph go."""
        self._graphs.drop(rows)

    def make_room(self, count: float, large: Hnsw) -> bool:
        """Let go of graphs out of use, until one of `count` rows fits; False: it does not."""
        needed, room = count * large.row_bytes, min(_BYTES_MAX, large.bytes // _PART)
        return self._graphs.make_room(needed, room, _UNUSED_AFTER)


class OwnDraft:
    """A graph in the making: of the slots in `slots`, which are stand-ins of the large graph."""

    def __init__(self, table: SlotTable, graph: Hnsw, slots: Numbers, end: int) -> None:
        assert len(slots) > 0, "there is something to find"
        self._table, self._graph, self._slots, self._end = table, graph, slots, end

    @property
    def table(self) -> SlotTable:
        """Of which the slots are."""
        return self._table

    def step(self, limit: int, rows_of: Callable[[Numbers], np.ndarray]) -> int:
        """Add about `limit` rows, at least one; return how many. `rows_of` gives slots' vectors."""
        first = done = self._graph.count
        while done < min(first + limit, len(self._slots)):
            part = self._slots[done : done + _ROWS_PER_CALL]
            labels = np.arange(done, done + len(part))
            self._graph.add(rows_of(part), labels)
            done += len(part)
        return done - first

    def graph(self) -> OwnGraph | None:
        """Return the graph when it is complete."""
        if self._graph.count < len(self._slots):
            return None
        self._graph.gather()
        return OwnGraph(ref(self._table), self._graph, self._slots, self._end)
