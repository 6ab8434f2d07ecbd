"""Searches of filters' own graphs, and how these are made; see `storage.own_graphs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from storage.index_search import Ask, Found, finish, plain_width
from storage.index_state import IndexState
from storage.metric import Matrix, Query, smallest
from storage.own_graphs import OwnDraft, OwnGraph
from storage.payload_index.selection import ByPayload, NotIndexed
from storage.seq_slots import Numbers
from storage.slots import IndexHit
from storage.tail_search import tail_of

_BEHIND_MAX: Final = 4096
"""Rows that came after a filter's graph was made, and are looked at by each of its searches."""
_LIVING_MIN: Final = 0.75
"""A graph of which fewer live finds too little with the usual width."""
_WIDTH_MIN: Final = 32
"""A narrower look would take a few dead rows for most of the graph."""
_NARROW_PART: Final = 4
"""A search as wide as more than this part of a graph is not for few among many."""


class OwnSearch:
    """A part of one vector index. `changed` is called when `build` has work."""

    def __init__(self, state: IndexState, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed
        self._draft: OwnDraft | None = None
        """The graph in the making. Guarded by the state's `building`."""

    def search(
        self, rows: ByPayload, queries: Sequence[Query], vectors: Matrix, ask: Ask
    ) -> list[list[IndexHit]] | None:
        """Search a filter's graph for each of vectors[n, dimension], those of the queries.

        None: it has none that is of use. Raises NotIndexed.
        """
        own = self._find(rows, ask)
        if own is None:
            return None
        state = self._state
        state.lock.acquire_read()
        try:
            found = _look(state, own, queries, vectors, ask)
        finally:
            state.lock.release_read()
        if found is None:
            with state.mutex:
                state.own.drop(rows)
            return None
        return finish(state, queries, vectors, ask.limit, found)

    def _find(self, rows: ByPayload, ask: Ask) -> OwnGraph | None:
        """Return a filter's own graph; without one, see whether it is time to make one."""
        state = self._state
        if not rows.comes_again or state.graph is None:
            return None
        with state.mutex:
            own = state.own.find(rows, state.table)
            if own is not None:
                wide = _width(state, ask) * _NARROW_PART > own.graph.count
                return None if wide else own
            due = state.own.note(rows, rows.expected(state.table), state.graph)
        if due:
            self._changed()
        return None

    @property
    def has_work(self) -> bool:
        """Whether `build` would do something."""
        return self._state.own.due is not None

    def make(self, rows: ByPayload) -> None:
        """Have a graph made for a filter, unless one is being made."""
        with self._state.mutex:
            if self._state.own.due is None:
                self._state.own.due = rows
        self._changed()

    def take_due(self) -> ByPayload | None:
        """Return the filter for which a graph is due, and forget that it is; in a copy."""
        with self._state.mutex:
            due, self._state.own.due = self._state.own.due, None
        return due

    def build(self, limit: int) -> int:
        """Add up to about `limit` rows to the graph of a filter that is due; return how many."""
        if not self.has_work:
            return 0
        state = self._state
        with state.building:
            moved, own = 0, None
            draft, self._draft = self._draft, None  # one that fails is not made
            try:
                draft = draft or self._begin()
                if draft is not None and draft.table is state.table:
                    moved = draft.step(limit, self._vectors)
                    own = draft.graph()
                    self._draft = draft if own is None else None
            finally:
                if self._draft is None:
                    with state.mutex:
                        state.own.end(own)
                        state.improved += own is not None
            return moved

    def _begin(self) -> OwnDraft | None:
        state = self._state
        with state.mutex:
            rows, large = state.own.due, state.graph
            if rows is None or large is None:
                return None
            try:
                slots = rows.at(state.table).slots()
            except NotIndexed:
                return None
            slots = np.unique(state.copies.stand_ins(slots[slots < state.built]))
            table, end = state.table, state.built
            # Where conditions go together, more pass than were expected.
            if not (len(slots) and state.own.make_room(len(slots), large)):
                return None
        return OwnDraft(table, state.small_graph(len(slots)), slots, end)

    def _vectors(self, slots: Numbers) -> Matrix:
        state = self._state
        state.lock.acquire_read()
        try:
            assert state.graph is not None, "one that has rows stays"
            return state.graph.rows(slots)
        finally:
            state.lock.release_read()


def _width(state: IndexState, ask: Ask) -> int:
    """Return how wide to look in a filter's graph: enough living rows where most live."""
    return max(plain_width(state, ask), 2 * ask.limit, _WIDTH_MIN)


def _look(
    state: IndexState,
    own: OwnGraph,
    queries: Sequence[Query],
    vectors: Matrix,
    ask: Ask,
) -> list[Found] | None:
    """Look once, as reader."""
    if own.table() is not state.table or state.built - own.end > _BEHIND_MAX:
        return None
    # The width that is measured may just have become another one.
    nearest = own.graph.query_many(vectors, min(_width(state, ask), own.graph.count))
    if nearest is None:
        return None
    found = []
    for query, places, keys in zip(queries, *nearest, strict=True):
        judged = _judge(state, own, query, own.slots[places], keys, ask)
        if judged is None:
            return None
        found.append(judged)
    return found


def _judge(
    state: IndexState, own: OwnGraph, query: Query, slots: Numbers, keys: Matrix, ask: Ask
) -> Found | None:
    """Keep of what a filter's graph found what lives, with what has come since; None: too little.

    All is of one instant, at which a row that was written again is in one place.
    """
    graph = state.graph
    assert graph is not None, "a filter's graph has its rows"
    with state.mutex:
        table = state.table
        admitted = ask.selection.at(table)
        slots, keys = state.copies.expand(slots, keys)
        flags = admitted.flags(slots)
        found = int(np.count_nonzero(flags))
        flags &= slots < own.end
        tail = tail_of(state, admitted)
        behind = np.arange(own.end, state.built)
        behind = behind[admitted.flags(behind)]
        stand_ins = state.copies.stand_ins(behind)
    if found < max(ask.limit, len(slots) * _LIVING_MIN):
        return None
    slots, keys = slots[flags], keys[flags]
    if len(behind):
        slots = np.concatenate([slots, behind])
        keys = np.concatenate([keys, graph.keys(stand_ins, query.vector)])
        best = smallest(keys, ask.limit)
        slots, keys = slots[best], keys[best]
    return Found(table.records, slots[: ask.limit], keys[: ask.limit], tail)
