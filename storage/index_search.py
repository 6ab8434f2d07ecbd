"""Search over graph and fresh tail: how wide to look, and when the answer is complete.

The graph knows neither dead rows nor filters, so a search asks it for more rows than it needs and
keeps those that count. Of n rows in the graph with m admitted, the k-th admitted one stands near
place k*n/m; twice that plus the ordinary beam width finds it with the usual recall. If too few are
admitted the search widens fourfold, and before it would visit half of the graph it visits all of
it, which is exact. So a search is never short: it returns `limit` rows, or all there are.

A few admitted rows are cheaper to compare one by one. hnswlib hands out vectors at about 15 us a
row and visits rows at about 1.5 us, hence `_FETCH_COST`.

Parts of a graph can be unreachable; hnswlib then refuses to answer a wide query. `_visit_all` asks
for fewer rows and compares those that stayed behind one by one. A row of the graph may stand for
others with the same vector (`storage.copies`): it is found once and counts for all of them.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from storage.fresh_tail import tail_keys
from storage.hnsw import Hnsw
from storage.index_state import IndexState
from storage.metric import Keys, Matrix, Query
from storage.selection import Admitted, Selection
from storage.seq_slots import Numbers
from storage.slots import Flags, IndexHit, Records, make_hits

DEFAULT_EF: Final = 72
"""Beam width that gives recall@10 of 0.978 on 117,659 x 384 sentence embeddings at M=16."""

_FETCH: Final = 0
"""A beam that looks at no neighbours: the admitted rows are compared one by one."""
_VISIT_ALL: Final = 2**62
"""A beam wider than any graph."""
_FETCH_COST: Final = 10
"""What comparing one row costs, in rows visited by a graph search."""
_WIDEN: Final = 4
_UNREACHED_MIN: Final = 64

EVERYTHING: Final = Selection(None, None)
_NO_SLOTS: Final[Numbers] = np.empty(0, dtype=np.int64)
_NO_KEYS: Final[Keys] = np.empty(0, dtype=np.float32)


class _Tail(NamedTuple):
    """The tail's rows at the instant of a search; `flags` says which are admitted."""

    views: list[Matrix]
    first: int
    flags: Flags


class _Found(NamedTuple):
    """Admitted rows of the graph, nearest first, and the tail of the same instant."""

    records: Records
    slots: Numbers
    keys: Keys
    tail: _Tail | None


class Ask(NamedTuple):
    """What a search is asked for."""

    limit: int
    selection: Selection = EVERYTHING
    ef: int | None = None
    exact: bool = False


def search(state: IndexState, query: Query, ask: Ask) -> list[IndexHit]:
    """Return the `limit` nearest admitted rows, best first, or all there are."""
    beam = _first_beam(state, ask)
    while True:
        state.lock.acquire_read()
        try:
            found = _look(state, query, ask, beam)
        finally:
            state.lock.release_read()
        if found is not None:
            return _finish(state, query, ask.limit, found)
        beam = _wider(state, beam)


def search_many(state: IndexState, queries: list[Query], ask: Ask) -> list[list[IndexHit]]:
    """Answer unrestricted searches with one call of hnswlib, which frees the interpreter."""
    assert ask.selection is EVERYTHING, "one beam serves all queries only without a selection"
    answers: list[_Found | None] = [None] * len(queries)
    beam = _first_beam(state, ask)
    state.lock.acquire_read()
    try:
        graph = state.graph
        if graph is not None and graph.count and not ask.exact:
            vectors = np.stack([query.vector for query in queries])
            nearest = graph.query_many(vectors, min(beam, graph.count))
            if nearest is not None:
                answers = [_judge(state, *row, ask) for row in zip(*nearest, strict=True)]
    finally:
        state.lock.release_read()
    return [
        search(state, query, ask) if found is None else _finish(state, query, ask.limit, found)
        for query, found in zip(queries, answers, strict=True)
    ]


def _first_beam(state: IndexState, ask: Ask) -> int:
    count = state.graph_count
    width = max(ask.ef, ask.limit) if ask.ef is not None else max(DEFAULT_EF, 2 * ask.limit)
    with state.mutex:
        whole = ask.selection.covers(state.table)
        expected = count if whole else ask.selection.expected(state.table)
    if whole:
        living = count - state.graph_dead
        beam = width if living == count else math.ceil(width * count / max(living, 1))
    else:
        beam = width + math.ceil(2 * ask.limit * count / max(expected, 1))
    if ask.exact or beam > count // 2:
        beam = _VISIT_ALL
    return _FETCH if expected * _FETCH_COST < min(beam, count) else beam


def _wider(state: IndexState, beam: int) -> int:
    wider = beam * _WIDEN
    return wider if beam != _FETCH and wider <= state.graph_count // 2 else _VISIT_ALL


def _look(state: IndexState, query: Query, ask: Ask, beam: int) -> _Found | None:
    """Look once, as reader; None: look wider."""
    graph = state.graph
    if graph is None or not graph.count:
        return _judge(state, _NO_SLOTS, _NO_KEYS, ask)
    if beam in (_FETCH, _VISIT_ALL):
        return _compare_all(state, graph, query, ask, beam)
    nearest = graph.query(query.vector, min(beam, graph.count))
    return None if nearest is None else _judge(state, *nearest, ask)


def _judge(state: IndexState, slots: Numbers, keys: Keys, ask: Ask) -> _Found | None:
    """Keep the admitted ones of the graph's nearest slots; None if they are too few."""
    with state.mutex:
        table = state.table
        if not len(state.tail) and ask.selection.covers(table):
            lead = slots[: ask.limit]
            plain = len(lead) == ask.limit and not state.copies.are_crowded(lead)
            if plain and all(table.alive.take(lead).tolist()):
                return _Found(table.records, lead, keys[: ask.limit], None)
        admitted = ask.selection.at(table)
        slots, keys = state.copies.expand(slots, keys)
        flags = admitted.flags(slots)
        tail = _tail_of(state, admitted)
        in_graph = admitted.count - (int(np.count_nonzero(tail.flags)) if tail else 0)
        complete = np.count_nonzero(flags) >= min(ask.limit, in_graph)
        found = _Found(table.records, slots[flags][: ask.limit], keys[flags][: ask.limit], tail)
    return found if complete else None


def _compare_all(
    state: IndexState, graph: Hnsw, query: Query, ask: Ask, beam: int
) -> _Found | None:
    """Compare every admitted row of the graph; None if there are more than expected to fetch."""
    with state.mutex:
        table = state.table
        admitted = ask.selection.at(table)
        tail = _tail_of(state, admitted)
        slots = admitted.slots()
        slots = slots[: np.searchsorted(slots, state.built)]
        stand_ins, places = np.unique(state.copies.stand_ins(slots), return_inverse=True)
    if beam == _VISIT_ALL:
        keys = _visit_all(state, graph, query, stand_ins)
    elif len(stand_ins) * _FETCH_COST <= 2 * graph.count:
        keys = _row_keys(state, graph, query, stand_ins)
    else:
        return None
    keys = keys[places]
    best = _smallest(keys, ask.limit)
    return _Found(table.records, slots[best], keys[best], tail)


def _visit_all(state: IndexState, graph: Hnsw, query: Query, wanted: Numbers) -> Keys:
    """Return the keys of rows of the graph, from the widest query that it answers."""
    nearest = None
    unreached = state.unreached
    while nearest is None and unreached < graph.count // 2:
        nearest = graph.query(query.vector, graph.count - unreached)
        if nearest is None:
            unreached = max(_UNREACHED_MIN, unreached * 8)
    state.unreached = unreached
    if nearest is None:
        return _row_keys(state, graph, query, wanted)
    by_slot = np.full(state.built, np.nan, dtype=np.float32)
    by_slot[nearest[0]] = nearest[1]
    keys: Keys = by_slot[wanted]
    behind = np.isnan(keys)
    keys[behind] = _row_keys(state, graph, query, wanted[behind])
    return keys


def _row_keys(state: IndexState, graph: Hnsw, query: Query, slots: Numbers) -> Keys:
    keys = np.empty(len(slots), dtype=np.float32)
    if len(slots):
        state.metric.keys(graph.rows(slots), query.vector, keys)
    return keys


def _tail_of(state: IndexState, admitted: Admitted) -> _Tail | None:
    if not len(state.tail):
        return None
    flags = admitted.flags(np.arange(state.built, state.table.used))
    return _Tail(state.tail.views(), state.built, flags)


def _finish(state: IndexState, query: Query, limit: int, found: _Found) -> list[IndexHit]:
    """Add the tail's best rows and resolve; needs no lock, for all it reads is immutable."""
    slots, keys = found.slots, found.keys
    if found.tail is not None:
        fresh = tail_keys(state.metric, found.tail.views, query.vector)
        at = np.flatnonzero(found.tail.flags)
        slots = np.concatenate([slots, at + found.tail.first])
        keys = np.concatenate([keys, fresh[at]])
        best = _smallest(keys, limit)
        slots, keys = slots[best], keys[best]
    return make_hits(found.records, slots, state.metric.scores(keys.tolist(), query.scale))


def _smallest(keys: Keys, limit: int) -> Numbers:
    """Return the positions of the `limit` smallest keys, ascending; equals in their order."""
    if len(keys) <= 4 * limit:
        return np.argsort(keys, kind="stable")[:limit]
    smallest = np.partition(keys, limit - 1)[limit - 1]
    candidates = np.flatnonzero(keys <= smallest)
    return candidates[np.argsort(keys[candidates], kind="stable")][:limit]
