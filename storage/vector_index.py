"""The vector index of one collection on one node: every shard's rows in one graph, always current.

A row is searchable when `upsert` returns; the graph is built behind it by `build`. `defer` promises
the same for rows that a shard has validated, and leaves the work to whoever looks at the index
next: rows that come one by one are then taken in together, at a fraction of the price. The index is
a cache of the store: it holds vectors and where they belong, never payloads, and may be thrown away
and filled again at any time. All methods are safe to call from any thread; `upsert`, `remove` and
`drop_shard` of one shard come from one thread at a time, in the order of the shard's log.

The parts: `row_intake` lets rows in, `metric` compares, `hnsw` is the graph, `fresh_tail` has what
is not in it yet (with `segments`), `slots` says which row a slot is and whether it lives,
`payload_index` which rows pass a filter, `index_search` and `tail_search` search, `index_builder`
builds, `index_state` has all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple

import numpy as np

from storage.beam_width import DEFAULT_EF, Measured
from storage.filtered_search import FilteredSearch
from storage.flood import Flood
from storage.index_builder import Builder, Clock, needs_rebuild
from storage.index_search import EVERYTHING, Ask, check_asked, search, search_many
from storage.index_state import Image, IndexState, Shape
from storage.metric import Keys, Matrix
from storage.payload_index.index import PayloadIndex, weakly
from storage.payload_index.selection import NotIndexed
from storage.row_intake import Arrival, Payloads, Row, take_in
from storage.selection import Restriction, Selection
from storage.seq_slots import Numbers
from storage.slots import IndexHit
from storage.standstill import Patience, standing_still
from storage.tuning import Tuning

__all__ = ["DEFAULT_EF", "IndexHit", "IndexStats", "NotIndexed", "Row", "VectorIndex"]

_Change = tuple[int, Sequence[Row], Sequence[int], Payloads]
"""(shard, rows to add, sequence numbers to remove, payloads of the rows)."""

_FEW_DEFERRED: Final = 256
"""To take in 4,000 of 384 dimensions took 16 ms, so these take one."""
_DEFERRED_MAX: Final = 4096
"""Rows that may wait; what exceeds them is work for the writer."""


class IndexStats(NamedTuple):
    """Counts for metrics and the collection's status.

    `graph` counts distinct vectors: rows with equal ones share a row of the graph.
    """

    live: int
    tail: int
    graph: int
    graph_dead: int
    slots: int


class VectorIndex:
    """Nearest neighbours by shard, with filters that never come up short."""

    def __init__(  # noqa: PLR0913 - all by name, most with defaults
        self,
        *,
        dimension: int,
        distance: str,
        m: int = 16,
        ef_construct: int = 200,
        seed: int = 42,
        clock: Clock | None = None,
        build_threads: int = 1,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        """Make an empty index.

        `clock` (seconds) sizes the builder's holds; without it the same calls give the same graph.
        `on_change` is called after a change that may give the builder work.

        Raises:
            ValueError: an unknown distance, or a parameter out of range.
        """
        self._state = IndexState(Shape(dimension, distance, m, ef_construct, seed))
        self._builder = Builder(self._state, clock=clock, threads=build_threads)
        self._on_change = on_change
        self.payloads = PayloadIndex(self._state, self.settle, self._changed)
        """What filters ask of the rows' payloads."""
        self.tuning = Tuning(self._state, weakly(self._changed))
        """How wide to look where nobody says."""
        self._settling = threading.Lock()
        self._deferred: deque[_Change] = deque()
        self._deferred_in = self._deferred_out = 0
        """Rows ever deferred, and ever taken in: each is counted by one thread at a time."""
        self.flood = Flood(row_bytes=4 * dimension)
        self.filtered = FilteredSearch(
            self._state, self.payloads, self.flood, self.settle, self._changed
        )

    @property
    def shape(self) -> Shape:
        """What the index was made for."""
        return self._state.shape

    def upsert(self, shard: int, rows: Sequence[Row]) -> None:
        """Add or replace rows of a shard; one that is not newer than what is there is passed over.

        Raises ValueError for a vector of wrong length or with a non-finite element, or a bad id or
        sequence number; then nothing is applied.
        """
        if not rows:
            return
        self.settle()
        take_in(self._state, [Arrival(shard, rows)])
        self._changed()

    def defer(
        self,
        shard: int,
        rows: Sequence[Row],
        gone: Sequence[int] = (),
        payloads: Payloads = (),
    ) -> None:
        """Add or replace rows that are known to be valid, then remove those of `gone`.

        The next search finds it so. Small changes do not wait for the builder or for anybody else;
        a sequence number that is gone never comes back. `payloads` spares reading them later.
        """
        assert not payloads or len(payloads) == len(rows), "a payload for each row"
        self._deferred.append((shard, rows, gone, payloads))
        self._deferred_in += len(rows)
        if self._deferred_in - self._deferred_out > _DEFERRED_MAX:
            self.settle()
        self._changed()

    def settle(self) -> None:
        """Take in what was deferred. Before it returns, all that waited at the call is in."""
        if not self._deferred:
            with self._settling:  # another thread may be at it
                return
        with self._settling:
            taken = [self._deferred.popleft() for _ in range(len(self._deferred))]
            try:
                self._take_in(taken)
            except BaseException:
                self._deferred.extendleft(reversed(taken))  # taking rows in again changes nothing
                raise
            self._deferred_out += sum(len(rows) for _, rows, _, _ in taken)

    def _take_in(self, changes: Sequence[_Change]) -> None:
        fresh: dict[int, list[Row]] = {}
        known: dict[int, list[bytes | None]] = {}
        gone: dict[int, list[int]] = {}
        for shard, rows, removed, payloads in changes:
            fresh.setdefault(shard, []).extend(rows)
            known.setdefault(shard, []).extend(payloads or [None] * len(rows))
            gone.setdefault(shard, []).extend(removed)
        take_in(self._state, [Arrival(shard, rows, known[shard]) for shard, rows in fresh.items()])
        for shard, seqs in gone.items():
            self._remove(shard, seqs)

    def remove(self, shard: int, seqs: Sequence[int] | Numbers) -> None:
        """Remove rows; absent ones are passed over."""
        self.settle()
        self._remove(shard, seqs)
        self._changed()

    def _remove(self, shard: int, seqs: Sequence[int] | Numbers) -> None:
        if len(seqs):
            distinct = np.unique(np.asarray(seqs, dtype=np.int64))
            with self._state.mutex:
                self._state.bury(self._state.table.remove(shard, distinct))

    def drop_shard(self, shard: int) -> None:
        """Remove all rows of a shard."""
        self.settle()
        with self._state.mutex:
            self._state.bury(self._state.table.drop_shard(shard))
        self._changed()

    def search(
        self,
        vector: Keys,
        limit: int,
        *,
        shards: Collection[int] | None = None,
        allowed: Mapping[int, Numbers] | None = None,
        ef: int | None = None,
        exact: bool = False,
    ) -> list[IndexHit]:
        """Return the `limit` nearest rows to vector float32[dimension], best first.

        `shards` restricts to some shards, `allowed` to rows by shard and sequence number: the
        result has min(limit, rows admitted) hits. `ef` is the graph's beam width, when None the
        measured one (`storage.beam_width`) or twice the limit; `exact` compares every row.

        Raises:
            ValueError: a wrong dimension, a non-finite element, under Cosine a zero norm, or a
                limit or ef below 1.
        """
        return self.search_within(vector, limit, Selection(shards, allowed), ef=ef, exact=exact)

    def search_within(
        self,
        vector: Keys,
        limit: int,
        rows: Restriction,
        *,
        ef: int | None = None,
        exact: bool = False,
    ) -> list[IndexHit]:
        """Return the nearest of some rows, as `search` does; raises NotIndexed, too."""
        check_asked(limit, ef)
        query = self._state.metric.query(vector)
        self.flood.searched = True
        self.settle()
        return search(self._state, query, Ask(limit, rows, ef, exact))

    def search_many(
        self,
        vectors: Matrix,
        limit: int,
        *,
        ef: int | None = None,
        exact: bool = False,
        unit: bool = False,
    ) -> list[list[IndexHit]]:
        """Answer an unrestricted search for each of vectors[n, dimension]; raises as `search`.

        `unit`: under Cosine they are known to be finite and of length 1.
        """
        check_asked(limit, ef)
        queries, vectors = self._state.metric.queries(vectors, unit=unit)
        self.flood.searched = True
        self.settle()
        if ef is None and not exact:
            self.tuning.note(queries)
        ask = Ask(limit, EVERYTHING, ef, exact)
        return search_many(self._state, queries, vectors, ask) if queries else []

    def tune(self) -> Measured | None:
        """Measure the default beam width for a second; None if it is not due, or rows pour in."""
        return self.tuning.tune(self._tail_size)

    def is_flooded(self, now_s: float) -> bool:
        """Return whether building can wait; see `storage.flood`."""
        waiting, state = self._deferred_in - self._deferred_out, self._state
        held = waiting + self._tail_size + state.covered  # segments have vectors, too
        lasts = self.flood.lasts(self._deferred_in, held, now_s, segment_due=state.segment_due)
        if not lasts or waiting > _DEFERRED_MAX // 4:
            self.settle()  # many at a time: a few cost nearly as much
        return lasts

    def build(self, limit: int) -> int:
        """Move up to `limit` rows from the tail into the graph, or continue a rebuild.

        Payload indexes go on, too. Returns how many rows were moved or read; 0: nothing to do.
        Raises MemoryError when the graph could not grow (the rows stay searchable in the tail) and
        RuntimeError when payloads cannot be read now.
        """
        self.settle()
        filled = self.payloads.fill()
        self.payloads.merge()
        return filled + self._builder.build(limit) or self.filtered.build(limit)

    @property
    def size(self) -> int:
        """Live rows."""
        self.settle()
        return self._state.table.live

    @property
    def tail_size(self) -> int:
        """Rows that wait for the graph; 0 for a distance that has none."""
        self.settle()
        return self._tail_size

    @property
    def _tail_size(self) -> int:
        return 0 if self._state.graph is None else len(self._state.tail)

    @property
    def is_quiet(self) -> bool:
        """Whether a search would wait for nobody: nothing is deferred, nothing is built."""
        # In this order: who takes rows in holds `_settling` before they leave `_deferred`.
        if self._deferred or self._settling.locked():
            return False
        return not (self._tail_size or self._builder.rebuilding)

    @property
    def would_wait(self) -> bool:
        """Whether a search would wait for a writer, or have more than a few rows to take in."""
        if self._state.lock.would_wait or self._settling.locked():
            return True
        return self._deferred_in - self._deferred_out > _FEW_DEFERRED

    @property
    def loose(self) -> int:
        """Rows that each search compares one by one: they are in no graph, large or small."""
        return self._deferred_in - self._deferred_out + self._tail_size - self._state.covered

    @property
    def improved(self) -> int:
        """How often something was measured, gathered or made that lets searches take less time."""
        return self._state.improved

    @property
    def garbage(self) -> float:
        """Part of the graph's rows that are dead, 0..1."""
        return self._state.graph_dead / max(1, self._state.graph_count)

    @property
    def has_work(self) -> bool:
        """Whether `build` would do something."""
        building = self.tail_size > 0 or needs_rebuild(self._state) or self._builder.rebuilding
        return building or self.payloads.has_work or self.filtered.has_work

    @property
    def changes(self) -> int:
        """Rows that entered or left since the index was made, loaded or last saved."""
        self.settle()
        return self._state.changes

    def stats(self) -> IndexStats:
        """Return counts that belong together."""
        self.settle()
        state = self._state
        with state.mutex:
            dead, used = state.graph_dead, state.table.used
            return IndexStats(state.table.live, self._tail_size, state.graph_count, dead, used)

    def keys(self, shard: int) -> tuple[Numbers, Numbers]:
        """Return the sequence numbers and versions of a shard's live rows, in no special order."""
        self.settle()
        with self._state.mutex:
            table = self._state.table
            records = table.records[table.shard_slots(shard)]
        return records["seq"].astype(np.int64), records["version"].astype(np.int64)

    def shards(self) -> list[int]:
        """Return the shards that have live rows, ascending."""
        self.settle()
        with self._state.mutex:
            return sorted(self._state.table.shards)

    @contextmanager
    def frozen(self) -> Iterator[Image | None]:
        """Hold the builder, and yield what there is to save; None: nothing.

        Searches and writes go on. Leaving without an exception means that it was saved.
        """
        self.settle()
        state = self._state
        with state.building:
            with state.mutex:
                alive = state.table.alive[: state.built].copy()
                records = state.table.records[: state.built]
                stand_ins = state.copies.all_stand_ins(state.built)
                digests = state.copies.known.entries()
                saved = state.changes - len(state.tail)
            graph = state.graph
            if graph is not None and graph.count:
                yield Image(graph, records, alive, stand_ins, digests, state.beam.measured)
            else:
                yield None
            with state.mutex:
                state.changes -= saved

    def standing_still(self, patience: Patience) -> AbstractContextManager[bool]:
        """Keep everybody out for a moment; see `storage.standstill`."""
        return standing_still(self._state, self._settling, patience)

    def become_copy(self) -> None:
        """Be a forked process's own, which leaves to the original what searches would keep."""
        self._settling, self._on_change = threading.Lock(), None
        self._state.become_copy()

    def adopt(self, image: Image) -> None:
        """Fill this empty index from what `frozen` gave; raises ValueError, and stays empty."""
        self._state.adopt(image)

    def validate(self) -> None:
        """Assert the index's invariants; for tests that stand still."""
        self.settle()
        self._state.validate()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()
