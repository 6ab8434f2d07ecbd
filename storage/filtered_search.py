"""Searches among the rows that pass a filter which payload indexes answer.

A filter that comes again has its rows kept side by side (`storage.kept_rows`), unless the graph
finds the nearest of them with less work; one that comes very often, and admits many, gets a graph
of its own (`storage.own_graphs`). Any other is searched as `storage.index_search` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from storage.flood import Flood
from storage.index_search import Ask, check_asked, first_beam, search, search_many
from storage.index_state import IndexState
from storage.kept_rows import Kept, room_for
from storage.metric import Matrix, Query, smallest
from storage.own_search import OwnSearch
from storage.payload_index.index import PayloadIndex, weakly
from storage.payload_index.selection import ByPayload, NotIndexed
from storage.slots import IndexHit, make_hits

_TO_GATHER_MAX: Final = 64
_KEPT_COST: Final = 0.02
"""What comparing a row that is kept costs, in rows of a search's beam: 0.03 to 0.06 us of 3."""
_AT_ONCE_BYTES: Final = 10 << 20
"""Vectors are compared where a request arrives if they are no more: in 0.2 ms if they are kept, and
in 5 ms if they are gathered first."""


class FilteredSearch:
    """A part of one vector index; see the module. `settle` and `changed` are as for `PayloadIndex`,
    and held weakly as there."""

    def __init__(
        self,
        state: IndexState,
        payloads: PayloadIndex,
        flood: Flood,
        settle: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._state = state
        self._payloads = payloads
        self._flood = flood
        self._settle = weakly(settle)
        self._changed = weakly(changed)
        self.own = OwnSearch(state, self._changed)

    def many(
        self,
        vectors: Matrix,
        limit: int,
        rows: ByPayload,
        *,
        ef: int | None = None,
        unit: bool = False,
    ) -> list[list[IndexHit]]:
        """Return the `limit` nearest rows that pass to each of vectors[n, dimension], best first.

        `ef` and `unit` are as in `VectorIndex.search_many`.

        Raises:
            NotIndexed: no payload indexes answer the filter, or not any more.
            ValueError: as `VectorIndex.search`.
        """
        check_asked(limit, ef)
        state = self._state
        queries, vectors = state.metric.queries(vectors, unit=unit)
        self._flood.searched = True
        self._settle()
        ask = Ask(limit, rows, ef)
        kept = self._kept(rows, ask)
        if kept is not None:
            return _nearest(state, kept, queries, vectors, limit)
        found = self.own.search(rows, queries, vectors, ask)
        if found is not None:
            return found
        if len(queries) > 1:
            return search_many(state, queries, vectors, ask)
        return [search(state, query, ask) for query in queries]

    def at_once(
        self, vector: Matrix, limit: int, rows: ByPayload, rows_max: int, *, ef: int | None
    ) -> list[IndexHit] | None:
        """Return the nearest to vector[1, dimension], under Cosine of length 1.

        None if that takes waiting for somebody or a look at more than `rows_max` rows, fewer where
        they are long, or at more than a few thousand that are kept; the index has to be quiet.
        Raises as `many`.
        """
        check_asked(limit, ef)
        kept = self._kept_now(rows)
        if kept is not None and kept.vectors.nbytes <= _AT_ONCE_BYTES:
            self._flood.searched = True
            queries, vector = self._state.metric.queries(vector, unit=True)
            return _nearest(self._state, kept, queries, vector, limit)[0]
        rows_max = min(rows_max, _AT_ONCE_BYTES // (4 * self._state.shape.dimension))
        if not self._payloads.is_brief(rows, rows_max):
            return None
        return self.many(vector, limit, rows, ef=ef, unit=True)[0]

    @property
    def has_work(self) -> bool:
        """Whether `build` would do something."""
        return bool(self._state.to_gather) or self.own.has_work

    def build(self, limit: int) -> int:
        """Gather for filters that copies asked for often, and go on with filters' own graphs.

        Returns how many rows were moved.
        """
        moved = 0
        while self._state.to_gather:
            try:
                kept = _gathered(self._state, self._state.to_gather.popleft())
            except NotIndexed:
                continue
            moved += 0 if kept is None else len(kept.slots)
        return moved or self.own.build(limit)

    def take_to_gather(self) -> list[ByPayload]:
        """Return the filters whose rows would have been gathered, each once; in a copy."""
        asked = self._state.to_gather
        return list(dict.fromkeys(asked.popleft() for _ in range(len(asked))))

    def gather(self, rows: ByPayload) -> None:
        """Have a filter's rows gathered soon."""
        asked = self._state.to_gather
        if rows not in asked and len(asked) < _TO_GATHER_MAX:
            asked.append(rows)
            self._changed()

    def _kept_now(self, rows: ByPayload) -> Kept | None:
        """Return what is kept of a filter, if nobody is at it just now."""
        state = self._state
        if not state.mutex.acquire(blocking=False):
            return None
        try:
            return state.kept.find(rows, state.table)
        finally:
            state.mutex.release()

    def _kept(self, rows: ByPayload, ask: Ask) -> Kept | None:
        """Return what is kept of a filter, gathered now if that pays."""
        if not rows.comes_again:
            return None
        state = self._state
        with state.mutex:
            kept = state.kept.find(rows, state.table)
            if kept is not None or not state.kept.is_due(rows, state.table):
                return kept
            expected = rows.expected(state.table)
        beam = first_beam(state, ask)
        if beam.width != beam.all and expected * _KEPT_COST > beam.width:
            return None
        if state.is_copy:
            state.to_gather.append(rows)
            return None
        return _gathered(state, rows)


def _gathered(state: IndexState, rows: ByPayload) -> Kept | None:
    """Gather the rows that pass and keep them; None: they are too many, or not all in the graph."""
    state.lock.acquire_read()
    try:
        graph = state.graph
        if graph is None or not graph.reads_in_place:
            return None
        room = room_for(graph.count, 4 * state.shape.dimension)
        with state.mutex:
            slots = rows.at(state.table).slots()
            needed = len(slots) * 4 * state.shape.dimension
            if len(state.tail) or not state.kept.make_room(needed, room):
                return None
            instant, records = state.kept.look(state.table), state.table.records
            stand_ins = state.copies.stand_ins(slots)
        kept = Kept(graph.rows(stand_ins), slots, records)
    finally:
        state.lock.release_read()
    with state.mutex:
        state.kept.keep(rows, kept, instant, room)
        state.improved += 1
    return kept


def _nearest(
    state: IndexState, kept: Kept, queries: Sequence[Query], vectors: Matrix, limit: int
) -> list[list[IndexHit]]:
    """Compare every row that is kept with each of vectors[n, dimension], those of the queries."""
    keys = np.empty((len(queries), len(kept.slots)), dtype=np.float32)
    state.metric.keys_many(kept.vectors, vectors, keys)
    hits = []
    for query, its_keys in zip(queries, keys, strict=True):
        best = smallest(its_keys, limit)
        scores = state.metric.scores(its_keys[best].tolist(), query.scale)
        hits.append(make_hits(kept.records, kept.slots[best], scores))
    return hits
