"""What a search takes from the fresh tail: the best of its segments, and the rows that none covers.

Of a row that has moved into the large graph, a segment knows nothing; it is found there. What a
segment found is complete if it has `limit` living rows of the segment, moved or not, or all of
them: then no other row of the segment is among the `limit` nearest. Else its rows are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from storage.fresh_tail import tail_keys
from storage.index_state import IndexState
from storage.metric import Keys, Matrix, Metric
from storage.segments import Nearest, Reach, Segment, nearest
from storage.selection import Admitted
from storage.seq_slots import Numbers
from storage.slots import Flags

Near = tuple[Segment, Numbers, Keys]
"""What a segment found for one query, labels and keys."""


class _Part(NamedTuple):
    """Rows of the tail that are to be compared; `flags` says which are admitted."""

    first: int
    views: list[Matrix]
    flags: Flags


class Tail(NamedTuple):
    """The tail at the instant of a search."""

    admitted: int
    slots: Numbers
    keys: Keys
    """Admitted rows that segments found."""
    parts: list[_Part]


def ask_segments(state: IndexState, vectors: Matrix, reach: Reach) -> list[Nearest]:
    """Search the segments that have living rows for each of vectors[n, dimension], as reader."""
    if not (state.segments and reach.width):
        return []
    with state.mutex:
        alive = state.table.alive
        counted = [
            (each, int(np.count_nonzero(alive[each.first : each.last]))) for each in state.segments
        ]
    return nearest([each for each in counted if each[1]], vectors, reach)


def near(found: Sequence[Nearest], query: int) -> list[Near]:
    """Return what segments found for one of the queries."""
    return [(segment, labels[query], keys[query]) for segment, labels, keys in found]


def bounds_of(keys: Matrix, limit: int) -> Keys:
    """Return the `limit`-th of the large graph's keys[n, k] for each query, infinity without."""
    if keys.shape[1] < limit:
        return np.full(len(keys), np.inf, dtype=np.float32)
    return keys[:, limit - 1]


def tail_of(state: IndexState, admitted: Admitted) -> Tail | None:
    """Return the tail with all its rows to compare. Needs the mutex."""
    if not len(state.tail):
        return None
    flags = admitted.flags(np.arange(state.built, state.table.used))
    slots, keys = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    part = _part(state, state.built, flags)
    return Tail(int(np.count_nonzero(flags)), slots, keys, [part] if part else [])


def tail_beside(state: IndexState, found: Sequence[Near], limit: int) -> Tail | None:
    """Return the tail of an unrestricted search, with what segments found for it.

    Needs the mutex, as reader since the segments were asked.
    """
    if not len(state.tail):
        return None
    alive, at = state.table.alive, state.built
    slots, keys = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    parts = []
    for segment, labels, label_keys in found:
        mine, its_keys = segment.expand(labels, label_keys)
        living = alive[mine]
        needed = min(limit, int(np.count_nonzero(alive[segment.first : segment.last])))
        if np.count_nonzero(living) < needed:
            continue
        living &= mine >= state.built
        slots.append(mine[living][:limit])
        keys.append(its_keys[living][:limit])
        parts.append(_part(state, at, alive[at : segment.first]))
        at = segment.last
    parts.append(_part(state, at, alive[at : state.table.used]))
    count = int(np.count_nonzero(alive[state.built : state.table.used]))
    compared = [part for part in parts if part is not None]
    return Tail(count, np.concatenate(slots), np.concatenate(keys), compared)


def best_of(tails: Sequence[Tail], metric: Metric, queries: Matrix) -> list[tuple[Numbers, Keys]]:
    """Return admitted rows and their keys for each query, the nearest among them; needs no lock.

    Searches that began together compare the same rows: these are read once for all of them.
    """
    alike: dict[tuple[int, int], list[tuple[int, _Part]]] = {}
    for query, tail in enumerate(tails):
        for part in tail.parts:
            alike.setdefault((part.first, len(part.flags)), []).append((query, part))
    slots, keys = [[tail.slots] for tail in tails], [[tail.keys] for tail in tails]
    for asked in alike.values():
        compared = tail_keys(metric, asked[0][1].views, queries[[query for query, _ in asked]])
        for (query, part), its_keys in zip(asked, compared, strict=True):
            at = np.flatnonzero(part.flags)
            slots[query].append(at + part.first)
            keys[query].append(its_keys[at])
    return [(np.concatenate(a), np.concatenate(b)) for a, b in zip(slots, keys, strict=True)]


def _part(state: IndexState, first: int, flags: Flags) -> _Part | None:
    """Return the rows from slot `first` on, as far as they lie between two admitted ones."""
    places = np.flatnonzero(flags)
    if not len(places):
        return None
    start, stop = int(places[0]), int(places[-1]) + 1
    offset = first - state.built
    return _Part(
        first + start, state.tail.views(offset + start, offset + stop), flags[start:stop].copy()
    )
