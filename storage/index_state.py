"""The state of one vector index, and the rules for touching it.

Rows enter at the end of the fresh tail and are moved, in slot order, into the graph: slots below
`built` were offered to the graph (those dead by then were left out, and of equal vectors one was
taken: see `storage.copies`), slots from `built` on are the tail's rows, one for one. A distance
without a graph keeps everything in the tail.

Locks, always taken in this order:
- `building` (one thread): building, rebuilding and saving, one at a time;
- `lock`: readers search the graph, the writer adds to it or replaces it. `built` and the tail's
  front move under the writer, so that a reader's graph and tail fit together without gap;
- `mutex`: table, columns, tail, copies and counters; held for microseconds. What a search finds
  in the graph is judged under it at one instant, together with the tail of that instant.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np

from storage.beam_width import BeamWidth, Measured
from storage.copies import Copies, Placed, StandIns
from storage.digest_slots import Entries
from storage.fresh_tail import FreshTail
from storage.hnsw import Hnsw
from storage.kept_rows import KeptRows
from storage.metric import Metric
from storage.own_graphs import OwnGraphs
from storage.payload_index.columns import PayloadColumns
from storage.payload_index.selection import ByPayload
from storage.rwlock import ReadWriteLock
from storage.segments import (
    COVERED_BYTES_MAX,
    COVERED_MAX,
    EF_CONSTRUCT_MAX,
    Draft,
    Segment,
    next_stretch,
)
from storage.seq_slots import NOWHERE, Numbers
from storage.slots import Flags, Records, SlotTable


class Shape(NamedTuple):
    """What an index is made for; equal shapes can share files."""

    dimension: int
    distance: str
    m: int
    ef_construct: int
    seed: int


class Image(NamedTuple):
    """The part of an index that is worth saving: its graph, and what is known of it and by slot."""

    graph: Hnsw
    records: Records
    alive: Flags
    stand_ins: StandIns
    digests: Entries
    measured: Measured | None


class IndexState:
    """Graph, tail, table and counters. Its methods say which lock the caller holds."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.metric = Metric(shape.distance, shape.dimension)
        self.building = threading.Lock()
        self.lock = ReadWriteLock()
        self.mutex = threading.Lock()
        self.graph = self.new_graph()
        self.table = SlotTable()
        self.payloads = PayloadColumns()
        """What filters ask of the slots' payloads; it grows with the table."""
        self.kept = KeptRows()
        """What filters that come again have gathered."""
        self.own = OwnGraphs()
        """Graphs of filters that come very often."""
        self.tail = FreshTail(shape.dimension)
        self.built = 0
        self.segments: tuple[Segment, ...] = ()
        """Graphs of rows of the tail, by ascending slots; the first may reach below `built`."""
        self.copies = Copies()
        self.beam = BeamWidth()
        self.unreached = 0
        """Rows that the graph was last seen not to reach; a guess that only costs time."""
        self.changes = 0
        """Rows that entered or left since the last save."""
        self.is_copy = False
        """Whether this is a forked process's: searches gather and make nothing of their own."""
        self.improved = 0
        """How often something was found that lets searches take less time."""
        self.to_gather: deque[ByPayload] = deque()
        """Filters whose rows copies would have gathered; in a copy, what it would have gathered."""

    def become_copy(self) -> None:
        """Be a forked process's own: threads that have locks are not there any more."""
        self.is_copy = True
        self.building, self.lock, self.mutex = threading.Lock(), ReadWriteLock(), threading.Lock()

    def new_graph(self) -> Hnsw | None:
        """Return an empty graph, or None for a distance that has none."""
        if self.metric.space is None:
            return None
        shape = self.shape
        return Hnsw(self.metric, m=shape.m, ef_construct=shape.ef_construct, seed=shape.seed)

    def small_graph(self, rows: int) -> Hnsw:
        """Return an empty graph with room for so many rows, a small part of all."""
        shape, ef_construct = self.shape, min(self.shape.ef_construct, EF_CONSTRUCT_MAX)
        return Hnsw(
            self.metric, m=shape.m, ef_construct=ef_construct, seed=shape.seed, capacity=rows
        )

    @property
    def graph_count(self) -> int:
        """Rows in the graph, dead ones included."""
        return self.graph.count if self.graph is not None else 0

    def bury(self, died: Numbers) -> None:
        """Account for slots that the table let die. Needs the mutex."""
        self.copies.bury(died, self.table.alive)
        self.changes += len(died)

    @property
    def graph_dead(self) -> int:
        """Rows of the graph that stand for nothing: they cost beam width until a rebuild."""
        return self.copies.dead

    def advance(self, count: int, placed: Placed) -> None:
        """Let go of the tail's first rows: the graph has them now. Needs the writer's lock."""
        before = self.segments  # one that goes frees much memory: not before the mutex is free
        with self.mutex:
            self.copies.place(placed, self.table.alive)
            self.tail.drop(count)
            self.built += count
            self.segments = tuple(each for each in before if each.last > self.built)

    @property
    def covered(self) -> int:
        """Rows of the tail that segments cover."""
        return sum(each.last - max(each.first, self.built) for each in self.segments)

    def adopt(self, image: Image) -> None:
        """Fill this empty index from a saved image; a failure leaves it empty.

        Raises:
            ValueError: the image's table contradicts itself.
        """
        with self.building, self.mutex:
            assert not self.table.used, "only an empty index adopts an image"
            assert not self.payloads.columns, "fields come when the rows are there"
            table = SlotTable()
            table.adopt(image.records, image.alive)
            copies = Copies()
            copies.restore(image.stand_ins, image.alive, image.graph.slots())
            copies.known.restore(image.digests)
            self.graph, self.table, self.copies = image.graph, table, copies
            self.built = table.used
            if image.measured is not None:
                self.beam.restore(image.measured)

    @property
    def segment_due(self) -> bool:
        """Whether there are enough rows, or small segments, to make another of them."""
        used = self.built + len(self.tail)
        if self.graph is None:
            return False
        return next_stretch(self.built, used, self.segments, self._covered_max) is not None

    @property
    def _covered_max(self) -> int:
        return min(COVERED_MAX, COVERED_BYTES_MAX // (4 * self.shape.dimension))

    def new_segment(self, behind: int = 0) -> Draft | None:
        """Begin the next segment, if it is time for one; none that begins before `behind`."""
        with self.mutex:
            used = self.table.used
            stretch = next_stretch(self.built, used, self.segments, self._covered_max)
            if stretch is None or stretch[0] < behind or self.metric.space is None:
                return None
            first, last = stretch
            views = self.tail.views(first - self.built, last - self.built)
            alive = self.table.alive[first:last].copy()
        return Draft(self.small_graph(last - first), views, alive, first)

    def share(self, segment: Segment) -> None:
        """Let searches have a segment in the place of those that it covers."""
        replaced = self.segments  # freed when the mutex is
        with self.mutex:
            before = [each for each in replaced if each.last <= segment.first]
            behind = [each for each in replaced if each.first >= segment.last]
            self.segments = (*before, segment, *behind)

    def validate(self) -> None:
        """Assert the invariants of this module; slow, for tests that stand still."""
        at = 0
        for segment in self.segments:
            assert at <= segment.first < segment.last, "segments stand side by side"
            assert self.built < segment.last <= self.table.used, "a segment has rows of the tail"
            segment.validate(self.table.alive)
            at = segment.last
        self.table.validate()
        self.payloads.validate(self.table.used)
        assert self.table.used == self.built + len(self.tail), "tail rows follow the built ones"
        self.copies.validate(self.table.alive, self.built)
        if self.graph is not None and self.graph.count:
            own = np.unique(self.copies.all_stand_ins(self.built))
            rows = np.sort(self.graph.slots())
            assert np.array_equal(own[own != NOWHERE], rows), "the graph has the stand-ins"
