"""Moves rows from the fresh tail into the graph, and replaces a graph that holds too much garbage.

Adding excludes searches, so the builder adds in batches sized to fill `HOLD_S` and looks up after
each: while nobody waits it goes on, up to `HOLD_MAX_S`; when a reader waits it leaves. One row of
384 dimensions takes 0.03 ms in an empty graph and about 0.5 ms in one of 100,000. What surrounds a
batch costs as much as a third of a row, so batches fill `HOLD_QUIET_S` when nobody has searched for
a while.

A rebuild fills a second graph beside the one that serves, without any lock, and takes its place at
the end. Rows written meanwhile wait in the tail; rows that died meanwhile are garbage in the new
graph. Slots are renumbered, so the table is replaced too; a search keeps the records it started
with. An index without a graph rebuilds its tail in the same way.

Without a clock every hold adds `_BATCH_ROWS`: the same calls then give the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from storage.copies import Copies, Placed, digests_of
from storage.fresh_tail import FreshTail
from storage.hnsw import Hnsw
from storage.index_state import IndexState
from storage.metric import Matrix
from storage.payload_index.column import Column
from storage.segments import Draft
from storage.seq_slots import Numbers
from storage.slots import SlotTable

Clock = Callable[[], float]
"""Seconds that never go back."""

HOLD_S: Final = 0.001
HOLD_MAX_S: Final = 0.05
HOLD_QUIET_S: Final = 0.005
QUIET_AFTER_S: Final = 1.0
GARBAGE_MAX: Final = 0.3
_BATCH_ROWS: Final = 8
_ROW_S_FIRST: Final = 0.002
"""A graph may be large and cold when its first rows come, and too small a batch costs little."""
_NEWS: Final = 0.25
"""The weight of the last batch in what a row is expected to take."""
_BATCH_ROWS_MAX: Final = 512
_THREAD_ROWS: Final = 16
"""hnswlib uses several threads only for batches of more than 4 rows a thread."""
_PATIENCE_MIN_S: Final = 0.004
_PATIENCE_MAX_S: Final = 1.0
_DEAD_SLOTS_SPARED: Final = 100_000
"""A dead slot costs 51 bytes and no search time, so these are swept more rarely."""


class Builder:
    """The single builder of one index."""

    def __init__(self, state: IndexState, *, clock: Clock | None, threads: int) -> None:
        self._state = state
        self._clock = clock
        self._threads = threads
        self._row_s = _ROW_S_FIRST
        """What adding a row has taken lately."""
        self._reads = 0
        self._read_at_s = 0.0
        """When somebody had searched since the look before."""
        self._rebuild: _Rebuild | None = None
        self._drafts: list[Draft] = []
        """Segments in the making; the last is being worked at."""

    @property
    def rebuilding(self) -> bool:
        """Whether a rebuild was begun and not finished."""
        return self._rebuild is not None

    def build(self, limit: int) -> int:
        """Move up to about `limit` rows; returns how many, 0 when there is nothing to do."""
        with self._state.building:
            if covered := self._cover(limit):
                return covered
            if self._rebuild is None and needs_rebuild(self._state):
                self._rebuild = _Rebuild(self._state)
            if self._rebuild is not None:
                return self._continue_rebuild(self._rebuild, limit)
            if self._state.graph is None:
                return 0
            return self._build_tail(limit)

    def _cover(self, limit: int) -> int:
        """Go on with a segment if there is one to make, for those who search; return its rows.

        One of rows that searches compare meanwhile overtakes one of small segments.
        """
        if self._is_quiet(self._clock() if self._clock else 0.0):
            self._drafts = [each for each in self._drafts if each.first >= self._state.built]
            return 0
        state = self._state
        behind = max([state.built, *(each.last for each in state.segments)])
        if not any(draft.first >= behind for draft in self._drafts):
            draft = state.new_segment(behind if self._drafts else 0)
            self._drafts += [draft] if draft else []
        if not self._drafts:
            return 0
        draft = self._drafts.pop()  # one that fails lacks rows: it is begun anew
        moved = draft.step(limit)
        if segment := draft.segment():
            state.share(segment)
        else:
            self._drafts.append(draft)
        return moved

    def _continue_rebuild(self, rebuild: _Rebuild, limit: int) -> int:
        moved = rebuild.step(limit, self._threads)
        if rebuild.complete:
            self._enter()
            try:
                rebuild.take_place()
            finally:
                self._state.lock.release_write()
            self._rebuild = None
            self._drafts.clear()  # slots have other numbers now
        return moved

    def _build_tail(self, limit: int) -> int:
        moved = 0
        while moved < limit and len(self._state.tail):
            self._enter()
            try:
                moved += self._hold(limit - moved)
            finally:
                self._state.lock.release_write()
        if not moved and self._state.graph is not None:
            self._state.graph.gather()
        return moved

    def _enter(self) -> None:
        patience = _PATIENCE_MIN_S
        while not self._state.lock.acquire_write(patience):
            patience = min(2 * patience, _PATIENCE_MAX_S)

    def _hold(self, limit: int) -> int:
        """Add rows as the writer, until somebody waits or the time is up."""
        started = self._clock() if self._clock else 0.0
        moved = 0
        batch_s = HOLD_QUIET_S if self._is_quiet(started) else HOLD_S
        while True:
            moved += self._add(min(limit - moved, self._batch_rows(batch_s)))
            if not self._clock or moved >= limit or not len(self._state.tail):
                return moved
            elapsed = self._clock() - started
            if elapsed >= (HOLD_S if self._state.lock.contended else HOLD_MAX_S):
                return moved

    def _is_quiet(self, now_s: float) -> bool:
        """Whether nobody has searched for `QUIET_AFTER_S`."""
        if self._state.lock.reads != self._reads:
            self._reads, self._read_at_s = self._state.lock.reads, now_s
        return now_s - self._read_at_s > QUIET_AFTER_S

    def _batch_rows(self, batch_s: float) -> int:
        if not self._clock:
            return _BATCH_ROWS
        rows = int(batch_s / self._row_s)
        if self._state.lock.contended:
            return max(1, min(rows // 4, _BATCH_ROWS_MAX))
        return max(1, _THREAD_ROWS * (self._threads - 1), min(rows, _BATCH_ROWS_MAX))

    def _add(self, count: int) -> int:
        state = self._state
        assert state.graph is not None, "only a graph is built"
        with state.mutex:
            rows = state.tail.head(count)
            slots = np.arange(state.built, state.built + len(rows))
            alive = state.table.alive[slots]
        placed = find_stand_ins(state, state.graph, rows[alive], slots[alive])
        new = placed.new
        if new.any():
            started = self._clock() if self._clock else 0.0
            state.graph.add(rows[alive][new], placed.slots[new], threads=self._threads)
            if self._clock:
                row_s = (self._clock() - started) / np.count_nonzero(new)
                self._row_s += _NEWS * (float(row_s) - self._row_s)
        state.advance(len(rows), placed)
        return len(rows)


def needs_rebuild(state: IndexState) -> bool:
    """Return whether dead rows are more than the index should carry.

    A row of the tail may have the vector of a dead row of the graph, and bring it back to use.
    """
    with state.mutex:
        if state.graph is None:
            held, garbage = state.table.used, state.table.used - state.table.live
            return garbage > 0 and garbage >= GARBAGE_MAX * held
        held, garbage = state.graph.count, state.graph_dead - len(state.tail)
        dead_slots = state.built - state.copies.living
        too_many = dead_slots > 2 * state.table.live + _DEAD_SLOTS_SPARED
        return too_many or (garbage > 0 and garbage >= GARBAGE_MAX * held)


def find_stand_ins(state: IndexState, graph: Hnsw, rows: Matrix, slots: Numbers) -> Placed:
    """Find for each of rows[n] one with an equal vector, in the graph or before it in `rows`."""
    digests = digests_of(rows)
    stand_ins = slots.copy()
    first: dict[int, int] = {}
    for position, digest in enumerate(digests):
        if digest in first:
            if np.array_equal(rows[first[digest]], rows[position]):
                stand_ins[position] = stand_ins[first[digest]]
            continue
        first[digest] = position
        known = state.copies.known.find(digest)
        if known is not None and np.array_equal(graph.rows(np.array([known]))[0], rows[position]):
            stand_ins[position] = known
    return Placed(slots, stand_ins, digests)


class _Rebuild:
    """A second graph (or tail) for the rows that were alive when it began."""

    def __init__(self, state: IndexState) -> None:
        self._state = state
        self._graph = state.new_graph()
        self._tail = FreshTail(state.shape.dimension)
        self._table = SlotTable()
        with state.mutex:
            self._base = state.built if self._graph is not None else state.table.used
            self._slots = np.flatnonzero(state.table.alive[: self._base])
            self._views = state.tail.views()
            old = state.copies.stand_ins(self._slots) if self._graph else self._slots
        self._alive = np.ones(len(self._slots), dtype=np.bool_)
        self._copies = Copies()
        self._old_stand_ins, self._stand_ins = old, _first_of_each(old)
        self._done = 0
        self._payloads: dict[Column, Column] = {}

    @property
    def complete(self) -> bool:
        """Whether every row has been copied."""
        return self._done == len(self._slots)

    def step(self, limit: int, threads: int) -> int:
        """Copy up to `limit` rows; returns how many, at least 1: the last step is work too."""
        part = self._slots[self._done : self._done + limit]
        if self._graph is None:
            for rows in _gather(self._views, part):
                self._tail.append(rows)
        elif len(part):
            self._add(self._graph, self._done, self._done + len(part), threads)
        self._done += len(part)
        if self.complete:
            self._table.adopt(self._state.table.records[self._slots], self._alive)
            self._payloads = self._state.payloads.renumbered(self._slots)
        return max(1, len(part))

    def _add(self, graph: Hnsw, first: int, last: int, threads: int) -> None:
        """Add one row for each vector; the rows' new slots are their places in `_slots`."""
        assert self._state.graph is not None, "a graph is rebuilt from a graph"
        slots, stand_ins = np.arange(first, last), self._stand_ins[first:last]
        digests = np.zeros(len(slots), dtype=np.int64)
        new = slots == stand_ins
        if new.any():
            rows = self._state.graph.rows(self._old_stand_ins[first:last][new])
            graph.add(rows, slots[new], threads=threads)
            digests[new] = digests_of(rows)
        self._copies.place(Placed(slots, stand_ins, digests.tolist()), self._alive)

    def take_place(self) -> None:
        """Exchange table and graph (or tail). Needs the writer's lock."""
        state, table = self._state, self._table
        with state.mutex:
            old = state.table
            died = np.flatnonzero(~old.alive[self._slots])
            table.forget(died)
            since = np.arange(self._base, old.used)
            table.adopt(old.records[since], old.alive[since])
            if self._graph is None:
                for rows in _gather(state.tail.views(), since):
                    self._tail.append(rows)
                state.tail = self._tail
            else:
                self._copies.bury(died, table.alive)
                state.graph, state.built = self._graph, len(self._slots)
                state.copies = self._copies
                offset = len(self._slots) - self._base
                whole = [each for each in state.segments if each.first >= self._base]
                state.segments = tuple(each.moved(offset) for each in whole)
            state.payloads.exchange(self._payloads, since, len(self._slots))
            state.table = table
            state.unreached = 0


def _first_of_each(values: Numbers) -> Numbers:
    """Return for each of values[n] the place where its equal stands first."""
    _, first, places = np.unique(values, return_index=True, return_inverse=True)
    return first[places]


def _gather(views: list[Matrix], rows: Numbers) -> Iterator[Matrix]:
    """Yield, a view at a time, the ascending rows of the matrix that `views` make up."""
    first = 0
    for view in views:
        start, stop = np.searchsorted(rows, (first, first + len(view)))
        if start < stop:
            yield view[rows[start:stop] - first]
        first += len(view)
