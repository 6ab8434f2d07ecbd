"""How an index learns how wide to look: which queries are kept, and when they are searched again.

The rule is in `storage.beam_width`. A copy in a forked process measures nothing: it hands the
queries that it kept to the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from storage.beam_width import NEIGHBOURS, TAIL_MAX, Measured
from storage.index_search import EVERYTHING, Ask, search_many
from storage.index_state import IndexState
from storage.metric import Keys, Query

_MEASURED_AT_ONCE: Final = 16
"""Queries of a call, after which the builder's thread has to get the interpreter again."""


class Tuning:
    """A part of one vector index. `changed` is called when `tune` has work."""

    def __init__(self, state: IndexState, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed

    def note(self, queries: Sequence[Query]) -> None:
        """Take notice of queries that said nothing of how wide to look."""
        rows, beam = self._state.graph_count, self._state.beam
        for query in queries:
            if beam.note(query.vector, rows):
                self._changed()

    def take_samples(self) -> list[Keys]:
        """Return the queries that were kept, and keep them no longer; in a copy."""
        return self._state.beam.take_samples()

    def add_samples(self, queries: Sequence[Keys]) -> None:
        """Keep queries that were kept in a copy."""
        rows, beam = self._state.graph_count, self._state.beam
        if beam.add_samples(queries, rows):
            self._changed()

    def tune(self, tail_size: int) -> Measured | None:
        """Measure the default beam width for a second; None if it is not due, or rows pour in."""
        state, rows = self._state, self._state.graph_count
        if not state.beam.is_due(rows) or tail_size > TAIL_MAX:
            return None
        before = state.beam.width
        state.beam.measure(rows, self._nearest)
        if state.beam.width != before:
            state.improved += 1
        return state.beam.measured

    def _nearest(self, vectors: Sequence[Keys], ef: int) -> list[list[tuple[int, int]]]:
        ask, found = Ask(NEIGHBOURS, EVERYTHING, ef), []
        for start in range(0, len(vectors), _MEASURED_AT_ONCE):
            part = vectors[start : start + _MEASURED_AT_ONCE]
            queries = [Query(vector, 1.0) for vector in part]
            found += search_many(self._state, queries, np.stack(part), ask)
        return [[(hit.shard, hit.seq) for hit in hits] for hits in found]
