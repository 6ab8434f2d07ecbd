"""Search over graph and fresh tail: how wide to look, and when the answer is complete.

The graph knows neither dead rows nor filters, so a search asks it for more rows than it needs and
keeps those that count. Of n rows in the graph with m admitted, the k-th admitted one stands near
place k*n/m, if being admitted has nothing to do with being near; `_MARGIN` times that, instead of k
in the ordinary beam, finds it with the usual recall. If too few are admitted, they are rarer here
than elsewhere: the search widens by as much as it has seen them to be, and before that would cost
more than comparing every admitted row it compares them, which is exact. So a search is never short:
it returns `limit` rows, or all there are.

A few admitted rows are cheaper to compare one by one at once. What that costs, in rows that a graph
search visits, is the graph's to say: much less where it can read rows in place (`storage.hnsw`).

Parts of a graph can be unreachable; hnswlib then refuses to answer a wide query. `_visit_all` asks
for fewer rows and compares those that stayed behind one by one. A row of the graph may stand for
others with the same vector (`storage.copies`): it is found once and counts for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from storage.hnsw import Hnsw, Slots
from storage.index_state import IndexState
from storage.metric import Keys, Matrix, Query, smallest
from storage.segments import Reach
from storage.selection import Admitted, Restriction, Selection
from storage.seq_slots import Numbers
from storage.slots import Flags, IndexHit, Records, make_hits
from storage.tail_search import (
    Near,
    Tail,
    ask_segments,
    best_of,
    bounds_of,
    near,
    tail_beside,
    tail_of,
)

_FETCH: Final = 0
"""A beam that looks at no neighbours: the admitted rows are compared one by one."""
_VISIT_ALL: Final = 2**62
"""A beam wider than any graph."""
_MARGIN: Final = 1.4
"""Recall@10 under random filters of 5, 10, 50 and 90 % is then 0.975 to 0.978, as without."""
_FILTERED: Final = 1.2
"""How much wider the measured beam is under a filter: what passes may be rarer where the query is.
Recall@10 under one that excludes the nearest row's class is then 0.975, and 0.968 without."""
_WIDEN_MIN: Final = 2
_WIDEN_MAX: Final = 16
_WIDEN_MARGIN: Final = 2.0
_UNREACHED_MIN: Final = 64

EVERYTHING: Final = Selection(None, None)
_NO_SLOTS: Final[Numbers] = np.empty(0, dtype=np.int64)
_NO_KEYS: Final[Keys] = np.empty(0, dtype=np.float32)


class Found(NamedTuple):
    """Admitted rows of the graph, nearest first, and the tail of the same instant."""

    records: Records
    slots: Numbers
    keys: Keys
    tail: Tail | None


class TooFew(NamedTuple):
    """What a look was not enough for: the admitted rows that it found."""

    admitted: int


class Beam(NamedTuple):
    """How wide to look, and from which width on to compare all admitted rows instead.

    `segments` are asked `young` wide; 0: the tail's rows are compared.
    """

    width: int
    ceiling: float
    all: int
    young: int


class Ask(NamedTuple):
    """What a search is asked for."""

    limit: int
    selection: Restriction = EVERYTHING
    ef: int | None = None
    exact: bool = False


def check_asked(limit: int, ef: int | None) -> None:
    """Raise ValueError when a limit or a beam width is below 1."""
    if limit < 1:
        raise ValueError("limit is at least 1")
    if ef is not None and ef < 1:
        raise ValueError("ef is at least 1")


def search(state: IndexState, query: Query, ask: Ask) -> list[IndexHit]:
    """Return the `limit` nearest admitted rows, best first, or all there are."""
    beam = first_beam(state, ask)
    while True:
        state.lock.acquire_read()
        try:
            found = _look(state, query, ask, beam)
        finally:
            state.lock.release_read()
        if isinstance(found, Found):
            return finish(state, [query], query.vector.reshape(1, -1), ask.limit, [found])[0]
        beam = _wider(beam, ask.limit, found.admitted)


def search_many(
    state: IndexState, queries: Sequence[Query], vectors: Matrix, ask: Ask
) -> list[list[IndexHit]]:
    """Answer searches that ask for the same with one call of hnswlib, which frees the interpreter.

    vectors[n, dimension] are those of the queries.
    """
    answers: list[Found | TooFew] = [TooFew(0)] * len(queries)
    beam = first_beam(state, ask)
    state.lock.acquire_read()
    try:
        graph = state.graph
        if graph is not None and graph.count and beam.width not in (_FETCH, _VISIT_ALL):
            nearest = graph.query_many(vectors, min(beam.width, graph.count))
            if nearest is not None:
                hits = _all_at_once(state, queries, nearest, ask)
                if hits is not None:
                    return hits
                slots, keys = nearest
                reach = Reach(beam.young, ask.limit, bounds_of(keys, ask.limit))
                young = ask_segments(state, vectors, reach)
                answers = [
                    _judge(state, slots[n], keys[n], ask, near(young, n))
                    for n in range(len(queries))
                ]
    finally:
        state.lock.release_read()
    found = {at: answer for at, answer in enumerate(answers) if isinstance(answer, Found)}
    chosen = [queries[at] for at in found]
    hits = finish(state, chosen, vectors[list(found)], ask.limit, list(found.values()))
    finished = dict(zip(found, hits, strict=True))
    return [
        finished[at] if at in finished else search(state, query, ask)
        for at, query in enumerate(queries)
    ]


def _all_at_once(
    state: IndexState, queries: Sequence[Query], nearest: tuple[Slots, Keys], ask: Ask
) -> list[list[IndexHit]] | None:
    """Return the hits of many searches at a fraction of the price of each alone.

    None unless the nearest rows of each hold the answer: enough that pass, each the only one of its
    vector or with but one other in its place, and no tail beside them.
    """
    limit, (slots, keys) = ask.limit, nearest
    if slots.shape[1] < limit:
        return None
    if ask.selection is EVERYTHING:
        slots, keys = slots[:, :limit], keys[:, :limit]
    with state.mutex:
        table = state.table
        lead = state.copies.soles(slots.ravel()) if not len(state.tail) else None
        if lead is None:
            return None
        if ask.selection is EVERYTHING:
            passing = table.alive[lead]
        else:
            passing = ask.selection.at(table).flags(lead)
        records = table.records
    first = _first_of_each(passing.reshape(slots.shape), limit)
    if first is None:
        return None
    return _hits_of(state, queries, records, lead[first], keys.ravel()[first])


def _first_of_each(passing: Flags, limit: int) -> Numbers | slice | None:
    """Return where the first `limit` of each of passing[n, width] are if one counts through all of
    them; None where there are fewer."""
    count, width = passing.shape
    if width == limit:
        return slice(None) if passing.all() else None
    chosen = []
    for row in range(count):
        places = np.flatnonzero(passing[row])
        if len(places) < limit:
            return None
        chosen.append(places[:limit] + row * width)
    return np.concatenate(chosen)


def _hits_of(
    state: IndexState, queries: Sequence[Query], records: Records, slots: Numbers, keys: Keys
) -> list[list[IndexHit]]:
    """Return the hits of n queries from slots[n * limit] and their keys."""
    limit, values = len(slots) // len(queries), keys.tolist()
    scores = []
    for at, query in enumerate(queries):
        scores += state.metric.scores(values[at * limit : (at + 1) * limit], query.scale)
    hits = make_hits(records, slots, scores)
    return [hits[start : start + limit] for start in range(0, len(hits), limit)]


def plain_width(state: IndexState, ask: Ask) -> int:
    """Return how wide to look where every row counts."""
    return max(ask.ef, ask.limit) if ask.ef is not None else max(state.beam.width, 2 * ask.limit)


def first_beam(state: IndexState, ask: Ask) -> Beam:
    """Return how wide to look first; raises NotIndexed."""
    count, graph = state.graph_count, state.graph
    width = plain_width(state, ask)
    whole, expected = True, float(count)
    if ask.selection is not EVERYTHING:
        with state.mutex:
            whole = ask.selection.covers(state.table)
            expected = count if whole else ask.selection.expected(state.table)
    if whole:
        living = count - state.graph_dead
        beam = width if living == count else math.ceil(width * count / max(living, 1))
    else:
        width = width if ask.ef is not None else math.ceil(_FILTERED * width)
        beam = width - ask.limit + math.ceil(_MARGIN * ask.limit * count / max(expected, 1))
    cost = expected * (graph.row_cost if graph is not None else 0.0)
    if graph is None or graph.reads_in_place or cost < count:
        ceiling, everything = cost, _FETCH
    else:
        ceiling, everything = count // 2, _VISIT_ALL
    beyond = ask.exact or beam > min(ceiling, count // 2)
    young = width if whole and not ask.exact else 0
    return Beam(everything if beyond else beam, ceiling, everything, young)


def _wider(beam: Beam, limit: int, admitted: int) -> Beam:
    """Return a beam that finds enough if admitted rows go on as rare as they were."""
    if beam.width == beam.all:
        return beam._replace(width=_VISIT_ALL, all=_VISIT_ALL)
    share = math.ceil(_WIDEN_MARGIN * limit * beam.width / max(admitted, 1))
    width = min(max(share, _WIDEN_MIN * beam.width), _WIDEN_MAX * beam.width)
    return beam._replace(width=width if width <= beam.ceiling else beam.all)


def _look(state: IndexState, query: Query, ask: Ask, beam: Beam) -> Found | TooFew:
    """Look once, as reader."""
    graph = state.graph
    slots, keys = _NO_SLOTS, _NO_KEYS
    one_by_one = beam.width in (_FETCH, _VISIT_ALL)
    if graph is not None and graph.count and not one_by_one:
        nearest = graph.query(query.vector, min(beam.width, graph.count))
        if nearest is None:
            return TooFew(0)
        slots, keys = nearest
    reach = Reach(beam.young, ask.limit, bounds_of(keys.reshape(1, -1), ask.limit))
    found = near(ask_segments(state, query.vector.reshape(1, -1), reach), 0)
    if graph is not None and graph.count and one_by_one:
        return _compare_all(state, graph, query, ask, beam.width, found)
    return _judge(state, slots, keys, ask, found)


def _judge(
    state: IndexState, slots: Numbers, keys: Keys, ask: Ask, found: Sequence[Near]
) -> Found | TooFew:
    """Keep the admitted ones of the graph's nearest slots; `found` are those of segments."""
    with state.mutex:
        table = state.table
        whole = ask.selection is EVERYTHING or ask.selection.covers(table)
        if whole and not len(state.tail):
            lead = slots[: ask.limit]
            plain = len(lead) == ask.limit and not state.copies.are_crowded(lead)
            if plain and all(table.alive[lead].tolist()):
                return Found(table.records, lead, keys[: ask.limit], None)
        admitted = ask.selection.at(table)
        slots, keys = state.copies.expand(slots, keys)
        flags = admitted.flags(slots)
        tail = _tail_at(state, ask, found, admitted)
        in_graph = admitted.count - (tail.admitted if tail else 0)
        places = np.flatnonzero(flags)
        if len(places) < min(ask.limit, in_graph) and state.graph_count:
            return TooFew(len(places))
        places = places[: ask.limit]
        return Found(table.records, slots[places], keys[places], tail)


def _tail_at(state: IndexState, ask: Ask, found: Sequence[Near], admitted: Admitted) -> Tail | None:
    """Return the tail of this instant; by then, a selection may no longer cover everything."""
    if ask.selection is EVERYTHING or ask.selection.covers(state.table):
        return tail_beside(state, found, ask.limit)
    return tail_of(state, admitted)


def _compare_all(
    state: IndexState, graph: Hnsw, query: Query, ask: Ask, width: int, found: Sequence[Near]
) -> Found | TooFew:
    """Compare every admitted row of the graph, unless there are more than expected to fetch."""
    with state.mutex:
        table = state.table
        admitted = ask.selection.at(table)
        tail = _tail_at(state, ask, found, admitted)
        slots = admitted.slots()
        if tail is not None:
            slots = slots[slots < state.built]
        stand_ins = state.copies.stand_ins(slots)
    if width == _FETCH and graph.reads_in_place:
        keys = graph.keys(stand_ins, query.vector)
    else:
        distinct, places = np.unique(stand_ins, return_inverse=True)
        if width == _VISIT_ALL:
            keys = _visit_all(state, graph, query, distinct)[places]
        elif len(distinct) * graph.row_cost <= 2 * graph.count:
            keys = graph.keys(distinct, query.vector)[places]
        else:
            return TooFew(0)
    best = smallest(keys, ask.limit)
    return Found(table.records, slots[best], keys[best], tail)


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
        return graph.keys(wanted, query.vector)
    by_slot = np.full(state.built, np.nan, dtype=np.float32)
    by_slot[nearest[0]] = nearest[1]
    keys: Keys = by_slot[wanted]
    behind = np.isnan(keys)
    keys[behind] = graph.keys(wanted[behind], query.vector)
    return keys


def finish(
    state: IndexState,
    queries: Sequence[Query],
    vectors: Matrix,
    limit: int,
    found: Sequence[Found],
) -> list[list[IndexHit]]:
    """Add the tail's best rows and resolve; needs no lock, for all it reads is immutable."""
    with_tail = [at for at, each in enumerate(found) if each.tail is not None]
    tails = [each.tail for each in found if each.tail is not None]
    fresh = dict(zip(with_tail, best_of(tails, state.metric, vectors[with_tail]), strict=True))
    hits = []
    for at, (query, each) in enumerate(zip(queries, found, strict=True)):
        slots, keys = each.slots, each.keys
        if at in fresh:
            slots, keys = (
                np.concatenate([slots, fresh[at][0]]),
                np.concatenate([keys, fresh[at][1]]),
            )
            best = smallest(keys, limit)
            slots, keys = slots[best], keys[best]
        scores = state.metric.scores(keys.tolist(), query.scale)
        hits.append(make_hits(each.records, slots, scores))
    return hits
